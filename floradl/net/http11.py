"""One request and its answer: HTTP/1.1 (RFC 9112) over a stream.

h11 reads heads, chunked bodies, and those that end with the connection. A body with a Content-Length bypasses
it, from the socket into a reused buffer: through h11 it is half as fast.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from typing import Final, Self, TypeAlias

import h11
import httpcore
import httpx
from msgspec import Struct

from floradl.errors import ErrorCode, FloradlError, ForeignAnswerError, PermanentError, TransientError
from floradl.net.addresses import join_port
from floradl.net.errors import Translated
from floradl.net.socket_stream import Stream

Piece: TypeAlias = bytes | memoryview
"""Some bytes of a body. A memoryview is valid only until the next piece."""

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]

_BUFFER: Final = 256 << 10  # bytes, of each connection; larger gains nothing, smaller costs time
_MOST_HEAD: Final = 100 << 10  # bytes of a head or a chunk's header
_MOST_INTERIM: Final = 16  # answers of 1xx before the final one
_HEAD_READ: Final = 16 << 10  # bytes: what comes with the head passes through h11
_FRAMED_READ: Final = 64 << 10
_MOST_FRAMING: Final = 256 << 10  # bytes of chunk framing
_FRAMING_SHARE: Final = 16  # and so many times the payload: chunks of one byte have five
STEP = 256 * 1024  # bytes of a decoded piece at most
_BOMB_BYTES = 64 * 1024 * 1024
_BOMB_RATIO = 100  # media hardly shrinks, text tenfold; deflate reaches 1,032
_MEMBER = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS
_MOST_CODINGS = 2


class Timeouts(Struct, frozen=True):
    """Seconds that each step may take, None for ever. `pool` is the wait for a free connection."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        """Return those that httpx put into `request`."""
        seconds = request.extensions.get("timeout", {})
        return cls(seconds.get("connect"), seconds.get("read"), seconds.get("write"), seconds.get("pool"))


class Http11Exchange:
    """One request and its answer over `stream`, which it uses alone; it reads into `buffer`.

    `answered` is whether any byte of an answer came; `length` is that of a body that bypasses h11, else None.
    Raises errors of httpcore and h11.
    """

    def __init__(self, stream: Stream, buffer: memoryview, timeouts: Timeouts) -> None:
        self.answered = False
        self._stream = stream
        self._buffer = buffer
        self._timeouts = timeouts
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        self.length: int | None = None
        self._early = b""  # the part of a plain body that came with the head
        self._left = 0  # bytes of a plain body that are still to come
        self._surplus = False

    def ask(self, request: h11.Request, body: Iterable[bytes]) -> h11.Response:
        """Send `request`; return the head of the answer."""
        with suppress(httpcore.WriteError):  # a server may refuse a request before its end
            self._send(request, body)
        for _ in range(_MOST_INTERIM + 1):
            event = self._next_event(_HEAD_READ)
            if isinstance(event, h11.Response):
                self._take_length(_plain_length(request.method, event))
                return event
        raise httpcore.RemoteProtocolError(f"more than {_MOST_INTERIM} interim answers")

    def body(self) -> Generator[Piece]:
        """Yield the body as it comes."""
        return self._framed() if self.length is None else self._plain()

    def is_over(self) -> bool:
        """Whether both sides are done, and the connection may serve another exchange (RFC 9112, 9.3)."""
        # MUST_CLOSE instead where either side closes the connection.
        if self._h11.our_state is not h11.DONE:
            return False
        if self.length is not None:
            return self._left == 0 and not self._surplus
        # Surplus bytes would be taken for the answer to the next request, for another output.
        return self._h11.their_state is h11.DONE and not self._h11.trailing_data[0]

    def _send(self, request: h11.Request, body: Iterable[bytes]) -> None:
        data = self._h11.send(request) or b""
        for part in body:
            data += self._h11.send(h11.Data(data=part)) or b""
        self._stream.write(data + (self._h11.send(h11.EndOfMessage()) or b""), self._timeouts.write)

    def _next_event(self, most: int) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._h11.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # mypy does not narrow by the line above
            came = self._stream.read_into(self._buffer[:most], self._timeouts.read)
            if came:
                self.answered = True
            elif self._h11.their_state is h11.SEND_RESPONSE:
                raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
            self._h11.receive_data(self._buffer[:came])  # type: ignore[arg-type]  # it takes any buffer

    def _framed(self) -> Generator[Piece]:
        """Yield a chunked body, or one that ends with the connection.

        Framing does not count as payload: a chunk of one byte may have an extension of thousands (RFC 9112,
        7.1.1).
        """
        taken = payload = counted = 0
        while (event := self._h11.next_event()) is h11.NEED_DATA or isinstance(event, h11.Data):
            if isinstance(event, h11.Data):
                payload += len(event.data)
                yield bytes(event.data)
                continue
            self._stream.count_payload(payload - counted, self._timeouts.read)
            counted = payload
            if taken > _MOST_FRAMING + _FRAMING_SHARE * payload:
                raise httpcore.RemoteProtocolError(f"{taken} bytes of chunks held {payload} bytes")
            came = self._stream.read_framed(self._buffer[:_FRAMED_READ], self._timeouts.read)
            taken += came
            self._h11.receive_data(self._buffer[:came])  # type: ignore[arg-type]  # it takes any buffer

    def _take_length(self, length: int | None) -> None:
        self.length = length
        if length is not None:
            came = self._h11.trailing_data[0]
            self._early = came[:length]
            self._surplus = len(came) > length
            self._left = length - len(self._early)

    def _plain(self) -> Generator[Piece]:
        """Yield a body that has a length, in pieces that end at multiples of the buffer's size.

        Pages that are written in part, or out of step, cost the kernel twice as much as whole blocks of them.
        """
        at = len(self._early)
        if self._early:
            yield self._early
        while self._left:
            most = min(self._left, _BUFFER - at % _BUFFER)
            came = self._stream.fill(self._buffer[:most], self._timeouts.read)
            at += came
            if not came:
                raise httpcore.RemoteProtocolError(
                    f"the connection was closed {self._left} bytes before the end"
                )
            self._left -= came
            with self._buffer[:came].toreadonly() as piece:  # invalid once the buffer is reused
                yield piece


def _plain_length(method: bytes, head: h11.Response) -> int | None:
    """Return a body's length where it comes without framing."""
    if method != b"GET" or head.status_code not in {200, 206}:
        return None
    # h11 refused malformed and conflicting lengths; a transfer coding wins over them.
    fields = dict(head.headers)
    length = fields.get(b"content-length")
    return None if length is None or b"transfer-encoding" in fields else int(length)


