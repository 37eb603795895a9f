"""Joins the two stages: runs that the poller finds finished are saved, and their outcomes handled.

`LocalScheduler` does both in this process; `shared_scheduler` has the one for a queue that daemons share.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence, Set as AbstractSet
from contextlib import suppress
from typing import Any, TypeAlias

import anyio
from msgspec import Struct

from floradl.errors import PauseReason, ServicePausedError, TransientError
from floradl.flora.client import FloraClient, WrongWorkspaceCheck
from floradl.library.base import LibraryStore
from floradl.models import FinishedRun, Reference
from floradl.polling.circuit_breaker import Pause, Probe
from floradl.polling.open_runs import OpenRuns
from floradl.polling.poller import Poller, PollOptions
from floradl.queue.base import RunQueue
from floradl.retry import Halted, RetryIn
from floradl.runs.events import RunEvents, RunReports
from floradl.runs.output_saver import OutputSaver
from floradl.runs.processor import ProcessOptions, Processor
from floradl.runs.result import Finished
from floradl.runs.slots import DownloadSlots, TransferSlots

_NO_PROGRESS = 600.0  # seconds
LIBRARY_REASONS = {PauseReason.DISK_FULL, PauseReason.LIBRARY_MISSING, PauseReason.LIBRARY_READ_ONLY}
"""Pauses for which the library is looked at first, without the network."""

Service: TypeAlias = Callable[[], Coroutine[Any, Any, None]]
"""Works for ever."""


class Scheduler(ABC):
    """Polls and saves the open runs, and pauses both."""

    def __init__(
        self, open_runs: OpenRuns, poller: Poller, processor: Processor, reports: RunReports
    ) -> None:
        self._open_runs = open_runs
        self._breaker = open_runs.breaker
        self._poller = poller
        self._processor = processor
        self._reports = reports

    def enqueue(self, run_ids: Iterable[str]) -> None:
        """Make new runs due; those that are open already stay as they are."""
        self._open_runs.add_new(run_ids)

    async def resume_open(self, queue: RunQueue) -> None:
        """Make the runs due that the queue has open from before, in their order."""
        self._open_runs.resume(await queue.open_ids())

    def poll_now(self, run_id: str) -> None:
        """Have a run polled before all others: a webhook reports its end."""
        self._open_runs.poll_now(run_id)

    @property
    def polls(self) -> bool:
        """Whether this process polls FLORA now."""
        return True

    def on_full_disk(self, make_room: Callable[[], Awaitable[bool]]) -> None:
        """Have `make_room` called before a full disk pauses all; it returns whether there is room now."""
        self._processor.make_room = make_room

    def on_pause(self, call: Callable[[], None]) -> None:
        """Have `call` called when a pause begins or ends."""
        self._breaker.on_change = call

    def leave_unlogged(self, reason: PauseReason) -> None:
        """Log no pause for `reason`: the caller ends with it, and says it."""
        self._breaker.unlogged = reason

    def change(self, interval: float, give_up_after: float) -> None:
        """Set the polling interval and the time to give up after, both in seconds."""
        self._open_runs.change(interval)
        self._poller.change(give_up_after)
        self._processor.change(give_up_after)

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        return await self._processor.lacks(reference, outputs)

    @property
    def paused(self) -> Pause | None:
        """The current pause, None without one."""
        return self._breaker.now

    @property
    def idle(self) -> bool:
        """Whether no run is open."""
        return not self._open_runs

    @property
    def open_runs(self) -> int:
        """How many runs are open."""
        return len(self._open_runs)

    @property
    def moved_at(self) -> float:
        """When a run last made progress (monotonic seconds)."""
        return self._open_runs.moved_at

    @property
    def turned_at(self) -> float:
        """When a run was last worked on (monotonic seconds)."""
        return self._open_runs.turned_at

    @property
    def rests_until(self) -> float:
        """Until when no run without errors is due (monotonic seconds): the interval may be long."""
        return self._open_runs.rests_until

    def is_stalled(self, bytes_at: float) -> bool:
        """Whether nothing made progress for ten minutes; a long `poll.interval` is no lack of it.

        `bytes_at` is when bytes last came (monotonic seconds).
        """
        now = self._open_runs.clocks.monotonic()
        return now - max(self.moved_at, bytes_at, min(self.rests_until, now)) > _NO_PROGRESS

    @abstractmethod
    async def serve(self, *, until_idle: bool = False, beside: Sequence[Service] = ()) -> None:
        """Poll and save; for ever, or until no run is open. `beside` is what else sends requests to FLORA."""

    @abstractmethod
    async def _process(self, finished: FinishedRun) -> None:
        """Have a finished run saved."""

    def probe_now(self) -> bool:
        """Probe a pause at once: its cause may be fixed.

        Returns False while a probe is under way.
        """
        return self._breaker.hurry()

    def hold(self, error: ServicePausedError) -> None:
        """Pause for an error of another user of the API; the next success of a run, or `lift`, ends it."""
        if self._breaker.now is None:
            self._breaker.begin(error.reason, str(error))

    def lift(self) -> None:
        """Record that the API answered another user: a pause may be over."""
        if self._breaker.now is not None and self._breaker.leaderless:
            self._breaker.end()

    async def _probe(self) -> None:
        """Try one run now and then to see whether a pause is over."""
        while True:
            probe = await self._breaker.next_probe()
            try:
                if not await self._should_probe(probe):
                    continue
                if probe.finished is not None:
                    await self._process(probe.finished)
                else:
                    await self._poller.poll(probe.run_id)
            finally:
                self._breaker.looked()

    async def _should_probe(self, probe: Probe) -> bool:
        """Whether the probe should run: the library's disk is checked first, without the network."""
        with suppress(ServicePausedError):  # the probe will show it
            if not await self._open_runs.load([probe.run_id]):
                return False  # it was forgotten, and the pause is over
        pause = self._breaker.now
        if pause is None or pause.reason not in LIBRARY_REASONS:
            return True
        try:
            await self._processor.check_room(pause.needed)
        except ServicePausedError as error:
            if error.reason is pause.reason:
                self._breaker.postpone(probe.run_id, self._breaker.next_look(pause.reason))
                return False
        except TransientError:  # the probe will show it
            pass
        return True


