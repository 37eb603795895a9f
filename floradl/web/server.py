"""Holds one address of this machine, as soon as it can be had and for as long as floradl works.

A port that is taken, or an address that this machine does not have yet, costs no download: it is said once
and tried again.
"""

from __future__ import annotations

import errno
import math
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum, auto

import anyio
import structlog
from anyio.abc import SocketAttribute, SocketListener, SocketStream, TaskGroup

from floradl.net.listen_address import Endpoint
from floradl.web.http import WITHIN, Site, converse

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
        """Let the block be broken off by `send_away`; `sent_away` tells afterwards."""
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


_AGAIN = 5.0  # seconds
_ACCEPT_AGAIN = 0.1
_TOLD_EVERY = 60.0
_BUFFER = 64 << 10  # bytes that the system takes in for a connection: what we hold of it is as little
_STARVED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# What accept(2) says of the connection that it would have given, not of the socket that listens (accept(2) of
# Linux man-pages 6.03, "Error handling").
_THEIRS = frozenset(
    {
        errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH,
        errno.ENONET, errno.ENOPROTOOPT, errno.EOPNOTSUPP, errno.EPERM, errno.EPROTO, errno.ETIMEDOUT,
    }
)  # fmt: skip
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class WebServer:
    """Answers at `endpoint` with the pages of `site`.

    A port that cannot be had is tried again each `again` seconds. A request has `within` seconds to come, and
    less where half of the `most` connections are here.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        site: Site,
        *,
        again: float = _AGAIN,
        within: float = WITHIN,
        most: int = MOST,
    ) -> None:
        self._endpoint = endpoint
        self._site = site
        self._again = again
        self._within = within
        self._visits = ClientConnections(time.monotonic, most)
        self._starved_at = -math.inf
        self.trouble: str | None = None
        """Why nobody can be answered now."""

    async def serve(self) -> None:
        """Listen for ever. Raises nothing."""
        while True:
            try:
                await self._listen()
            except* OSError as group:
                self._note(explained(self._endpoint, _first(group)))
            except* Exception:  # noqa: BLE001 - a bug of ours here must not end the downloads
                _log.exception("bug", address=str(self._endpoint))
            await anyio.sleep(self._again)

    async def _listen(self) -> None:
        listener = await anyio.create_tcp_listener(
            local_host=self._endpoint.host, local_port=self._endpoint.port
        )
        async with listener, anyio.create_task_group() as group:
            self._note(None)
            _log.info("listening", address=str(self._endpoint))
            for each in listener.listeners:
                if isinstance(each, SocketListener):
                    group.start_soon(self._accept, each, group)

    async def _accept(self, listener: SocketListener, group: TaskGroup) -> None:
        raw = listener.extra(SocketAttribute.raw_socket)  # noqa: S610 - anyio's, not Django's
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
        while True:
            await anyio.wait_readable(raw)  # without descriptors Linux refuses even where nobody connects
            await self._visits.room()  # before: what is accepted is read, whoever asks for it
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _STARVED | _THEIRS:
                    raise
                await self._missed(error)
            else:
                group.start_soon(self._answer, stream, self._visits.admit())

    async def _missed(self, error: OSError) -> None:
        """Wait a moment after a connection that could not be had; where descriptors are scarce, free one."""
        if error.errno in _STARVED:
            self._visits.evict()
            if time.monotonic() - self._starved_at >= _TOLD_EVERY:
                self._starved_at = time.monotonic()
                message = explained(self._endpoint, error)
                _log.error("accept_failed", address=str(self._endpoint), message=message)
        await anyio.sleep(_ACCEPT_AGAIN)

    async def _answer(self, stream: SocketStream, visit: ClientConnection) -> None:
        try:
            await converse(stream, self._site, visit, self._within)
        finally:
            self._visits.leave(visit)

    def _note(self, message: str | None) -> None:
        if message is not None and message != self.trouble:
            _log.error("not_listening", address=str(self._endpoint), message=message)
        self.trouble = message


def explained(endpoint: Endpoint, error: OSError) -> str:
    """Say why nobody can listen at `endpoint`, and what to do."""
    match error.errno:
        case errno.EADDRINUSE:
            remedy = "another program has it: end that, or name another port"
        case errno.EADDRNOTAVAIL:
            remedy = "this machine has no such address: name one that it has, or 0.0.0.0 for all"
        case errno.EACCES | errno.EPERM:
            remedy = "ports below 1024 are not for every user: name a higher one"
        case errno.EMFILE | errno.ENFILE:
            remedy = (
                "those who connect wait until some are free; LimitNOFILE of a unit, or ulimit -n, allows more"
            )
        case _ if isinstance(error, socket.gaierror):
            remedy = "name an address of this machine"
        case _:
            remedy = "see to it, or name another address"
    said = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    return f"{endpoint} cannot be listened at ({said}): {remedy}"


def _first(group: BaseExceptionGroup[OSError]) -> OSError:
    first: BaseException = group
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, OSError) else OSError(str(first))
