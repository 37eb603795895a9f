"""The journal on disk: all SQL of floradl stands here.

WAL with `synchronous=FULL`: what a commit promised is there after a power cut. One process alone writes
(the lock sees to that), through one connection; the calls are plain and blocking, `journal` brings them
to the event loop and groups the commits.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from floradl.errors import ErrorCode
from floradl.models import Action, LeftFile, QueuedRun, RunFailure, RunRequest, RunState, SavedOutput
from floradl.queue.hook_outbox import HookOutbox
from floradl.queue.migrations import check_readable, keep_copy, migrate
from floradl.redaction import redact

COLUMNS: Final = (
    "run_id, technique, label, state, queued_at, detected_at, waited, tries, progress, error, fresh"
)
"""Those of a run, in the order in which `run_of` reads them."""


def run_of(row: tuple[Any, ...]) -> QueuedRun:
    """Read a run. Raises `sqlite3.DatabaseError` for a row that no floradl wrote: the file is damaged."""
    try:
        return _run_of(row)
    except (ValueError, TypeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"the row of run {row[0]!a} is malformed") from error


def _run_of(row: tuple[Any, ...]) -> QueuedRun:
    return QueuedRun(
        run_id=row[0],
        technique=row[1],
        label=row[2],
        state=RunState(row[3]),
        queued_at=row[4],
        detected_at=row[5],
        waited=row[6],
        tries=row[7],
        progress=row[8],
        error=_failure(row[9]) if row[9] else None,
        fresh=bool(row[10]),
    )


def queued(order: RunRequest, now: float) -> QueuedRun:
    """Return the run that an order queues; `now` is unix seconds."""
    reference = order.reference
    return QueuedRun(
        run_id=reference.run_id,
        technique=reference.technique,
        label=order.label,
        queued_at=now,
        fresh=order.action is Action.RETRY,
    )


def told(failure: RunFailure) -> str:
    """Write a failure; its message may quote what others said, secrets included."""
    told = msgspec.structs.replace(failure, message=redact(failure.message))
    return msgspec.json.encode(told).decode()


def _failure(text: str) -> RunFailure:
    """Read a failure; a code that only a newer floradl knows becomes the most general one."""
    try:
        return msgspec.json.decode(text, type=RunFailure)
    except msgspec.ValidationError:
        raw = msgspec.json.decode(text)
        return RunFailure(ErrorCode.RUN_FAILED, f"{raw['code']}: {raw['message']}")


FILE_NAME = "journal.sqlite3"
DURATIONS_KEPT = 400
DELIVERIES_KEPT = (
    7 * 86_400.0
)  # seconds; FLORA sends one for some minutes, and nobody may for more than fifteen

_OPEN = tuple(state.value for state in RunState if state.open)


class SqliteQueue:
    """The journal of one state folder."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self.announcements = HookOutbox(connection)

    @classmethod
    def open(cls, state_dir: Path) -> SqliteQueue:
        """Open or create the journal for writing; the caller holds the lock.

        An older schema is migrated, with a copy of the file kept beside it. Raises `ConfigError` where a
        newer floradl wrote it, and `sqlite3.Error`.
        """
        path = state_dir / FILE_NAME
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            migrate(db, path)
        except BaseException:
            db.close()
            raise
        return cls(db)

    @classmethod
    def in_memory(cls) -> SqliteQueue:
        """Make a journal that is gone with the process, for `get`: there the library alone remembers."""
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        migrate(db, None)
        return cls(db)

    @classmethod
    @contextmanager
    def reading(cls, state_dir: Path) -> Iterator[SqliteQueue | None]:
        """Open the journal to look, beside a daemon or without one; None where there is none yet.

        Raises `ConfigError` as `open` does and for an older schema, `PermissionError`, and `sqlite3.Error`.
        """
        with opened_to_read(state_dir) as db:
            yield cls(db) if db is not None and check_readable(db, state_dir / FILE_NAME) else None

    def copy_to(self, path: Path) -> None:
        """Write all that is recorded into a new file. Raises `OSError` and `sqlite3.Error`."""
        keep_copy(self._db, path)

    def close(self) -> None:
        """Close it; the log is merged into the file."""
        self._db.close()

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open: a full disk ends one from within."""
        return self._db.in_transaction

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Make what is called inside durable together, or not at all."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self.in_transaction:  # a full disk makes SQLite roll back by itself
                self._db.execute("ROLLBACK")
            raise

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what is called inside if it raises, and nothing else of the transaction."""
        self._db.execute("SAVEPOINT work")
        try:
            yield
            self._db.execute("RELEASE work")
        except BaseException:
            if self.in_transaction:
                self._db.execute("ROLLBACK TO work")
                self._db.execute("RELEASE work")
            raise

    def add(self, orders: Iterable[RunRequest], now: float, *, again: bool) -> list[str]:
        """Record what job files ask for; returns the run ids that there is now something to do for.

        A run that is known and open, done or forgotten stays as it is; one that failed is tried again if
        `again`. Calling it twice changes nothing more.
        """
        touched: list[str] = []
        for order in orders:
            run_id = order.reference.run_id
            state = self._state(run_id)
            if order.action is Action.FORGET:
                self._forget(order, now)
            elif state is None:
                self.put(queued(order, now), now)
                touched.append(run_id)
            elif _again(order.action, state, again=again):
                # What was forgotten may have been done before, and its files thrown away since.
                self._requeue(run_id, now, fresh=state in {RunState.DONE, RunState.FORGOTTEN})
                touched.append(run_id)
        return touched

    def opens(self, orders: Iterable[RunRequest], *, again: bool) -> int:
        """Count the runs that `add` would find something to do for."""
        runs = {order.reference.run_id: order.action for order in orders}
        return sum(
            (state := self._state(run_id)) is None or _again(action, state, again=again)
            for run_id, action in runs.items()
            if action is not Action.FORGET
        )

    def _state(self, run_id: str) -> RunState | None:
        row = self._db.execute("SELECT state FROM runs WHERE run_id = ?", (run_id,)).fetchone()
        return RunState(row[0]) if row else None

    def _requeue(self, run_id: str, now: float, *, fresh: bool) -> None:
        self.drop_saved(run_id)
        self._db.execute(
            "UPDATE runs SET state = 'waiting', queued_at = ?, detected_at = NULL, waited = 0, tries = 0,"
            " progress = 0, error = NULL, fresh = ?, changed_at = ? WHERE run_id = ?",
            (now, fresh, now, run_id),
        )

    def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:
        """Take runs up again that ended, since FLORA lists more of them by now; returns which.

        What they brought stays as it is. One that is open, forgotten or not known is left alone.
        """
        ended = (RunState.DONE, RunState.PARTIAL, RunState.FAILED)
        return [
            run_id
            for run_id in run_ids
            if self._db.execute(
                "UPDATE runs SET state = 'running', waited = 0, tries = 0, error = NULL, fresh = 0,"
                " changed_at = ? WHERE run_id = ? AND state IN (?, ?, ?)",
                (now, run_id, *(state.value for state in ended)),
            ).rowcount
        ]

    def _forget(self, order: RunRequest, now: float) -> None:
        self.put(msgspec.structs.replace(queued(order, now), state=RunState.FORGOTTEN), now)
        self.drop_saved(order.reference.run_id)

    def put(self, run: QueuedRun, now: float) -> None:
        """Write a run's row, new or known; the technique and label it was first named by stay."""
        error = told(run.error) if run.error else None
        self._db.execute(
            f"INSERT INTO runs ({COLUMNS}, changed_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)"  # noqa: S608 - names only
            " ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, detected_at = excluded.detected_at,"
            " waited = excluded.waited, tries = excluded.tries, progress = excluded.progress,"
            " error = excluded.error, fresh = excluded.fresh, changed_at = excluded.changed_at"
            # What was forgotten while it was under way stays forgotten.
            " WHERE runs.state <> 'forgotten'",
            (
                run.run_id,
                run.technique,
                run.label,
                run.state,
                run.queued_at,
                run.detected_at,
                run.waited,
                run.tries,
                run.progress,
                error,
                run.fresh,
                now,
            ),
        )

    def load(self, run_id: str) -> QueuedRun | None:
        """Read one run."""
        return next(self._select("WHERE run_id = ?", (run_id,)), None)

    def open_ids(self) -> list[str]:
        """All runs that are not finished, those under way before those not asked about yet."""
        marks = ",".join("?" * len(_OPEN))
        rows = self._db.execute(
            f"SELECT run_id FROM runs WHERE state IN ({marks})"  # noqa: S608 - question marks only
            " ORDER BY state = 'waiting', queued_at",
            _OPEN,
        )
        return [row[0] for row in rows]

    def finished(self, states: tuple[RunState, ...], limit: int) -> list[QueuedRun]:
        """Read the runs in `states` that changed last, newest first."""
        marks = ",".join("?" * len(states))
        return list(
            self._select(f"WHERE state IN ({marks}) ORDER BY changed_at DESC LIMIT ?", (*states, limit))
        )

    def unfinished(self, limit: int) -> list[QueuedRun]:
        """Read up to `limit` runs that are not finished: those furthest on first, of each the oldest."""
        found: list[QueuedRun] = []
        for state in (
            RunState.DOWNLOADING,
            RunState.RUNNING,
            RunState.WAITING,
        ):  # each from the index, unsorted
            where = "WHERE state = ? ORDER BY changed_at LIMIT ?"
            found += self._select(where, (state.value, limit - len(found)))
        return found

    def page(self, after: str, limit: int) -> list[QueuedRun]:
        """Read up to `limit` runs whose ids follow `after`, by id: all of them, without one long reading.

        (A reading that lasts keeps the writer's log from being merged.)
        """
        return list(self._select("WHERE run_id > ? ORDER BY run_id LIMIT ?", (after, limit)))

    def oldest_open(self) -> float | None:
        """When the open run that waits the longest was queued (unix seconds); None where none is open."""
        marks = ",".join("?" * len(_OPEN))
        where = f"SELECT min(queued_at) FROM runs WHERE state IN ({marks})"  # noqa: S608 - question marks only
        found: float | None = self._db.execute(where, _OPEN).fetchone()[0]
        return found

    def counts(self) -> dict[RunState, int]:
        """How many runs stand in each state."""
        found = dict(self._db.execute("SELECT state, count(*) FROM runs GROUP BY state"))
        return {state: found.get(state.value, 0) for state in RunState}

    def save_output(self, run_id: str, key: str, output: SavedOutput) -> None:
        """Remember an output that is on disk, until its sidecar says so; `key` is `RemoteOutput.key`."""
        self._db.execute(
            "INSERT OR REPLACE INTO saved VALUES (?, ?, ?)",
            (run_id, key, msgspec.json.encode(output).decode()),
        )

    def saved(self, run_id: str) -> dict[str, SavedOutput]:
        """Read the outputs remembered for a run that is not finished, by key."""
        rows = self._db.execute("SELECT output_key, output FROM saved WHERE run_id = ?", (run_id,))
        found = {}
        for key, output in rows:
            with suppress(msgspec.ValidationError):  # a newer floradl's: fetched again, and adopted
                found[key] = msgspec.json.decode(output, type=SavedOutput)
        return found

    def saved_paths(self) -> list[str]:
        """Read the paths of all outputs that `save_output` remembers."""
        rows = self._db.execute("SELECT DISTINCT run_id FROM saved").fetchall()
        found = (output.path for (run_id,) in rows for output in self.saved(run_id).values())
        return [path for path in found if path is not None]

    def add_duration(self, technique: str, seconds: float) -> None:
        """Remember how long a run of `technique` took at FLORA; the oldest beyond a few hundred go."""
        self._db.execute("INSERT INTO durations (technique, seconds) VALUES (?, ?)", (technique, seconds))
        self._db.execute(
            "DELETE FROM durations WHERE technique = ?1 AND id <= (SELECT id FROM durations"
            " WHERE technique = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
            (technique, DURATIONS_KEPT),
        )

    def durations(self) -> dict[str, list[float]]:
        """Return how long past runs took at FLORA, in seconds, by technique, the oldest first."""
        found: dict[str, list[float]] = {}
        for technique, seconds in self._db.execute("SELECT technique, seconds FROM durations ORDER BY id"):
            found.setdefault(technique, []).append(seconds)
        return found

    def note_delivery(self, delivery_id: str, now: float) -> bool:
        """Remember a webhook's delivery; whether it is new. Those of more than a week ago are forgotten."""
        self._db.execute("DELETE FROM deliveries WHERE received_at < ?", (now - DELIVERIES_KEPT,))
        found = self._db.execute("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", (delivery_id, now))
        return found.rowcount > 0

    def mark(self, kind: str, workspace: str) -> float | None:
        """Return how far a list of the account's history was read: the newest run's time, unix seconds.

        0 where no run had a time, None where nobody looked yet.
        """
        query = "SELECT mark FROM synced WHERE kind = ? AND workspace = ?"
        row = self._db.execute(query, (kind, workspace)).fetchone()
        return row[0] if row else None

    def put_mark(self, kind: str, workspace: str, mark: float) -> None:
        """Remember how far a list of the account's history was read."""
        self._db.execute("INSERT OR REPLACE INTO synced VALUES (?, ?, ?)", (kind, workspace, mark))

    def leave_file(self, file: LeftFile, now: float) -> None:
        """Remember that a job file is done with, for as long as it may lie where it was."""
        self._db.execute(
            "INSERT OR REPLACE INTO left_files VALUES (?,?,?,?,?,?)",
            (os.fsencode(file.name), file.mtime_ns, file.size, file.sha256, file.refused, now),
        )

    def left_files(self) -> dict[str, LeftFile]:
        """Return the job files that are done with and may still lie where they were, by name."""
        rows = self._db.execute("SELECT name, mtime_ns, size, sha256, refused FROM left_files")
        return {
            (name := os.fsdecode(row[0])): LeftFile(name, row[1], row[2], row[3], bool(row[4]))
            for row in rows
        }

    def drop_left_files(self, names: Iterable[str], before: float = math.inf) -> None:
        """Forget job files that lie there no more; with `before`, those noted before then (unix seconds)."""
        self._db.executemany(
            "DELETE FROM left_files WHERE name = ? AND since < ?",
            [(os.fsencode(name), before) for name in names],
        )

    def drop_saved(self, run_id: str) -> None:
        """Forget what `save_output` remembered: the sidecar stands, or the run starts anew."""
        self._db.execute("DELETE FROM saved WHERE run_id = ?", (run_id,))

    def _select(self, where: str, values: tuple[object, ...]) -> Iterator[QueuedRun]:
        for row in self._db.execute(f"SELECT {COLUMNS} FROM runs {where}", values):  # noqa: S608 - ours
            yield run_of(row)


@contextmanager
def opened_to_read(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the file to look, see `Store.reading`; None where there is none."""
    path = state_dir / FILE_NAME
    if not path.exists():
        yield None
        return
    with path.open("rb"):  # SQLite's own word for "may not read" is "unable to open database file"
        pass
    # Without a log there is nothing to merge, and `immutable` leaves no -shm behind: it needs no room.
    mode = "mode=ro" if _has_words(path.with_name(FILE_NAME + "-wal")) else "immutable=1"
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)) as db:
        yield db


def _has_words(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _again(action: Action, state: RunState, *, again: bool) -> bool:
    """Whether a known run is queued once more; one under way goes on as it is."""
    if action is Action.RETRY:
        return not state.open
    return again and state in {RunState.FAILED, RunState.PARTIAL}
