"""What a submit makes of the rows: the rules of `queue/base.py`, for many runs in a few statements."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from floradl.models import Action, QueuedRun, RunRequest, RunState
from floradl.queue.base import completed_by, is_queued_again, kinds_after, loses_files, queued
from floradl.queue.migrations import row_of
from floradl.queue.postgres.connection import Connection
from floradl.queue.postgres.rows import select_runs, values_of


class Submitted(Struct, frozen=True):
    """What came of it: runs that wait now, those that are gone, and ended ones that became incomplete."""

    waiting: list[str]
    gone: list[str]
    incomplete: list[str]


async def submit(
    connection: Connection, requests: Sequence[RunRequest], now: float, *, retry_failed: bool
) -> Submitted:
    """Do what `RunQueue.submit` says, as a part of a transaction."""
    change = _Change(now, retry_failed=retry_failed)
    wanted = sorted({request.reference.run_id for request in requests})
    known = await select_runs(connection, wanted)
    first = {request.reference.run_id: request for request in reversed(requests)}
    new = [first[run_id] for run_id in wanted if run_id not in known]
    added = await _insert(connection, new, now)
    # Anew, and for this transaction alone: others may have added or changed some in this very moment.
    change.rows = await select_runs(connection, wanted, lock=True)
    for request in requests:
        change.apply(request, new=request.reference.run_id in added)
        added.discard(request.reference.run_id)
    await change.write(connection)
    return Submitted(change.waiting, change.gone, change.incomplete)


async def _insert(connection: Connection, requests: Sequence[RunRequest], now: float) -> set[str]:
    """Add runs that nobody else has added meanwhile; returns which."""
    if not requests:
        return set()
    rows = [row_of(_first_row(request, now)) for request in requests]
    columns = [[row[index] for row in rows] for index in (0, 1, 2, 3, 4, 10, 11, 12)]
    cursor = await connection.execute(
        "INSERT INTO runs (run_id, technique, label, state, queued_at, fresh, kinds, meta, changed_at)"
        " SELECT *, %s FROM unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::float8[],"
        " %s::bool[], %s::text[], %s::text[]) ON CONFLICT DO NOTHING RETURNING run_id",
        (now, *columns),
    )
    return {row[0] async for row in cursor}


def _first_row(request: RunRequest, now: float) -> QueuedRun:
    run = queued(request, now)
    return replace(run, state=RunState.FORGOTTEN) if request.action is Action.FORGET else run


class _Change:
    """The rows of known runs, and what requests make of them."""

    def __init__(self, now: float, *, retry_failed: bool) -> None:
        self._now = now
        self._retry_failed = retry_failed
        self.rows: dict[str, QueuedRun] = {}
        self.waiting: list[str] = []
        self.gone: list[str] = []
        self.incomplete: list[str] = []
        self._completed: set[str] = set()
        self._anew: set[str] = set()  # what a daemon does for them now counts no more

    def apply(self, request: RunRequest, *, new: bool) -> None:
        run_id = request.reference.run_id
        known = self.rows[run_id]
        if request.action is Action.FORGET:
            self._forget(request, known)
        elif new:
            self.waiting.append(run_id)
        else:
            completed = completed_by(known, request)
            if is_queued_again(request.action, known.state, retry_failed=self._retry_failed):
                self.rows[run_id] = self._again(kinds_after(completed, request))
                self._anew.add(run_id)
                self.waiting.append(run_id)
            elif completed != known:
                self.rows[run_id] = completed
                self._completed.add(run_id)
                if not known.state.open:
                    self.incomplete.append(run_id)

    def _forget(self, request: RunRequest, known: QueuedRun) -> None:
        run_id = known.run_id
        fresh = queued(request, self._now)
        self.rows[run_id] = replace(
            fresh,
            state=RunState.FORGOTTEN,
            queued_at=known.queued_at,
            technique=known.technique if known.technique is not None else fresh.technique,
            label=known.label,
            kinds=known.kinds,
            retry_kinds=known.retry_kinds,
            meta=known.meta,
            names=known.names,
        )
        self._anew.add(run_id)
        if known.state.open:
            self.gone.append(run_id)

    def _again(self, run: QueuedRun) -> QueuedRun:
        return replace(
            run,
            state=RunState.WAITING,
            queued_at=self._now,
            detected_at=None,
            waited=0.0,
            tries=0,
            progress=0.0,
            error=None,
            force=loses_files(run.state),
        )

    async def write(self, connection: Connection) -> None:
        if anew := sorted(self._anew):
            await connection.execute("DELETE FROM outputs WHERE run_id = ANY(%s)", (anew,))
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "UPDATE runs SET technique = %s, label = %s, state = %s, queued_at = %s,"
                    " detected_at = %s, waited = %s, tries = %s, progress = %s, error = %s,"
                    " fresh = %s, kinds = %s, meta = %s, names = %s, changed_at = %s,"
                    " due_at = now(), answer = NULL, owner = NULL, lease_until = NULL,"
                    " fence = fence + 1 WHERE run_id = %s",
                    [(*values_of(self.rows[run_id], self._now)[1:], run_id) for run_id in anew],
                )
        completed = [self.rows[run_id] for run_id in sorted(self._completed - self._anew)]
        if completed:
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "UPDATE runs SET technique = %s, label = %s, meta = %s WHERE run_id = %s",
                    [(run.technique, run.label, _meta(run), run.run_id) for run in completed],
                )
        if self.incomplete:
            await note_incomplete(connection, self.incomplete)


def _meta(run: QueuedRun) -> str | None:
    return msgspec.json.encode(run.meta).decode() if run.meta else None


async def note_incomplete(connection: Connection, run_ids: Sequence[str]) -> None:
    """Record runs whose sidecars lack something, as a part of a transaction."""
    await connection.execute(
        "INSERT INTO incomplete SELECT DISTINCT unnest(%s::text[]) ON CONFLICT DO NOTHING", (list(run_ids),)
    )