class Connection:
    """Owns its stream. `forward_fields` are for a proxy that gets whole URLs, None without one."""

    def __init__(self, stream: Stream, forward_fields: Fields | None = None) -> None:
        self.stream = stream
        self.has_served = False
        self._forward_fields = forward_fields
        self._buffer: memoryview | None = None  # made by the first request
        self._exchange: Http11Exchange | None = None

    def ask(self, request: httpx.Request) -> tuple[Http11Exchange, h11.Response]:
        """Send `request`; return the exchange, which has the body, and the head of the answer.

        Raises errors of httpcore and h11.
        """
        head = self._h11_request(request)  # an invalid request leaves the connection as it was
        if self._buffer is None:
            self._buffer = memoryview(bytearray(_BUFFER))
        self._exchange = exchange = Http11Exchange(self.stream, self._buffer, Timeouts.of(request))
        return exchange, exchange.ask(head, request.stream)  # type: ignore[arg-type]

    def may_repeat(self, request: httpx.Request) -> bool:
        """Whether the last request may be sent again: the server had closed an idle connection.

        The method must be idempotent (RFC 9110, 9.2.2; RFC 9112, 9.3.1).
        """
        unanswered = self._exchange is not None and not self._exchange.answered
        return self.has_served and unanswered and request.method in {"GET", "HEAD"}

    def is_free(self) -> bool:
        """Whether it can take another request: the last answer is over, with no surplus bytes."""
        over = self._exchange is not None and self._exchange.is_over()
        return over and not self.stream.owes()

    def close(self) -> None:
        """Close the stream. Safe to repeat."""
        self.stream.close()

    def _h11_request(self, request: httpx.Request) -> h11.Request:
        fields: list[tuple[bytes, bytes]] = list(request.headers.raw)
        target = request.url.raw_path
        if self._forward_fields is not None:
            fields = [*self._forward_fields, *fields]
            target = site(request.url).encode("ascii") + target
        return h11.Request(method=request.method, target=target, headers=fields)


def host_of(url: httpx.URL) -> str:
    """Return the host as certificates have it, without the last dot (RFC 6066, 3)."""
    return url.raw_host.decode("ascii").removesuffix(".")


def site(url: httpx.URL) -> str:
    """Return scheme, host and port as the absolute form has them (RFC 9112, 3.2.2)."""
    host = host_of(url)
    name = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{name if url.port is None else join_port(host, url.port)}"


class CodedBody:
    """Counts the bytes of a coded body, to limit the size of the decoded one."""

    def __init__(self, chunks: Iterable[Piece]) -> None:
        self._taken = 0
        self._chunks = chunks

    def __iter__(self) -> Iterator[Piece]:
        for chunk in self._chunks:
            self._taken += len(chunk)
            yield chunk

    def bound(self, pieces: Iterable[bytes]) -> Generator[bytes]:
        """Pass on `pieces` decoded from it. Raises `PermanentError` for a decompression bomb."""
        given = 0
        for piece in pieces:
            given += len(piece)
            if given > _BOMB_BYTES and given > self._taken * _BOMB_RATIO:
                raise PermanentError(
                    "the body inflates to over a hundred times its size: refused", ErrorCode.TOO_LARGE
                )
            yield piece


