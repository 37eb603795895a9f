"""A poller with all that it works with, against a FLORA of the test's own: nothing is on disk."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, cast

import anyio
from memory_queue import MemoryQueue
from studio import TEST_TIMEOUT

from floradl.clock import Clocks
from floradl.library.base import LibraryStore
from floradl.models import FinishedRun, QueuedRun, Reference, RemoteRun, RunState
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.open_runs import OpenRuns
from floradl.polling.planner import PollPlanner
from floradl.polling.poller import NextStage, Poller, PollOptions, RunApi


class Clock:
    """Time that passes where the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class EmptyLibrary:
    """A library in which no sidecar stands."""

    def find_sidecar(self, _: Reference) -> None:
        return None


class Planner(PollPlanner):
    """Notes which answers said that a run goes on."""

    def goes_on(self, run: QueuedRun, answer: RemoteRun) -> tuple[float, float]:
        self.answers[run.run_id] = answer
        return super().goes_on(run, answer)

    answers: dict[str, RemoteRun]


class World:
    """A poller. `went_on`, `finished` and `troubles` say what became of runs since the last `poll`.

    It is where finished runs go, too, unless there is a `next_stage`.
    """

    def __init__(
        self,
        api: RunApi,
        monotonic: Callable[[], float],
        next_stage: Callable[[OpenRuns], NextStage] | None = None,
        library: LibraryStore | None = None,
    ) -> None:
        self.monotonic = monotonic
        clocks = Clocks(monotonic, monotonic)
        self.due_queue = DueQueue(monotonic, 2.0)
        self.planner = Planner(self.due_queue, Durations(monotonic), 2.0, monotonic)
        self.planner.answers = {}
        self.breaker = CircuitBreaker(self.due_queue, clocks)
        self.rows = MemoryQueue()
        self.open_runs = OpenRuns(self.rows, self.due_queue, self.planner, self.breaker, self, clocks)
        stage: NextStage = next_stage(self.open_runs) if next_stage else self
        self.poller = Poller(
            api, self.open_runs, library or cast("Any", EmptyLibrary()), stage, PollOptions(86_400.0)
        )
        self.went_on: set[str] = set()
        self.finished: dict[str, FinishedRun] = {}
        self.troubles: dict[str, float] = {}
        self.room = True

    def accepted(self, run_ids: Sequence[str]) -> None: ...

    def unfinished(self, run: QueuedRun, next_in: float) -> None:  # noqa: ARG002 - a protocol
        self.went_on.add(run.run_id)

    def detected(self, run: QueuedRun, answer: RemoteRun) -> None: ...

    def forwarded(self, run: QueuedRun) -> None: ...

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:  # noqa: ARG002 - as above
        self.troubles[run.run_id] = next_in

    def halted(self, run: QueuedRun, message: str, next_in: float) -> None:  # noqa: ARG002 - as above
        self.troubles[run.run_id] = next_in

    def offer(self, finished: FinishedRun) -> None:
        self.finished[finished.run.run_id] = finished

    def queue(self, *run_ids: str, technique: str | None = "t", queued_at: float = 0.0) -> None:
        """Record runs as open; they are not due."""
        for run_id in run_ids:
            run = QueuedRun(run_id=run_id, technique=technique, state=RunState.RUNNING, queued_at=queued_at)
            self.rows._put(run)

    def wait(self, *run_ids: str, seconds: float = 60.0) -> None:
        """Have runs wait for so long until they are due."""
        self.queue(*run_ids)
        self.open_runs.take(run_ids)
        for run_id in run_ids:
            self.due_queue.put(run_id, seconds)
        self.open_runs.wake()

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Poll meanwhile."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.poller.serve)
            yield
            group.cancel_scope.cancel()

    async def poll(self, *run_ids: str, technique: str | None = "t") -> None:
        """Have runs due now, and wait until each is answered, or in trouble."""
        self.make_due(*run_ids, technique=technique)
        async with self.serving():
            await self.answered(run_ids)

    def make_due(self, *run_ids: str, technique: str | None = "t", queued_at: float = 0.0) -> None:
        """Have runs due now; what became of others is forgotten."""
        self.went_on, self.finished, self.troubles = set(), {}, {}
        self.queue(*run_ids, technique=technique, queued_at=queued_at)
        self.open_runs.take(run_ids)
        for run_id in run_ids:
            self.due_queue.put(run_id, 0.0)
            self.planner.forget(run_id)  # so that none turns out to be early
        self.open_runs.wake()

    async def answered(self, run_ids: Iterable[str]) -> None:
        """Wait until something became of each of these runs."""
        wanted = set(run_ids)
        await holds(lambda: wanted <= self.went_on | self.finished.keys() | self.troubles.keys())


async def holds(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    with anyio.fail_after(TEST_TIMEOUT):
        while not condition():
            await anyio.lowlevel.checkpoint()
