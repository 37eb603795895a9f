"""Daemons that share a queue, in one process and in no time: FLORA is a table, and saving only waits."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Self, cast

import anyio
import virtual
from polling import EmptyLibrary
from shared_queue import SharedQueue, SharedStore
from wire import Silent

from floradl.clock import Clocks
from floradl.errors import ErrorCode, PauseReason, PermanentError, ServicePausedError
from floradl.flora.schema import RunPage
from floradl.models import FinishedRun, QueuedRun, Reference, RemoteOutput, RemoteRun, RunState
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.election import Election
from floradl.polling.hand_over import HandOver
from floradl.polling.open_runs import OpenRuns
from floradl.polling.planner import PollPlanner
from floradl.polling.poller import Poller, PollOptions
from floradl.queue.sharing import NewsKind, RunNews
from floradl.retry import Halted, RetryIn
from floradl.runs.events import RunReports
from floradl.runs.ready_runs import ReadyRuns
from floradl.runs.result import Dropped, Finished, Outcome
from floradl.runs.shared_scheduler import Polling, SharedScheduler, keeps_from_polling

PICTURE = (RemoteOutput("a", "imageUrl", "https://media.example/a"),)
FILM = (RemoteOutput("a", "videoUrl", "https://media.example/a"),)


class Flora:
    """Runs that go on until `finish`; notes which daemon requested what, and when."""

    def __init__(self) -> None:
        self.now = asyncio.get_running_loop().time
        self.runs: dict[str, RemoteRun] = {}
        self.refused: set[str] = set()
        """Daemons whose key is not good."""
        self.asked: list[tuple[float, str, str]] = []
        self.lists = True

    def add(self, *run_ids: str) -> None:
        self.runs |= {run_id: RemoteRun(run_id, "running", 0.0, None) for run_id in run_ids}

    def finish(self, *run_ids: str, outputs: tuple[RemoteOutput, ...] = PICTURE) -> None:
        for run_id in run_ids:
            self.runs[run_id] = RemoteRun(run_id, "completed", 100.0, None, outputs=outputs)

    def askers(self, since: float = 0.0) -> set[str]:
        return {name for at, name, _ in self.asked if at >= since}


class Api:
    """One daemon's way to FLORA."""

    def __init__(self, flora: Flora, name: str) -> None:
        self._flora = flora
        self._name = name

    async def run(self, reference: Reference) -> RemoteRun:
        self._flora.asked.append((self._flora.now(), self._name, reference.run_id))
        await anyio.sleep(0.02)
        self._check_key()
        return self._flora.runs[reference.run_id]

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        self._flora.asked.append((self._flora.now(), self._name, kind))
        await anyio.sleep(0.02)
        self._check_key()
        if not self._flora.lists:
            raise PermanentError("not for this key", ErrorCode.FORBIDDEN)
        wanted = list(self._flora.runs.values())[::-1] if kind == "technique_runs" else []
        start = int(cursor or 0)
        end = start + 100
        return RunPage(tuple(wanted[start:end]), str(end) if end < len(wanted) else None)

    def _check_key(self) -> None:
        if self._name in self._flora.refused:
            raise ServicePausedError("FLORA refuses the key", PauseReason.KEY_REFUSED)


