"""One request and its answer: HTTP/1.1 (RFC 9112) over a stream.

h11 reads the heads, and the bodies that have frames in them or end with the connection. A body of which
nothing but the length is told goes around it, from the socket into a buffer that is used again and again:
h11 hands every byte through Python in small pieces, at half the speed.
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
"""Some bytes of a body. A memoryview is valid only until the next piece is asked for."""

_BUFFER: Final = 128 << 10  # bytes, of each connection; larger ones gain nothing, and smaller ones cost
_MOST_HEAD: Final = 100 << 10  # bytes of a head or a chunk's header
_MOST_INTERIM: Final = 16  # answers of 1xx before the one that counts
_HEAD_READ: Final = 16 << 10  # bytes: what comes with the head is handed through h11
_FRAMED_READ: Final = 64 << 10
_MOST_FRAMING: Final = 256 << 10  # bytes around a body's own
_FRAMING_SHARE: Final = 16  # times the body's own, more: chunks of one byte have five


class Timeouts(Struct, frozen=True):
    """How long each step may take, in seconds; None for ever. `pool` is the wait for a free connection."""

    connect: float | None
    read: float | None
    write: float | None
    pool: float | None

    @classmethod
    def of(cls, request: httpx.Request) -> Self:
        """Read them where httpx puts them."""
        said = request.extensions.get("timeout", {})
        return cls(said.get("connect"), said.get("read"), said.get("write"), said.get("pool"))


class Http11Exchange:
    """Asks once, through `stream`, which nobody else uses meanwhile; `buffer` is used for reading.

    `answered` tells whether any byte of an answer came, `length` how long a body is that goes around h11,
    None for one that does not. What goes wrong is raised in the words of httpcore and of h11.
    """

    def __init__(self, stream: Stream, buffer: memoryview, timeouts: Timeouts) -> None:
        self.answered = False
        self._stream = stream
        self._buffer = buffer
        self._timeouts = timeouts
        self._h11 = h11.Connection(h11.CLIENT, max_incomplete_event_size=_MOST_HEAD)
        self.length: int | None = None
        self._early = b""  # what of a plain body came with the head
        self._left = 0  # bytes of a plain body that are still to come
        self._surplus = False

    def ask(self, request: h11.Request, body: Iterable[bytes]) -> h11.Response:
        """Send `request`; return the head of the answer."""
        with suppress(httpcore.WriteError):  # who refuses a request may answer and close before its end
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
        # h11 says MUST_CLOSE instead where either side wants it closed, or cannot but close it.
        if self._h11.our_state is not h11.DONE:
            return False
        if self.length is not None:
            return self._left == 0 and not self._surplus
        # What came beyond would be taken for the answer to the next request, which is another output's.
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
                return event  # type: ignore[return-value]  # the line above is not understood
            came = self._stream.read_into(self._buffer[:most], self._timeouts.read)
            if came:
                self.answered = True
            elif self._h11.their_state is h11.SEND_RESPONSE:
                raise httpcore.RemoteProtocolError("Server disconnected without sending a response.")
            self._h11.receive_data(self._buffer[:came])  # type: ignore[arg-type]  # it takes any buffer

    def _framed(self) -> Generator[Piece]:
        """Yield a body in chunks, or one that ends with the connection.

        A chunk of one byte may have an extension of thousands (RFC 9112, 7.1.1): framing is no payload.
        """
        taken = payload = told = 0
        while (event := self._h11.next_event()) is h11.NEED_DATA or isinstance(event, h11.Data):
            if isinstance(event, h11.Data):
                payload += len(event.data)
                yield bytes(event.data)
                continue
            self._stream.count_payload(payload - told, self._timeouts.read)
            told = payload
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
        if self._early:
            yield self._early
        while self._left:
            came = self._stream.fill(self._buffer[: self._left], self._timeouts.read)
            if not came:
                raise httpcore.RemoteProtocolError(
                    f"the connection was closed {self._left} bytes before the end"
                )
            self._left -= came
            with self._buffer[:came].toreadonly() as piece:  # whoever keeps it for longer gets an error
                yield piece


def _plain_length(method: bytes, head: h11.Response) -> int | None:
    """Return a body's length where its bytes follow one another on the wire, with nothing between."""
    if method != b"GET" or head.status_code not in {200, 206}:
        return None
    # h11 has refused what is no number, and lengths that differ; a transfer coding wins over them.
    fields = dict(head.headers)
    length = fields.get(b"content-length")
    return None if length is None or b"transfer-encoding" in fields else int(length)


