"""Takes in what comes: job files and the queue file become rows of the journal, and rows become work."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import anyio
import structlog
from anyio import to_thread

from floradl.incoming.inbox import Inbox
from floradl.incoming.queuefile import QueueFile
from floradl.incoming.watching import Watch
from floradl.models import Order
from floradl.runs.engine import Engine
from floradl.state.journal import Journal

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Intake:
    """The way from inbox and queue file into the journal; every step can be run twice."""

    def __init__(self, inbox: Inbox, queue_file: QueueFile | None, journal: Journal, engine: Engine) -> None:
        self._inbox = inbox
        self._queue_file = queue_file
        self._journal = journal
        self._engine = engine
        self.rejected = 0
        self.queue_file_error: str | None = None
        self.served = anyio.Event()
        """Set once all that was there at the start has been looked at."""
        self.turned_at = time.monotonic()
        """When the inbox was last looked at (monotonic seconds); while all is well, each 30 s at least."""

    async def take(self) -> float:
        """Take what is ready; returns in how many seconds to look again at what is not.

        A job file is moved away only when its runs are durably recorded.
        """
        again_in = await self._take_queue_file()
        more = True
        while more:
            scan = await to_thread.run_sync(self._inbox.scan)
            self.turned_at = time.monotonic()
            for rejection in scan.rejected:
                self.rejected += 1
                _log.warning("job_rejected", file=rejection.name, message=rejection.message)
            troubles = list(scan.troubles)
            if scan.jobs:
                orders = [order for job in scan.jobs for order in job.orders]
                await self._record(orders, again=True)
                troubles += await to_thread.run_sync(self._inbox.accept, scan.jobs)
                _log.info(
                    "jobs_accepted",
                    files=len(scan.jobs),
                    runs=sum(len(job.orders) for job in scan.jobs),
                    first=scan.jobs[0].name,
                )
            for trouble in troubles:
                _log.warning("inbox_trouble", message=trouble)
            again_in = min(again_in, math.inf if scan.again_in is None else scan.again_in)
            more = scan.more
        self.turned_at = time.monotonic()
        self.served.set()
        return again_in

    async def _take_queue_file(self) -> float:
        if self._queue_file is None:
            return math.inf
        reading = await to_thread.run_sync(self._queue_file.read)
        if reading.error != self.queue_file_error:
            self.queue_file_error = reading.error
            if reading.error is not None:
                _log.warning("queue_file_broken", message=reading.error)
        if reading.orders:
            # It is read at each change: what failed is not tried again just because its line still stands.
            await self._record(reading.orders, again=False)
        return math.inf if reading.again_in is None else reading.again_in

    async def _record(self, orders: Sequence[Order], *, again: bool) -> None:
        touched = await self._journal.call(lambda store: store.add(orders, time.time(), again=again))
        self._engine.enqueue(touched)

    async def serve(self, watch: Watch) -> None:
        """Take in for ever: at each wake-up, and when a file has had its time to settle."""
        wake = anyio.Event()

        async def listen() -> None:
            async for _ in watch.wakes():
                wake.set()

        async with anyio.create_task_group() as group:
            group.start_soon(listen)
            while True:
                await wake.wait()
                wake = anyio.Event()
                again_in = await self.take()
                while again_in < math.inf and not wake.is_set():
                    with anyio.move_on_after(again_in):
                        await wake.wait()
                    if not wake.is_set():
                        again_in = await self.take()
