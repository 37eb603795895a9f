"""The scheduler of a daemon that shares its queue: it saves what it leases, and polls for all while elected.

The daemon that polls knows all open runs; the others know their own. What happens to a run elsewhere comes as
news from the queue.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from typing import TypeVar

import anyio
from msgspec import Struct

from floradl.errors import PauseReason, QueueUnavailableError
from floradl.log import get_logger
from floradl.models import FinishedRun
from floradl.polling.circuit_breaker import Pause
from floradl.polling.election import Election
from floradl.polling.hand_over import HandOver
from floradl.polling.open_runs import OpenRuns
from floradl.polling.poller import Poller
from floradl.queue.base import RunQueue
from floradl.queue.sharing import NewsKind, RunNews, RunSharing
from floradl.runs.events import RunReports
from floradl.runs.processor import Processor
from floradl.runs.ready_runs import ReadyRuns
from floradl.runs.scheduler import LIBRARY_REASONS, Scheduler, Service
from floradl.wakeups import Signal, next_tick

_COUNT_EVERY = 15.0  # seconds
_REMIND_EVERY = 15.0  # seconds
_NOTE_EVERY = 1.0  # seconds in which the times of the next polls come together
_WORTH_NOTING = 1.0  # seconds; whoever is elected later polls at once what was due sooner
_AGAIN = 1.0  # seconds until the queue is tried again
_IDLE_FOR = 0.5  # seconds between looks whether any run is open
_T = TypeVar("_T")
_log = get_logger()


class Polling(Struct, frozen=True):
    """What polls while this daemon is elected; `beside` is what else sends requests to FLORA then."""

    open_runs: OpenRuns
    poller: Poller
    hand_over: HandOver
    election: Election
    beside: Sequence[Service] = ()


class SharedScheduler(Scheduler):
    """Polls while elected, and saves the runs that this daemon leases. `serve` must be running."""

    def __init__(
        self,
        queue: RunQueue,
        sharing: RunSharing,
        polling: Polling,
        ready: ReadyRuns,
        processor: Processor,
        reports: RunReports,
    ) -> None:
        super().__init__(polling.open_runs, polling.poller, processor, reports)
        self._queue = queue
        self._sharing = sharing
        self._hand_over = polling.hand_over
        self._election = polling.election
        self._beside = polling.beside
        self._ready = ready
        self._count = 0  # open runs, when last counted, and those added since
        self._due: dict[str, float] = {}  # by run, when it is polled next (monotonic seconds)
        self._reported: dict[str, None] = {}  # runs whose end a webhook reported here
        self._news = Signal()
        self._open_runs.on_postponed = self._postponed

    # What the rest of the daemon looks at

    @property
    def polls(self) -> bool:
        return self._election.elected

    @property
    def paused(self) -> Pause | None:
        """The pause of this daemon; where it polls, that of all polling otherwise."""
        return self._ready.breaker.now or self._breaker.now

    @property
    def idle(self) -> bool:
        """Whether this daemon has nothing to do."""
        return not self._ready.in_hand and not (self.polls and self._open_runs.waiting_count)

    @property
    def open_runs(self) -> int:
        """How many runs are open at all daemons together, as far as that is known."""
        return len(self._open_runs) if self.polls else self._count

    @property
    def moved_at(self) -> float:
        return max(self._open_runs.moved_at, self._ready.moved_at)

    @property
    def turned_at(self) -> float:
        return max(self._open_runs.turned_at, self._ready.turned_at)

    def on_pause(self, call: Callable[[], None]) -> None:
        super().on_pause(call)
        self._ready.breaker.on_change = call

    def probe_now(self) -> bool:
        here = self._ready.breaker.hurry()
        return super().probe_now() or here

    # What comes in here

    def enqueue(self, run_ids: Iterable[str]) -> None:
        if self.polls:
            self._open_runs.add_new(run_ids)
        else:
            self._report_accepted(list(run_ids))

    def _report_accepted(self, run_ids: Sequence[str]) -> None:
        # Whoever polls has heard of them from the queue.
        self._count += len(run_ids)
        if run_ids:
            self._reports.accepted(run_ids)

    async def resume_open(self, queue: RunQueue) -> None:
        """Do nothing: whoever is elected reads them."""

    def poll_now(self, run_id: str) -> None:
        if self.polls:
            self._open_runs.poll_now(run_id)
        else:
            self._reported[run_id] = None
            self._news.set()

    # Work

    async def serve(self, *, until_idle: bool = False, beside: Sequence[Service] = ()) -> None:
        """Poll while elected, and save; for ever, or until no run is open at any daemon."""

        async def lead() -> None:
            await self._lead(beside)

        async with anyio.create_task_group() as group:
            group.start_soon(self._election.serve, lead)
            group.start_soon(self._sharing.serve_ready, self._ready.save, self._ready.room)
            group.start_soon(self._ready.serve_probes)
            group.start_soon(self._listen)
            group.start_soon(self._pass_reports_on)
            group.start_soon(self._count_open)
            if until_idle:
                await self._all_done()
                group.cancel_scope.cancel()

    async def _all_done(self) -> None:
        """Wait until no run is open at any daemon."""
        open_since: float | None = 0.0
        while not self.idle or open_since is not None:
            await next_tick(_IDLE_FOR)
            with suppress(QueueUnavailableError):
                open_since = (await self._queue.counts()).oldest_open

    async def _count_open(self) -> None:
        while True:
            with suppress(QueueUnavailableError):
                states = (await self._queue.counts()).states
                self._count = sum(count for state, count in states.items() if state.open)
            await anyio.sleep(_COUNT_EVERY)

    async def _pass_reports_on(self) -> None:
        while True:
            news = self._news.next()
            while self._reported:
                run_id = next(iter(self._reported))
                try:
                    await self._sharing.poll_now(run_id)
                except QueueUnavailableError as error:  # the run is polled all the same
                    _log.debug("webhook_not_passed_on", run=run_id, message=str(error))
                    await anyio.sleep(_AGAIN)
                self._reported.pop(run_id, None)
            await news.wait()

    # While elected

    async def _lead(self, beside: Sequence[Service]) -> None:
        self._forget()
        try:
            self._open_runs.restart(await _until_available(self._queue.durations))
            async with anyio.create_task_group() as group:
                group.start_soon(self._poller.serve)
                group.start_soon(self._hand_over.serve)
                group.start_soon(self._probe)
                group.start_soon(self._note_due)
                group.start_soon(self._watch_library)
                group.start_soon(self._remind)
                group.start_soon(self._catch_up)
                for service in (*self._beside, *beside):
                    group.start_soon(service)
        finally:
            self._forget()

    def _forget(self) -> None:
        self._breaker.end()
        self._breaker.looked()
        for run_id in self._open_runs.waiting() | self._hand_over.handed:
            self._reports.dropped(run_id)
        self._open_runs.restart({})
        self._poller.restart()
        self._hand_over.restart()
        self._due.clear()

    async def _listen(self) -> None:
        async for news in self._sharing.news():
            if not self.polls:
                if news is None or news.kind is NewsKind.VACANT:
                    self._election.ask_now()
            elif news is None:
                await self._catch_up()
            else:
                self._heard(news)

    def _heard(self, news: RunNews) -> None:
        open_runs, handed, run_id = self._open_runs, self._hand_over.handed, news.run_id
        if news.kind is NewsKind.POLL_NOW:
            if run_id not in handed:  # it was found to have ended already
                open_runs.poll_now(run_id, report=False)
            return
        if run_id in handed and news.kind is NewsKind.ADDED:
            open_runs.ended(run_id)  # which was not heard of, or is to come
        handed.discard(run_id)
        match news.kind:
            case NewsKind.ADDED:
                open_runs.add_new([run_id], report=False)
            case NewsKind.RETURNED:
                open_runs.put_due([(run_id, news.due_in)])
            case NewsKind.GONE if run_id in open_runs:
                pass  # it may have been queued again since: the row is read when it is due
            case NewsKind.GONE:
                self._reports.dropped(run_id)
                open_runs.ended(run_id)

    async def _catch_up(self) -> None:
        """Compare what is known here with what the queue has: news may have been missed."""
        open_runs, handed = self._open_runs, self._hand_over.handed
        waited, saved = open_runs.waiting(), set(handed)
        due = await _until_available(self._sharing.due)
        listed = {run_id for run_id, _ in due}
        saved -= listed
        if saved:
            saved.difference_update(await _until_available(self._queue.open_ids))
        for run_id in ((waited - listed) & open_runs.waiting()) | (saved & handed):
            handed.discard(run_id)
            open_runs.forget(run_id)
        back = listed & handed
        handed -= back
        open_runs.put_due(
            (run_id, seconds) for run_id, seconds in due if run_id in back or not open_runs.knows(run_id)
        )

    def _postponed(self, run_id: str, seconds: float) -> None:
        if seconds >= _WORTH_NOTING:
            self._due[run_id] = self._open_runs.clocks.monotonic() + seconds

    async def _process(self, finished: FinishedRun) -> None:
        self._hand_over.offer(finished)

    async def _note_due(self) -> None:
        while True:
            await anyio.sleep(_NOTE_EVERY)
            due, self._due = self._due, {}
            now = self._open_runs.clocks.monotonic()
            if left := {run_id: at - now for run_id, at in due.items() if at - now >= _WORTH_NOTING}:
                with suppress(QueueUnavailableError):  # then more is polled at once after an election
                    await self._sharing.note_due(left)

    async def _remind(self) -> None:
        """Have it looked now and then for what other daemons found incomplete."""
        while True:
            await next_tick(_REMIND_EVERY)
            self._queue.incomplete.set()

    async def _watch_library(self) -> None:
        """Let another daemon poll where this one does not have the library: it cannot see what is done."""
        while True:
            pause = self._breaker.now
            if pause is not None and pause.reason in LIBRARY_REASONS:
                self._ready.hold(pause)
            if (pause := self._ready.breaker.now) is not None and keeps_from_polling(pause):
                self._election.ask_now()
            await self._breaker.changed.wait(1.0)


def keeps_from_polling(pause: Pause) -> bool:
    """Whether a daemon in this pause cannot see which runs are done."""
    return pause.reason in LIBRARY_REASONS and pause.reason is not PauseReason.DISK_FULL


async def _until_available(read: Callable[[], Awaitable[_T]]) -> _T:
    """Read from the queue, as soon as that answers."""
    while True:
        try:
            return await read()
        except QueueUnavailableError as error:
            _log.debug("queue_awaited", message=str(error))
            await anyio.sleep(_AGAIN)
