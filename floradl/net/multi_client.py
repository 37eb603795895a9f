"""Many small GETs at once, in one thread: non-blocking sockets under one selector.

A thread for each request spends most of its time on waking up. This client reads plain answers alone: a 200
with a `Content-Length` and nothing around its bytes, whole, into memory; and of a refusal its head. All else
(a redirect, chunks, a coding, a proxy, a large body) raises `NotPlainError`, and is for `MediaClient`, which
reads all of HTTP. Policy, connections and TLS are the same for both.
"""

from __future__ import annotations

import re
import selectors
import socket
import ssl
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock, Thread
from typing import Final, Protocol, TypeAlias

import httpcore
import httpx
from msgspec import Struct

from floradl.net.errors import map_errors
from floradl.net.http11 import Connection, Timeouts, host_of
from floradl.net.pool import PoolLimits
from floradl.net.socket_stream import MIN_RATE
from floradl.net.url_policy import port_of

_MOST_HEAD: Final = 64 << 10  # bytes
_MOST_BODY: Final = 8 << 20  # bytes; a larger one is not held in memory
_MOST_HELD: Final = 24 << 20  # bytes of bodies in memory at once
_MOST_DONE: Final = 48  # answers that nobody has taken care of yet
_DIALERS: Final = 8  # threads that connect
_TICK: Final = 0.25  # seconds between two looks at who is silent
_REPORT_EVERY: Final = 1.0  # seconds
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: [^\r\n\0]*)?\r\n")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*\r\n")
_TARGET: Final = re.compile(rb"[!-~]+")
_MOST_UNPLAIN: Final = 1000  # sites

_Site: TypeAlias = tuple[str, str, int]  # scheme, host, port


class NotPlainError(Exception):
    """The answer is one that this client does not read, or the request one that it does not send."""


class Transport(Protocol):
    """What is shared with `MediaClient`: see `HttpTransport`."""

    def check(self, url: httpx.URL) -> None: ...

    def proxy_of(self, url: httpx.URL) -> str | None: ...

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection: ...


class TransferTokens(Protocol):
    """Permission to transfer, shared with whatever else does. Both may be called from any thread."""

    def take_now(self) -> bool:
        """Take one, if one is free and nobody waits for it."""
        ...

    def release(self) -> None:
        """Give one back."""
        ...


class SmallAnswer(Struct, frozen=True):
    """An answer as `httpx.Response` has it, with as much of its body as came before `error`."""

    status_code: int
    headers: httpx.Headers
    url: httpx.URL
    body: bytes | bytearray | memoryview
    error: httpx.TransportError | None = None


class SmallRequest(Struct, frozen=True):
    """What to ask for, and whom to call about it, each from the client's thread.

    `begin` is called right before it is sent, and may raise to prevent it. `progress` gets an answer
    that takes long, as far as it came, and its length, each second: its body is to be read at once. `done` gets the answer, or why there is none: what `begin` raised, `NotPlainError`,
    `PermanentError` for what the URL policy refuses, `httpx.TransportError`. Who has taken care of an answer
    calls `MultiClient.taken`.
    """

    url: httpx.URL
    fields: Mapping[str, str]
    begin: Callable[[], None]
    progress: Callable[[SmallAnswer, int], None]
    done: Callable[[SmallAnswer | Exception], None]


class _Open:
    """A connection, and the exchange on it."""

    __slots__ = (
        "arrived",
        "at",
        "body",
        "connection",
        "has_served",
        "head",
        "headers",
        "idle_since",
        "keep",
        "reported",
        "request",
        "site",
        "sock",
        "status",
        "unsent",
        "waiting_since",
        "window",
    )

    def __init__(self, connection: Connection, sock: socket.socket, site: _Site) -> None:
        self.connection = connection
        self.sock = sock
        self.site = site
        self.has_served = False
        self.idle_since = 0.0
        self.unsent = b""

    def begin(self, request: SmallRequest, now: float) -> None:
        self.request: SmallRequest | None = request
        self.head = bytearray()
        self.headers: httpx.Headers | None = None
        self.body: bytearray | None = None
        self.status = self.at = self.arrived = 0
        self.keep = True
        self.window = self.waiting_since = self.reported = now