def inflate(chunks: Iterable[bytes | memoryview], coding: str, *, raw: bool = False) -> Generator[bytes]:
    """Decode `gzip` or `deflate` (RFC 9110, 8.4.1) in pieces of at most 256 KiB.

    A `raw` deflate has no head and no checksum (RFC 1951), as some servers send it. Raises `TransientError`
    where the stream is cut or broken, `PermanentError` for an unknown coding. `CodedBody.bound`
    limits the size.
    """
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise PermanentError(
            f"the server sends it in a content coding that nobody asked for: {coding[:40]!r}",
            ErrorCode.HTTP_ERROR,
        )
    bits = zlib.MAX_WBITS if coding == "deflate" else _GZIP
    decoder = zlib.decompressobj(-bits if raw else bits)
    rest = b""
    try:
        for chunk in chunks:
            data = rest + chunk
            rest = b""
            while data:
                if decoder.eof:
                    # A gzip file may have several members (RFC 1952, 2.2); what else follows is padding.
                    if coding == "deflate" or not data.startswith(_MEMBER[: len(data)]):
                        break
                    if len(data) < len(_MEMBER):
                        rest = data
                        break
                    decoder = zlib.decompressobj(_GZIP)
                piece = decoder.decompress(data, STEP)
                data = decoder.unused_data if decoder.eof else decoder.unconsumed_tail
                yield piece
    except zlib.error as error:
        raise TransientError(f"the {coding} body is broken ({error})", ErrorCode.DAMAGED) from error
    if not decoder.eof:
        raise TransientError(f"the {coding} body was cut short", ErrorCode.DAMAGED)


def read_bounded(response: httpx.Response, most: int) -> bytes:
    """Return the body of a streamed `response`, its content codings undone (RFC 9110, 8.4).

    Raises `TransientError` for more than `most` bytes of either kind, `ForeignAnswerError` for an unknown
    coding, and `httpx.RequestError`.
    """
    raw = bytearray()
    for piece in pieces(response):
        raw += piece
        if len(raw) > most:
            raise _too_much(most)
    codings = [
        coding
        for name in response.headers.get("content-encoding", "").split(",")
        if (coding := name.strip().lower()) not in {"", "identity"}
    ]
    if not codings or not raw:
        return bytes(raw)
    if len(codings) > _MOST_CODINGS:
        raise ForeignAnswerError(f"the API's answer is coded {len(codings)} times over, and was not read")
    coded = CodedBody([bytes(raw)])
    decoded: Iterable[Piece] = coded
    for coding in reversed(codings):
        decoded = coded.bound(inflate(decoded, coding))
    return _gathered(decoded, most)


def _gathered(pieces: Iterable[Piece], most: int) -> bytes:
    body = bytearray()
    try:
        for piece in pieces:
            body += piece
            if len(body) > most:
                raise _too_much(most)
    except FloradlError as error:
        if isinstance(error, PermanentError) and error.code is not ErrorCode.TOO_LARGE:
            raise ForeignAnswerError(f"the API's answer cannot be read: {error}") from None
        if isinstance(error, TransientError) and error.code is ErrorCode.DAMAGED:
            raise httpx.DecodingError(str(error)) from None
        raise _too_much(most) from None
    return bytes(body)


def _too_much(most: int) -> TransientError:
    return TransientError(f"the API's answer is over {most >> 20} MiB and was not read", ErrorCode.BAD_ANSWER)


class BodyStream(httpx.SyncByteStream):
    """A body, to be read once."""

    def __init__(
        self, exchange: Http11Exchange, translated: Translated, give_back: Callable[[], None]
    ) -> None:
        self._pieces = exchange.body()
        self._translated = translated
        self._give_back: Callable[[], None] | None = give_back

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes as they come; they may be kept."""
        with closing(self.pieces()) as pieces:
            for piece in pieces:
                yield bytes(piece)

    def pieces(self) -> Generator[Piece]:
        """Yield the bytes as they come, without a copy: each piece is valid until the next."""
        with self._translated():
            yield from self._pieces

    def close(self) -> None:
        """Give the connection back. Safe to repeat."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        self._pieces.close()
        give_back()


def pieces(response: httpx.Response) -> Iterator[Piece]:
    """Yield the body of `response` as it comes: each piece is valid until the next."""
    stream = response.stream
    return stream.pieces() if isinstance(stream, BodyStream) else response.iter_raw()
