"""Bytes of any length that are made while they are read: 1 GiB costs a few blocks of memory."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import google_crc32c

BLOCK = 64 * 1024
CHUNK = 256 * 1024
# As at GCS, where composite objects have a CRC32C and no MD5: large bodies are hashed at the cheaper price.
MD5_UP_TO = 64 * 1024 * 1024


@dataclass(frozen=True)
class Part:
    """A run of equal blocks (the last may be cut), each made when it is read."""

    size: int
    block_size: int
    make: Callable[[int], bytes]

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop`, block by block."""
        while start < stop:
            number, skip = divmod(start, self.block_size)
            piece = self.make(number)[skip : skip + stop - start]
            yield piece
            start += len(piece)


def literal(data: bytes) -> Part:
    """Give `data` as it is."""
    return Part(len(data), max(len(data), 1), lambda _number: data)


def filler(seed: str, size: int) -> Part:
    """Give `size` bytes that look random, are the same for one `seed`, and differ at every offset.

    Each block carries its number: a body put together from the wrong offsets never passes for the right one.
    """
    noise = _noise(seed)
    return Part(size, BLOCK, lambda number: number.to_bytes(8, "big") + noise)


@lru_cache(maxsize=128)
def _noise(seed: str) -> bytes:
    return hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(BLOCK - 8)


@dataclass(frozen=True)
class Body:
    """A whole body: its parts one after the other."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The length in bytes."""
        return sum(part.size for part in self.parts)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop` (default: the end) in pieces of at most 256 KiB."""
        gathered: list[bytes] = []
        length = 0
        for piece in self._pieces(start, self.size if stop is None else min(stop, self.size)):
            if gathered and length + len(piece) > CHUNK:
                yield b"".join(gathered)
                gathered, length = [], 0
            gathered.append(piece)
            length += len(piece)
        if gathered:
            yield b"".join(gathered)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Give the bytes from `start` up to `stop` at once."""
        return b"".join(self.chunks(start, stop))

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        offset = 0
        for part in self.parts:
            begin, end = max(start - offset, 0), min(stop - offset, part.size)
            if begin < end:
                for block in part.blocks(begin, end):
                    for at in range(0, len(block), CHUNK):
                        yield block[at : at + CHUNK]
            offset += part.size


@dataclass(frozen=True)
class BodyDigests:
    """What a media host says about stored bytes: base64 as in `x-goog-hash`, hexadecimal as in an ETag."""

    crc32c: str
    md5: str | None
    md5_hex: str | None


def digest(body: Body) -> BodyDigests:
    """Hash the whole body (about a second per GiB: call it in a thread)."""
    crc = 0
    md5 = hashlib.md5(usedforsecurity=False) if body.size <= MD5_UP_TO else None
    for chunk in body.chunks():
        crc = google_crc32c.extend(crc, chunk)
        if md5 is not None:
            md5.update(chunk)
    return BodyDigests(
        crc32c=base64.b64encode(crc.to_bytes(4, "big")).decode(),
        md5=base64.b64encode(md5.digest()).decode() if md5 else None,
        md5_hex=md5.hexdigest() if md5 else None,
    )
