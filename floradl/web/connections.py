"""Who is connected, and who has to go where others wait: nobody holds a place by being slow."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto

import anyio

MOST = 256
"""Connections at once. Each holds some 100 kB at most, and a descriptor."""


_LOOK_AGAIN = 0.05  # seconds


class ConnectionStage(Enum):
    """What a connection is about."""

    HEAD = auto()  # its request begins
    BODY = auto()
    QUEUED = auto()  # its request is whole, and waits for its turn
    ANSWERING = auto()
    LEAVING = auto()  # it takes its answer


PATIENCE: Mapping[ConnectionStage, float] = {
    ConnectionStage.HEAD: 1.0,
    ConnectionStage.BODY: 2.0,
    ConnectionStage.QUEUED: 1.0,
    ConnectionStage.LEAVING: 1.0,
}
"""Seconds that a stage has under pressure. What is being answered is never broken off."""


class ClientConnection:
    """One connection: its stage, and since when (seconds of the clock)."""

    __slots__ = ("_clock", "_scope", "sent_away", "since", "stage")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._scope: anyio.CancelScope | None = None
        self.stage = ConnectionStage.HEAD
        self.since = clock()
        self.sent_away = False
        """Whether it has to go; what it would begin then ends at once."""

    def enter(self, stage: ConnectionStage) -> None:
        """Go on to another stage."""
        self.stage, self.since = stage, self._clock()

    @contextmanager
    def evictable(self) -> Iterator[None]:
        """Let the block be broken off by `send_away`; `sent_away` says so afterwards."""
        with anyio.CancelScope() as scope:
            self._scope = scope
            if self.sent_away:
                scope.cancel()
            try:
                yield
            finally:
                self._scope = None

    def send_away(self) -> None:
        """End what it does now, unless it is being answered."""
        self.sent_away = True
        if self._scope is not None:
            self._scope.cancel()


def overdue(visits: Iterable[ClientConnection], now: float) -> list[ClientConnection]:
    """Return those who have had their time, the slowest first."""
    return [visit for share, visit in _by_slowness(visits, now) if share >= 1]


def slowest(visits: Iterable[ClientConnection], now: float) -> ClientConnection | None:
    """Return who goes first where no place is left; None where all have sent their request in good time."""
    for share, visit in _by_slowness(visits, now):
        if visit.stage is not ConnectionStage.QUEUED or share >= 1:
            return visit
    return None


def _by_slowness(visits: Iterable[ClientConnection], now: float) -> list[tuple[float, ClientConnection]]:
    shares = [
        ((now - visit.since) / PATIENCE[visit.stage], visit) for visit in visits if visit.stage in PATIENCE
    ]
    return sorted(shares, key=lambda pair: pair[0], reverse=True)


class ClientConnections:
    """All connections of one listener, `most` at once. `clock` gives seconds.

    Where half the places are taken there is pressure.
    """

    def __init__(self, clock: Callable[[], float], most: int = MOST) -> None:
        self._clock = clock
        self._most = most
        self._here: dict[ClientConnection, None] = {}  # in the order in which they came
        self._left = anyio.Event()

    def __len__(self) -> int:
        return len(self._here)

    async def room(self) -> None:
        """Wait while every place is taken by somebody who sent a whole request in good time."""
        while len(self._here) >= self._most and slowest(self._here, self._clock()) is None:
            with anyio.move_on_after(_LOOK_AGAIN):
                await self._left.wait()

    def admit(self) -> ClientConnection:
        """Return a new connection, and send away who is too slow for there to be others.

        The caller calls `leave`, whatever becomes of it.
        """
        if len(self._here) >= self._most // 2:
            for visit in overdue(self._here, self._clock()):
                self._send_away(visit)
        if len(self._here) >= self._most:
            self.evict()
        visit = ClientConnection(self._clock)
        self._here[visit] = None
        return visit

    def evict(self) -> bool:
        """Send the slowest away; False where there is none to send."""
        visit = slowest(self._here, self._clock())
        if visit is None:
            return False
        self._send_away(visit)
        return True

    def leave(self, visit: ClientConnection) -> None:
        """Note that a connection is over. Twice is safe."""
        self._here.pop(visit, None)
        self._left.set()
        self._left = anyio.Event()

    def _send_away(self, visit: ClientConnection) -> None:
        visit.send_away()
        self.leave(visit)