class LocalScheduler(Scheduler):
    """The scheduler of a process that has its queue alone: the slots take what the poller finds finished."""

    def __init__(
        self,
        open_runs: OpenRuns,
        poller: Poller,
        slots: DownloadSlots,
        processor: Processor,
        reports: RunReports,
    ) -> None:
        super().__init__(open_runs, poller, processor, reports)
        self._slots = slots

    async def serve(self, *, until_idle: bool = False, beside: Sequence[Service] = ()) -> None:
        """See `Scheduler.serve`."""
        async with anyio.create_task_group() as group:
            for service in beside:
                group.start_soon(service)
            group.start_soon(self._poller.serve)
            group.start_soon(self._slots.serve, self._process)
            group.start_soon(self._probe)
            while not (until_idle and self.idle):
                await self._breaker.changed.wait()
            group.cancel_scope.cancel()

    async def _process(self, finished: FinishedRun) -> None:
        run_id = finished.run.run_id
        outcome = await self._processor.process(finished)
        if isinstance(outcome, RetryIn):
            self._open_runs.postpone(outcome)
        elif isinstance(outcome, Halted):
            self._open_runs.halt(outcome, finished.run, finished)
        else:
            if isinstance(outcome, Finished):
                self._reports.finished(outcome.run, outcome.summary)
            else:
                self._reports.dropped(run_id)
            self._open_runs.ended(run_id)


class StageParts(Struct, frozen=True):
    """What both stages work with."""

    queue: RunQueue
    library: LibraryStore
    flora: FloraClient
    open_runs: OpenRuns
    saver: OutputSaver
    transfers: TransferSlots
    progress: RunEvents
    reports: RunReports
    workspace_check: WrongWorkspaceCheck


class StageOptions(Struct, frozen=True):
    """`may_poll` says whether this daemon can poll, where several share the queue: whether it has a key.

    `beside` is what else sends requests to FLORA all the time.
    """

    poll: PollOptions
    process: ProcessOptions
    may_poll: Callable[[], Awaitable[bool]]
    beside: Sequence[Service] = ()


class Stages(Struct, frozen=True):
    """The two stages; `close` drops what waits between them. `beside` is still to be served."""

    poller: Poller
    processor: Processor
    scheduler: Scheduler
    close: Callable[[], None]
    beside: Sequence[Service] = ()


def local_stages(parts: StageParts, options: StageOptions) -> Stages:
    """Return stages that meet in this process."""
    open_runs = parts.open_runs
    slots = DownloadSlots(open_runs.breaker, open_runs.put_first)
    poller = Poller(parts.flora, open_runs, parts.library, slots, options.poll, parts.workspace_check)
    processor = Processor(
        parts.flora, parts.library, parts.saver, parts.queue, parts.progress, options.process
    )
    scheduler = LocalScheduler(open_runs, poller, slots, processor, parts.reports)
    return Stages(poller, processor, scheduler, slots.close, options.beside)
