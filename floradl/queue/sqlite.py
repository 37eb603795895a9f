"""The queue and the hooks' outbox in SQLite: in `journal.sqlite3`, or in memory for a command like `get`.

WAL with `synchronous=FULL`: what a commit promised is there after a power cut. One process alone writes
(the lock ensures that), through one connection. Hook events are added in the transaction that ends their run.
"""

from __future__ import annotations

import math
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import msgspec

from floradl.models import Action, LeftFile, QueuedRun, RunNames, RunRequest, RunState, SavedOutput
from floradl.queue.base import (
    DELIVERIES_KEPT,
    DURATIONS_KEPT,
    DeliveryRecord,
    LateCost,
    QueueCounts,
    QueueTrouble,
    RunQueue,
    completed_by,
    downloading,
    is_detected_by,
    is_queued_again,
    kinds_after,
    loses_files,
    queued,
    without_secrets,
)
from floradl.queue.folder import FILE_NAME, QueueFiles
from floradl.queue.group_commit import GroupCommit
from floradl.queue.hook_outbox import SqliteHookOutbox
from floradl.queue.migrations import (
    COLUMNS,
    count_states,
    keep_copy,
    kinds_column,
    migrate,
    row_of,
    select_left_files,
    select_run,
    select_saved,
)
from floradl.wakeups import Signal

_MARKS = ",".join("?" * (COLUMNS.count(",") + 2))  # of a row, and when it changed
_OPEN = tuple(state.value for state in RunState if state.open)
_COMPLETED = (
    "SELECT state, (technique IS NOT NULL AND ? IS NULL) OR (label IS NOT NULL AND ? IS NULL)"
    " OR (meta IS NOT NULL AND ? IS NULL) FROM runs WHERE run_id = ?"
)
_OPEN_MARKS = ",".join("?" * len(_OPEN))


