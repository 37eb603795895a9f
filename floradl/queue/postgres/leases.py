"""Leases of ready runs: taken with a job, renewed, given back, and ended with the work. SQL alone.

A lease has a number, the run's fence, which grows with each. All times are the database's.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import QueueUnavailableError
from floradl.log import get_logger
from floradl.models import FinishedRun
from floradl.queue.migrations import COLUMNS
from floradl.queue.postgres import jobs
from floradl.queue.postgres.connection import Connection
from floradl.queue.postgres.news import seconds, tell, tell_ready
from floradl.queue.postgres.rows import OPEN, run_from
from floradl.queue.sharing import RUN_LEASE, NewsKind, Released, Room, has_large

if TYPE_CHECKING:
    from procrastinate.jobs import Job

_FREE: Final = "(lease_until IS NULL OR lease_until < now())"
_END: Final = "owner = NULL, lease_until = NULL"
_MOST_AT_ONCE: Final = 16  # jobs that one transaction takes
_AGAIN: Final = 0.5  # seconds until a run is taken again that nobody could save, and twice as long each time
_MOST_AGAIN: Final = 30.0
_BUSY: Final = 5.0  # seconds until a run is looked at again whose lost work is not over
_LOST_AT_ONCE: Final = 1000  # ready runs without a job that are given one in a transaction
_log = get_logger()


class Leased(Struct, frozen=True):
    """A run that this daemon has leased, and the job that brought it."""

    finished: FinishedRun
    fence: int
    job: Any  # of procrastinate, which not everybody has

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.finished.run.run_id


async def make_ready(connection: Connection, finished: Sequence[FinishedRun]) -> None:
    """Record answers of runs that are open and not ready yet, and add a job for each of these."""
    answers = {each.run.run_id: each for each in finished}
    texts = [msgspec.json.encode(each).decode() for each in answers.values()]
    cursor = await connection.execute(
        "UPDATE runs SET answer = given.answer FROM unnest(%s::text[], %s::text[]) AS given (run_id, answer)"  # noqa: S608 - ours
        f" WHERE runs.run_id = given.run_id AND runs.answer IS NULL AND runs.state IN {OPEN}"
        " RETURNING runs.run_id",
        (list(answers), texts),
    )
    ready = [row[0] async for row in cursor]
    await jobs.defer(connection, [(run_id, _lane(answers[run_id])) for run_id in ready])


def _lane(finished: FinishedRun) -> str:
    return jobs.LARGE_LANE if has_large(finished) else jobs.OTHER_LANE


def _lane_of(answer: str) -> str:
    try:
        return _lane(msgspec.json.decode(answer, type=FinishedRun))
    except msgspec.MsgspecError:  # a newer floradl's
        return jobs.OTHER_LANE


async def count_ready(connection: Connection) -> int:
    """Count the ready runs that nobody has leased."""
    cursor = await connection.execute(
        f"SELECT count(*) FROM runs WHERE answer IS NOT NULL AND {_FREE}"  # noqa: S608 - ours
    )
    row = await cursor.fetchone()
    return int(row[0]) if row else 0


async def take(
    connection: Connection, who: tuple[str, int], room: Room, busy: Collection[str]
) -> list[Leased]:
    """Take jobs up to `room`, and lease their runs for `who`, a daemon and its worker.

    Those of `busy` runs wait: the work on them under an earlier lease is not over yet.
    """
    daemon, worker_id = who
    taken: list[Leased] = []
    for lane, free in ((jobs.LARGE_LANE, room.large), (jobs.OTHER_LANE, room.other)):
        most = min(free, _MOST_AT_ONCE)
        for job in await jobs.fetch(connection, lane, worker_id, most) if most > 0 else ():
            if job.task_kwargs.get("run_id") in busy:
                await jobs.put_back(connection, job, _BUSY)
            elif (leased := await _lease(connection, daemon, job)) is not None:
                taken.append(leased)
    return taken


async def _lease(connection: Connection, daemon: str, job: Job) -> Leased | None:
    """Lease the run of a job; where that cannot be, the job waits for the lease's end, or is done with."""
    run_id = str(job.task_kwargs.get("run_id"))
    cursor = await connection.execute(
        f"UPDATE runs SET fence = fence + 1, owner = %s, lease_until = now() + make_interval(secs => %s)"  # noqa: S608 - ours
        f" WHERE run_id = %s AND answer IS NOT NULL AND state IN {OPEN} AND {_FREE}"
        f" RETURNING fence, answer, {COLUMNS}",
        (daemon, RUN_LEASE, run_id),
    )
    row = await cursor.fetchone()
    if row is not None:
        try:
            finished = msgspec.json.decode(row[1], type=FinishedRun)
            return Leased(replace(finished, run=run_from(row[2:])), row[0], job)
        except (msgspec.MsgspecError, QueueUnavailableError) as error:  # a newer floradl's: it may take it
            _log.warning("run_not_understood", run=run_id, message=f"{error}: left to a newer floradl")
            query = f"UPDATE runs SET {_END} WHERE run_id = %s AND fence = %s"  # noqa: S608 - ours
            await connection.execute(query, (run_id, row[0]))
            await jobs.put_back(connection, job, _MOST_AGAIN)
            return None
    cursor = await connection.execute(
        f"SELECT extract(epoch FROM lease_until - now())::float8 FROM runs"  # noqa: S608 - ours
        f" WHERE run_id = %s AND answer IS NOT NULL AND state IN {OPEN}",
        (run_id,),
    )
    row = await cursor.fetchone()
    if row is not None and row[0] is not None:
        await jobs.put_back(connection, job, row[0] + 1.0)
    else:
        await jobs.end(connection, job)
    return None