class MultiClient:
    """Sends `SmallRequest`s over connections of `transport`, as many at once as `tokens` allow.

    Its thread starts with the first request. `fields` go with each. Close it.
    """

    def __init__(
        self,
        transport: Transport,
        fields: Mapping[str, str],
        limits: PoolLimits,
        tokens: TransferTokens,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._fields = fields
        self._timeouts = Timeouts(limits.connect, limits.read, limits.read, None)
        self._silence = limits.read
        self._keep_idle = limits.idle
        self._most_idle = limits.connections
        self._tokens = tokens
        self._monotonic = monotonic
        self._lock = Lock()  # of what other threads touch: the next five
        self._incoming: deque[SmallRequest] = deque()
        self._dialed: deque[tuple[SmallRequest, _Open | Exception]] = deque()
        self._thread: Thread | None = None
        self._asleep = False
        self._poked = False
        self._stopped = False
        self._unplain: set[_Site] = set()
        self._waiting: deque[SmallRequest] = deque()
        self._parked: deque[_Open] = deque()
        self._active: set[_Open] = set()
        self._idle: list[_Open] = []
        self._dialing = 0
        self._taken: deque[int] = deque()
        self._done = 0  # answers not taken care of
        self._held = 0  # bytes in memory
        self._drop_idle = False
        self._dialers = ThreadPoolExecutor(_DIALERS, "floradl-connect")
        self._buffer = memoryview(bytearray(_MOST_HEAD))
        self._ticked = 0.0

    def reads(self, url: httpx.URL) -> bool:
        """Whether `url` may have a plain answer, as far as is known. Raises `PermanentError` as `check` does."""
        self._transport.check(url)
        site = (url.scheme, url.host, port_of(url))
        return site not in self._unplain and self._transport.proxy_of(url) is None

    def send(self, request: SmallRequest) -> None:
        """Send `request` when its turn comes. May be called from any thread."""
        with self._lock:
            if not self._stopped:
                self._incoming.append(request)
                if self._thread is None:
                    self._wake_here, self._woken_there = socket.socketpair()
                    self._wake_here.setblocking(False)
                    self._woken_there.setblocking(False)
                    self._thread = Thread(target=self._run, name="floradl-small", daemon=True)
                    self._thread.start()
                self._wake()
                return
        request.done(_stopped())

    def taken(self, answer: SmallAnswer) -> None:
        """Note that the body of `answer` needs no memory any more. May be called from any thread."""
        with self._lock:
            self._taken.append(len(answer.body))
            self._wake()

    def wake(self) -> None:
        """Note that a token may be free. May be called from any thread."""
        with self._lock:
            self._poked = True
            self._wake()

    def change(self, connections: int) -> None:
        """Keep so many connections from now on, and none that was made before."""
        with self._lock:
            self._most_idle = connections
            self._drop_idle = True
            self._wake()

    def close(self) -> None:
        """End all requests, and wait for their ends to be reported. Safe to repeat."""
        with self._lock:
            self._stopped = True
            self._wake()
            thread = self._thread
        if thread is not None:
            thread.join()
        self._dialers.shutdown(wait=False, cancel_futures=True)

    def _wake(self) -> None:
        """Wake the thread; holds the lock."""
        if self._asleep:
            self._asleep = False
            with suppress(BlockingIOError):
                self._wake_here.send(b"\0")

    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector:
            self._selector.register(self._woken_there, selectors.EVENT_READ, None)
            try:
                while not self._stopped:
                    self._take_in()
                    self._start()
                    for key, _ in self._selector.select(self._pause()):
                        if isinstance(key.data, _Open):
                            self._advance(key.data)
                        else:
                            with suppress(BlockingIOError):
                                self._woken_there.recv(4096)
                    self._asleep = False
                    self._tick()
            finally:
                self._end()

    def _pause(self) -> float | None:
        """Return how long to sleep, once it was noted that the thread does."""
        with self._lock:
            if self._incoming or self._dialed or self._taken or self._poked or self._stopped:
                return 0.0
            self._asleep = True
        if self._active or self._dialing:
            return _TICK
        return self._keep_idle if self._idle else None

    def _take_in(self) -> None:
        with self._lock:
            self._waiting.extend(self._incoming)
            self._incoming.clear()
            dialed, self._dialed = self._dialed, deque()
            taken, self._taken = self._taken, deque()
            drop_idle, self._drop_idle = self._drop_idle, False
            self._poked = False
        self._done -= len(taken)
        self._held -= sum(taken)
        if drop_idle:
            self._close_idle(lambda _: True)
        for request, opened in dialed:
            self._dialing -= 1
            if isinstance(opened, Exception):
                self._finish(request, opened)
            else:
                self._selector.register(opened.sock, selectors.EVENT_READ, opened)
                self._begin(opened, request)
        while self._parked and self._has_room(self._parked[0]):
            opened = self._parked.popleft()
            opened.window = opened.waiting_since = self._monotonic()
            opened.arrived = 0
            self._selector.register(opened.sock, selectors.EVENT_READ, opened)
            self._take_body(opened)
            if opened.body is not None:
                self._advance(opened)  # TLS may hold some of it, of which the selector knows nothing

    def _start(self) -> None:
        """Send what waits, as far as tokens and memory go."""
        while self._waiting and self._done < _MOST_DONE and self._held < _MOST_HELD:
            if not self._tokens.take_now():
                return
            request = self._waiting.popleft()
            try:
                request.begin()
                self._transport.check(request.url)
                if not _TARGET.fullmatch(request.url.raw_path):
                    raise NotPlainError
            except Exception as error:  # noqa: BLE001 - reported to who asked
                self._finish(request, error)
                continue
            site = (request.url.scheme, request.url.host, port_of(request.url))
            found = next((opened for opened in reversed(self._idle) if opened.site == site), None)
            if found is not None:
                self._idle.remove(found)
                self._begin(found, request)
            else:
                self._dial(request)

    def _dial(self, request: SmallRequest) -> None:
        self._dialing += 1
        self._dialers.submit(self._connect, request)

    def _connect(self, request: SmallRequest) -> None:
        """Connect, in a thread of its own: looking a name up and shaking hands block."""
        url = request.url
        result: _Open | Exception
        try:
            with map_errors(url.host):
                connection = self._transport.dial(url, self._timeouts)
            sock = connection.stream.direct_socket
            if sock is None:
                connection.close()
                raise NotPlainError  # noqa: TRY301
            sock.setblocking(False)
            result = _Open(connection, sock, (url.scheme, url.host, port_of(url)))
        except Exception as error:  # noqa: BLE001 - reported to who asked
            result = error
        with self._lock:
            self._dialed.append((request, result))
            self._wake()

    def _begin(self, opened: _Open, request: SmallRequest) -> None:
        url = request.url
        host = host_of(url)
        host = f"[{host}]" if ":" in host else host
        lines = [f"Host: {host if url.port is None else f'{host}:{url.port}'}"]
        lines += [f"{name}: {value}" for name, value in (*self._fields.items(), *request.fields.items())]
        opened.begin(request, self._monotonic())
        opened.unsent = b"GET " + url.raw_path + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode() + b"\r\n\r\n"
        self._active.add(opened)
        self._write(opened)

    def _write(self, opened: _Open) -> None:
        try:
            sent = opened.sock.send(opened.unsent)
        except (ssl.SSLWantWriteError, ssl.SSLWantReadError, BlockingIOError):
            sent = 0
        except OSError:  # who refuses a request may answer and close before its end
            sent = len(opened.unsent)
        opened.unsent = opened.unsent[sent:]
        self._selector.modify(opened.sock, 3 if opened.unsent else selectors.EVENT_READ, opened)

    def _advance(self, opened: _Open) -> None:
        """Do what can be done on a connection without waiting."""
        if opened not in self._active:
            if opened in self._idle:
                self._look_at_idle(opened)
            return
        if opened.unsent:
            self._write(opened)
        try:
            while True:
                space = self._buffer if opened.body is None else memoryview(opened.body)[opened.at :]
                came = opened.sock.recv_into(space)
                if not came:
                    self._break(opened, httpcore.ReadError("the connection was closed before the end"))
                    return
                opened.arrived += came
                opened.waiting_since = 0.0
                if opened.body is None:
                    opened.head += space[:came]
                    if not self._read_head(opened):
                        return
                else:
                    opened.at += came
                if opened.body is not None and opened.at == len(opened.body):
                    self._complete(opened)
                    return
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError):
            return
        except OSError as error:
            self._break(opened, httpcore.ReadError(str(error)))

    def _read_head(self, opened: _Open) -> bool:
        """Read the head, where it is all there; return whether the body is to be read on."""
        head, request = opened.head, opened.request
        end = head.find(b"\r\n\r\n")
        if request is None:
            raise AssertionError("a head without a request")
        if end < 0:
            if len(head) > _MOST_HEAD:
                self._end_exchange(opened, NotPlainError())
                return False
            return True
        read = _parse(bytes(head[: end + 2]))
        if read is None:
            self._end_exchange(opened, NotPlainError())
            return False
        opened.status, opened.headers, opened.keep = read
        rest = head[end + 4 :]
        length = _plain_length(opened.headers)
        if opened.status >= 400:
            opened.keep = False  # its body is of no use
            self._end_exchange(opened, SmallAnswer(opened.status, opened.headers, request.url, b""))
            return False
        if opened.status != 200 or length is None or length > _MOST_BODY:
            if opened.status != 200 or length is None:
                self._remember(opened.site)
            self._end_exchange(opened, NotPlainError())
            return False
        opened.head = rest[:length]
        opened.keep = opened.keep and len(rest) <= length
        opened.at = length  # as soon as there is room
        if self._has_room(opened):
            self._take_body(opened)
            return opened.body is not None and opened.at < len(opened.body)
        self._selector.unregister(opened.sock)
        self._parked.append(opened)
        return False

    def _has_room(self, opened: _Open) -> bool:
        return not self._held or self._held + opened.at <= _MOST_HELD

    def _take_body(self, opened: _Open) -> None:
        """Make room for the body, whose length is in `at`, and go on reading it."""
        early = opened.head
        opened.body = bytearray(opened.at)
        self._held += opened.at
        opened.at = len(early)
        opened.body[: len(early)] = early
        if opened.at == len(opened.body):
            self._complete(opened)

    def _remember(self, site: _Site) -> None:
        if len(self._unplain) < _MOST_UNPLAIN:
            self._unplain = self._unplain | {site}

    def _complete(self, opened: _Open) -> None:
        request, headers, body = opened.request, opened.headers, opened.body
        if request is None or headers is None or body is None:
            raise AssertionError("an answer without its parts")
        self._end_exchange(opened, SmallAnswer(opened.status, headers, request.url, body))

    def _break(self, opened: _Open, error: httpcore.NetworkError | httpcore.TimeoutException) -> None:
        """End an exchange whose connection broke: repeat it where the server had only closed it meanwhile."""
        request = opened.request
        if request is None:
            return
        if opened.has_served and not opened.arrived and not isinstance(error, httpcore.TimeoutException):
            # No byte of an answer came, and asking twice is as asking once (RFC 9112, 9.3.1).
            opened.request = None
            self._forget(opened)
            self._dial(request)
            return
        opened.keep = False
        try:
            with map_errors(request.url.host):
                raise error
        except httpx.TransportError as said:
            body, headers = opened.body, opened.headers
            if body is None or headers is None:
                self._end_exchange(opened, said)
                return
            self._held -= len(body) - opened.at
            answer = SmallAnswer(opened.status, headers, request.url, body[: opened.at], said)
            self._end_exchange(opened, answer)

    def _end_exchange(self, opened: _Open, result: SmallAnswer | Exception) -> None:
        request, opened.request = opened.request, None
        if isinstance(result, SmallAnswer) and opened.keep and opened.status == 200:
            self._active.discard(opened)
            opened.body = None
            opened.has_served = True
            opened.idle_since = self._monotonic()
            self._idle.append(opened)
            if len(self._idle) > self._most_idle:
                self._forget(self._idle.pop(0))
        else:
            self._forget(opened)
        if request is not None:
            self._finish(request, result)

    def _finish(self, request: SmallRequest, result: SmallAnswer | Exception) -> None:
        self._tokens.release()
        if isinstance(result, SmallAnswer):
            self._done += 1
        request.done(result)

    def _forget(self, opened: _Open) -> None:
        self._active.discard(opened)
        with suppress(KeyError, ValueError):
            self._selector.unregister(opened.sock)
        opened.connection.close()

    def _look_at_idle(self, opened: _Open) -> None:
        """Close an idle connection on which something came: its end, or what nobody asked for."""
        try:
            opened.sock.recv(1)
        except (ssl.SSLWantReadError, BlockingIOError):  # a session ticket of TLS 1.3
            return
        except OSError:
            pass
        self._idle.remove(opened)
        self._forget(opened)

    def _close_idle(self, unwanted: Callable[[_Open], bool]) -> None:
        for opened in [each for each in self._idle if unwanted(each)]:
            self._idle.remove(opened)
            self._forget(opened)

    def _tick(self) -> None:
        """Give up answers that are silent, or crawl; report how far others are."""
        now = self._monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._close_idle(lambda opened: now - opened.idle_since > self._keep_idle)
        for opened in [each for each in self._active if each not in self._parked]:
            if not opened.waiting_since:
                opened.waiting_since = now
            if now - opened.waiting_since >= self._silence:
                self._break(opened, httpcore.ReadTimeout("nothing came"))
            elif now - opened.window >= self._silence:
                if opened.arrived < self._silence * MIN_RATE:
                    text = f"only {opened.arrived} bytes came in {self._silence:.0f} s"
                    self._break(opened, httpcore.ReadTimeout(text))
                else:
                    opened.window, opened.arrived = now, 0
            self._report(opened, now)

    def _report(self, opened: _Open, now: float) -> None:
        request, headers, body = opened.request, opened.headers, opened.body
        if request is None or headers is None or body is None or now - opened.reported < _REPORT_EVERY:
            return
        opened.reported = now
        with memoryview(body)[: opened.at] as so_far:
            request.progress(SmallAnswer(opened.status, headers, request.url, so_far), len(body))

    def _end(self) -> None:
        with self._lock:
            self._stopped = True
            left: Iterable[SmallRequest] = [*self._incoming, *(request for request, _ in self._dialed)]
            dialed = [opened for _, opened in self._dialed if isinstance(opened, _Open)]
        for opened in [*self._active, *self._idle, *dialed]:
            opened.has_served = False
            if opened in dialed:
                opened.connection.close()
            elif opened in self._active:
                self._break(opened, httpcore.ReadError("stopped"))
            else:
                self._forget(opened)
        for request in (*left, *self._waiting):
            request.done(_stopped())


def _stopped() -> httpx.ReadError:
    return httpx.ReadError("stopped")


def _parse(head: bytes) -> tuple[int, httpx.Headers, bool] | None:
    """Read the head of an answer: status, fields, and whether the connection stays; None if unsure."""
    line = _STATUS.match(head)
    if line is None:
        return None
    fields = []
    at = line.end()
    while at < len(head):
        found = _FIELD.match(head, at)
        if found is None:
            return None
        fields.append((found[1], found[2]))
        at = found.end()
    headers = httpx.Headers(fields)
    connection = headers.get("connection", "").lower()
    return int(line[2]), headers, line[1] == b"1" and "close" not in connection


def _plain_length(headers: httpx.Headers) -> int | None:
    """Return how long a body is of which nothing but the length is told, and which needs no decoding."""
    lengths = headers.get_list("content-length")
    coded = (
        "transfer-encoding" in headers or headers.get("content-encoding", "identity").lower() != "identity"
    )
    if len(lengths) != 1 or coded or not lengths[0].isascii() or not lengths[0].isdigit():
        return None
    return int(lengths[0]) if len(lengths[0]) < 16 else None
