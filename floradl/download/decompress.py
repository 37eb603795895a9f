"""Undo the codings that an answer names, as far as its bytes are really coded.

Storages give back whatever an uploader said, so a coding is believed only where the bytes look like it:
media that is called gzip stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from itertools import chain
from typing import Any, NamedTuple, Protocol, TypeAlias

from floradl.download.file_type.signatures import HEAD, from_content
from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.net.http11 import STEP, CodedBody, Piece, inflate

_MOST_CODINGS = 4
_GZIP = b"\x1f\x8b\x08"
_ZSTD = (b"\x28\xb5\x2f\xfd", *(bytes([byte]) + b"\x2a\x4d\x18" for byte in range(0x50, 0x60)))
_COMPRESS = b"\x1f\x9d"
_SHORTEST_TEXT = 4  # bytes


class Undone(NamedTuple):
    """A body whose `codings` were undone; none where it was not coded, whatever was said."""

    pieces: Iterable[Piece]
    codings: tuple[str, ...]


def undo(chunks: Iterable[Piece], codings: tuple[str, ...]) -> Undone:
    """Undo `codings` (RFC 9110, 8.4: in the order in which they were applied), the last first.

    The pieces are of at most 256 KiB (of brotli twice that), or as they came where nothing is undone; each is
    valid until the next is asked for. Raises, here or later, `TransientError` where a coded body is cut or
    broken, `PermanentError` for a coding that is not understood, or needs an extra, and for a body that grows
    beyond all reason.
    """
    if len(codings) > _MOST_CODINGS:
        raise PermanentError(
            f"the server names {len(codings)} content codings, one upon the other", ErrorCode.HTTP_ERROR
        )
    coded = CodedBody(chunks)
    pieces: Iterable[Piece] = coded
    undone: list[str] = []
    for coding in reversed(codings):
        head, pieces = _peek(pieces)
        decode = _decoder(coding, head)
        if decode is not None:
            pieces = coded.bound(decode(pieces))
            undone.insert(0, coding)
    return Undone(pieces, tuple(undone))


def _peek(chunks: Iterable[Piece]) -> tuple[bytes, Iterable[Piece]]:
    """Return how `chunks` begin, and all of them."""
    rest = iter(chunks)
    first: list[bytes] = []
    size = 0
    for chunk in rest:
        first.append(bytes(chunk))
        size += len(chunk)
        if size >= HEAD:
            break
    return b"".join(first)[:HEAD], chain(first, rest)


_Decoder: TypeAlias = Callable[[Iterable[Piece]], Generator[bytes]]


def _decoder(coding: str, head: bytes) -> _Decoder | None:
    """Return what undoes `coding`, None where what begins with `head` is not so coded."""
    match coding:
        case "gzip" | "x-gzip":
            return (lambda pieces: inflate(pieces, "gzip")) if _begins(head, _GZIP) else None
        case "deflate":
            # Both are in use: with zlib's head as the standard has it, and without (RFC 9110, 8.4.1.2).
            if not head or _is_zlib(head):
                return lambda pieces: inflate(pieces, "deflate")
            return None if _is_plain(head) else lambda pieces: inflate(pieces, "deflate", raw=True)
        case "zstd":
            return _unzstd if any(_begins(head, magic) for magic in _ZSTD) else None
        case "br":
            return None if _is_plain(head) else _unbrotli
        case "compress" | "x-compress" if not _begins(head, _COMPRESS):
            return None
        case _ if coding not in {"compress", "x-compress"} and _is_plain(head):
            return None
    raise PermanentError(
        f"the server sends it in a content coding that nobody asked for: {coding}", ErrorCode.HTTP_ERROR
    )


def _begins(head: bytes, magic: bytes) -> bool:
    return head[: len(magic)] == magic[: len(head)]  # of a body that is cut there may be less


def _is_zlib(head: bytes) -> bool:
    """Whether it begins as RFC 1950 says, without a dictionary."""
    if len(head) < 2:
        return head[:1] in {b"\x78", b"\x58", b"\x68", b"\x48", b"\x38", b"\x28", b"\x18", b"\x08"}
    method, flags = head[0], head[1]
    return method & 15 == 8 and method >> 4 <= 7 and not flags & 32 and (method << 8 | flags) % 31 == 0


def _is_plain(head: bytes) -> bool:
    """Whether it begins as a known format or a text does, which a compressed body does not."""
    if from_content(head) is not None:
        return True
    if len(head) < _SHORTEST_TEXT or any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4 and error.reason == "unexpected end of data"
    return True


class _Brotli(Protocol):
    def process(self, data: bytes, *, output_buffer_limit: int) -> bytes: ...
    def is_finished(self) -> bool: ...
    def can_accept_more_data(self) -> bool: ...


def _unbrotli(chunks: Iterable[Piece]) -> Generator[bytes]:
    try:
        import brotli  # noqa: PLC0415 - an extra
    except ImportError:
        raise _needs_extra("br") from None
    decoder: _Brotli = brotli.Decompressor()
    try:
        for chunk in chunks:
            if decoder.is_finished():
                break  # what follows is padding
            piece = decoder.process(bytes(chunk), output_buffer_limit=STEP)
            while piece:
                yield piece
                if decoder.is_finished():
                    break
                # Empty once all is out: "can accept more" may be said while there still is some.
                piece = decoder.process(b"", output_buffer_limit=STEP)
    except brotli.error as error:
        raise TransientError("the br body is broken", ErrorCode.DAMAGED) from error
    if not decoder.is_finished():
        raise TransientError("the br body was cut short", ErrorCode.DAMAGED)


def _zstd() -> Any:
    """Return the module of zstd: Python has it from 3.14 on, others from the extra."""
    try:
        from compression import zstd  # noqa: PLC0415 - where there is one
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415 - an extra
        except ImportError:
            raise _needs_extra("zstd") from None
    return zstd


def _unzstd(chunks: Iterable[Piece]) -> Generator[bytes]:
    zstd = _zstd()
    decoder = zstd.ZstdDecompressor()
    rest = b""
    try:
        for chunk in chunks:
            data = rest + bytes(chunk)
            rest = b""
            while data or not (decoder.eof or decoder.needs_input):
                if decoder.eof:
                    # Frames may follow one another (RFC 8878, 3.1); what else follows is padding.
                    if not any(_begins(data, magic) for magic in _ZSTD):
                        break
                    if len(data) < len(_ZSTD[0]):
                        rest = data
                        break
                    decoder = zstd.ZstdDecompressor()
                piece: bytes = decoder.decompress(data, STEP)
                data = decoder.unused_data if decoder.eof else b""
                yield piece
    except zstd.ZstdError as error:
        raise TransientError("the zstd body is broken", ErrorCode.DAMAGED) from error
    if not decoder.eof:
        raise TransientError("the zstd body was cut short", ErrorCode.DAMAGED)


def _needs_extra(coding: str) -> PermanentError:
    return PermanentError(
        f"the server sends it compressed with {coding}, which needs the extra `codings`, see docs/codings.md",
        ErrorCode.HTTP_ERROR,
    )
