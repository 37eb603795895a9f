"""Keeps all open runs in mind, and takes each one on when it is due.

More are taken on at once than may have outputs on their way (`places`): whatever is transferred, FLORA is
asked, words are written and sidecars of failed runs too. Nor do those that are to be asked about take all of
it: FLORA is asked only so often, and of whom there is news already need not stand in that line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Set as AbstractSet

import anyio
import msgspec
import structlog

from floradl.errors import ErrorCode, PauseReason, ServicePausedError, TransientError
from floradl.models import QueuedRun, Reference
from floradl.polling.due_queue import DueQueue
from floradl.polling.planner import PollPlanner
from floradl.queue.base import RunQueue
from floradl.runs.circuit_breaker import CircuitBreaker, Pause
from floradl.runs.error_log import ErrorLog, LoggedError
from floradl.runs.events import RunEvents
from floradl.runs.outcome import Finished, Paused, RetryIn, Step
from floradl.runs.processor import Processor
from floradl.runs.slots import ALL_PLACES

_ASKING = 192  # runs that are at work and have no place: most of them are asked about
_AT_ONCE = ALL_PLACES + _ASKING + 64  # so that no outputs on their way keep FLORA from being asked
_AFTER_BUG = 30.0
_QUICK_QUESTIONS = (1.0, 1.0, 2.0, 3.0, 5.0)  # seconds: where FLORA says "over" and answers "running"
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Scheduler:
    """Runs the pipeline over the open runs."""

    def __init__(
        self,
        processor: Processor,
        queue: RunQueue,
        progress: RunEvents,
        due_queue: DueQueue,
        planner: PollPlanner,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processor = processor
        self._queue = queue
        self._progress = progress
        self._monotonic = monotonic
        self._due_queue = due_queue
        self._planner = planner
        self._known: set[str] = set()
        self._over: dict[str, Iterator[float]] = {}  # those that FLORA says are over, and when to ask again
        self._troubles = ErrorLog()
        self._changed = anyio.Event()
        self._slots = anyio.CapacityLimiter(_AT_ONCE)
        processor.slots.when_taken = self._wake  # who has a place is not asked about any more
        self._circuit_breaker = CircuitBreaker(due_queue, monotonic)
        self.moved_at = self.turned_at = monotonic()
        """When a run last went forward, and when one was last looked at (monotonic seconds)."""
        self.rests_until = monotonic()
        """Until when runs that are well need no look (monotonic seconds): the interval may be long."""

    def enqueue(self, run_ids: Iterable[str]) -> None:
        """Take runs on that just came; those under way stay as they are."""
        self._due_queue.add_new(self._unknown(run_ids))
        self._wake()

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        return await self._processor.lacks(reference, outputs)

    def change(self, interval: float) -> None:
        """Ask about runs at this interval (seconds) from now on, those that wait already too."""
        self._planner.change(interval)
        self._due_queue.change(interval)
        self.rests_until = min(self.rests_until, self._monotonic() + interval)
        self._wake()

    def poll_now(self, run_id: str) -> None:
        """Take a run on before all others, now and if need be at once again: FLORA says that it is over.

        The answer to a question that is under way may be older than that word.
        """
        self._over[run_id] = iter((0.0, *_QUICK_QUESTIONS))
        if run_id in self._known:
            self._planner.tell(run_id)
        else:
            self._known.add(run_id)
            self._due_queue.put_first(run_id)
        self._wake()

    def resume_open(self, run_ids: Iterable[str]) -> None:
        """Take runs on that the queue held already: they come in their turn."""
        for run_id in self._unknown(run_ids):
            self._due_queue.put(run_id, 0.0)
        self._wake()

    def _unknown(self, run_ids: Iterable[str]) -> list[str]:
        unknown = [run_id for run_id in dict.fromkeys(run_ids) if run_id not in self._known]
        self._known.update(unknown)
        return unknown

    @property
    def paused(self) -> Pause | None:
        """Why nothing goes on, None where all does."""
        return self._circuit_breaker.now

    @property
    def idle(self) -> bool:
        """Whether no run is open."""
        return not self._known

    @property
    def open_runs(self) -> int:
        """How many runs are open."""
        return len(self._known)

    async def serve(self, *, until_idle: bool = False) -> None:
        """Take runs on as they fall due; for ever, or until none is open."""
        async with anyio.create_task_group() as group:
            while not (until_idle and self.idle):
                run_id = await self._next_due()
                if run_id is None:
                    continue
                await self._slots.acquire_on_behalf_of(run_id)
                group.start_soon(self._take_on, run_id)

    async def _next_due(self) -> str | None:
        """Wait for the next run that is due; None where things changed meanwhile.

        In a pause that is the run that met its cause, now and then: once it goes on, all do.
        """
        self._changed = anyio.Event()
        run_id = self._due_run() if self.paused is None else self._circuit_breaker.due()
        if run_id is not None:
            return run_id
        if self.paused is None or self._circuit_breaker.leaderless:
            delay = self._due_queue.delay(first_only=self._crowded)
        else:
            delay = self._circuit_breaker.delay()
        with anyio.move_on_after(delay):
            await self._changed.wait()
        return None

    @property
    def _crowded(self) -> bool:
        """Whether as many are asked about as are worth it at a time."""
        return self._slots.borrowed_tokens - self._processor.slots.taken >= _ASKING

    def _due_run(self) -> str | None:
        while (run_id := self._due_queue.pop(first_only=self._crowded)) is not None:
            if run_id in self._over or not self._planner.puts_back(run_id):
                return run_id
        return None

    def probe_now(self) -> bool:
        """Look at once whether a pause can be lifted: something outside was mended.

        False where somebody is looking just now.
        """
        if not self._circuit_breaker.hurry():
            return False
        self._wake()
        return True

    def hold(self, error: ServicePausedError) -> None:
        """Pause for what somebody else met that asks FLORA; the next run that goes on lifts it, or `lift`."""
        if self.paused is None:
            self._circuit_breaker.begin(error.reason, str(error))

    def lift(self) -> None:
        """Take notice that FLORA gave an answer to somebody else: a pause may be over."""
        if self.paused is not None and self._circuit_breaker.leaderless:
            self._circuit_breaker.end()
            self._wake()

    async def _take_on(self, run_id: str) -> None:
        run: QueuedRun | None = None
        try:
            run = await self._queue.get(run_id)
            if run is None or not run.state.open:
                self._forget(run_id)
                if run_id == self._circuit_breaker.probing:
                    self._circuit_breaker.end()  # forgotten meanwhile: the next one will tell
                return
            if self.paused is not None and run_id != self._circuit_breaker.probing:
                self._due_queue.put(run_id, 0.0)  # it was on its way here when the pause began
                return
            if not await self._has_room(run_id):
                return
            await self._follow(run, await self._step(run))
        except ServicePausedError as error:
            pause = self._circuit_breaker.met(run_id, error.reason, str(error), error.needed)
            if run is not None:
                self._progress.trouble(run, pause.message, self._circuit_breaker.next_look(pause.reason))
        finally:
            self.turned_at = self._monotonic()
            self._circuit_breaker.looked(run_id)
            for held in self._processor.slots.next(run_id):
                self._due_queue.put_first(held)
            self._slots.release_on_behalf_of(run_id)
            self._wake()

    async def _has_room(self, run_id: str) -> bool:
        """Whether the probe of a full disk may go on: the disk is looked at first, without the network."""
        pause = self.paused
        if (
            pause is None
            or pause.reason is not PauseReason.DISK_FULL
            or run_id != self._circuit_breaker.probing
        ):
            return True
        try:
            await self._processor.check_room(pause.needed)
        except ServicePausedError as error:
            if error.reason is not PauseReason.DISK_FULL:
                raise
            self._circuit_breaker.postpone(run_id, self._circuit_breaker.next_look(pause.reason))
            return False
        except TransientError:  # the step will tell
            pass
        return True

    async def _step(self, run: QueuedRun) -> Step:
        try:
            step = await self._processor.advance(run)
        except ServicePausedError:
            raise
        except Exception:  # noqa: BLE001 - a bug of ours must not cost the run, nor the others
            _log.exception("bug", run=run.run_id, technique=run.technique)
            return RetryIn(
                msgspec.structs.replace(run, tries=run.tries + 1), _AFTER_BUG, "a bug: see the log"
            )
        # Others that were under way when the pause began may end well: that says nothing of its cause.
        if run.run_id == self._circuit_breaker.probing and not (isinstance(step, RetryIn) and step.trouble):
            self._circuit_breaker.end()
        return step

    async def _follow(self, run: QueuedRun, step: Step) -> None:
        """Do what a step of `run` asks for."""
        match step:
            case Finished():
                await self._finish(step)
            case RetryIn():
                await self._postpone(run, step)
            case Paused():  # it is put back into the schedule once there is a place for it
                self.moved_at = self._monotonic()
                self._tell_end(run.run_id)

    async def _finish(self, step: Finished) -> None:
        run = step.run
        sidecar = step.brought.sidecar if step.brought else None
        await self._queue.finish(run, time.time(), sidecar)
        self._forget(run.run_id)
        self.moved_at = self._monotonic()
        _log.info(
            "run_finished",
            run=run.run_id,
            technique=run.technique,
            result=run.state,
            sidecar=sidecar,
            error=run.error.message if run.error else None,
        )
        self._progress.finished(run, step.brought)

    async def _postpone(self, before: QueuedRun, step: RetryIn) -> None:
        run = step.run
        if step.trouble is None:
            self.moved_at = self._monotonic()
            self._tell_end(run.run_id)
            self._progress.run(run, step.seconds)
        else:
            self._tell(run, step.trouble, step.seconds)
            self._progress.trouble(run, step.trouble, step.seconds)
        if run != before:
            await self._queue.update(run, time.time())
        if self._circuit_breaker.postpone(run.run_id, step.seconds):
            return
        if step.trouble is None and (soon := self._soon(run.run_id)) is not None:
            due = self._due_queue.put(run.run_id, min(soon, step.seconds))
        else:
            due = self._due_queue.put(run.run_id, step.seconds, aligned=step.shared)
        if step.trouble is None:
            self.rests_until = max(self.rests_until, due)

    def _soon(self, run_id: str) -> float | None:
        """Return the seconds until the next question where FLORA said that it is over; None elsewhere."""
        soon = next(self._over.get(run_id, iter(())), None)
        if soon is None:
            self._over.pop(run_id, None)
        return soon

    def _tell(self, run: QueuedRun, trouble: str, seconds: float) -> None:
        """Log trouble when it begins: a line a change, none a question, and few where many meet the same."""
        told = self._troubles.met(run.run_id, run.error.code if run.error else ErrorCode.BAD_ANSWER)
        if told is LoggedError.RUN:
            _log.warning("run_trouble", run=run.run_id, message=trouble, next_in=seconds)
        elif told is LoggedError.MORE:
            _log.warning("more_in_trouble", message=f"{trouble}; 'floradl status' tells which runs")

    def _tell_end(self, run_id: str) -> None:
        code = self._troubles.over(run_id)
        if code is not None:
            _log.info("trouble_over", code=code)

    def _forget(self, run_id: str) -> None:
        self._known.discard(run_id)
        self._planner.forget(run_id)
        self._over.pop(run_id, None)
        self._tell_end(run_id)

    def _wake(self) -> None:
        self._changed.set()