class SqliteQueue(RunQueue):
    """The queue in the database that is open as `db`, with its `files` as they were then, if it has any.

    What the disk refuses is tried again each `retry_after` seconds.
    """

    def __init__(self, db: sqlite3.Connection, files: QueueFiles | None, retry_after: float) -> None:
        self._db = db
        self.files = files
        self._commits = GroupCommit(db, retry_after)
        self._call = self._commits.call
        self._outbox = SqliteHookOutbox(self._commits)
        self._incomplete = Signal()

    @classmethod
    def open(cls, state_dir: Path, retry_after: float = 5.0) -> SqliteQueue:
        """Open or create the file for writing; the caller holds the lock. Blocking.

        An older schema is migrated, with a copy of the file kept beside it. Raises `ConfigError` where a
        newer floradl wrote it, `OSError`, and `sqlite3.Error`.
        """
        path = state_dir / FILE_NAME
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA fullfsync=ON")  # macOS: through the drive's cache
            db.execute("PRAGMA cache_size=-512")  # KiB: the system has its pages, too
            migrate(db, path)
            return cls(db, QueueFiles(state_dir), retry_after)
        except BaseException:
            db.close()
            raise

    @classmethod
    @contextmanager
    def in_memory(cls) -> Iterator[SqliteQueue]:
        """Give a queue that nothing outlives: for commands whose only memory is the library."""
        path = Path(":memory:")
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        migrate(db, path)
        queue = cls(db, None, 0.0)
        try:
            yield queue
        finally:
            queue.disconnect()

    def copy_to(self, path: Path) -> None:
        """Write all that is recorded into a new file. Blocking. Raises `OSError` and `sqlite3.Error`."""
        keep_copy(self._db, path)

    def disconnect(self) -> None:
        """Close the file, its log merged into it, where `serve` is not running. Safe to repeat. Blocking."""
        self._commits.disconnect()

    @property
    def trouble(self) -> QueueTrouble | None:
        return self._commits.trouble

    @property
    def outbox(self) -> SqliteHookOutbox:
        return self._outbox

    @property
    def incomplete(self) -> Signal:
        return self._incomplete

    @property
    def sharing(self) -> None:
        return None

    async def serve(self) -> None:
        async with anyio.create_task_group() as group:
            if self.files is not None:
                group.start_soon(self.files.watch)
            await self._commits.serve()
            group.cancel_scope.cancel()

    def close(self) -> None:
        self._commits.close()

    async def submit(
        self,
        requests: Sequence[RunRequest],
        now: float,
        *,
        retry_failed: bool,
        files: Iterable[LeftFile] = (),
    ) -> list[str]:
        left = [(os.fsencode(each.name), *msgspec.structs.astuple(each)[1:], now) for each in files]

        def work(db: sqlite3.Connection) -> tuple[list[str], bool]:
            db.executemany("INSERT OR REPLACE INTO left_files VALUES (?,?,?,?,?,?)", left)
            return _submit(db, requests, now, retry_failed=retry_failed)

        waiting, completed = await self._call(work)
        if completed:
            self._incomplete.set()
        return waiting

    async def count_new(self, jobs: Sequence[Sequence[RunRequest]], *, retry_failed: bool) -> list[int]:
        def count(db: sqlite3.Connection, requests: Sequence[RunRequest]) -> int:
            actions = {request.reference.run_id: request.action for request in requests}
            return sum(
                (state := _state(db, run_id)) is None
                or is_queued_again(action, state, retry_failed=retry_failed)
                for run_id, action in actions.items()
                if action is not Action.FORGET
            )

        return await self._call(lambda db: [count(db, requests) for requests in jobs])

    async def recover(self, runs: Sequence[tuple[QueuedRun, float]]) -> int:
        def work(db: sqlite3.Connection) -> int:
            new = [(run, when) for run, when in runs if _state(db, run.run_id) is None]
            for run, when in new:
                _put(db, run, when)
            return len(new)

        return await self._call(work)

    async def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:
        statement = (
            "UPDATE runs SET state = 'running', waited = 0, tries = 0, error = NULL, fresh = 0,"
            # The kinds of a retry that is done, behind a ';', hold no more.
            " kinds = CASE WHEN state = 'done' AND instr(kinds, ';') > 0"
            " THEN nullif(substr(kinds, 1, instr(kinds, ';') - 1), '') ELSE kinds END,"
            " changed_at = ? WHERE run_id = ? AND state IN ('done', 'partial', 'failed')"
        )
        wanted = list(run_ids)
        return await self._call(
            lambda db: [run_id for run_id in wanted if db.execute(statement, (now, run_id)).rowcount]
        )

    async def get(self, run_id: str) -> QueuedRun | None:
        return await self._call(lambda db: select_run(db, run_id))

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        def work(db: sqlite3.Connection) -> dict[str, QueuedRun]:
            found = ((run_id, select_run(db, run_id)) for run_id in run_ids)
            return {run_id: run for run_id, run in found if run is not None}

        return await self._call(work)

    async def update(self, run: QueuedRun, now: float) -> None:
        await self._call(lambda db: _put(db, run, now))

    async def update_all(self, runs: Sequence[tuple[QueuedRun, float | None]], now: float) -> None:
        def work(db: sqlite3.Connection) -> None:
            for run, duration in runs:
                if duration is not None and is_detected_by(run, select_run(db, run.run_id)):
                    _add_duration(db, run.technique or "", duration)
                _put(db, run, now)

        await self._call(work)

    async def begin_download(
        self, run_id: str, now: float
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        def work(db: sqlite3.Connection) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
            run = select_run(db, run_id)
            if run is None or not run.state.open:
                return None
            if run.state is not RunState.DOWNLOADING:
                run = downloading(run)
                _put(db, run, now)
            return run, select_saved(db, run_id)

        return await self._call(work)

    async def save_outputs(self, run_id: str, outputs: Mapping[str, SavedOutput]) -> None:
        rows = [(run_id, key, msgspec.json.encode(output).decode()) for key, output in outputs.items()]
        await self._call(lambda db: db.executemany("INSERT OR REPLACE INTO saved VALUES (?, ?, ?)", rows))

    async def saved_outputs(self, run_id: str) -> dict[str, SavedOutput]:
        return await self._call(lambda db: select_saved(db, run_id))

    async def finish(
        self, run: QueuedRun, now: float, sidecar: str | None, late: LateCost | None = None
    ) -> None:
        row = row_of(run)
        said = (row[1], row[2], row[12], run.run_id)

        def work(db: sqlite3.Connection) -> bool:
            before, completed = db.execute(_COMPLETED, said).fetchone() or (None, 0)
            _put(db, run, now)
            _drop_saved(db, run.run_id)
            if before is None or RunState(before).open:
                self._outbox.add(db, run.run_id, sidecar)
            if completed:
                db.execute("INSERT OR IGNORE INTO incomplete VALUES (?)", (run.run_id,))
            if late is not None:
                _put_late_cost(db, late)
            return late is not None or bool(completed)

        if await self._call(work):
            self._incomplete.set()

    async def open_ids(self) -> list[str]:
        query = (
            f"SELECT run_id FROM runs WHERE state IN ({_OPEN_MARKS})"  # noqa: S608 - question marks only
            " ORDER BY state = 'waiting', queued_at"
        )
        return await self._call(lambda db: [row[0] for row in db.execute(query, _OPEN)])

    async def counts(self) -> QueueCounts:
        oldest = f"SELECT min(queued_at) FROM runs WHERE state IN ({_OPEN_MARKS})"  # noqa: S608 - as above
        return await self._call(
            lambda db: QueueCounts(count_states(db), db.execute(oldest, _OPEN).fetchone()[0])
        )

    async def durations(self) -> dict[str, list[float]]:
        def work(db: sqlite3.Connection) -> dict[str, list[float]]:
            found: dict[str, list[float]] = {}
            for technique, seconds in db.execute("SELECT technique, seconds FROM durations ORDER BY id"):
                found.setdefault(technique, []).append(seconds)
            return found

        return await self._call(work)

    async def sync_mark(self, kind: str, workspace: str) -> float | None:
        query = "SELECT mark FROM synced WHERE kind = ? AND workspace = ?"
        row = await self._call(lambda db: db.execute(query, (kind, workspace)).fetchone())
        return row[0] if row else None

    async def set_sync_mark(self, kind: str, workspace: str, mark: float) -> None:
        row = (kind, workspace, mark)
        await self._call(lambda db: db.execute("INSERT OR REPLACE INTO synced VALUES (?, ?, ?)", row))

    async def note_delivery(
        self, delivery_id: str, request: RunRequest, now: float, *, known_only: bool, retry_failed: bool
    ) -> DeliveryRecord:
        run_id = request.reference.run_id

        def work(db: sqlite3.Connection) -> tuple[DeliveryRecord, bool]:
            waiting: list[str] = []
            completed = False
            db.execute("DELETE FROM deliveries WHERE received_at < ?", (now - DELIVERIES_KEPT,))
            row = (delivery_id, now)
            new = db.execute("INSERT OR IGNORE INTO deliveries VALUES (?, ?)", row).rowcount > 0
            if new and not (known_only and _state(db, run_id) is None):
                waiting, completed = _submit(db, [request], now, retry_failed=retry_failed)
            state = _state(db, run_id)
            return DeliveryRecord(new, state is not None and state.open, bool(waiting)), completed

        record, completed = await self._call(work)
        if completed:
            self._incomplete.set()
        return record

    async def incomplete_ids(self, limit: int) -> list[str]:
        query = "SELECT run_id FROM incomplete LIMIT ?"
        return await self._call(lambda db: [row[0] for row in db.execute(query, (limit,))])

    async def note_incomplete(self, run_ids: Iterable[str]) -> None:
        rows = [(run_id,) for run_id in run_ids]
        if rows:
            await self._call(lambda db: db.executemany("INSERT OR IGNORE INTO incomplete VALUES (?)", rows))
            self._incomplete.set()

    async def note_complete(self, run_ids: Iterable[str]) -> None:
        rows = [(run_id,) for run_id in run_ids]
        await self._call(lambda db: db.executemany("DELETE FROM incomplete WHERE run_id = ?", rows))

    async def next_late_cost(self) -> float | None:
        query = "SELECT min(look_at) FROM late_costs"
        found = await self._call(lambda db: db.execute(query).fetchone())
        return found[0]  # type: ignore[no-any-return]

    async def late_costs(self, now: float, limit: int) -> list[LateCost]:
        query = (
            "SELECT run_id, look_at, looks, created_at FROM late_costs WHERE look_at <= ?"
            " ORDER BY look_at LIMIT ?"
        )
        return await self._call(lambda db: [LateCost(*row) for row in db.execute(query, (now, limit))])

    async def put_late_costs(self, again: Iterable[LateCost], settled: Iterable[str] = ()) -> None:
        later, rows = list(again), [(run_id,) for run_id in settled]

        def work(db: sqlite3.Connection) -> None:
            db.executemany("DELETE FROM late_costs WHERE run_id = ?", rows)
            for each in later:
                _put_late_cost(db, each)

        await self._call(work)
        self._incomplete.set()

    async def technique_names(self) -> dict[str, RunNames]:
        def work(db: sqlite3.Connection) -> dict[str, RunNames]:
            rows = db.execute("SELECT technique, names FROM technique_names")
            return {technique: msgspec.json.decode(names, type=RunNames) for technique, names in rows}

        return await self._call(work)

    async def put_technique_names(self, found: Mapping[str, RunNames]) -> None:
        rows = [(technique, msgspec.json.encode(names).decode()) for technique, names in found.items()]
        await self._call(
            lambda db: db.executemany("INSERT OR REPLACE INTO technique_names VALUES (?, ?)", rows)
        )

    async def left_files(self) -> dict[str, LeftFile]:
        return await self._call(select_left_files)

    async def drop_left_files(self, names: Iterable[str], before: float = math.inf) -> None:
        rows = [(os.fsencode(name), before) for name in names]
        delete = "DELETE FROM left_files WHERE name = ? AND since < ?"
        await self._call(lambda db: db.executemany(delete, rows))


def _submit(
    db: sqlite3.Connection, requests: Sequence[RunRequest], now: float, *, retry_failed: bool
) -> tuple[list[str], bool]:
    """Do what `submit` says; also return whether an ended run has become incomplete."""
    waiting: list[str] = []
    incomplete: list[tuple[str]] = []
    query = "SELECT state, technique IS NULL, label IS NULL, meta IS NULL FROM runs WHERE run_id = ?"
    for request in requests:
        run_id = request.reference.run_id
        found = db.execute(query, (run_id,)).fetchone()
        state = RunState(found[0]) if found else None
        if request.action is Action.FORGET:
            _put(db, msgspec.structs.replace(queued(request, now), state=RunState.FORGOTTEN), now)
            _drop_saved(db, run_id)
            continue
        if state is None:
            _put(db, queued(request, now), now)
            waiting.append(run_id)
            continue
        said = request.reference.technique, request.label, request.meta
        completed = any(lacks and says for lacks, says in zip(found[1:], said, strict=True))
        completed = completed and _complete(db, request)
        if is_queued_again(request.action, state, retry_failed=retry_failed):
            _drop_saved(db, run_id)
            _queue_again(db, request, now)
            waiting.append(run_id)
        elif completed and not state.open:
            incomplete.append((run_id,))
    db.executemany("INSERT OR IGNORE INTO incomplete VALUES (?)", incomplete)
    return waiting, bool(incomplete)


def _complete(db: sqlite3.Connection, request: RunRequest) -> bool:
    """Complete a run's row by a later request; return whether that changed it."""
    before = select_run(db, request.reference.run_id)
    run = before and completed_by(before, request)
    if run is None or run == before:
        return False
    row = row_of(run)
    fill = "UPDATE runs SET technique = ?, label = ?, meta = ? WHERE run_id = ?"
    db.execute(fill, (row[1], row[2], row[12], run.run_id))
    return True


def _queue_again(db: sqlite3.Connection, request: RunRequest, now: float) -> None:
    before = select_run(db, request.reference.run_id)
    if before is not None:
        run = kinds_after(before, request)
        db.execute(
            "UPDATE runs SET state = 'waiting', queued_at = ?, detected_at = NULL, waited = 0, tries = 0,"
            " progress = 0, error = NULL, fresh = ?, kinds = ?, changed_at = ? WHERE run_id = ?",
            (now, loses_files(run.state), kinds_column(run.kinds, run.retry_kinds), now, run.run_id),
        )


def _put_late_cost(db: sqlite3.Connection, late: LateCost) -> None:
    db.execute("INSERT OR REPLACE INTO late_costs VALUES (?,?,?,?)", msgspec.structs.astuple(late))


def _put(db: sqlite3.Connection, run: QueuedRun, now: float) -> None:
    """Write a run's row, new or known; what it was first named by, and is wanted of it, stays.

    A technique fills the place of none.
    """
    db.execute(
        f"INSERT INTO runs ({COLUMNS}, changed_at) VALUES ({_MARKS})"  # noqa: S608 - names only
        " ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, detected_at = excluded.detected_at,"
        " waited = excluded.waited, tries = excluded.tries, progress = excluded.progress,"
        " error = excluded.error, fresh = excluded.fresh, changed_at = excluded.changed_at,"
        " names = coalesce(excluded.names, runs.names),"
        " technique = coalesce(runs.technique, excluded.technique)"
        # What was forgotten while it was under way stays forgotten.
        " WHERE runs.state <> 'forgotten'",
        (*row_of(without_secrets(run)), now),
    )


def _state(db: sqlite3.Connection, run_id: str) -> RunState | None:
    row = db.execute("SELECT state FROM runs WHERE run_id = ?", (run_id,)).fetchone()
    return RunState(row[0]) if row else None


def _drop_saved(db: sqlite3.Connection, run_id: str) -> None:
    """Forget saved outputs: the sidecar stands, or the run starts anew."""
    db.execute("DELETE FROM saved WHERE run_id = ?", (run_id,))


def _add_duration(db: sqlite3.Connection, technique: str, seconds: float) -> None:
    db.execute("INSERT INTO durations (technique, seconds) VALUES (?, ?)", (technique, seconds))
    db.execute(
        "DELETE FROM durations WHERE technique = ?1 AND id <= (SELECT id FROM durations"
        " WHERE technique = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)",
        (technique, DURATIONS_KEPT),
    )
