"""Joins the two stages: runs that the poller finds finished are saved, and their outcomes handled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Set as AbstractSet
from contextlib import suppress

import anyio

from floradl.errors import PauseReason, ServicePausedError, TransientError
from floradl.models import FinishedRun, Reference
from floradl.polling.circuit_breaker import Pause, Probe
from floradl.polling.open_runs import OpenRuns
from floradl.polling.poller import Poller
from floradl.retry import Halted, RetryIn
from floradl.runs.events import RunReports
from floradl.runs.processor import Processor
from floradl.runs.result import Finished
from floradl.runs.slots import DownloadSlots

_NO_PROGRESS = 600.0  # seconds
_LIBRARY_REASONS = {PauseReason.DISK_FULL, PauseReason.LIBRARY_MISSING, PauseReason.LIBRARY_READ_ONLY}


class Scheduler:
    """Polls and saves the open runs, and pauses both."""

    def __init__(
        self,
        open_runs: OpenRuns,
        poller: Poller,
        slots: DownloadSlots,
        processor: Processor,
        reports: RunReports,
    ) -> None:
        self._open_runs = open_runs
        self._breaker = open_runs.breaker
        self._poller = poller
        self._slots = slots
        self._processor = processor
        self._reports = reports
        self.enqueue = open_runs.add_new
        self.resume_open = open_runs.resume
        self.poll_now = open_runs.poll_now
        self.make_room: Callable[[], Awaitable[bool]] | None = None
        """Called before a full disk pauses all; returns whether there is more room now."""

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

    async def serve(self, *, until_idle: bool = False) -> None:
        """Poll and save; for ever, or until no run is open."""
        async with anyio.create_task_group() as group:
            group.start_soon(self._poller.serve)
            group.start_soon(self._slots.serve, self._process)
            group.start_soon(self._probe)
            while not (until_idle and self.idle):
                await self._breaker.changed.wait()
            group.cancel_scope.cancel()

    def probe_now(self) -> bool:
        """Probe a pause at once: its cause may be fixed.

        Returns False while a probe is under way.
        """
        return self._breaker.hurry()

    def hold(self, error: ServicePausedError) -> None:
        """Pause for an error of another user of the API; the next success of a run, or `lift`, ends it."""
        if self.paused is None:
            self._breaker.begin(error.reason, str(error))

    def lift(self) -> None:
        """Record that the API answered another user: a pause may be over."""
        if self.paused is not None and self._breaker.leaderless:
            self._breaker.end()

    async def _process(self, finished: FinishedRun) -> None:
        run_id = finished.run.run_id
        outcome = await self._processor.process(finished)
        while isinstance(outcome, Halted) and await self._made_room(outcome.reason):
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

    async def _made_room(self, reason: PauseReason) -> bool:
        return reason is PauseReason.DISK_FULL and self.make_room is not None and await self.make_room()

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
        pause = self.paused
        if pause is None or pause.reason not in _LIBRARY_REASONS:
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
