"""Takes work in: job files and the queue file become runs in the queue, as far as there is room."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import msgspec
from anyio import to_thread

from floradl.log import get_logger
from floradl.models import Action, RunRequest
from floradl.queue.base import RunQueue
from floradl.queue.heartbeat import LivePause
from floradl.runs.scheduler import Scheduler
from floradl.sources.inbox import Inbox, Job, Scan

if TYPE_CHECKING:
    from floradl.sources.queue_file import QueueFile
    from floradl.sources.watcher import Watcher

MAX_OPEN = "max_open"
STATE_DISK_FULL = "state_disk_full"
_FLOOR = 64 << 20  # bytes: what the largest job file makes of the journal and its log, several times
_NOTHING = 64 << 10  # bytes
_SHARE = 20  # of a small disk, as a part of it
_HELD_AGAIN = 5.0  # seconds until it is looked again whether there is room for what waits
_REMEMBERED = 7 * 86_400.0  # seconds that a file which could not be moved is known after it is gone
_log = get_logger()


class QueueLimit(msgspec.Struct, frozen=True):
    """Which jobs are taken, wait, or are too large for ever, with how many runs the latter two open."""

    taken: tuple[Job, ...] = ()
    waiting: tuple[tuple[Job, int], ...] = ()
    too_large: tuple[tuple[Job, int], ...] = ()


def admit(jobs: Iterable[tuple[Job, int]], open_runs: int, max_open: int) -> QueueLimit:
    """Decide which jobs may be taken, in their order: an older one is not overtaken by one that needs less.

    Each comes with how many runs it would open. One that opens none is taken in any case: forgetting runs
    makes room.
    """
    room = max_open - open_runs
    taken: list[Job] = []
    waiting: list[tuple[Job, int]] = []
    too_large: list[tuple[Job, int]] = []
    for job, wanted in jobs:
        if wanted > max_open:
            too_large.append((job, wanted))
        elif wanted == 0 or (wanted <= room and not waiting and not job.behind):
            taken.append(job)
            room -= wanted
        else:
            waiting.append((job, wanted))
    return QueueLimit(tuple(taken), tuple(waiting), tuple(too_large))


def too_many(wanted: int, max_open: int) -> str:
    """Return why a job can never be taken."""
    return (
        f"it would queue {wanted:,} runs at once, and queue.max_open allows {max_open:,}: split it, or raise "
        "queue.max_open"
    )


def full(open_runs: int, max_open: int) -> str:
    """Return why what is new waits for others to end."""
    return (
        f"{open_runs:,} runs are open, and queue.max_open allows {max_open:,}: what is new waits until some "
        "are finished (floradl forget drops runs, and is taken at once)"
    )


def short_of_room(state_dir: Path) -> str | None:
    """Return why the queue takes no more work, None where its disk has room: 64 MiB, or 5 % of a small disk.

    What is open already is recorded all the same: the room is kept for that. Where there is none at all the
    queue itself fails, and all work is paused.
    """
    try:
        found = os.statvfs(state_dir)
    except OSError:
        return None  # the queue itself reports what is wrong there
    free, floor = found.f_bavail * found.f_frsize, min(_FLOOR, found.f_blocks * found.f_frsize // _SHARE)
    if free >= floor or free < _NOTHING:
        return None
    return (
        f"the disk of the state folder {state_dir} has {free / 2**20:.0f} MiB free, and "
        f"{floor / 2**20:.0f} MiB are kept for the runs that are open: job files wait until there is room"
    )


class IntakeLimits(msgspec.Struct, frozen=True):
    """How many runs may be open, and the folder on whose disk there has to be room."""

    max_open: int
    state_dir: Path


class Intake:
    """The way from inbox and queue file into the queue; every step is safe to repeat."""

    def __init__(
        self,
        inbox: Inbox,
        queue_file: QueueFile | None,
        queue: RunQueue,
        scheduler: Scheduler,
        limits: IntakeLimits,
    ) -> None:
        self._inbox = inbox
        self._queue_file = queue_file
        self._queue = queue
        self._scheduler = scheduler
        self._limits = limits
        self._recalled = False
        self._lines: tuple[RunRequest, ...] = ()  # of the queue file, which wait for room
        self.rejected = 0
        self.on_rejected: Callable[[str, str], None] = lambda _name, _message: None
        """Called with the name of each job file that is refused, and why."""
        self.queue_file_error: str | None = None
        self.held: LivePause | None = None
        """Why job files that are whole wait (`MAX_OPEN` or `STATE_DISK_FULL`); None where none does."""
        self.served = anyio.Event()
        """Set once all that was there at the start has been looked at."""
        self.turned_at = time.monotonic()
        """When the inbox was last looked at (monotonic seconds); while all is well, each 30 s at least."""

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong in the watch folder now, for a person: a message each."""
        return self._inbox.troubles

    async def take(self) -> float:
        """Record what is ready, then move its files; return in how many seconds to look again."""
        await self._recall()
        short = await to_thread.run_sync(short_of_room, self._limits.state_dir)
        if short is not None:
            self._hold(STATE_DISK_FULL, short)
            again_in = math.inf
        else:
            again_in = await self._take_all()
        self.turned_at = time.monotonic()
        self.served.set()
        return again_in if self.held is None else min(again_in, _HELD_AGAIN)

    async def _take_all(self) -> float:
        again_in = await self._take_queue_file()
        more, held = True, 0
        while more:
            scan = await to_thread.run_sync(self._inbox.scan, 1000, self._room)
            self.turned_at = time.monotonic()
            await self._reject(scan)
            troubles = list(scan.troubles)
            waiting = await self._take_jobs(scan.jobs, troubles) if scan.jobs else 0
            for trouble in troubles:
                _log.warning("inbox_trouble", message=trouble)
            if gone := self._inbox.forgettable():
                await self._queue.drop_left_files(gone)
            again_in = min(again_in, math.inf if scan.again_in is None else scan.again_in)
            more, held = scan.more, scan.held + waiting
        if held or self._lines:
            self._hold(MAX_OPEN, full(self._scheduler.open_runs, self._limits.max_open))
        elif self.held is not None:
            _log.info("jobs_taken_again", reason=self.held.reason)
            self.held = None
        return again_in

    @property
    def _room(self) -> int:
        return self._limits.max_open - self._scheduler.open_runs

    async def _take_jobs(self, jobs: Sequence[Job], troubles: list[str]) -> int:
        """Record what there is room for, and put it away; return how many jobs wait."""
        open_runs, max_open = self._scheduler.open_runs, self._limits.max_open
        new = [sum(order.action is not Action.FORGET for order in job.orders) for job in jobs]  # at most
        if sum(new) > self._room or any(job.behind for job in jobs):
            new = await self._queue.count_new([job.orders for job in jobs], retry_failed=True)
        admission = admit(zip(jobs, new, strict=True), open_runs, max_open)
        taken = admission.taken
        orders = [order for job in taken for order in job.orders]
        marks = [job.mark for job in taken]
        touched = await self._queue.submit(orders, time.time(), retry_failed=True, files=marks)
        self._scheduler.enqueue(touched)
        troubles += await to_thread.run_sync(self._inbox.accept, taken)
        for job, wanted in admission.waiting:
            self._inbox.hold(job, wanted)
        for job, wanted in admission.too_large:
            refused = await to_thread.run_sync(self._inbox.refuse, job, too_many(wanted, max_open))
            await self._reject(refused)
            troubles += refused.troubles
        if taken:
            _log.info(
                "jobs_accepted",
                files=len(taken),
                runs=sum(len(job.orders) for job in taken),
                first=taken[0].name,
            )
        return len(admission.waiting)

    async def _reject(self, scan: Scan) -> None:
        for rejection in scan.rejected:
            self.rejected += 1
            self.on_rejected(rejection.name, rejection.message)
            _log.warning("job_rejected", file=rejection.name, message=rejection.message)
        if scan.left:
            await self._queue.submit((), time.time(), retry_failed=False, files=scan.left)

    async def _recall(self) -> None:
        """Look up once what was done with before the start, and could not be moved away."""
        if self._recalled:
            return
        files = await self._queue.left_files()
        self._inbox.recall(files)
        gone = await to_thread.run_sync(self._inbox.missing, files)
        if gone:  # a watch folder that is not mounted just now has them again later
            before = time.time() - _REMEMBERED
            await self._queue.drop_left_files(gone, before)
        self._recalled = True

    def _hold(self, reason: str, message: str) -> None:
        before = self.held
        if before is None or before.reason != reason:
            _log.warning("jobs_held", reason=reason, message=message)
        since = before.since if before is not None and before.reason == reason else time.time()
        self.held = LivePause(reason, message, since)

    async def _take_queue_file(self) -> float:
        if self._queue_file is None:
            return math.inf
        reading = await to_thread.run_sync(self._queue_file.read)
        lines = self._lines if reading.orders is None else reading.orders
        error = reading.error
        if lines:
            error = await self._take_lines(lines) or error
        else:
            self._lines = ()
        if error != self.queue_file_error:
            self.queue_file_error = error
            if error is not None:
                _log.warning("queue_file_broken", message=error)
        return math.inf if reading.again_in is None else reading.again_in

    async def _take_lines(self, lines: tuple[RunRequest, ...]) -> str | None:
        """Record what the queue file has, all of it once there is room; return why that can never be."""
        # It is read at each change: what failed is not retried just because its line still stands.
        room, max_open = self._room, self._limits.max_open
        (wanted,) = await self._queue.count_new([lines], retry_failed=False)
        if wanted > room:
            self._lines = lines
            return f"the queue file waits: {too_many(wanted, max_open)}" if wanted > max_open else None
        self._scheduler.enqueue(await self._queue.submit(lines, time.time(), retry_failed=False))
        self._lines = ()
        return None

    async def serve(self, watch: Watcher) -> None:
        """Take work in for ever: at each wake-up, and when a file has had its time to settle."""
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