Fields: TypeAlias = Sequence[tuple[bytes, bytes]]


class Connection:
    """Owns its stream. `forward_fields` go to a proxy that is asked for whole URLs; else they are None."""

    def __init__(self, stream: Stream, forward_fields: Fields | None = None) -> None:
        self.stream = stream
        self.has_served = False
        self._forward_fields = forward_fields
        self._buffer = memoryview(bytearray(_BUFFER))
        self._exchange: Http11Exchange | None = None

    def ask(self, request: httpx.Request) -> tuple[Http11Exchange, h11.Response]:
        """Send `request`; return the head of its answer, and the exchange that has the body.

        Raises in the words of httpcore and of h11.
        """
        worded = self._worded(request)  # a request that cannot be sent leaves the connection as it was
        self._exchange = exchange = Http11Exchange(self.stream, self._buffer, Timeouts.of(request))
        return exchange, exchange.ask(worded, request.stream)  # type: ignore[arg-type]

    def may_repeat(self, request: httpx.Request) -> bool:
        """Whether the last request failed only because the server had closed the connection meanwhile.

        Then it is safe to send it anew: no byte of an answer came, and asking twice is as asking once
        (RFC 9110, 9.2.2; RFC 9112, 9.3.1).
        """
        unanswered = self._exchange is not None and not self._exchange.answered
        return self.has_served and unanswered and request.method in {"GET", "HEAD"}

    def is_free(self) -> bool:
        """Whether it can take another request: the last one is over, and nothing came beyond its answer."""
        over = self._exchange is not None and self._exchange.is_over()
        return over and not self.stream.owes()

    def close(self) -> None:
        """Close it. Safe to repeat."""
        self.stream.close()

    def _worded(self, request: httpx.Request) -> h11.Request:
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


STEP = 256 * 1024
_BOMB_BYTES = 64 * 1024 * 1024
_BOMB_RATIO = 100  # media hardly shrinks, text tenfold; deflate reaches 1,032
_MEMBER = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS


class CodedBody:
    """Counts the bytes of a body as they pass, to bound by that what is made of them."""

    def __init__(self, chunks: Iterable[Piece]) -> None:
        self._taken = 0
        self._chunks = chunks

    def __iter__(self) -> Iterator[Piece]:
        for chunk in self._chunks:
            self._taken += len(chunk)
            yield chunk

    def bound(self, pieces: Iterable[bytes]) -> Generator[bytes]:
        """Pass on `pieces` decoded from it. Raises `PermanentError` where they grow without reason."""
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
    where the stream is cut or broken, `PermanentError` for an unknown coding. How far a body may grow is for
    `CodedBody.bound` to say.
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


_MOST_CODINGS = 2


def read_bounded(response: httpx.Response, most: int) -> bytes:
    """Read the body of a streamed `response`, and undo its content codings (RFC 9110, 8.4).

    Raises `TransientError` for more than `most` bytes of either kind, `ForeignAnswerError` for a coding that
    is not known, and `httpx.RequestError`.
    """
    raw = bytearray()
    for piece in pieces(response):
        raw += piece
        if len(raw) > most:
            raise _too_much(most)
    codings = [
        coding
        for told in response.headers.get("content-encoding", "").split(",")
        if (coding := told.strip().lower()) not in {"", "identity"}
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


class Body(httpx.SyncByteStream):
    """A body to be read by blocking, once."""

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
        """Yield the bytes as they come, without a copy: each piece is valid until the next is asked for."""
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
    """Yield the body of `response` as it comes: each piece is valid until the next is asked for."""
    stream = response.stream
    return stream.pieces() if isinstance(stream, Body) else response.iter_raw()
