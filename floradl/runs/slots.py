"""How many runs are saved at once, so that large ones keep nobody else waiting.

Sizes are not known before, but kinds are: runs with a video, a sound or a file of unknown type have slots of
their own, those with pictures and documents alone have others, and so have those with nothing to download.
Finished runs wait for a slot with their answers, up to a bound; beyond it they are polled again later.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import Enum, auto
from functools import partial
from threading import Lock
from typing import TypeAlias

import anyio
from anyio import CapacityLimiter

from floradl.errors import FloradlError
from floradl.models import FinishedRun, OutputKind, RemoteOutput
from floradl.polling.circuit_breaker import CircuitBreaker


class HostBackoffError(FloradlError):
    """The host wants to be left alone just now: wait, and start again."""


class HostBackoff:
    """Until when each host is left alone (`Retry-After`, RFC 9110, 10.2.3). `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._lock = Lock()
        self._until: dict[str, float] = {}

    def ask_for(self, host: str, seconds: float) -> None:
        """Leave `host` alone for so many seconds; a shorter wish does not shorten a longer one.

        May be called from any thread.
        """
        now = self._monotonic()
        with self._lock:
            until = max(self._until.get(host, 0.0), now + seconds)
            self._until = {name: end for name, end in self._until.items() if end > now} | {host: until}

    def hosts(self) -> dict[str, float]:
        """Return until when each host asked to be left alone (monotonic seconds), past moments too."""
        return dict(self._until)

    def check(self, host: str) -> None:
        """Raise `HostBackoffError` where `host` is to be left alone. May be called from any thread."""
        if self._left(host) > 0:
            raise HostBackoffError(f"the media host {host} asked for {self._left(host):.0f} s of silence")

    def asked_for(self, host: str) -> bool:
        """Whether `host` is to be left alone now."""
        return self._left(host) > 0

    async def over(self, host: str) -> None:
        """Wait until `host` may be asked; it may have asked for more meanwhile."""
        seconds = self._left(host)
        while seconds > 0:
            await anyio.sleep(seconds)
            seconds = self._left(host)

    def _left(self, host: str) -> float:
        return self._until.get(host, 0.0) - self._monotonic()


class TransferSlots:
    """How many transfers are under way at once, whoever makes them: threads and tasks share it.

    `on_free` is called when a task gave one back, and nobody waits for it.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.on_free: Callable[[], None] = lambda: None
        self._used = 0
        self._lock = Lock()
        self._waiting: deque[asyncio.Future[None]] = deque()

    def change(self, total: int) -> None:
        """Allow so many from now on; those under way go on."""
        with self._lock:
            self.total = total
            granted = self._grant()
        _wake(granted)
        self.on_free()

    def take_now(self) -> bool:
        """Take one, if one is free and no task waits for it. May be called from any thread."""
        with self._lock:
            if self._used >= self.total or self._waiting:
                return False
            self._used += 1
            return True

    def release(self) -> None:
        """Give one back; the task that waits longest gets it. May be called from any thread."""
        with self._lock:
            self._used -= 1
            granted = self._grant()
        _wake(granted)

    async def __aenter__(self) -> None:
        if self.take_now():
            return
        future = asyncio.get_running_loop().create_future()
        with self._lock:
            self._waiting.append(future)
            granted = self._grant()
        _wake(granted)
        try:
            await future
        except asyncio.CancelledError:
            with self._lock:
                waits = future in self._waiting
                if waits:
                    self._waiting.remove(future)
            if not waits:  # it was granted meanwhile
                await self.__aexit__()
            raise

    async def __aexit__(self, *exc_info: object) -> None:
        self.release()
        self.on_free()

    def _grant(self) -> list[asyncio.Future[None]]:
        """Take for those who wait what is free; holds the lock."""
        granted = []
        while self._waiting and self._used < self.total:
            self._used += 1
            granted.append(self._waiting.popleft())
        return granted


def _wake(granted: list[asyncio.Future[None]]) -> None:
    for future in granted:
        future.get_loop().call_soon_threadsafe(_set, future)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Load(Enum):
    """What a run has to download."""

    NOTHING = auto()
    SMALL = auto()
    LARGE = auto()


# Many more than downloads at once: some wait for a host, others publish.
_SLOTS: Mapping[Load, int] = {Load.NOTHING: 256, Load.SMALL: 512, Load.LARGE: 256}
_WAITING = 4000  # finished runs of each load that wait with their answers: some kilobytes each

Work: TypeAlias = Callable[[FinishedRun], Awaitable[None]]


def load_of(outputs: Iterable[RemoteOutput]) -> Load:
    """Return what there is to download; a text counts as words, although a few are links to words."""
    kinds = {output.kind for output in outputs}
    if any(kind.is_large for kind in kinds):
        return Load.LARGE
    return Load.SMALL if kinds - {OutputKind.TEXT} else Load.NOTHING


class _Lane:
    """The finished runs of one load: those that wait, and how many are at work."""

    def __init__(self, slots: int, waiting: int) -> None:
        self._most = waiting
        self.send, self.receive = anyio.create_memory_object_stream[FinishedRun](waiting)
        self.slots = CapacityLimiter(slots)
        self._turned_away: deque[str] = deque()
        self._full = False

    @property
    def room(self) -> bool:
        """Whether there is some; after it was full, only once half of it is free."""
        self._full = self._used > self._most // 2 if self._full else self._used >= self._most
        return not self._full

    @property
    def _used(self) -> int:
        return self.send.statistics().current_buffer_used

    def offer(self, finished: FinishedRun) -> None:
        try:
            self.send.send_nowait(finished)
        except anyio.WouldBlock:
            self._turned_away.append(finished.run.run_id)

    def take_turned_away(self) -> list[str]:
        """Take those that there is room for by now."""
        if not self._turned_away or self._used > self._most // 2:
            return []
        count = min(self._most // 2, len(self._turned_away)) if self._used else len(self._turned_away)
        return [self._turned_away.popleft() for _ in range(count)]


class DownloadSlots:
    """Takes finished runs, and starts the work on as many of each load as there are `slots` for.

    `waiting` finished runs of each load are kept meanwhile. Those that there is no room for are handed to
    `poll_again` once there is. In a pause nothing starts.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        poll_again: Callable[[Iterable[str]], None],
        slots: Mapping[Load, int] = _SLOTS,
        waiting: int = _WAITING,
    ) -> None:
        self._breaker = breaker
        self._poll_again = poll_again
        self._lanes = {load: _Lane(count, waiting) for load, count in slots.items()}

    @property
    def room(self) -> bool:
        """Whether a finished run of any load is taken."""
        return all(lane.room for lane in self._lanes.values())

    def offer(self, finished: FinishedRun) -> None:
        """Take a finished run, or have it polled again once there is room."""
        self._lanes[load_of(finished.answer.outputs if finished.answer else ())].offer(finished)

    def close(self) -> None:
        """Drop what waits."""
        for lane in self._lanes.values():
            lane.send.close()
            lane.receive.close()

    async def serve(self, work: Work) -> None:
        """Work on what is offered, for ever: the runs of each load in their order."""
        async with anyio.create_task_group() as group:
            for lane in self._lanes.values():
                group.start_soon(self._serve, lane, work)

    async def _serve(self, lane: _Lane, work: Work) -> None:
        async with anyio.create_task_group() as group:
            while True:
                finished = await lane.receive.receive()
                if turned_away := lane.take_turned_away():
                    self._poll_again(turned_away)
                slot = object()
                await lane.slots.acquire_on_behalf_of(slot)
                await self._breaker.passes()
                group.start_soon(_work_on, partial(lane.slots.release_on_behalf_of, slot), work, finished)


async def _work_on(release: Callable[[], None], work: Work, finished: FinishedRun) -> None:
    try:
        await work(finished)
    finally:
        release()
