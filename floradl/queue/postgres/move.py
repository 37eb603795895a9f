"""Moves a queue from its file into a database, and back: all of it or nothing. Blocking.

The caller holds the state folder's lock. What was moved stays where it was, under a mark that keeps it from
being used.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import psycopg
from msgspec import Struct
from psycopg import sql

from floradl.errors import ConfigError, LockedError
from floradl.fs.folders import open_root, sync_folder
from floradl.queue.folder import FILE_NAME, MOVED as MOVED_MARK, note_moved, refuse_moved
from floradl.queue.migrations import COLUMNS, migrate
from floradl.queue.postgres.connection import Server
from floradl.queue.postgres.opening import Member, translated, write_member
from floradl.queue.postgres.refusal import connect_coded_sync
from floradl.queue.postgres.schema import FILLED, IDENTITY, MOVED, TABLES
from floradl.units import format_count

_ALIVE_WITHIN: Final = 30.0  # seconds
_FETCHED: Final = 5000  # rows


class _Table(Struct, frozen=True):
    """A table of both engines: its names, its columns, and which of these differ.

    `own`: the database has it for each machine. `bools` are numbers in the file; `raw` are text there, and
    bytes in the database.
    """

    file: str
    database: str
    columns: tuple[str, ...]
    own: bool = False
    bools: tuple[str, ...] = ()
    raw: tuple[str, ...] = ()

    def to_database(self, row: Sequence[Any], daemon: str) -> tuple[Any, ...]:
        """Return a row of the file as the database has it."""
        values = (self._put(name, value) for name, value in zip(self.columns, row, strict=True))
        return (*values, daemon) if self.own else tuple(values)

    def _put(self, name: str, value: Any) -> Any:
        if name in self.bools:
            return bool(value)
        return value.encode() if name in self.raw and isinstance(value, str) else value

    def to_file(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """Return a row of the database as the file has it."""
        return tuple(
            int(value) if name in self.bools else value.decode() if name in self.raw else value
            for name, value in zip(self.columns, row, strict=True)
        )


_RUN: Final = (*COLUMNS.replace(" ", "").split(","), "changed_at")
_COPIED: Final = (
    _Table("runs", "runs", _RUN, bools=("fresh",)),
    _Table("saved", "outputs", ("run_id", "output_key", "output"), raw=("output_key",)),
    _Table("durations", "durations", ("id", "technique", "seconds")),
    _Table("announcements", "outbox", ("id", "run_id", "sidecar", "tries"), own=True),
    _Table("pauses_told", "pauses_told", ("reason", "since", "told_at", "over"), own=True, bools=("over",)),
    _Table("deliveries", "deliveries", ("id", "received_at")),
    _Table("synced", "synced", ("kind", "workspace", "mark")),
    _Table(
        "left_files",
        "left_files",
        ("name", "mtime_ns", "size", "sha256", "refused", "since"),
        own=True,
        bools=("refused",),
    ),
    _Table("incomplete", "incomplete", ("run_id",)),
    _Table("late_costs", "late_costs", ("run_id", "look_at", "looks", "created_at")),
    _Table("technique_names", "technique_names", ("technique", "names")),
)


def move_to_database(state_dir: Path, server: Server, member: Member) -> int:
    """Move the queue of a state folder into a prepared database; returns how many runs it has.

    Raises `ConfigError` where there is none, or the database holds one; `LockedError` where daemons are at
    work with it; `QueueUnavailableError`; `OSError`.
    """
    path = state_dir / FILE_NAME
    if not path.exists():
        refuse_moved(state_dir)
        raise ConfigError(f"there is no queue to move in {state_dir}")
    with _file(path) as file, _database(server) as database:
        migrate(file, path)
        with database.transaction():
            _refuse_daemons(database, server)
            if _fact(database, MOVED) is None:
                _refuse_full(_count(database, "runs"), str(server))
            names = sql.SQL(", ").join(map(sql.Identifier, (*TABLES, "procrastinate_jobs")))
            database.execute(sql.SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(names))
            for table in _COPIED:
                _copy_in(file, database, table, member.daemon)
            for name in ("outbox", "durations"):
                database.execute(
                    sql.SQL("SELECT setval(pg_get_serial_sequence({}, 'id'), max(id)) FROM {}").format(
                        name, sql.Identifier(name)
                    )
                )
            database.execute("DELETE FROM floradl_facts WHERE name = %s", (MOVED,))
            _put_fact(database, FILLED, "yes")
            count = _count(database, "runs")
            identity = _fact(database, IDENTITY) or ""
    write_member(state_dir, Member(member.daemon, identity))
    note_moved(state_dir, str(server))
    _put_away(path)
    return count


def move_to_file(server: Server, state_dir: Path, daemon: str | None) -> int:
    """Move the queue of a database into a state folder; returns how many runs it has.

    Answers of runs that were ready to be saved are polled anew. Raises as `move_to_database`.
    """
    path = state_dir / FILE_NAME
    with _file(path) as file, _database(server) as database:
        file.execute("PRAGMA journal_mode=WAL")
        file.execute("PRAGMA synchronous=FULL")
        migrate(file, path)
        _refuse_full(file.execute("SELECT count(*) FROM runs").fetchone()[0], str(path))
        with database.transaction():
            database.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            _refuse_daemons(database, server)
            file.execute("BEGIN IMMEDIATE")
            for table in _COPIED:
                _copy_out(database, file, table, daemon)
            count: int = file.execute("SELECT count(*) FROM runs").fetchone()[0]
            _put_fact(database, MOVED, f"{state_dir} on {os.uname().nodename}")
            file.execute("COMMIT")
    (state_dir / MOVED_MARK).unlink(missing_ok=True)
    return count


@contextmanager
def _file(path: Path) -> Iterator[sqlite3.Connection]:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as file:
            yield file
    except sqlite3.Error as error:
        raise ConfigError(f"{path}: the journal cannot be used: {error}") from error


@contextmanager
def _database(server: Server) -> Iterator[psycopg.Connection[Any]]:
    try:
        with connect_coded_sync(server.conninfo()) as connection:
            yield connection
    except (psycopg.Error, TimeoutError) as error:
        raise translated(server, error) from error


def _copy_in(file: sqlite3.Connection, database: psycopg.Connection[Any], table: _Table, daemon: str) -> None:
    columns = (*table.columns, "daemon") if table.own else table.columns
    copy = sql.SQL("COPY {} ({}) FROM STDIN").format(
        sql.Identifier(table.database), sql.SQL(", ").join(map(sql.Identifier, columns))
    )
    rows = file.execute(f"SELECT {', '.join(table.columns)} FROM {table.file}")  # noqa: S608 - names of ours
    with database.cursor() as cursor, cursor.copy(copy) as copying:
        for row in rows:
            copying.write_row(table.to_database(row, daemon))


def _copy_out(
    database: psycopg.Connection[Any], file: sqlite3.Connection, table: _Table, daemon: str | None
) -> None:
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(", ").join(map(sql.Identifier, table.columns)), sql.Identifier(table.database)
    )
    values: tuple[Any, ...] = ()
    if table.own and table.database != "outbox":  # the events of all machines; the rest is this one's
        query += sql.SQL(" WHERE daemon = %s")
        values = (daemon,)
    marks = ", ".join("?" * len(table.columns))
    insert = f"INSERT INTO {table.file} ({', '.join(table.columns)}) VALUES ({marks})"  # noqa: S608 - as above
    with database.cursor(name=f"move_{table.database}") as cursor:
        cursor.itersize = _FETCHED
        cursor.execute(query, values)
        file.executemany(insert, _rows(cursor, table))


def _rows(cursor: Iterable[Sequence[Any]], table: _Table) -> Iterator[tuple[Any, ...]]:
    return (table.to_file(row) for row in cursor)


def _refuse_daemons(database: psycopg.Connection[Any], server: Server) -> None:
    rows = database.execute(
        "SELECT name FROM daemons WHERE snapshot IS NOT NULL AND seen_at > now() - make_interval(secs => %s)",
        (_ALIVE_WITHIN,),
    ).fetchall()
    if rows:
        names = ", ".join(sorted(row[0] for row in rows))
        raise LockedError(f"{names} already works with the queue in {server}: stop all daemons first")


def _refuse_full(count: int, place: str) -> None:
    if count:
        raise ConfigError(
            f"{place} holds a queue already, of {format_count(count, 'run')}: nothing was moved. Move "
            "that one away if it is not needed any more, and try again"
        )


def _count(database: psycopg.Connection[Any], table: str) -> int:
    row = database.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
    return int(row[0]) if row else 0


def _fact(database: psycopg.Connection[Any], name: str) -> str | None:
    row = database.execute("SELECT value FROM floradl_facts WHERE name = %s", (name,)).fetchone()
    return None if row is None else str(row[0])


def _put_fact(database: psycopg.Connection[Any], name: str, value: str) -> None:
    database.execute(
        "INSERT INTO floradl_facts VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, value),
    )


def _put_away(path: Path) -> None:
    """Give the file that was moved another name, so that no daemon goes on with it."""
    stamp = time.strftime("%Y%m%dT%H%M%S")
    for ending in ("", "-wal", "-shm"):
        old = path.with_name(path.name + ending)
        if old.exists():
            old.rename(path.with_name(f"{path.name}.moved-{stamp}{ending}"))
    with open_root(path.parent) as folder:
        sync_folder(folder)
