"""One connection brings one request and takes one answer: as little HTTP as webhooks and scrapers need.

A public address may be scanned, flooded and dripped at, so everything is bounded: the head, the body, what is
sent around them, and the time for each; where others wait, the slow go before their time is over. The
protocol itself (RFC 9112) is h11's, which floradl's client needs anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from enum import Enum, auto

import anyio
import h11
from anyio import CapacityLimiter
from anyio.abc import ByteStream
from msgspec import Struct

from floradl.log import get_logger

MOST = 256
"""Connections at once. Each holds some 100 kB at most, and a descriptor."""
_LOOK_AGAIN = 0.05  # seconds
_MOST_HEAD = 16 << 10  # bytes
_MOST_BODY = 64 << 10
_MOST_RAW = 256 << 10  # with what frames it: a chunk of one byte may have an extension of thousands
_AT_ONCE = 64  # requests that are answered
_APART = 8  # of each page that has places of its own
_LINGER = 1.0  # seconds in which what comes after the answer is read, so that it arrives
_MOST_LINGERING = 1 << 20
_PIECE = 16 << 10
_FAREWELL = 0.1  # seconds in which one that is sent away may take its answer
WITHIN = 5.0
"""Seconds for a whole request, and again for its answer: who is slower is dropped."""

_log = get_logger()


class ConnectionStage(Enum):
    """What a connection waits for."""

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
        """Let the block be broken off by `send_away`; `sent_away` shows that afterwards."""
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
    """All connections of one listener, `most` at once; half of that is pressure. `clock` gives seconds."""

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
        """Return a new connection, for `leave` at its end; who is too slow for others has to go."""
        if len(self._here) >= self._most // 2:
            for visit in overdue(self._here, self._clock()):
                self._send_away(visit)
        if len(self._here) >= self._most:
            self.evict()
        visit = ClientConnection(self._clock)
        self._here[visit] = None
        return visit

    def evict(self) -> None:
        """Send the slowest away, where there is one to send."""
        if (visit := slowest(self._here, self._clock())) is not None:
            self._send_away(visit)

    def leave(self, visit: ClientConnection) -> None:
        """Record that a connection is over. Twice is safe."""
        self._here.pop(visit, None)
        self._left.set()
        self._left = anyio.Event()

    def _send_away(self, visit: ClientConnection) -> None:
        visit.send_away()
        self.leave(visit)


class HttpRequest(Struct, frozen=True):
    """A request. `path` is without its query, `headers` have lower-case names, several of one name joined."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


class HttpResponse(Struct, frozen=True):
    """An answer; `headers` beside those that every answer has."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}

    @classmethod
    def of_text(cls, status: int, text: str) -> HttpResponse:
        """Make an answer of one line of text."""
        return cls(status, f"{text}\n".encode())


Page = Callable[[HttpRequest], Awaitable[HttpResponse]]
"""What answers a request."""


class Site:
    """Pages by method and path; those `apart` are answered however many wait for the others."""

    def __init__(self, pages: Mapping[tuple[str, str], Page], *, apart: Collection[str] = ()) -> None:
        self._pages = dict(pages)
        self._places = CapacityLimiter(_AT_ONCE)
        self._apart = {path: CapacityLimiter(_APART) for path in apart}

    def places(self, request: HttpRequest) -> CapacityLimiter:
        """Return what is to be entered before this request is answered."""
        return self._apart.get(request.path, self._places)

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer with the page that is requested, 404 or 405; what goes wrong in one is 500."""
        method = "GET" if request.method == "HEAD" else request.method
        if (page := self._pages.get((method, request.path))) is not None:
            try:
                return await page(request)
            except Exception:  # noqa: BLE001 - a bug of ours in one answer must not end the listening
                _log.exception("bug", path=request.path)
                return HttpResponse.of_text(500, "a bug: see floradl's log")
        allowed = sorted({method for method, path in self._pages if path == request.path})
        if allowed:
            return HttpResponse(405, b"", headers={"Allow": ", ".join(allowed)})
        return HttpResponse.of_text(404, "nothing is here")


class _RefusedError(Exception):
    """The request is not read any further."""

    def __init__(self, answer: HttpResponse) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def converse(stream: ByteStream, site: Site, visit: ClientConnection, within: float = WITHIN) -> None:
    """Read one request within so many seconds, answer it, and close. Never raises for the other side."""
    async with stream:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            await _converse(stream, site, visit, within)


async def _converse(stream: ByteStream, site: Site, visit: ClientConnection, within: float) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
    answer, head_only = HttpResponse.of_text(503, "others wait: try again"), False
    with visit.evictable():
        try:
            with anyio.fail_after(within):
                request = await _read(connection, stream, visit)
        except TimeoutError:
            answer = HttpResponse.of_text(408, f"the request did not come within {within:g} s")
        except h11.RemoteProtocolError as error:
            answer = HttpResponse.of_text(error.error_status_hint, "this is not an HTTP request")
        except _RefusedError as error:
            answer = error.answer
        else:
            answer, head_only = await _answered(site, request, visit), request.method == "HEAD"
    visit.enter(ConnectionStage.LEAVING)
    if visit.sent_away:
        await _send(stream, _written(connection, answer, head_only=head_only), _FAREWELL)
        return
    with visit.evictable():
        await _send(stream, _written(connection, answer, head_only=head_only), within)
        await _linger(stream)


async def _answered(site: Site, request: HttpRequest, visit: ClientConnection) -> HttpResponse:
    # Being answered it cannot be sent away.
    visit.enter(ConnectionStage.QUEUED)
    async with site.places(request):
        visit.enter(ConnectionStage.ANSWERING)
        return await site(request)


async def _read(connection: h11.Connection, stream: ByteStream, visit: ClientConnection) -> HttpRequest:
    head: h11.Request | None = None
    body = bytearray()
    taken = 0
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send(
                    connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            data = await stream.receive(_PIECE)  # `EndOfStream`: they went
            taken += len(data)
            if taken > _MOST_RAW:
                raise _RefusedError(_too_large())
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
            visit.enter(ConnectionStage.BODY)
            announced = next((int(value) for name, value in event.headers if name == b"content-length"), 0)
            if announced > _MOST_BODY:
                raise _RefusedError(_too_large())
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MOST_BODY:
                raise _RefusedError(_too_large())
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            raise anyio.EndOfStream


def _too_large() -> HttpResponse:
    return HttpResponse.of_text(413, f"a body has {_MOST_BODY >> 10} KiB at most")


def _request(head: h11.Request, body: bytes) -> HttpRequest:
    headers: dict[str, str] = {}
    for raw, value in head.headers:
        name, text = raw.decode("ascii"), value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    path = head.target.decode("ascii").partition("?")[0]
    return HttpRequest(head.method.decode("ascii"), path, headers, body)


def _written(connection: h11.Connection, answer: HttpResponse, *, head_only: bool = False) -> bytes:
    headers = [
        (b"Server", b"floradl"),
        (b"Content-Type", answer.content_type.encode()),
        (b"Content-Length", b"%d" % len(answer.body)),
        (b"Connection", b"close"),
        *((name.encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=answer.body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")


async def _send(stream: ByteStream, data: bytes, within: float) -> None:
    with anyio.move_on_after(within):
        await stream.send(data)
        await stream.send_eof()


async def _linger(stream: ByteStream) -> None:
    # A socket that is closed on unread bytes resets, and the answer is lost (RFC 9112 section 9.6).
    left = _MOST_LINGERING
    with anyio.move_on_after(_LINGER):
        while left > 0:
            left -= len(await stream.receive(_PIECE))
