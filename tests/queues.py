"""Queues at work, for tests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import anyio

from floradl.models import QueuedRun
from floradl.queue.base import RunQueue
from floradl.queue.postgres.connection import Server
from floradl.queue.postgres.opening import opened_queue
from floradl.queue.postgres.queue import PostgresQueue
from floradl.queue.sqlite import SqliteQueue

_T = TypeVar("_T")
_Q = TypeVar("_Q", bound=RunQueue)


@asynccontextmanager
async def serving(queue: _Q) -> AsyncIterator[_Q]:
    """Serve a queue inside, and close it."""
    async with anyio.create_task_group() as group:
        group.start_soon(queue.serve)
        yield queue
        queue.close()


@asynccontextmanager
async def sqlite_queue(state_dir: Path, retry_after: float = 5.0) -> AsyncIterator[SqliteQueue]:
    """Open the queue of a state folder, and serve it inside; at the end it is as a daemon leaves it."""
    queue = SqliteQueue.open(state_dir, retry_after)
    try:
        async with serving(queue):
            yield queue
    finally:
        queue.disconnect()


@asynccontextmanager
async def postgres_queue(server: Server, daemon: str = "one", **how: Any) -> AsyncIterator[PostgresQueue]:
    """Open the queue in a prepared database for a daemon, and serve it inside."""
    async with opened_queue(server, daemon, f"host-{daemon}", **how) as queue, serving(queue):
        yield queue


def work_with(state_dir: Path, work: Callable[[SqliteQueue], Awaitable[_T]]) -> _T:
    """Do `work` with the queue of a state folder."""

    async def main() -> _T:
        async with sqlite_queue(state_dir) as queue:
            return await work(queue)

    return anyio.run(main)


def write_runs(state_dir: Path, *runs: QueuedRun, since: float = 1.0) -> None:
    """Have a queue with `runs`, the first one changed at `since` and each other a second later."""
    rows = [(run, since + number) for number, run in enumerate(runs)]
    work_with(state_dir, lambda queue: queue.recover(rows))


def make_queue(state_dir: Path) -> None:
    """Have a queue with nothing in it."""
    SqliteQueue.open(state_dir).disconnect()
