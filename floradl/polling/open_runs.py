"""The runs that are open: their rows, and when each is due."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from floradl.clock import Clocks
from floradl.models import FinishedRun, QueuedRun, RemoteRun
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.due_queue import DueQueue
from floradl.polling.planner import PollPlanner
from floradl.queue.base import RunQueue
from floradl.retry import Halted, RetryIn

_QUICK_POLLS = (1.0, 1.0, 2.0, 3.0, 5.0)  # seconds, where a webhook reports the end and the API does not


class PollReports(Protocol):
    """Gets what polling sees. Seconds count from now."""

    def accepted(self, run_ids: Sequence[str]) -> None:
        """Report runs that are open from now on, or again."""

    def unfinished(self, run: QueuedRun, next_in: float) -> None:
        """Report a run that was polled and goes on."""

    def detected(self, run: QueuedRun, answer: RemoteRun) -> None:
        """Report a run that was first found to have ended at FLORA."""

    def forwarded(self, run: QueuedRun) -> None:
        """Report a run that is to be saved, as soon as there is a slot."""

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report an error that may pass."""

    def halted(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report a run that met what pauses all."""


class OpenRuns:
    """Their ids are in memory, their rows in the queue."""

    def __init__(
        self,
        queue: RunQueue,
        due_queue: DueQueue,
        planner: PollPlanner,
        breaker: CircuitBreaker,
        reports: PollReports,
        clocks: Clocks,
    ) -> None:
        self._queue = queue
        self._due_queue = due_queue
        self.planner = planner
        self.breaker = breaker
        self.reports = reports
        self.clocks = clocks
        self._monotonic = clocks.monotonic
        self._taken = due_queue.watch_taken()  # somebody is at work on those: all others wait in there
        self._over: dict[str, Iterator[float]] = {}  # ended by a webhook's report, and when to poll again
        self.moved_at = self.turned_at = self._monotonic()
        """When a run last went forward, and when one was last looked at (monotonic seconds)."""
        self.rests_until = self._monotonic()
        """Until when runs that are well need no look (monotonic seconds): the interval may be long."""
        self.on_postponed: Callable[[str, float], None] | None = None
        """Called with each run that is polled again in so many seconds, where somebody records that."""

    def __len__(self) -> int:
        return len(self._due_queue) + len(self._taken)

    def __contains__(self, run_id: str) -> bool:
        """Whether a run waits to be polled."""
        return run_id in self._due_queue

    def add_new(self, run_ids: Iterable[str], *, report: bool = True) -> None:
        """Make new runs due; those that are open already stay as they are.

        Without `report` another process reports them.
        """
        new = self._unknown(run_ids)
        self._due_queue.add_new(new)
        if new and report:
            self.reports.accepted(new)
        self.wake()

    def resume(self, run_ids: Iterable[str]) -> None:
        """Make runs due that were queued before the start, in their order."""
        self._due_queue.put_all(self._unknown(run_ids))
        self.wake()

    def put_due(self, due: Iterable[tuple[str, float]]) -> None:
        """Make runs due in so many seconds, whatever was before; in their order where several are due now."""
        now: list[str] = []
        for run_id, seconds in due:
            if seconds > 0:
                self._due_queue.put(run_id, seconds)
            else:
                now.append(run_id)
        self._due_queue.put_all(now)
        self.wake()

    def waiting(self) -> set[str]:
        """Return the runs that wait to be polled."""
        return set(self._due_queue.names())

    @property
    def waiting_count(self) -> int:
        """How many runs wait to be polled."""
        return len(self._due_queue)

    def restart(self, durations: Mapping[str, Iterable[float]]) -> None:
        """Forget all runs, and begin anew with these durations (seconds) by technique."""
        self._due_queue.clear()
        self._over.clear()
        self.planner.restart(durations)
        self.rests_until = self._monotonic()
        self.wake()

    def take(self, run_ids: Iterable[str]) -> list[str]:
        """Take runs, known or new, for which there is an answer; return those that are not worked on."""
        taken = list(
            dict.fromkeys(run_id for run_id in run_ids if run_id in self or run_id not in self._taken)
        )
        if new := [run_id for run_id in taken if run_id not in self]:
            self.reports.accepted(new)
        self._taken.update(taken)
        for run_id in taken:
            self._due_queue.discard(run_id)
        return taken

    def _unknown(self, run_ids: Iterable[str]) -> list[str]:
        return [run_id for run_id in dict.fromkeys(run_ids) if not self.knows(run_id)]

    def knows(self, run_id: str) -> bool:
        """Whether a run waits to be polled, or is worked on."""
        return run_id in self._due_queue or run_id in self._taken

    def poll_now(self, run_id: str, *, report: bool = True) -> None:
        """Have a run polled before all others, now and soon again: a webhook reports its end.

        A request that is under way may bring an older answer. `report`: as for `add_new`.
        """
        self._over[run_id] = iter((0.0, *_QUICK_POLLS))
        if self.knows(run_id):
            self.planner.webhook_came(run_id)
        else:
            self._due_queue.put_first(run_id)
            if report:
                self.reports.accepted([run_id])
        self.wake()

    def put_first(self, run_ids: Iterable[str]) -> None:
        """Have runs polled before all others: there is room for them now."""
        for run_id in run_ids:
            self._due_queue.put_first(run_id)
        self.wake()

    def put_back(self, run_ids: Iterable[str]) -> None:
        """Make runs due again that were taken and not polled."""
        self._due_queue.put_all(run_ids)

    def forget(self, run_id: str) -> None:
        """Drop a run that is not open any more."""
        self._taken.discard(run_id)
        self._due_queue.discard(run_id)
        self.planner.forget(run_id)
        self._over.pop(run_id, None)
        if self.breaker.is_probe(run_id):
            self.breaker.end()
        if not self:  # who waits for runs that are due has nothing from one that is gone
            self.wake()

    def wake(self) -> None:
        """Wake all that wait for runs to be due, or for none to be open."""
        self.breaker.changed.set()

    def change(self, interval: float) -> None:
        """Poll at this interval (seconds) from now on, those that wait already too."""
        self.planner.change(interval)
        self._due_queue.change(interval)
        self.rests_until = min(self.rests_until, self._monotonic() + interval)
        self.wake()

    def delay(self, *, first_only: bool) -> float:
        """Return in how many seconds a run is due, see `DueQueue.delay`."""
        return self._due_queue.delay(first_only=first_only)

    def take_due(self, room: int) -> list[str]:
        """Take runs that are due, `room` at most beside those put first; what is early after all waits on."""
        taken: list[str] = []
        while (run_id := self._due_queue.pop(first_only=len(taken) >= room)) is not None:
            if run_id in self._over or not (seconds := self.planner.puts_back(run_id)):
                taken.append(run_id)
            elif self.on_postponed is not None:
                self.on_postponed(run_id, seconds)
        return taken

    async def load(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        """Read rows, by id; runs that are not open any more are dropped. Raises `QueueUnavailableError`."""
        rows = await self._queue.get_all(run_ids)
        found = {}
        for run_id in run_ids:
            row = rows.get(run_id)
            if row is None or not row.state.open:
                self.forget(run_id)
            else:
                found[run_id] = row
        return found

    async def record(self, runs: Iterable[tuple[QueuedRun, float | None]]) -> None:
        """Write rows, and how long each run took at FLORA (seconds). Raises `QueueUnavailableError`."""
        if rows := list(runs):
            await self._queue.update_all(rows, self.clocks.wall())

    def postpone(self, retry: RetryIn) -> None:
        """Make a run, whose row is written, due again."""
        run, run_id = retry.run, retry.run.run_id
        self.turned_at = self._monotonic()
        if self.on_postponed is not None:
            self.on_postponed(run_id, retry.seconds)
        if retry.trouble is not None:
            self.reports.trouble(run, retry.trouble, retry.seconds)
            if not self.breaker.postpone(run_id, retry.seconds):
                self._due_queue.put(run_id, retry.seconds, aligned=retry.shared)
        else:
            self.moved_at = self._monotonic()
            self.reports.unfinished(run, retry.seconds)
            soon = self._soon(run_id)
            seconds = retry.seconds if soon is None else min(soon, retry.seconds)
            due = self._due_queue.put(run_id, seconds, aligned=retry.shared and soon is None)
            self.rests_until = max(self.rests_until, due)
            self._end_pause_of(run_id)
        self.wake()

    def _soon(self, run_id: str) -> float | None:
        """Return the seconds until the next poll where a webhook reported the end; None elsewhere."""
        soon = next(self._over.get(run_id, iter(())), None)
        if soon is None:
            self._over.pop(run_id, None)
        return soon

    def forwarded(self, run: QueuedRun) -> None:
        """Record that a run was polled and is to be saved."""
        self.moved_at = self.turned_at = self._monotonic()
        self.reports.forwarded(run)
        self._end_pause_of(run.run_id)

    def ended(self, run_id: str) -> None:
        """Record that a run is not open any more: it was saved, or dropped."""
        self.moved_at = self.turned_at = self._monotonic()
        self.forget(run_id)

    def _end_pause_of(self, run_id: str) -> None:
        # Others that were under way when the pause began may end well whatever its cause.
        if self.breaker.is_probe(run_id):
            self.breaker.end()

    def halt(self, halted: Halted, run: QueuedRun, finished: FinishedRun | None = None) -> None:
        """Pause all, since a run met what no run gets past; `finished` is what was to be saved of it."""
        self.turned_at = self._monotonic()
        pause = self.breaker.meet(run.run_id, halted, finished)
        self.reports.halted(run, pause.message, self.breaker.next_look(pause.reason))
