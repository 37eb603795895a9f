"""Ready runs as jobs of procrastinate: who takes which, what becomes of those whose worker is gone.

A run's row is what counts, see `leases`; a job only brings it to a daemon that has room. Each lane is a queue
of its own, and a daemon fetches from those it knows alone: what a newer floradl adds is left for newer ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from floradl.queue.postgres.connection import Connection

if TYPE_CHECKING:
    from procrastinate.jobs import Job
    from procrastinate.manager import JobManager

TASK: Final = "floradl.process"
"""The task's name, which jobs of a rolling upgrade bear too: it must stay."""

OTHER_LANE, LARGE_LANE = "floradl.process", "floradl.process.large"
LANES: Final = (OTHER_LANE, LARGE_LANE)
CHANNELS: Final = tuple(f"procrastinate_queue_v1#{lane}" for lane in LANES)
"""Where procrastinate tells of new jobs."""

_FETCH: Final = (
    "UPDATE procrastinate_jobs SET status = 'doing', worker_id = %s WHERE id IN"
    " (SELECT id FROM procrastinate_jobs WHERE status = 'todo' AND queue_name = %s"
    " AND (scheduled_at IS NULL OR scheduled_at <= now())"
    " ORDER BY priority DESC, id LIMIT %s FOR UPDATE SKIP LOCKED)"
    " RETURNING id, status, task_name, priority, lock, queueing_lock, args, scheduled_at, queue_name,"
    " attempts, worker_id"
)
# One at a time, by procrastinate's function, takes three times as long. It heeds locks, too: ours bear none.

INDEX: Final = (
    "CREATE INDEX IF NOT EXISTS floradl_jobs_by_run ON procrastinate_jobs ((args->>'run_id'))"
    " WHERE status IN ('todo', 'doing')"
)
"""By which the jobs of a run are found."""


def manager_of(connection: Connection) -> JobManager:
    """Return procrastinate's own calls, made a part of the transaction on `connection`."""
    from procrastinate.connector import BaseAsyncConnector  # noqa: PLC0415 - of daemons alone
    from procrastinate.manager import JobManager  # noqa: PLC0415 - as above

    class Bound(BaseAsyncConnector):
        async def execute_query_async(self, query: Any, **arguments: Any) -> None:
            await connection.execute(query, _adapted(arguments))

        async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
            return (await self.execute_query_all_async(query, **arguments))[0]

        async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
            async with connection.cursor(row_factory=dict_row) as cursor:
                await cursor.execute(query, _adapted(arguments))
                return await cursor.fetchall()

    return JobManager(Bound())


def _adapted(value: Any) -> Any:
    """Return arguments as psycopg takes them: procrastinate's JSON is JSONB, its tuples are rows."""
    if isinstance(value, dict):
        return {key: Jsonb(each) if isinstance(each, dict) else _adapted(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_adapted(each) for each in value]
    if isinstance(value, tuple):
        return tuple(Jsonb(each) if isinstance(each, dict) else _adapted(each) for each in value)
    return value


async def defer(connection: Connection, runs: Iterable[tuple[str, str]]) -> None:
    """Add a job for each run, given as its id and its lane, as a part of the transaction.

    It bears no lock: what is to be done once is decided by the run's lease.
    """
    from procrastinate.jobs import Job  # noqa: PLC0415 - as above

    jobs = [
        Job(queue=lane, lock=None, queueing_lock=None, task_name=TASK, task_kwargs={"run_id": run_id})
        for run_id, lane in runs
    ]
    if jobs:
        await manager_of(connection).batch_defer_jobs_async(jobs)


async def fetch(connection: Connection, lane: str, worker_id: int, most: int) -> list[Job]:
    """Take up to `most` jobs of a lane, the oldest first, as procrastinate's own fetch does one by one.

    Raises `psycopg.errors.ForeignKeyViolation` where the worker was pruned.
    """
    from procrastinate.jobs import Job  # noqa: PLC0415 - as above

    async with connection.cursor(row_factory=dict_row) as cursor:
        await cursor.execute(_FETCH, (worker_id, lane, most))
        return [Job.from_row(row) for row in sorted(await cursor.fetchall(), key=lambda row: row["id"])]


async def is_ours(connection: Connection, job: Job, worker_id: int) -> bool:
    """Whether this worker still has a job in hand, and keep that so for the transaction.

    procrastinate lets anybody end a job, also whoever lost it to another worker.
    """
    query = "SELECT status = 'doing' AND worker_id = %s FROM procrastinate_jobs WHERE id = %s FOR UPDATE"
    row = await (await connection.execute(query, (worker_id, job.id))).fetchone()
    return row is not None and bool(row[0])


async def end(connection: Connection, job: Job) -> None:
    """Remove a job that is done with."""
    from procrastinate.jobs import Status  # noqa: PLC0415 - as above

    await manager_of(connection).finish_job(job, Status.SUCCEEDED, delete_job=True)


async def put_back(connection: Connection, job: Job, seconds: float = 0.0) -> None:
    """Have a job taken again, so many seconds from now at the earliest."""
    query = "SELECT now() + make_interval(secs => %s)"
    row = await (await connection.execute(query, (seconds,))).fetchone()
    if row is not None:
        await manager_of(connection).retry_job(job, retry_at=row[0])


async def put_back_by_id(connection: Connection, job_id: int) -> None:
    """Have a job taken again at once."""
    row = await (await connection.execute("SELECT now()")).fetchone()
    if row is not None:
        await manager_of(connection).retry_job_by_id_async(job_id, retry_at=row[0])


async def stalled(connection: Connection, seconds: float) -> list[Job]:
    """Return the jobs in hand of workers that gave no sign of life for so many seconds."""
    manager = manager_of(connection)
    return [
        job
        for lane in LANES
        for job in await manager.get_stalled_jobs(queue=lane, seconds_since_heartbeat=seconds)
    ]


async def remove_old(connection: Connection, hours: int) -> None:
    """Remove jobs that ended, however, so many hours ago: procrastinate itself keeps them."""
    manager = manager_of(connection)
    for lane in LANES:
        await manager.delete_old_jobs(
            hours, queue=lane, include_failed=True, include_cancelled=True, include_aborted=True
        )


def is_pruned(error: BaseException) -> bool:
    """Whether a call failed because this worker's row was removed."""
    return isinstance(error, psycopg.errors.ForeignKeyViolation)
