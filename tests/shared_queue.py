"""A queue in dictionaries that several daemons of one process share, and what may happen to it."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

import anyio
from anyio.lowlevel import checkpoint
from memory_queue import MemoryHookOutbox, MemoryQueue
from msgspec import Struct

from floradl.errors import LeaseLostError, PauseReason, QueueUnavailableError
from floradl.models import Action, FinishedRun, LeftFile, QueuedRun, RunRequest, SavedOutput
from floradl.queue.base import DeliveryRecord, LateCost
from floradl.queue.heartbeat import Snapshot
from floradl.queue.sharing import (
    POLLER_LEASE,
    RUN_LEASE,
    DaemonState,
    NewsKind,
    Room,
    RunNews,
    RunSharing,
    SaveRun,
    has_large,
)
from floradl.wakeups import Signal, next_tick

_LOOK_EVERY = 0.02  # seconds; an engine that is a service notifies


class Lease(Struct):
    owner: str
    fence: int
    until: float


class SharedStore:
    """What the daemons share. `clock` is the queue's own, in seconds; `run_lease` is in seconds."""

    def __init__(self, clock: Callable[[], float], run_lease: float = RUN_LEASE) -> None:
        self.clock = clock
        self.run_lease = run_lease
        self.rows = MemoryQueue()
        self.ready: dict[str, FinishedRun] = {}
        self.leases: dict[str, Lease] = {}
        self.fences: dict[str, int] = {}
        self.due_at: dict[str, float] = {}
        self.poller: tuple[str, float] | None = None
        self.states: dict[str, DaemonState] = {}
        self.members: dict[str, SharedQueue] = {}
        self.owners: dict[int, str] = {}
        self.last_event = 0
        self.saves: list[tuple[str, str]] = []
        """Which daemon leased which run, in order."""
        self.noted = 0
        """How many times of next polls were recorded."""

    def tell(self, news: RunNews, but: str | None = None) -> None:
        for name, member in self.members.items():
            if name != but:
                member.hear(news)

    def leased(self, run_id: str) -> Lease | None:
        lease = self.leases.get(run_id)
        return lease if lease is not None and lease.until > self.clock() else None


