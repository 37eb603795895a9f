"""Joins the two stages: what the poller finds finished is saved, and what comes of that is seen to."""

from __future__ import annotations

from collections.abc import Set as AbstractSet
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

_OF_THE_LIBRARY = {PauseReason.DISK_FULL, PauseReason.LIBRARY_MISSING, PauseReason.LIBRARY_READ_ONLY}


class Scheduler:
    """Works on the open runs."""

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

    def change(self, interval: float, give_up_after: float) -> None:
        """Poll at this interval, and give up after so long, from now on; both are in seconds."""
        self._open_runs.change(interval)
        self._poller.change(give_up_after)
        self._processor.change(give_up_after)

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        return await self._processor.lacks(reference, outputs)

    @property
    def paused(self) -> Pause | None:
        """Why nothing goes on, None where all does."""
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
        """When a run last went forward (monotonic seconds)."""
        return self._open_runs.moved_at

    @property
    def turned_at(self) -> float:
        """When a run was last looked at (monotonic seconds)."""
        return self._open_runs.turned_at

    @property
    def rests_until(self) -> float:
        """Until when runs that are well need no look (monotonic seconds): the interval may be long."""
        return self._open_runs.rests_until

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
        """Look at once whether a pause can be lifted: something outside was mended.

        False where somebody is looking just now.
        """
        return self._breaker.hurry()

    def hold(self, error: ServicePausedError) -> None:
        """Pause for what somebody else met at the API; the next run that goes on lifts it, or `lift`."""
        if self.paused is None:
            self._breaker.begin(error.reason, str(error))

    def lift(self) -> None:
        """Record that the API gave an answer to somebody else: a pause may be over."""
        if self.paused is not None and self._breaker.leaderless:
            self._breaker.end()

    async def _process(self, finished: FinishedRun) -> None:
        run_id = finished.run.run_id
        outcome = await self._processor.process(finished)
        if isinstance(outcome, RetryIn):
            self._open_runs.postpone(outcome)
        elif isinstance(outcome, Halted):
            self._open_runs.halt(outcome, finished.run, finished)
        else:
            self._open_runs.forwarded(run_id)
            if isinstance(outcome, Finished):
                self._reports.finished(outcome.run, outcome.summary)
            self._open_runs.forget(run_id)

    async def _probe(self) -> None:
        """Have one run look, now and then, whether a pause is over."""
        while True:
            probe = await self._breaker.next_probe()
            try:
                if not await self._may_be_over(probe):
                    continue
                if probe.finished is not None:
                    await self._process(probe.finished)
                else:
                    await self._poller.poll(probe.run_id)
            finally:
                self._breaker.looked()

    async def _may_be_over(self, probe: Probe) -> bool:
        """Whether the probe has to tell: the library's disk is looked at first, without the network."""
        with suppress(ServicePausedError):  # the probe will tell
            if not await self._open_runs.load([probe.run_id]):
                return False  # it was forgotten, and the pause is over
        pause = self.paused
        if pause is None or pause.reason not in _OF_THE_LIBRARY:
            return True
        try:
            await self._processor.check_room(pause.needed)
        except ServicePausedError as error:
            if error.reason is pause.reason:
                self._breaker.postpone(probe.run_id, self._breaker.next_look(pause.reason))
                return False
        except TransientError:  # the probe will tell
            pass
        return True