async def renew(connection: Connection, daemon: str, fences: Mapping[str, int]) -> set[str]:
    """Lease runs anew under the same fences; returns those that this daemon still has."""
    cursor = await connection.execute(
        "UPDATE runs SET lease_until = now() + make_interval(secs => %s)"
        " FROM unnest(%s::text[], %s::int8[]) AS held (run_id, fence)"
        " WHERE runs.run_id = held.run_id AND runs.fence = held.fence AND runs.owner = %s"
        " RETURNING runs.run_id",
        (RUN_LEASE, list(fences), list(fences.values()), daemon),
    )
    return {row[0] async for row in cursor}


async def release(
    connection: Connection, daemon: str, worker_id: int, leased: Leased, released: Released
) -> None:
    """End a lease as the work on it ended. What another daemon has by now is left to it."""
    under = (leased.run_id, leased.fence)
    ours = await jobs.is_ours(connection, leased.job, worker_id)
    if released.ended:
        query = f"UPDATE runs SET answer = NULL, {_END} WHERE run_id = %s AND fence = %s"  # noqa: S608 - ours
        await connection.execute(query, under)
    elif released.poll_in is not None:
        wait = seconds(released.poll_in)
        query = (
            f"UPDATE runs SET answer = NULL, {_END}, due_at = now() + make_interval(secs => %s)"  # noqa: S608 - ours
            " WHERE run_id = %s AND fence = %s AND answer IS NOT NULL"
        )
        if (await connection.execute(query, (wait, *under))).rowcount:
            await tell(connection, "", NewsKind.RETURNED, [leased.run_id], wait)
    else:
        query = f"UPDATE runs SET {_END} WHERE run_id = %s AND fence = %s"  # noqa: S608 - ours
        await connection.execute(query, under)
        if ours:
            attempts = min(leased.job.attempts, 10)
            await jobs.put_back(
                connection, leased.job, min(_AGAIN * 2.0**attempts, _MOST_AGAIN) if attempts else 0.0
            )
            await tell_ready(connection, daemon)
        return
    if ours:
        await jobs.end(connection, leased.job)


async def give_back(connection: Connection, daemon: str, worker_id: int, held: Collection[Leased]) -> None:
    """Let others have the runs of a daemon that stops, at once."""
    for leased in held:
        query = f"UPDATE runs SET {_END} WHERE run_id = %s AND fence = %s"  # noqa: S608 - ours
        await connection.execute(query, (leased.run_id, leased.fence))
        if await jobs.is_ours(connection, leased.job, worker_id):
            await jobs.put_back(connection, leased.job)
    if held:
        await tell_ready(connection, daemon)


async def end_former(connection: Connection, daemon: str) -> None:
    """End the leases that this daemon had before it was started anew: its work on them is gone."""
    query = f"UPDATE runs SET fence = fence + 1, {_END} WHERE owner = %s AND answer IS NOT NULL"  # noqa: S608 - ours
    await connection.execute(query, (daemon,))
    cursor = await connection.execute("SELECT worker_id FROM daemons WHERE daemon = %s", (daemon,))
    row = await cursor.fetchone()
    if row is not None and row[0] is not None:
        await jobs.manager_of(connection).unregister_worker(row[0])


async def find_orphans(connection: Connection) -> tuple[list[tuple[str, str]], list[int]]:
    """Return ready runs without a lease and a job, with their lanes; and jobs in hand without a lease.

    The latter are those of a worker that took them and never heard of it.
    """
    cursor = await connection.execute(
        "SELECT runs.run_id, runs.answer, job.id, job.status = 'doing' FROM runs"  # noqa: S608 - ours
        " LEFT JOIN procrastinate_jobs AS job ON job.args->>'run_id' = runs.run_id"
        " AND job.status IN ('todo', 'doing')"
        f" WHERE runs.answer IS NOT NULL AND {_FREE} AND (job.id IS NULL OR job.status = 'doing') LIMIT %s",
        (_LOST_AT_ONCE,),
    )
    without, in_hand = [], []
    async for run_id, answer, job_id, doing in cursor:
        if job_id is None:
            without.append((run_id, _lane_of(answer)))
        elif doing:
            in_hand.append(job_id)
    return without, in_hand
