"""The bodies of answers."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing

import httpx

from floradl.errors import ErrorCode, FloradlError, ForeignAnswerError, PermanentError, TransientError
from floradl.net.errors import Translated
from floradl.net.http11 import Http11Exchange, Piece

STEP = 256 * 1024
BOMB_BYTES = 64 * 1024 * 1024
BOMB_RATIO = 100  # media hardly shrinks, text tenfold; deflate reaches 1,032
_MEMBER = b"\x1f\x8b"
_GZIP = 16 + zlib.MAX_WBITS


def bomb() -> PermanentError:
    """Return what is said of a body that grows beyond all reason."""
    return PermanentError("the body inflates to over a hundred times its size: refused", ErrorCode.TOO_LARGE)


def inflate(chunks: Iterable[bytes | memoryview], coding: str, *, raw: bool = False) -> Generator[bytes]:
    """Decode `gzip` or `deflate` (RFC 9110, 8.4.1) in pieces of at most 256 KiB.

    A `raw` deflate has no head and no checksum (RFC 1951), as some servers send it. Raises `TransientError`
    where the stream is cut or broken, `PermanentError` for an unknown coding and for a body that grows beyond
    all reason.
    """
    if coding not in {"gzip", "x-gzip", "deflate"}:
        raise PermanentError(
            f"the server sends it in a content coding that nobody asked for: {coding[:40]!r}",
            ErrorCode.HTTP_ERROR,
        )
    bits = zlib.MAX_WBITS if coding == "deflate" else _GZIP
    decoder = zlib.decompressobj(-bits if raw else bits)
    taken = given = 0
    rest = b""
    try:
        for chunk in chunks:
            taken += len(chunk)
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
                given += len(piece)
                if given > BOMB_BYTES and given > taken * BOMB_RATIO:
                    raise bomb()
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
    decoded: Iterable[bytes] = [bytes(raw)]
    for coding in reversed(codings):
        decoded = inflate(decoded, coding)
    return _gathered(decoded, most)


def _gathered(pieces: Iterable[bytes], most: int) -> bytes:
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
