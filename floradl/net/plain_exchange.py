"""One small GET at a time on a non-blocking connection: a plain answer is read whole, into memory.

Plain is a 200 with one `Content-Length` and nothing around its bytes (RFC 9112, 6.3), and of a refusal (4xx,
5xx) the head. Whatever else comes is `NotPlainError`: who reads all of HTTP has to ask for it.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import partial
from typing import Final, TypeAlias, cast

import httpcore
import httpx
from msgspec import Struct

from floradl.net.errors import map_errors
from floradl.net.http11 import Connection, host_of
from floradl.net.socket_stream import MIN_RATE
from floradl.net.url_policy import port_of

MOST_HEAD: Final = 64 << 10  # bytes
_MOST_BODY: Final = 8 << 20  # bytes; a larger one is not held in memory
_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([0-9]{3})(?: [^\r\n\0]*)?\r\n")
_FIELD: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\r\n\0]*)\r\n")
_HEAD_END: Final = re.compile(rb"\n\r?\n")  # as lenient as h11, which reads what is not plain
_TARGET: Final = re.compile(rb"[!-~]+")
_WOULD_BLOCK: Final = (ssl.SSLWantReadError, ssl.SSLWantWriteError, BlockingIOError)

Site: TypeAlias = tuple[str, str, int]
"""Scheme, host and port."""


class NotPlainError(Exception):
    """The answer is not a plain one, or the request cannot be sent here.

    `of_the_site` says that others of the same site will hardly be plain either.
    """

    def __init__(self, *, of_the_site: bool = False) -> None:
        super().__init__()
        self.of_the_site = of_the_site


class SmallAnswer(Struct, frozen=True):
    """An answer with as much of its body as came before `error`. `headers` have their names in lower case."""

    status_code: int
    headers: Mapping[str, str]
    url: httpx.URL
    body: bytes | bytearray | memoryview
    error: httpx.TransportError | None = None


class SmallRequest(Struct, frozen=True):
    """What to ask for, and whom to call about it, each from the client's thread.

    `begin` is called right before it is sent, and may raise to prevent it. `progress` gets, each second, an
    answer that takes long as far as it came, and its length: its body is to be read at once. `done` gets the
    answer, or why there is none: what `begin` raised, `NotPlainError`, `PermanentError` for what the URL
    policy refuses, `httpx.TransportError`. Who has taken care of an answer calls `MultiClient.taken`. A body
    of over `most` bytes is not read: the answer comes without it.
    """

    url: httpx.URL
    fields: Mapping[str, str]
    begin: Callable[[], None]
    progress: Callable[[SmallAnswer, int], None]
    done: Callable[[SmallAnswer | Exception], None]
    most: int | None = None

    @property
    def site(self) -> Site:
        """Whom to connect to. Raises `KeyError` for another scheme than https and http."""
        return site_of(self.url)

    def head(self, fields: Mapping[str, str]) -> bytes:
        """Return it as it is sent, with `fields` too. Raises `NotPlainError` where it cannot be."""
        target, host = self.url.raw_path, host_of(self.url)
        if not _TARGET.fullmatch(target):
            raise NotPlainError
        host = f"[{host}]" if ":" in host else host
        lines = [f"Host: {host}" if self.url.port is None else f"Host: {host}:{self.url.port}"]
        lines += [f"{name}: {value}" for name, value in (*fields.items(), *self.fields.items())]
        return b"GET " + target + b" HTTP/1.1\r\n" + "\r\n".join(lines).encode("ascii") + b"\r\n\r\n"


def site_of(url: httpx.URL) -> Site:
    """Return whom `url` leads to. Raises `KeyError` for another scheme than https and http."""
    return url.scheme, url.host, port_of(url)


class Need(Enum):
    """What an exchange needs next."""

    WAIT = auto()  # until the socket can be read
    ROOM = auto()  # `take_body`, once there is memory for `length` bytes


Result: TypeAlias = SmallAnswer | Exception


class PlainConnection:
    """A connection whose socket is non-blocking, and the exchange on it, if there is one.

    `keep` says whether it may serve another request after this one. `era`, `idle_since` and `body_since` are
    the client's.
    """

    def __init__(self, connection: Connection, sock: socket.socket, site: Site, era: int) -> None:
        self.sock = sock
        self.site = site
        self.era = era
        self.request: SmallRequest | None = None
        self.unsent = b""
        self.has_served = False
        self.idle_since = 0.0
        self.body_since: float | None = None  # since when there is memory for its body
        self._connection = connection
        self._receive = _receiver(sock)

    def begin(self, request: SmallRequest, head: bytes, now: float) -> None:
        """Begin an exchange; `head` is to be sent. Times are monotonic seconds."""
        self.request = request
        self.unsent = head
        self.keep = True
        self.length = 0
        self.at = 0  # bytes of the body that are there
        self._head = bytearray()
        self._headers: Mapping[str, str] | None = None
        self._body: bytearray | None = None
        self._room: memoryview | None = None  # of the body
        self.watch(now)
        self._reported = now

    def watch(self, now: float) -> None:
        """Count silence from now on."""
        self._window = now
        self._silent_since: float | None = now
        self._arrived = 0  # bytes, in the window

    def end(self, now: float) -> SmallRequest | None:
        """End the exchange; return its request."""
        request, self.request = self.request, None
        self._body = self._room = self.body_since = None
        self.has_served = True
        self.idle_since = now
        return request

    def write(self) -> bool:
        """Send what can be sent now; return whether that is all of it."""
        try:
            sent = self.sock.send(self.unsent)
        except _WOULD_BLOCK:
            sent = 0
        except OSError:  # who refuses a request may answer and close before its end
            sent = len(self.unsent)
        self.unsent = self.unsent[sent:]
        return not self.unsent

    def read(self, buffer: memoryview) -> Need | Result:
        """Read what has come; `buffer` is used for a head."""
        try:
            while True:
                came = self._receive(buffer if self._room is None else self._room[self.at :])
                if not came:
                    return self.broken(httpcore.ReadError("the connection was closed before the end"))
                self._arrived += came
                self._silent_since = None
                if self._body is None:
                    self._head += buffer[:came]
                    if (step := self._read_head()) is not Need.WAIT:
                        return step
                else:
                    self.at += came
                    if self.at == self.length:
                        return self._answer()
        except _WOULD_BLOCK:
            return Need.WAIT
        except OSError as error:
            return self.broken(httpcore.ReadError(str(error)))

    def take_body(self) -> Need | Result:
        """Go on with the body, for which there is memory now."""
        early = self._head
        self._body = bytearray(self.length)
        self._room = memoryview(self._body)
        self._body[: len(early)] = early
        self.at = len(early)
        return self._answer() if self.at == self.length else Need.WAIT

    def broken(self, error: httpcore.NetworkError | httpcore.TimeoutException) -> Result:
        """Return how the exchange ends by `error`: with what came of the body, if any came."""
        self.keep = False
        try:
            with map_errors(self.site[1]):
                raise error
        except httpx.TransportError as said:
            return said if self._body is None else self._answer(said)

    @property
    def may_repeat(self) -> bool:
        """Whether a broken exchange may be repeated: the server had only closed the connection meanwhile.

        Then no byte of an answer came, and asking twice is as asking once (RFC 9110, 9.2.2; RFC 9112, 9.3.1).
        """
        return self.has_served and not self._arrived and not self._head

    def stalled(self, now: float, silence: float) -> Result | None:
        """Return how the exchange ends if nothing came for `silence` seconds, or too little; else None."""
        if self._silent_since is None:
            self._silent_since = now
        if now - self._silent_since >= silence:
            return self.broken(httpcore.ReadTimeout("nothing came"))
        if now - self._window >= silence:
            if self._arrived < silence * MIN_RATE:
                text = f"only {self._arrived} bytes came in {silence:.0f} s"
                return self.broken(httpcore.ReadTimeout(text))
            self._window, self._arrived = now, 0
        return None

    def report(self, now: float, every: float) -> None:
        """Report how far the answer is, each so many seconds."""
        if self.request is None or self._body is None or now - self._reported < every:
            return
        self._reported = now
        with memoryview(self._body)[: self.at] as so_far:
            self.request.progress(self._answer_of(so_far, None), self.length)

    def is_quiet(self) -> bool:
        """Whether nothing came on an idle connection but what TLS has for itself (its tickets)."""
        try:
            self.sock.recv(1)
        except _WOULD_BLOCK:
            return True
        except OSError:
            pass
        return False

    def close(self) -> None:
        """Close it. Safe to repeat."""
        self._connection.close()

    def _read_head(self) -> Need | Result:
        """Read the head, once it is all there."""
        end = _HEAD_END.search(self._head)
        if end is None:
            return Need.WAIT if len(self._head) <= MOST_HEAD else self._odd()
        if end.end() > MOST_HEAD:
            return self._odd()
        read = _parse(bytes(self._head[: end.start() + 1]))
        if read is None or len(end[0]) != 3:
            return self._odd()
        self._status, self._headers, self.keep = read
        if self._status >= 400:
            self.keep = False  # its body is of no use
            return self._answer()
        length = _plain_length(self._headers)
        if self._status != 200 or length is None:
            return self._odd(of_the_site=True)
        if self.request is not None and self.request.most is not None and length > self.request.most:
            self.keep = False
            return self._answer()
        if length > _MOST_BODY:
            return self._odd()
        rest = self._head[end.end() :]
        self.keep = self.keep and len(rest) <= length
        self._head = rest[:length]
        self.length = length
        return Need.ROOM

    def _odd(self, *, of_the_site: bool = False) -> NotPlainError:
        self.keep = False
        return NotPlainError(of_the_site=of_the_site)

    def _answer(self, error: httpx.TransportError | None = None) -> SmallAnswer:
        body = self._body or b""
        return self._answer_of(body if self.at == len(body) else body[: self.at], error)

    def _answer_of(
        self, body: bytes | bytearray | memoryview, error: httpx.TransportError | None
    ) -> SmallAnswer:
        if self.request is None or self._headers is None:
            raise AssertionError("an answer before its head")
        return SmallAnswer(self._status, self._headers, self.request.url, body, error)


def _receiver(sock: socket.socket) -> Callable[[memoryview], int]:
    """Return `sock.recv_into`, of TLS without its detours in Python: a file of 200 kB comes in 13 records."""
    if isinstance(sock, ssl.SSLSocket):
        read = cast("Callable[[int, memoryview], int]", sock.read)  # the stubs know its other form alone
        return partial(read, _MOST_BODY)
    return sock.recv_into


def _parse(head: bytes) -> tuple[int, Mapping[str, str], bool] | None:
    """Read the head of an answer: status, fields, and whether the connection stays; None if unsure."""
    text = _decoded(head)
    line = _STATUS.match(text)
    if line is None:
        return None
    headers: dict[str, str] = {}
    at = line.end()
    while at < len(text):
        found = _FIELD.match(text, at)
        if found is None:
            return None
        name, value = found[1].lower(), found[2].strip(" \t")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value  # RFC 9110, 5.3
        at = found.end()
    return int(line[2]), headers, line[1] == "1" and "close" not in headers.get("connection", "").lower()


def _decoded(head: bytes) -> str:
    """Decode `head` as httpx does."""
    try:
        return head.decode("utf-8")
    except UnicodeDecodeError:
        return head.decode("iso-8859-1")


def _plain_length(headers: Mapping[str, str]) -> int | None:
    """Return how long a body is of which nothing but the length is told, and which needs no decoding."""
    length = headers.get("content-length", "")
    if "transfer-encoding" in headers or headers.get("content-encoding", "identity").lower() != "identity":
        return None
    if not length.isascii() or not length.isdigit():  # nor are two of them
        return None
    return int(length) if len(length) < 16 else None
