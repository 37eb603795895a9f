"""Saves the ready runs that this daemon leases, as many as it has room for; its pauses are its own.

A run that meets what no run gets past here, such as a full disk, is put back: another daemon may have room.
Where a fresh URL is needed the run goes back to the daemon that polls.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from floradl.clock import Clocks
from floradl.errors import (
    ErrorCode,
    FreshAnswerNeededError,
    LeaseLostError,
    ServicePausedError,
    TransientError,
)
from floradl.flora.schema import RunPage
from floradl.log import get_logger
from floradl.models import FinishedRun, Reference, RemoteRun
from floradl.polling.circuit_breaker import CircuitBreaker, Pause
from floradl.polling.due_queue import DueQueue
from floradl.queue.sharing import Released, Room, has_large
from floradl.retry import Halted, RetryIn
from floradl.runs.events import RunReports
from floradl.runs.processor import Processor
from floradl.runs.result import Finished

_SMALL = 8  # runs without large outputs in hand, for each transfer that may be under way
_PROBE = "\0"  # stands for whichever run tries whether a pause is over: no run has this id
_TRIED_WITHIN = 10.0  # seconds; where no run is ready the look at the disk has to do
_log = get_logger()


class NoRequests:
    """A `RunApi` for a daemon that leaves all requests to the one that polls."""

    async def run(self, reference: Reference) -> RemoteRun:
        """Raise `FreshAnswerNeededError`."""
        raise FreshAnswerNeededError(f"{reference} is to be polled again")

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Raise `FreshAnswerNeededError`."""
        raise FreshAnswerNeededError(f"the list of {kind} is read elsewhere, from {cursor or 'its start'}")


class ReadyRuns:
    """Saves leased runs.

    `transfers` returns how many downloads may be under way; `most_large` is how many of large outputs the
    library lets in at once, None for all.
    """

    def __init__(
        self,
        processor: Processor,
        reports: RunReports,
        transfers: Callable[[], int],
        clocks: Clocks | None = None,
        most_large: int | None = None,
    ) -> None:
        clocks = clocks or Clocks()
        self._most_large = most_large
        self._processor = processor
        self._reports = reports
        self._transfers = transfers
        self._monotonic = clocks.monotonic
        self._large = self._other = 0  # in hand
        self._probing: anyio.Event | None = None  # set once a run has tried whether the pause is over
        self.breaker = CircuitBreaker(DueQueue(clocks.monotonic, 1.0), clocks)
        """The pauses of this daemon alone."""
        self.moved_at = self.turned_at = clocks.monotonic()
        """When a run last ended, and when one was last worked on (monotonic seconds)."""

    @property
    def in_hand(self) -> int:
        """How many runs are worked on."""
        return self._large + self._other

    def room(self) -> Room:
        """Return how many runs more are taken now: in a pause none, but for the one that tries it."""
        if self.breaker.now is not None:
            if self._probing is None or self._probing.is_set() or self.in_hand:
                return Room(0, 0)
            return Room(1, 1)
        transfers = self._transfers()
        # Some transfers are for small outputs alone: so a run or two with large ones wait to follow at once.
        large = max(transfers, 2)
        if self._most_large is not None:  # more would wait here, while other daemons have nothing to do
            large = min(large, self._most_large + 1)
        return Room(max(large - self._large, 0), max(_SMALL * transfers - self._other, 0))

    async def save(self, finished: FinishedRun) -> Released:
        """Save a leased run; return what becomes of it. Raises `LeaseLostError`."""
        run_id, large = finished.run.run_id, has_large(finished)
        self._count(large, 1)
        released: Released | None = None
        try:
            released = await self._save(finished)
        except LeaseLostError as error:
            _log.warning("lease_lost", run=run_id, message=str(error))
            raise
        finally:
            self._count(large, -1)
            self.turned_at = self._monotonic()
            self._tried()
            if released is None or not released.ended:
                self._reports.dropped(run_id)
        return released

    def _count(self, large: bool, change: int) -> None:  # noqa: FBT001
        if large:
            self._large += change
        else:
            self._other += change

    async def _save(self, finished: FinishedRun) -> Released:
        run = finished.run
        outcome = await self._processor.process(finished)
        if isinstance(outcome, Halted):
            pause = self._meet(outcome)
            self._reports.halted(run, pause.message, self.breaker.next_look(pause.reason))
            return Released(ended=False)
        if isinstance(outcome, Finished):
            self._got_through()
        if isinstance(outcome, RetryIn):
            error = outcome.run.error
            if error is not None and error.code is ErrorCode.EXPIRED and outcome.run.tries == 1:
                return Released(ended=False, poll_in=0.0)  # it has waited for long, and that is no trouble
            if outcome.trouble is not None:
                self._reports.trouble(outcome.run, outcome.trouble, outcome.seconds)
            return Released(ended=False, poll_in=outcome.seconds)
        self.moved_at = self._monotonic()
        if isinstance(outcome, Finished):
            self._reports.finished(outcome.run, outcome.summary)
        else:
            self._reports.dropped(run.run_id)
        return Released(ended=True)

    # Pauses

    def _meet(self, halted: Halted) -> Pause:
        if self.breaker.now is not None and (self._probing is None or self._probing.is_set()):
            return self.breaker.now  # it was under way when the pause began
        return self.breaker.meet(_PROBE, halted)

    def hold(self, pause: Pause) -> None:
        """Pause for what another part of this daemon met in its library."""
        if self.breaker.now is None:
            self.breaker.meet(_PROBE, Halted(pause.reason, pause.message, pause.needed))

    def _got_through(self) -> None:
        if self._probing is not None and not self._probing.is_set():
            self.breaker.end()

    def _tried(self) -> None:
        if self._probing is not None:
            self._probing.set()

    async def serve_probes(self) -> None:
        """See now and then whether a pause is over; for ever.

        The disk is looked at first; then one run tries it.
        """
        while True:
            await self.breaker.next_probe()
            try:
                await self._probe()
            finally:
                self._probing = None
                self.breaker.looked()

    async def _probe(self) -> None:
        pause = self.breaker.now
        if pause is None:
            return
        try:
            await self._processor.check_room(pause.needed)
        except ServicePausedError as error:
            if error.reason is not pause.reason:
                self.breaker.begin(error.reason, str(error), error.needed)
            self.breaker.postpone(_PROBE, self.breaker.next_look(error.reason))
            return
        except TransientError:  # the run that tries will show it
            pass
        self._probing = anyio.Event()
        with anyio.move_on_after(_TRIED_WITHIN):
            await self._probing.wait()
        if not self._probing.is_set():
            if self.in_hand:
                await self._probing.wait()  # a large one: its end shows it
            elif self.breaker.now is pause:
                self.breaker.end()
        if (pause := self.breaker.now) is not None:
            self.breaker.postpone(_PROBE, self.breaker.next_look(pause.reason))