class Saver:
    """In place of a `Processor`: saving takes `seconds`, and ends as `outcomes` says, or well."""

    def __init__(self, queue: SharedQueue, now: Callable[[], float]) -> None:
        self._queue = queue
        self._now = now
        self.seconds = 0.1
        self.outcomes: dict[str, list[Halted | RetryIn]] = {}
        self.full: ServicePausedError | None = None
        self.looked = 0
        self.begun: list[str] = []
        self.at_once = self.most_at_once = 0

    async def process(self, finished: FinishedRun) -> Outcome:
        run_id = finished.run.run_id
        self.begun.append(run_id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            begun = await self._queue.begin_download(run_id, 0.0)
            if begun is None:
                return Dropped()
            if self.full is not None:
                return Halted(self.full.reason, str(self.full))
            await anyio.sleep(self.seconds)
            if outcomes := self.outcomes.get(run_id):
                return outcomes.pop(0)
            run = QueuedRun(run_id=run_id, queued_at=0.0, state=RunState.DONE)
            await self._queue.finish(run, 0.0, f"runs/{run_id}.json")
            return Finished(run, None)
        finally:
            self.at_once -= 1

    async def check_room(self, needed: int) -> None:
        del needed
        self.looked += 1
        if self.full is not None:
            raise self.full


class Daemon:
    """A daemon of the fleet; `clock_off` is how wrong its wall clock goes, in seconds."""

    def __init__(self, fleet: Fleet, name: str, clock_off: float = 0.0) -> None:
        now = fleet.flora.now
        self.name = name
        self.may_poll = True
        self.queue = SharedQueue(fleet.store, name)
        self.accepted: list[str] = []
        self.finished: list[str] = []
        clocks = Clocks(now, lambda: now() + clock_off)
        due_queue = DueQueue(now, 2.0)
        planner = PollPlanner(due_queue, Durations(now), 2.0, now)
        self.reports = RunReports(Silent(), cast("Any", _Sink(self)), clocks.wall)
        self.breaker = CircuitBreaker(due_queue, clocks)
        self.open_runs = OpenRuns(self.queue, due_queue, planner, self.breaker, self.reports, clocks)
        self.hand_over = HandOver(self.queue, self.open_runs.put_first, fleet.most_ready)
        self.poller = Poller(
            Api(fleet.flora, name),
            self.open_runs,
            cast("Any", EmptyLibrary()),
            self.hand_over,
            PollOptions(86_400.0),
        )
        self.saver = Saver(self.queue, now)
        self.ready = ReadyRuns(cast("Any", self.saver), self.reports, lambda: 2, clocks)
        self.election = Election(self.queue, self._stands, monotonic=now)
        polling = Polling(self.open_runs, self.poller, self.hand_over, self.election)
        self.scheduler = SharedScheduler(
            self.queue, self.queue, polling, self.ready, cast("Any", self.saver), self.reports
        )

    async def _stands(self) -> bool:
        pause = self.ready.breaker.now
        return self.may_poll and (pause is None or not keeps_from_polling(pause))

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Self]:
        async with anyio.create_task_group() as group:
            group.start_soon(self.scheduler.serve)
            yield self
            group.cancel_scope.cancel()


class _Sink:
    """Notes which runs a daemon said are accepted, and finished."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon

    def accepted(self, run_ids: Iterable[str]) -> None:
        self._daemon.accepted.extend(run_ids)

    def completed(self, run: QueuedRun, outputs: int) -> None: ...
    def saved(self, run: QueuedRun, output: object) -> None: ...

    def finished(self, run: QueuedRun, sidecar: str | None, files: int, size: int) -> None:
        del sidecar, files, size
        self._daemon.finished.append(run.run_id)


class Fleet:
    """The daemons, their queue, and FLORA."""

    def __init__(self, most_ready: int = 12_000) -> None:
        self.flora = Flora()
        self.now = self.flora.now
        self.store = SharedStore(self.now)
        self.most_ready = most_ready
        self._stack = AsyncExitStack()

    async def start(self, name: str, clock_off: float = 0.0) -> Daemon:
        daemon = Daemon(self, name, clock_off)
        await self._stack.enter_async_context(daemon.serving())
        return daemon

    def add(self, *run_ids: str, at: Daemon) -> None:
        """Queue runs at a daemon, as a job file there does; FLORA is at work on them."""
        self.flora.add(*(run_id for run_id in run_ids if run_id not in self.flora.runs))
        for run_id in run_ids:
            run = QueuedRun(run_id=run_id, technique="t", queued_at=self.now(), state=RunState.RUNNING)
            self.store.rows._runs[run_id] = run
            self.store.due_at[run_id] = self.now()
            self.store.tell(RunNews(NewsKind.ADDED, run_id), but=at.name)
        at.scheduler.enqueue(run_ids)

    def states(self) -> Counter[RunState]:
        return Counter(run.state for run in self.store.rows._runs.values())

    async def all_end(self, seconds: float = 600.0) -> float:
        """Wait until no run is open; return how long that took."""
        began = self.now()
        await self.until(lambda: not any(state.open for state in self.states()), seconds)
        return self.now() - began

    async def until(self, condition: Callable[[], object], seconds: float = 600.0) -> None:
        with anyio.fail_after(seconds):
            while not condition():  # noqa: ASYNC110 - what it looks at has no event
                await anyio.sleep(0.01)


def in_fleet(work: Callable[[Fleet], Awaitable[None]], most_ready: int = 12_000) -> None:
    """Do `work` with a fleet that has no daemon yet; what it starts is stopped at the end."""

    async def main() -> None:
        fleet = Fleet(most_ready)
        async with fleet._stack:
            await work(fleet)

    virtual.run(main())