class SharedQueue(MemoryQueue, RunSharing):
    """One daemon's connection to the store; while it is `cut` every call fails, and no news comes."""

    def __init__(self, store: SharedStore, name: str) -> None:
        super().__init__()
        self.store = store
        self.name = name
        self.cut = False
        self.stopped = False
        """The process does not run: nothing is renewed, and nothing fails."""
        self.deaf = False
        """News are lost on their way here."""
        self._heard: deque[RunNews | None] = deque([None])
        self._wake = Signal()
        self.fence_of: dict[str, int] = {}
        shared = store.rows
        for attribute, value in vars(shared).items():
            if isinstance(value, dict):
                setattr(self, attribute, value)
        self._outbox = _Outbox(self, shared._outbox)
        store.members[name] = self

    @property
    def sharing(self) -> RunSharing:
        return self

    async def is_filled(self) -> bool:
        return True

    async def lead_filling(self) -> bool:
        return False

    async def note_filled(self) -> None: ...

    async def _reach(self) -> None:
        await checkpoint()
        while self.stopped:
            await next_tick(_LOOK_EVERY)
        if self.cut:
            raise QueueUnavailableError("the queue is away", PauseReason.QUEUE_UNAVAILABLE)

    def mend(self) -> None:
        """Connect again: what happened meanwhile was missed."""
        self.cut = False
        self.hear(None)

    def hear(self, news: RunNews | None) -> None:
        """Let news come here."""
        if not self.cut and not self.deaf:
            self._heard.append(news)
            self._wake.set()

    # The runs

    def _submit(self, requests: Sequence[RunRequest], now: float, *, retry_failed: bool) -> list[str]:
        waiting = super()._submit(requests, now, retry_failed=retry_failed)
        for request in requests:
            run_id = request.reference.run_id
            if request.action is Action.FORGET:
                self.store.ready.pop(run_id, None)
                self.store.tell(RunNews(NewsKind.GONE, run_id), but=self.name)
        for run_id in waiting:
            self.store.due_at[run_id] = self.store.clock()
            self.store.tell(RunNews(NewsKind.ADDED, run_id), but=self.name)
        return waiting

    async def submit(
        self,
        requests: Sequence[RunRequest],
        now: float,
        *,
        retry_failed: bool,
        files: Iterable[LeftFile] = (),
    ) -> list[str]:
        await self._reach()
        return await super().submit(requests, now, retry_failed=retry_failed, files=files)

    async def note_delivery(
        self, delivery_id: str, request: RunRequest, now: float, *, known_only: bool, retry_failed: bool
    ) -> DeliveryRecord:
        await self._reach()
        return await super().note_delivery(
            delivery_id, request, now, known_only=known_only, retry_failed=retry_failed
        )

    async def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:
        await self._reach()
        return await super().reopen(run_ids, now)

    async def get(self, run_id: str) -> QueuedRun | None:
        await self._reach()
        return await super().get(run_id)

    async def open_ids(self) -> list[str]:
        await self._reach()
        return await super().open_ids()

    def _check(self, run_id: str) -> None:
        fence = self.fence_of.get(run_id)
        if fence is not None and self.store.fences[run_id] != fence:
            raise LeaseLostError(f"another daemon has {run_id}")

    async def begin_download(
        self, run_id: str, now: float
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        await self._reach()
        self._check(run_id)
        return await super().begin_download(run_id, now)

    async def save_outputs(self, run_id: str, outputs: Mapping[str, SavedOutput]) -> None:
        await self._reach()
        self._check(run_id)
        await super().save_outputs(run_id, outputs)

    async def update(self, run: QueuedRun, now: float) -> None:
        await self._reach()
        self._check(run.run_id)
        known = self._runs.get(run.run_id)
        elsewhere = run.run_id in self.store.ready or self.store.leased(run.run_id) is not None
        if run.run_id in self.fence_of or (not elsewhere and known is not None and known.state.open):
            await super().update(run, now)

    async def finish(
        self, run: QueuedRun, now: float, sidecar: str | None, late: LateCost | None = None
    ) -> None:
        await self._reach()
        self._check(run.run_id)
        await super().finish(run, now, sidecar, late)

    # Sharing

    async def elect(self) -> bool:
        await self._reach()
        now = self.store.clock()
        if self.store.poller is None or self.store.poller[1] <= now or self.store.poller[0] == self.name:
            self.store.poller = self.name, now + POLLER_LEASE
        return self.store.poller[0] == self.name

    async def resign(self) -> None:
        await self._reach()
        if self.store.poller is not None and self.store.poller[0] == self.name:
            self.store.poller = None
            self.store.tell(RunNews(NewsKind.VACANT, ""), but=self.name)

    async def count_open(self) -> int:
        return len(await self.open_ids())

    async def due(self) -> list[tuple[str, float]]:
        return [
            (run_id, max(self.store.due_at.get(run_id, 0.0) - self.store.clock(), 0.0))
            for run_id in await self.open_ids()
            if run_id not in self.store.ready and self.store.leased(run_id) is None
        ]

    async def note_due(self, due: Mapping[str, float]) -> None:
        await self._reach()
        self.store.noted += len(due)
        now = self.store.clock()
        self.store.due_at.update({run_id: now + seconds for run_id, seconds in due.items()})

    async def hand_over(self, finished: Sequence[FinishedRun]) -> int:
        await self._reach()
        for each in finished:
            run_id = each.run.run_id
            if self._runs[run_id].state.open and run_id not in self.store.leases:
                self.store.ready.setdefault(run_id, each)
        return len(self.store.ready.keys() - self.store.leases.keys())

    async def serve_ready(self, save: SaveRun, room: Callable[[], Room]) -> None:
        mine: set[str] = set()
        async with anyio.create_task_group() as group:
            try:
                while True:
                    await anyio.sleep(_LOOK_EVERY)
                    if self.cut or self.stopped:
                        continue
                    free = {True: room().large, False: room().other}
                    for run_id, each in list(self.store.ready.items()):
                        large = has_large(each)
                        if free[large] > 0 and self.store.leased(run_id) is None and run_id not in mine:
                            free[large] -= 1
                            mine.add(run_id)
                            self._lease(run_id)
                            group.start_soon(self._save, run_id, each, save, mine)
            finally:
                for run_id in mine:
                    if not self.cut and self._owns(run_id):
                        del self.store.leases[run_id]

    def _lease(self, run_id: str) -> None:
        fence = self.store.fences[run_id] = self.store.fences.get(run_id, 0) + 1
        self.fence_of[run_id] = fence
        self.store.leases[run_id] = Lease(self.name, fence, self.store.clock() + self.store.run_lease)
        self.store.saves.append((self.name, run_id))

    def _owns(self, run_id: str) -> bool:
        lease = self.store.leases.get(run_id)
        return lease is not None and lease.fence == self.fence_of.get(run_id)

    async def _save(self, run_id: str, finished: FinishedRun, save: SaveRun, mine: set[str]) -> None:
        released = None
        until = self.store.clock() + self.store.run_lease

        async def renew() -> None:
            nonlocal until
            while self.store.clock() < until:
                await anyio.sleep(self.store.run_lease / 3)
                if self.cut or self.stopped:
                    continue
                if not self._owns(run_id):
                    break
                until = self.store.leases[run_id].until = self.store.clock() + self.store.run_lease
            group.cancel_scope.cancel()

        try:
            async with anyio.create_task_group() as group:
                group.start_soon(renew)
                with suppress(LeaseLostError):
                    released = await save(finished)
                group.cancel_scope.cancel()
        finally:
            mine.discard(run_id)
            owned = self._owns(run_id)
            self.fence_of.pop(run_id, None)
        if released is None or not owned or self.cut:
            return
        del self.store.leases[run_id]
        if released.ended or released.poll_in is not None:
            self.store.ready.pop(run_id, None)
        if released.ended:
            self.store.tell(RunNews(NewsKind.GONE, run_id))
        elif released.poll_in is not None:
            self.store.due_at[run_id] = self.store.clock() + released.poll_in
            self.store.tell(RunNews(NewsKind.RETURNED, run_id, released.poll_in))

    async def news(self) -> AsyncIterator[RunNews | None]:
        while True:
            while self._heard:
                yield self._heard.popleft()
            await self._wake.wait()

    async def poll_now(self, run_id: str) -> None:
        await self._reach()
        self.store.tell(RunNews(NewsKind.POLL_NOW, run_id), but=self.name)

    async def beat(self, snapshot: Snapshot, *, polls: bool) -> None:
        await self._reach()
        now = self.store.clock()
        self.store.states[self.name] = DaemonState(self.name, snapshot.version, now, polls, snapshot)

    async def daemons(self) -> list[DaemonState]:
        await self._reach()
        now = self.store.clock()
        return [state for _, state in sorted(self.store.states.items()) if state.seen_at > now - 60]

    async def adopt_events(self) -> list[int]:
        await self._reach()
        seen = {state.name for state in await self.daemons()} | {self.name}
        found = [number for number, owner in self.store.owners.items() if owner not in seen]
        self.store.owners.update(dict.fromkeys(found, self.name))
        return sorted(found)


class _Outbox(MemoryHookOutbox):
    """The events of the runs that one daemon finished, or adopted."""

    def __init__(self, queue: SharedQueue, shared: MemoryHookOutbox) -> None:
        super().__init__(queue._runs, queue._closed)
        self._queue = queue
        self._events, self._given_up, self._pauses = shared._events, shared._given_up, shared._pauses

    def add(self, run_id: str, sidecar: str | None) -> None:
        self._last = self._queue.store.last_event
        super().add(run_id, sidecar)
        if self._last > self._queue.store.last_event:
            self._queue.store.last_event = self._last
            self._queue.store.owners[self._last] = self._queue.name

    async def expect(self, *, finished: bool) -> None:
        await checkpoint()
        self._expected = finished

    async def after(self, number: int) -> list[int]:
        owners = self._queue.store.owners
        return [each for each in await super().after(number) if owners.get(each) == self._queue.name]
