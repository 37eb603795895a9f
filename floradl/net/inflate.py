"""Undoing a content coding in bounded steps: what was stored gzipped may be sent so, asked for or not."""

from __future__ import annotations

import zlib
from collections.abc import Generator, Iterable

from floradl.errors import ErrorCode, PassingError, PermanentError

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

    A `raw` deflate has no head and no checksum (RFC 1951), as some servers send it. Raises `PassingError`
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
        raise PassingError(f"the {coding} body is broken ({error})", ErrorCode.DAMAGED) from error
    if not decoder.eof:
        raise PassingError(f"the {coding} body was cut short", ErrorCode.DAMAGED)
