"""Reads the queue in a database for those who only look; changes nothing. Blocking."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import msgspec
import psycopg

from floradl.errors import ConfigError, QueueUnreadableError
from floradl.models import LeftFile, QueuedRun, RunState, SavedOutput
from floradl.queue.heartbeat import Snapshot
from floradl.queue.migrations import COLUMNS
from floradl.queue.postgres.connection import Server, explained, is_away
from floradl.queue.postgres.refusal import connect_coded_sync
from floradl.queue.postgres.rows import COUNT_STATES, run_from, states_from
from floradl.queue.postgres.schema import MIGRATIONS, VERSION
from floradl.queue.reader import HookTrouble, QueueReader
from floradl.queue.sharing import DaemonState

_SEEN_WITHIN: Final = 60.0


class PostgresReader(QueueReader):
    """What can be read of the queue that daemons share; `daemon` is this machine's, if it has one."""

    def __init__(self, db: psycopg.Connection[Any], daemon: str | None) -> None:
        self._connection = db
        self._daemon = daemon

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[tuple[Any, ...]]:
        return self._connection.execute(query, values).fetchall()

    def _runs(self, where: str, values: tuple[object, ...]) -> list[QueuedRun]:
        return [run_from(row) for row in self._rows(f"SELECT {COLUMNS} FROM runs {where}", values)]  # noqa: S608 - ours

    def counts(self) -> Mapping[RunState, int]:
        return states_from(self._rows(COUNT_STATES))

    def ended(self, states: Sequence[RunState], limit: int) -> list[QueuedRun]:
        wanted = [state.value for state in states]
        where = "WHERE state = ANY(%s) ORDER BY changed_at DESC LIMIT %s"
        return self._runs(where, (wanted, limit if limit >= 0 else None))

    def unfinished(self, limit: int) -> list[QueuedRun]:
        found: list[QueuedRun] = []
        for state in (RunState.DOWNLOADING, RunState.RUNNING, RunState.WAITING):
            where = "WHERE state = %s ORDER BY changed_at LIMIT %s"
            found += self._runs(where, (state.value, limit - len(found) if limit >= 0 else None))
        return found

    def page(self, after: str, limit: int) -> list[QueuedRun]:
        return self._runs("WHERE run_id > %s ORDER BY run_id LIMIT %s", (after, limit))

    def saved_files(self) -> dict[str, tuple[str, str]]:
        found: dict[str, tuple[str, str]] = {}
        for run_id, key, text in self._rows("SELECT run_id, output_key, output FROM outputs"):
            with suppress(msgspec.ValidationError):  # a newer floradl's
                if (path := msgspec.json.decode(text, type=SavedOutput).path) is not None:
                    found[path] = run_id, key.decode()
        return found

    def runs(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        return {run.run_id: run for run in self._runs("WHERE run_id = ANY(%s)", (list(run_ids),))}

    def hook_trouble(self) -> HookTrouble:
        query = "SELECT tries < 0, count(*), max(run_id) FROM outbox WHERE tries <> 0 GROUP BY 1"
        rows = {bool(given_up): (count, run_id) for given_up, count, run_id in self._rows(query)}
        retried, _ = rows.get(False, (0, None))
        given_up, example = rows.get(True, (0, None))
        return HookTrouble(retried, given_up, example)

    def left_files(self) -> dict[str, LeftFile]:
        query = "SELECT name, mtime_ns, size, sha256, refused FROM left_files WHERE daemon = %s"
        rows = self._rows(query, (self._daemon,))
        return {(name := os.fsdecode(row[0])): LeftFile(name, *row[1:]) for row in rows}

    def daemons(self) -> list[DaemonState]:
        rows = self._rows(
            # One that was killed still says that it polls: the last who said so is right.
            "SELECT name, version, extract(epoch FROM seen_at)::float8,"
            " polls AND seen_at >= (SELECT max(seen_at) FROM daemons WHERE polls), snapshot FROM daemons"
            " WHERE snapshot IS NOT NULL AND seen_at > now() - make_interval(secs => %s) ORDER BY name",
            (_SEEN_WITHIN,),
        )
        return [
            DaemonState(name, version, seen_at, polls, msgspec.json.decode(text, type=Snapshot))
            for name, version, seen_at, polls, text in rows
        ]


@contextmanager
def read_shared(server: Server, daemon: str | None) -> Iterator[PostgresReader | None]:
    """Open the queue in a database to look; None where there is none yet. Raises `ConfigError`."""
    try:
        with connect_coded_sync(server.conninfo()) as connection:
            yield PostgresReader(connection, daemon) if _is_there(connection, server) else None
    except (psycopg.Error, TimeoutError, OSError) as error:
        found = explained(server, error)
        if is_away(error) and not found.setting:
            raise QueueUnreadableError(str(found)) from error
        raise ConfigError(f"queue.engine: {found}") from error


def _is_there(connection: psycopg.Connection[Any], server: Server) -> bool:
    row = connection.execute("SELECT to_regclass('floradl_facts') IS NOT NULL").fetchone()
    if row is None or not row[0]:
        return False
    row = connection.execute("SELECT value FROM floradl_facts WHERE name = %s", (VERSION,)).fetchone()
    version = int(row[0]) if row else 0
    if version != len(MIGRATIONS):
        who = (
            "a newer floradl: update this one"
            if version > len(MIGRATIONS)
            else "an older floradl: 'floradl migrate'"
        )
        raise ConfigError(f"queue.engine: the queue in {server} is of {who}")
    return True
