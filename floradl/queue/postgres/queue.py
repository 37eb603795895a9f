"""The queue in PostgreSQL: each method is a transaction, which waits while the database is away.

What is written of a run that this daemon has leased is written under its fence.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext

import anyio
import msgspec

from floradl.errors import LeaseLostError
from floradl.models import Action, LeftFile, QueuedRun, RunNames, RunRequest, RunState, SavedOutput
from floradl.queue.base import (
    DELIVERIES_KEPT,
    DeliveryRecord,
    LateCost,
    QueueCounts,
    QueueTrouble,
    RunQueue,
    downloading,
    is_detected_by,
    is_queued_again,
)
from floradl.queue.migrations import COLUMNS
from floradl.queue.postgres.connection import Connection, Database
from floradl.queue.postgres.jobs import CHANNELS
from floradl.queue.postgres.news import Listener, tell
from floradl.queue.postgres.outbox import PostgresHookOutbox
from floradl.queue.postgres.rows import (
    OPEN,
    PUT,
    PUT_END,
    PUT_LEASED,
    add_durations,
    count_states,
    run_from,
    select_run,
    select_runs,
    select_saved,
    values_of,
)
from floradl.queue.postgres.sharing import PostgresSharing
from floradl.queue.postgres.submit import Submitted, note_incomplete, submit
from floradl.queue.sharing import NewsKind
from floradl.wakeups import Signal

_END = f"WITH gone AS (DELETE FROM outputs WHERE run_id = %s) {PUT_END}"  # noqa: S608 - ours
_ROWS_A_SECOND = 500.0  # that a slow server surely takes


class PostgresQueue(RunQueue):
    """The queue in a database whose tables are prepared, for the daemon of that id and name.

    `disconnect` closes its connections once `serve` has ended.
    """

    def __init__(self, db: Database, daemon: str, name: str) -> None:
        self._db = db
        self._daemon = daemon
        self._fences: dict[str, int] = {}
        self._outbox = PostgresHookOutbox(db, daemon)
        self._listener = Listener(db, daemon, CHANNELS)
        self._sharing = PostgresSharing(db, (daemon, name), self._listener, self._fences)
        self._incomplete = Signal()

    async def disconnect(self) -> None:
        """Close the connections. Safe to repeat."""
        await self._db.disconnect()

    @property
    def trouble(self) -> QueueTrouble | None:
        return self._db.trouble

    @property
    def outbox(self) -> PostgresHookOutbox:
        return self._outbox

    @property
    def incomplete(self) -> Signal:
        return self._incomplete

    @property
    def sharing(self) -> PostgresSharing:
        return self._sharing

    async def serve(self) -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(self._listener.serve)
            await self._db.ended.wait()
            group.cancel_scope.cancel()
        self._db.check()

    def close(self) -> None:
        self._db.close()

    async def submit(
        self,
        requests: Sequence[RunRequest],
        now: float,
        *,
        retry_failed: bool,
        files: Iterable[LeftFile] = (),
    ) -> list[str]:
        left = [
            (self._daemon, os.fsencode(each.name), *msgspec.structs.astuple(each)[1:], now) for each in files
        ]

        async def work(connection: Connection) -> Submitted:
            if left:
                async with connection.cursor() as cursor:
                    await cursor.executemany(
                        "INSERT INTO left_files VALUES (%s, %s, %s, %s, %s, %s, %s)"
                        " ON CONFLICT (daemon, name) DO UPDATE SET"
                        " mtime_ns = excluded.mtime_ns, size = excluded.size,"
                        " sha256 = excluded.sha256, refused = excluded.refused, since = excluded.since",
                        left,
                    )
            return await self._submit(connection, requests, now, retry_failed=retry_failed)

        done = await self._db.call(work, patience=len(requests) / _ROWS_A_SECOND)
        if done.incomplete:
            self._incomplete.set()
        return done.waiting

    async def _submit(
        self, connection: Connection, requests: Sequence[RunRequest], now: float, *, retry_failed: bool
    ) -> Submitted:
        done = await submit(connection, requests, now, retry_failed=retry_failed)
        await tell(connection, self._daemon, NewsKind.ADDED, done.waiting)
        await tell(connection, self._daemon, NewsKind.GONE, done.gone)
        return done

    async def count_new(self, jobs: Sequence[Sequence[RunRequest]], *, retry_failed: bool) -> list[int]:
        run_ids = list({request.reference.run_id for requests in jobs for request in requests})
        rows = await self._db.rows("SELECT run_id, state FROM runs WHERE run_id = ANY(%s)", (run_ids,))
        states = {run_id: RunState(state) for run_id, state in rows}

        def is_new(run_id: str, action: Action) -> bool:
            state = states.get(run_id)
            return state is None or is_queued_again(action, state, retry_failed=retry_failed)

        counts = []
        for requests in jobs:
            actions = {request.reference.run_id: request.action for request in requests}
            wanted = ((run_id, action) for run_id, action in actions.items() if action is not Action.FORGET)
            counts.append(sum(is_new(run_id, action) for run_id, action in wanted))
        return counts

    async def recover(self, runs: Sequence[tuple[QueuedRun, float]]) -> int:
        async def work(connection: Connection) -> int:
            query = "SELECT run_id FROM runs WHERE run_id = ANY(%s)"
            cursor = await connection.execute(query, ([run.run_id for run, _ in runs],))
            known = {row[0] async for row in cursor}
            new = {run.run_id: values_of(run, when) for run, when in runs if run.run_id not in known}
            if new:
                async with connection.cursor() as writing:
                    await writing.executemany(PUT, list(new.values()))
            return len(new)

        return await self._db.call(work, patience=len(runs) / _ROWS_A_SECOND)

    async def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:
        wanted = list(run_ids)

        async def work(connection: Connection) -> list[str]:
            cursor = await connection.execute(
                "UPDATE runs SET state = 'running', waited = 0, tries = 0, error = NULL, fresh = false,"
                # The kinds of a retry that is done, behind a ';', hold no more.
                " kinds = CASE WHEN state = 'done' THEN nullif(split_part(kinds, ';', 1), '') ELSE kinds END,"
                " changed_at = %s, due_at = now(), fence = fence + 1"
                " WHERE run_id = ANY(%s) AND state IN ('done', 'partial', 'failed') RETURNING run_id",
                (now, wanted),
            )
            again = {row[0] async for row in cursor}
            await tell(connection, self._daemon, NewsKind.ADDED, again)
            return [run_id for run_id in wanted if run_id in again]

        return await self._db.call(work)

    async def get(self, run_id: str) -> QueuedRun | None:
        return await self._db.call(lambda connection: select_run(connection, run_id), single=True)

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        return await self._db.call(lambda connection: select_runs(connection, list(run_ids)), single=True)

    async def update(self, run: QueuedRun, now: float) -> None:
        fence = self._fences.get(run.run_id)

        async def work(connection: Connection) -> None:
            if fence is None:
                await connection.execute(PUT, values_of(run, now))
                return
            cursor = await connection.execute(PUT_LEASED, (*values_of(run, now), fence))
            if cursor.rowcount == 0:
                raise _lost(run.run_id)

        await self._db.call(work)

    async def update_all(self, runs: Sequence[tuple[QueuedRun, float | None]], now: float) -> None:
        # In one order, against deadlocks.
        values = [values_of(run, now) for run, _ in sorted(runs, key=lambda each: each[0].run_id)]
        timed = [(run, seconds) for run, seconds in runs if seconds is not None]
        if len(values) == 1 and not timed:  # as after each single request: one round trip in place of three
            await self._db.rows(PUT, values[0])
            return

        async def work(connection: Connection) -> None:
            if timed:
                before = await select_runs(connection, [run.run_id for run, _ in timed], lock=True)
                new = [each for each in timed if is_detected_by(each[0], before.get(each[0].run_id))]
                await add_durations(connection, [(run.technique or "", seconds) for run, seconds in new])
            async with connection.cursor() as cursor:
                await cursor.executemany(PUT, values)

        await self._db.call(work)

    async def begin_download(
        self, run_id: str, now: float
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        async def work(connection: Connection) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
            run, lost = await self._lock(connection, run_id)
            if run is None or not run.state.open:
                return None
            if lost:
                raise _lost(run_id)
            if run.state is not RunState.DOWNLOADING:
                run = downloading(run)
                await connection.execute(
                    "UPDATE runs SET state = %s, waited = 0, tries = 0, progress = %s, error = NULL,"
                    " changed_at = %s WHERE run_id = %s",
                    (run.state.value, run.progress, now, run_id),
                )
            return run, await select_saved(connection, run_id)

        return await self._db.call(work)

    async def save_outputs(self, run_id: str, outputs: Mapping[str, SavedOutput]) -> None:
        rows = [
            (run_id, key.encode(), msgspec.json.encode(output).decode()) for key, output in outputs.items()
        ]

        async def work(connection: Connection) -> None:
            if run_id in self._fences and (await self._lock(connection, run_id))[1]:
                raise _lost(run_id)
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO outputs VALUES (%s, %s, %s)"
                    " ON CONFLICT (run_id, output_key) DO UPDATE SET output = excluded.output",
                    rows,
                )

        if rows:
            await self._db.call(work)

    async def saved_outputs(self, run_id: str) -> dict[str, SavedOutput]:
        return await self._db.call(lambda connection: select_saved(connection, run_id), single=True)

    async def _lock(self, connection: Connection, run_id: str) -> tuple[QueuedRun | None, bool]:
        """Read a run, which nobody else writes in this transaction, and whether another daemon has it."""
        cursor = await connection.execute(
            f"SELECT fence, coalesce(lease_until > now(), false) AND owner <> %s, {COLUMNS} FROM runs"  # noqa: S608 - names only
            " WHERE run_id = %s FOR UPDATE",
            (self._daemon, run_id),
        )
        row = await cursor.fetchone()
        fence, leased = row[:2] if row is not None else (None, False)
        own = self._fences.get(run_id)
        return run_from(row[2:]) if row is not None else None, leased if own is None else fence != own

    async def finish(
        self, run: QueuedRun, now: float, sidecar: str | None, late: LateCost | None = None
    ) -> None:
        async def work(connection: Connection) -> bool:
            before, lost = await self._lock(connection, run.run_id)
            if lost:
                raise _lost(run.run_id)
            await connection.execute(_END, (run.run_id, *values_of(run, now)))
            if before is None or before.state.open:
                await self._outbox.add(connection, run.run_id, sidecar)
                # Of a run that was leased this daemon hears too: it may be the poller.
                origin = "" if run.run_id in self._fences else self._daemon
                await tell(connection, origin, NewsKind.GONE, [run.run_id])
            completed = before is not None and _says_more(before, run)
            if completed:
                await note_incomplete(connection, [run.run_id])
            if late is not None:
                await _put_late_costs(connection, [late])
            return late is not None or completed

        async with self._outbox.order if self._outbox.expected else nullcontext():
            changed = await self._db.call(work)
        if changed:
            self._incomplete.set()

    async def open_ids(self) -> list[str]:
        query = f"SELECT run_id FROM runs WHERE state IN {OPEN} ORDER BY state = 'waiting', queued_at"  # noqa: S608 - ours
        return [row[0] for row in await self._db.rows(query)]

    async def counts(self) -> QueueCounts:
        async def work(connection: Connection) -> QueueCounts:
            states = await count_states(connection)
            cursor = await connection.execute(f"SELECT min(queued_at) FROM runs WHERE state IN {OPEN}")  # noqa: S608 - ours
            row = await cursor.fetchone()
            return QueueCounts(states, row[0] if row else None)

        return await self._db.call(work)

    async def durations(self) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for technique, seconds in await self._db.rows("SELECT technique, seconds FROM durations ORDER BY id"):
            found.setdefault(technique, []).append(seconds)
        return found

    async def sync_mark(self, kind: str, workspace: str) -> float | None:
        query = "SELECT mark FROM synced WHERE kind = %s AND workspace = %s"
        rows = await self._db.rows(query, (kind, workspace))
        return rows[0][0] if rows else None

    async def set_sync_mark(self, kind: str, workspace: str, mark: float) -> None:
        await self._db.rows(
            "INSERT INTO synced VALUES (%s, %s, %s)"
            " ON CONFLICT (kind, workspace) DO UPDATE SET mark = excluded.mark",
            (kind, workspace, mark),
        )

    async def note_delivery(
        self, delivery_id: str, request: RunRequest, now: float, *, known_only: bool, retry_failed: bool
    ) -> DeliveryRecord:
        run_id = request.reference.run_id

        async def work(connection: Connection) -> tuple[DeliveryRecord, bool]:
            done: Submitted | None = None
            await connection.execute(
                "DELETE FROM deliveries WHERE received_at < %s", (now - DELIVERIES_KEPT,)
            )
            insert = "INSERT INTO deliveries VALUES (%s, %s) ON CONFLICT DO NOTHING"
            new = (await connection.execute(insert, (delivery_id, now))).rowcount > 0
            if new and not (known_only and await select_run(connection, run_id) is None):
                done = await self._submit(connection, [request], now, retry_failed=retry_failed)
            run = await select_run(connection, run_id)
            queued = done is not None and bool(done.waiting)
            record = DeliveryRecord(new, run is not None and run.state.open, queued)
            return record, done is not None and bool(done.incomplete)

        record, completed = await self._db.call(work)
        if completed:
            self._incomplete.set()
        return record

    async def incomplete_ids(self, limit: int) -> list[str]:
        return [row[0] for row in await self._db.rows("SELECT run_id FROM incomplete LIMIT %s", (limit,))]

    async def note_incomplete(self, run_ids: Iterable[str]) -> None:
        wanted = list(run_ids)
        if wanted:
            await self._db.call(lambda connection: note_incomplete(connection, wanted))
            self._incomplete.set()

    async def note_complete(self, run_ids: Iterable[str]) -> None:
        await self._db.rows("DELETE FROM incomplete WHERE run_id = ANY(%s)", (list(run_ids),))

    async def next_late_cost(self) -> float | None:
        rows = await self._db.rows("SELECT min(look_at) FROM late_costs")
        return rows[0][0]  # type: ignore[no-any-return]

    async def late_costs(self, now: float, limit: int) -> list[LateCost]:
        query = (
            "SELECT run_id, look_at, looks, created_at FROM late_costs WHERE look_at <= %s"
            " ORDER BY look_at LIMIT %s"
        )
        return [LateCost(*row) for row in await self._db.rows(query, (now, limit))]

    async def put_late_costs(self, again: Iterable[LateCost], settled: Iterable[str] = ()) -> None:
        later, over = list(again), list(settled)

        async def work(connection: Connection) -> None:
            await connection.execute("DELETE FROM late_costs WHERE run_id = ANY(%s)", (over,))
            await _put_late_costs(connection, later)

        await self._db.call(work)
        self._incomplete.set()

    async def technique_names(self) -> dict[str, RunNames]:
        rows = await self._db.rows("SELECT technique, names FROM technique_names")
        return {technique: msgspec.json.decode(names, type=RunNames) for technique, names in rows}

    async def put_technique_names(self, found: Mapping[str, RunNames]) -> None:
        rows = [
            (technique, msgspec.json.encode(names).decode()) for technique, names in sorted(found.items())
        ]

        async def work(connection: Connection) -> None:
            async with connection.cursor() as cursor:
                await cursor.executemany(
                    "INSERT INTO technique_names VALUES (%s, %s)"
                    " ON CONFLICT (technique) DO UPDATE SET names = excluded.names",
                    rows,
                )

        if rows:
            await self._db.call(work)

    async def left_files(self) -> dict[str, LeftFile]:
        query = "SELECT name, mtime_ns, size, sha256, refused FROM left_files WHERE daemon = %s"
        rows = await self._db.rows(query, (self._daemon,))
        return {(name := os.fsdecode(row[0])): LeftFile(name, *row[1:]) for row in rows}

    async def drop_left_files(self, names: Iterable[str], before: float = math.inf) -> None:
        await self._db.rows(
            "DELETE FROM left_files WHERE daemon = %s AND name = ANY(%s) AND since < %s",
            (self._daemon, [os.fsencode(name) for name in names], before),
        )


def _lost(run_id: str) -> LeaseLostError:
    return LeaseLostError(f"another daemon has the run {run_id} by now")


def _says_more(before: QueuedRun, run: QueuedRun) -> bool:
    """Whether the row `before` has what `run`, which ended without it, lacks."""
    pairs = ((before.technique, run.technique), (before.label, run.label), (before.meta, run.meta))
    return any(had and not has for had, has in pairs)


async def _put_late_costs(connection: Connection, late: Sequence[LateCost]) -> None:
    async with connection.cursor() as cursor:
        for each in late:
            await cursor.execute(
                "INSERT INTO late_costs VALUES (%s, %s, %s, %s) ON CONFLICT (run_id) DO UPDATE"
                " SET look_at = excluded.look_at, looks = excluded.looks, created_at = excluded.created_at",
                msgspec.structs.astuple(each),
            )
