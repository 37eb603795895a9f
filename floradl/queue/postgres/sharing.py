"""The engine's part in sharing a queue: elections, work on leased runs, rescue of what others left behind."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import msgspec
import psycopg
from anyio.lowlevel import checkpoint

from floradl.errors import LeaseLostError
from floradl.log import get_logger
from floradl.models import FinishedRun
from floradl.queue.heartbeat import Snapshot, redacted
from floradl.queue.postgres import jobs, leases
from floradl.queue.postgres.connection import Connection, Database
from floradl.queue.postgres.leases import Leased
from floradl.queue.postgres.news import Listener, seconds, tell, tell_ready
from floradl.queue.postgres.rows import (
    OPEN,
    count_states,
    fold_counts,
)
from floradl.queue.postgres.schema import FILLED, put_fact
from floradl.queue.sharing import (
    POLLER_LEASE,
    RUN_LEASE,
    DaemonState,
    NewsKind,
    Released,
    Room,
    RunNews,
    RunSharing,
    SaveRun,
)
from floradl.wakeups import Signal

_POLLER, _RESCUER, _FILLER = "poller", "rescuer", "filler"
_RENEW_EVERY: Final = RUN_LEASE / 3
_STALLED_AFTER: Final = RUN_LEASE  # seconds without a worker's sign of life
_RESCUE_EVERY: Final = 5.0
_RESCUER_LEASE: Final = 15.0
_FILLER_LEASE: Final = 60.0
_LOOK_EVERY: Final = 1.0  # at the room, at own clock
_FETCH_EVERY: Final = 5.0  # where no news comes: a job that is put back sends none when its time has come
_QUICK: Final = 5.0  # seconds that a call may take which nobody waits for
_LAST: Final = 3.0  # seconds to give leases back at a stop
_OLD: Final = 24  # hours that a job stays which ended otherwise than well
_FORGOTTEN_AFTER: Final = 30  # days that a daemon was not seen: in containers each may be a new one
_SEEN_WITHIN: Final = 60.0
_PASSING: Final = (psycopg.Error, TimeoutError, OSError)
_log = get_logger()


class _Held:
    """A leased run at work: until when by our own clock, and what ends the work."""

    def __init__(self, leased: Leased, until: float) -> None:
        self.leased = leased
        self.until = until  # monotonic seconds
        self.scope = anyio.CancelScope()
        self.lost = False

    def lose(self) -> None:
        self.lost = True
        self.scope.cancel()


class PostgresSharing(RunSharing):
    """The part of one daemon, `member`: its id and its name. `fences` are those of the runs it has leased."""

    def __init__(
        self, db: Database, member: tuple[str, str], listener: Listener, fences: dict[str, int]
    ) -> None:
        self._db = db
        self._daemon, self._name = member
        self._listener = listener
        self._fences = fences
        self._held: dict[str, _Held] = {}
        self._ended = Signal()
        self._worker_id = 0

    async def elect(self) -> bool:
        return await self._lease(_POLLER, POLLER_LEASE)

    async def resign(self) -> None:
        async def work(connection: Connection) -> None:
            query = "DELETE FROM leases WHERE name = %s AND owner = %s"
            if (await connection.execute(query, (_POLLER, self._daemon))).rowcount:
                await tell(connection, self._daemon, NewsKind.VACANT, [""])

        await self._try(work)

    async def _lease(self, name: str, duration: float) -> bool:
        async def work(connection: Connection) -> bool:
            cursor = await connection.execute(
                "INSERT INTO leases VALUES (%s, %s, now() + make_interval(secs => %s)) ON CONFLICT (name)"
                " DO UPDATE SET owner = excluded.owner, until = excluded.until"
                " WHERE leases.owner = excluded.owner OR leases.until < now()",
                (name, self._daemon, duration),
            )
            return cursor.rowcount > 0

        return bool(await self._try(work))

    async def _try(self, work: Callable[[Connection], Awaitable[Any]]) -> Any:
        """Do `work`, or return None at once where the database is away: nobody waits for it."""
        try:
            return await self._db.once(work, patience=_QUICK)
        except _PASSING as error:
            self._db.note_failure(error)
            return None

    async def count_open(self) -> int:
        counts = await self._db.call(count_states, single=True)
        return sum(count for state, count in counts.items() if state.open)

    async def due(self) -> list[tuple[str, float]]:
        rows = await self._db.rows(
            "SELECT run_id, greatest(extract(epoch FROM due_at - now()), 0)::float8 FROM runs"  # noqa: S608 - ours
            f" WHERE state IN {OPEN} AND answer IS NULL ORDER BY state = 'waiting', queued_at"
        )
        return [(run_id, due_in) for run_id, due_in in rows]

    async def note_due(self, due: Mapping[str, float]) -> None:
        if not due:
            return
        await self._db.rows(
            "UPDATE runs SET due_at = now() + make_interval(secs => given.due_in)"  # noqa: S608 - ours
            " FROM unnest(%s::text[], %s::float8[]) AS given (run_id, due_in)"
            f" WHERE runs.run_id = given.run_id AND state IN {OPEN} AND answer IS NULL",
            (list(due), [seconds(each) for each in due.values()]),
        )

    async def hand_over(self, finished: Sequence[FinishedRun]) -> int:
        async def work(connection: Connection) -> int:
            await leases.make_ready(connection, finished)
            return await leases.count_ready(connection)

        return await self._db.call(work)

    async def serve_ready(self, save: SaveRun, room: Callable[[], Room]) -> None:
        try:
            async with anyio.create_task_group() as group:
                await self._db.call(self._enrol)
                group.start_soon(self._renew)
                group.start_soon(self._rescue)
                while True:
                    changed, ready = self._ended.next(), self._listener.ready.next()
                    free = room()
                    taken: list[Leased] = []
                    since = time.monotonic()
                    if free.large > 0 or free.other > 0:
                        taken = await self._db.call(partial(self._take, room=free))
                    for leased in taken:
                        held = _Held(leased, since + RUN_LEASE)
                        self._held[leased.run_id] = held
                        self._fences[leased.run_id] = leased.fence
                        group.start_soon(self._work, held, save)
                    await checkpoint()  # what was taken begins, and is counted by `room`
                    if not taken:
                        await _first(changed, ready, _LOOK_EVERY if self._held else _FETCH_EVERY)
        finally:
            with anyio.move_on_after(_LAST, shield=True):
                await self._leave()

    async def _take(self, connection: Connection, room: Room) -> list[Leased]:
        try:
            async with connection.transaction():
                return await leases.take(connection, (self._daemon, self._worker_id), room, self._held)
        except psycopg.errors.ForeignKeyViolation:  # it was silent for long, and taken for dead
            await self._register(connection)
            return []

    async def _enrol(self, connection: Connection) -> None:
        await leases.end_former(connection, self._daemon)
        await self._register(connection)

    async def _register(self, connection: Connection) -> None:
        self._worker_id = await jobs.manager_of(connection).register_worker()
        await self._see(connection, worker_id=self._worker_id)

    async def _work(self, held: _Held, save: SaveRun) -> None:
        leased = held.leased
        released = Released(ended=False)
        try:
            with held.scope:
                released = await save(leased.finished)
        except LeaseLostError:
            held.lost = True
        if held.lost:
            _log.warning("lease_lost", run=leased.run_id, message="another daemon has this run by now")
        else:
            await self._release(held, released)
        # Who is cancelled does not come here: `_leave` gives back what is left.
        del self._held[leased.run_id]
        if self._fences.get(leased.run_id) == leased.fence:
            del self._fences[leased.run_id]
        self._ended.set()

    async def _release(self, held: _Held, released: Released) -> None:
        async def work(connection: Connection) -> None:
            await leases.release(connection, self._daemon, self._worker_id, held.leased, released)

        await self._db.call(work)

    async def _leave(self) -> None:
        """Give back what is leased, and let the worker's row go."""
        held = [each.leased for each in self._held.values() if not each.lost]

        async def work(connection: Connection) -> None:
            await leases.give_back(connection, self._daemon, self._worker_id, held)
            await jobs.manager_of(connection).unregister_worker(self._worker_id)
            await self._see(connection, snapshot=None, worker_id=None, polls=False)

        await self._try(work)
        for leased in held:
            self._fences.pop(leased.run_id, None)
        self._held.clear()

    async def _renew(self) -> None:
        """Renew the leases, and the worker's sign of life; end the work on what is lost."""
        due = time.monotonic() + _RENEW_EVERY
        while True:
            await anyio.sleep(_LOOK_EVERY)
            since = time.monotonic()
            if since >= due and await self._renew_all(since):
                due = since + _RENEW_EVERY
            for held in list(self._held.values()):
                if held.until <= time.monotonic() and not held.lost:
                    held.lose()

    async def _renew_all(self, since: float) -> bool:
        fences = {run_id: held.leased.fence for run_id, held in self._held.items() if not held.lost}

        async def work(connection: Connection) -> set[str]:
            await jobs.manager_of(connection).update_heartbeat(self._worker_id)
            return await leases.renew(connection, self._daemon, fences) if fences else set()

        renewed = await self._try(work)
        if renewed is None:
            return False
        for run_id, fence in fences.items():
            held = self._held.get(run_id)
            if held is None or held.leased.fence != fence:
                continue
            if run_id in renewed:
                held.until = since + RUN_LEASE
            elif run_id in self._fences and await self._is_lost(held):
                held.lose()
        return True

    async def _is_lost(self, held: _Held) -> bool:
        """Whether a lease that could not be renewed is another daemon's: it ends with the run, too."""
        query = "SELECT 1 FROM runs WHERE run_id = %s AND fence = %s"
        under = (held.leased.run_id, held.leased.fence)

        async def work(connection: Connection) -> bool:
            return await (await connection.execute(query, under)).fetchone() is None

        return bool(await self._try(work))

    async def _rescue(self) -> None:
        """See to it, one daemon at a time, that ready runs have a job that somebody works on."""
        last_removal = -float("inf")
        while True:
            await anyio.sleep(_RESCUE_EVERY)
            if not await self._lease(_RESCUER, _RESCUER_LEASE):
                continue
            if time.monotonic() - last_removal > 3600:
                await self._try(self._remove_old)
                last_removal = time.monotonic()
            await self._try(self._put_back_stalled)
            await self._try(self._give_jobs)
            await self._try(fold_counts)

    async def _remove_old(self, connection: Connection) -> None:
        await jobs.remove_old(connection, _OLD)
        gone = "DELETE FROM daemons WHERE seen_at < now() - make_interval(days => %s)"
        await connection.execute(gone, (_FORGOTTEN_AFTER,))

    async def _put_back_stalled(self, connection: Connection) -> None:
        manager = jobs.manager_of(connection)
        for job in await jobs.stalled(connection, _STALLED_AFTER):
            try:
                async with connection.transaction():
                    await jobs.put_back(connection, job)
            except psycopg.Error as error:  # one that cannot be put back must not keep the others
                _log.warning("job_not_rescued", run=job.task_kwargs.get("run_id"), message=str(error))
            else:
                _log.info("job_rescued", run=job.task_kwargs.get("run_id"))
        await manager.prune_stalled_workers(2 * _STALLED_AFTER)
        await tell_ready(connection, self._daemon)

    async def _give_jobs(self, connection: Connection) -> None:
        without, in_hand = await leases.find_orphans(connection)
        await jobs.defer(connection, without)
        for job_id in in_hand:
            try:
                async with connection.transaction():
                    await jobs.put_back_by_id(connection, job_id)
            except psycopg.Error as error:
                _log.warning("job_not_rescued", job=job_id, message=str(error))

    async def is_filled(self) -> bool:
        return bool(await self._db.rows("SELECT 1 FROM floradl_facts WHERE name = %s", (FILLED,)))

    async def lead_filling(self) -> bool:
        return await self._lease(_FILLER, _FILLER_LEASE)

    async def note_filled(self) -> None:
        await self._db.call(lambda connection: put_fact(connection, FILLED, "yes"))

    def news(self) -> AsyncIterator[RunNews | None]:
        return self._listener.news()

    async def poll_now(self, run_id: str) -> None:
        async def work(connection: Connection) -> None:
            query = "UPDATE runs SET due_at = now() WHERE run_id = %s AND answer IS NULL"
            await connection.execute(query, (run_id,))
            await tell(connection, self._daemon, NewsKind.POLL_NOW, [run_id])

        await self._db.call(work)

    async def beat(self, snapshot: Snapshot, *, polls: bool) -> None:
        text = msgspec.json.encode(redacted(snapshot)).decode()
        await self._try(
            lambda connection: self._see(connection, version=snapshot.version, polls=polls, snapshot=text)
        )

    async def _see(self, connection: Connection, **what: Any) -> None:
        """Record that this daemon lives, and what it says of itself."""
        given = {"version": "", "polls": False, "worker_id": None, "snapshot": None} | what
        names = [name for name in given if name in what]
        await connection.execute(
            "INSERT INTO daemons (daemon, name, seen_at, version, polls, worker_id, snapshot)"  # noqa: S608 - names only
            " VALUES (%s, %s, now(), %s, %s, %s, %s) ON CONFLICT (daemon) DO UPDATE"
            " SET name = excluded.name, seen_at = now()"
            + "".join(f", {name} = excluded.{name}" for name in names),
            (self._daemon, self._name, *given.values()),
        )

    async def daemons(self) -> list[DaemonState]:
        rows = await self._db.rows(
            "SELECT name, version, extract(epoch FROM seen_at)::float8, polls, snapshot FROM daemons"
            " WHERE snapshot IS NOT NULL AND seen_at > now() - make_interval(secs => %s) ORDER BY name",
            (_SEEN_WITHIN,),
        )
        return [
            DaemonState(name, version, seen_at, polls, msgspec.json.decode(text, type=Snapshot))
            for name, version, seen_at, polls, text in rows
        ]

    async def adopt_events(self) -> list[int]:
        rows = await self._db.rows(
            "UPDATE outbox SET daemon = %s WHERE daemon <> %s AND NOT EXISTS (SELECT 1 FROM daemons"
            " WHERE daemons.daemon = outbox.daemon AND seen_at > now() - make_interval(secs => %s))"
            " RETURNING id, tries",
            (self._daemon, self._daemon, _SEEN_WITHIN),
        )
        return sorted(number for number, tries in rows if tries >= 0)


async def _first(one: anyio.Event, other: anyio.Event, patience: float) -> None:
    """Wait for one of two events, for so many seconds at most."""
    with anyio.move_on_after(patience):
        async with anyio.create_task_group() as group:

            async def wait(event: anyio.Event) -> None:
                await event.wait()
                group.cancel_scope.cancel()

            group.start_soon(wait, one)
            group.start_soon(wait, other)
