"""Reads a file by position: what every judge of truncation works with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import TypeAlias

MOST_STEPS = 200_000
"""How many chunks, boxes, pages or frames of one file are walked at most: beyond, nothing is known."""

ReadAt: TypeAlias = Callable[[int, int], bytes]
"""Gives up to so many bytes from an offset on."""

_WINDOW = 1 << 16
_HEAD = 1 << 12
_BLOCK = 1 << 20


class Window:
    """Bytes by position, through one small window, so that walking small blocks costs few reads."""

    def __init__(self, read: ReadAt, size: int) -> None:
        self._read = read
        self.size = size
        self._start = 0
        self._window = b""

    def at(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer at the end of the file."""
        length = max(0, min(length, self.size - start))
        if not length:
            return b""
        offset = start - self._start
        if offset < 0 or offset + length > len(self._window):
            # Who walks in small steps reads on here; who leaps over large blocks wants their heads alone.
            near = 0 <= offset <= len(self._window) + _HEAD
            self._start, offset = start, 0
            self._window = self._read(max(length, min(_WINDOW if near else _HEAD, self.size - start)), start)
        return self._window[offset : offset + length]

    def big(self, start: int, length: int) -> int:
        """Return a big-endian number."""
        return int.from_bytes(self.at(start, length), "big")

    def little(self, start: int, length: int) -> int:
        """Return a little-endian number."""
        return int.from_bytes(self.at(start, length), "little")

    def begins(self, *signatures: bytes) -> bool:
        """Whether the file begins so, or is so short that it might have."""
        return any(self.at(0, len(mark)) == mark[: self.size] for mark in signatures)

    def compare(self, length: int) -> bool | None:
        """Judge by the length that the file states: what follows it is unknown."""
        return None if self.size > length else self.size == length

    def reaches(self, length: int) -> bool | None:
        """Judge by what the file must hold at least: False where it ends before, None otherwise."""
        return False if self.size < length else None

    def blocks(self, start: int = 0, *, growing: bool = False) -> Iterator[bytes]:
        """Read on from `start` in small blocks; in growing ones for a reader that begins anew with each."""
        block = _WINDOW
        while start < self.size:
            data = self._read(min(block, self.size - start), start)
            if not data:
                return
            yield data
            start += len(data)
            block = block * 2 if growing else block

    def search(self, pattern: re.Pattern[bytes], start: int, overlap: int) -> int | None:
        """Return where `pattern`, which matches up to `overlap` bytes, is found first from `start` on."""
        block = _HEAD
        while start < self.size:
            data = self._read(min(block, self.size - start), start)
            block = min(2 * block, _BLOCK)
            found = pattern.search(data)
            if found:
                return start + found.start()
            if start + len(data) >= self.size or len(data) <= overlap:
                return None
            start += len(data) - overlap
        return None

    def last(self, mark: bytes, before: int) -> int | None:
        """Return where `mark` begins last, ending at `before` at most."""
        end, block = min(before, self.size), _HEAD
        while end >= len(mark):
            start = max(0, end - block)
            block = min(2 * block, _BLOCK)
            found = self._read(end - start, start).rfind(mark)
            if found >= 0:
                return start + found
            if not start:
                return None
            end = start + len(mark) - 1
        return None

    def padded(self, start: int) -> bool:
        """Whether nothing but zeros and white space follow, within what is looked at."""
        return not self.at(start, 4096).strip(b"\0 \t\r\n")


Judge: TypeAlias = Callable[[Window], bool | None]
JUDGES: dict[str, Judge] = {}
"""By extension, dot included."""


def judges(extensions: str, *signatures: bytes, least: int = 0) -> Callable[[Judge], Judge]:
    """Register the judge of files with these `extensions`, as `png apng`.

    Where `signatures` are given it sees only files that begin so; one of fewer than `least` bytes is cut.
    """

    def decorate(judge: Judge) -> Judge:
        @wraps(judge)
        def judged(file: Window) -> bool | None:
            if signatures and not file.begins(*signatures):
                return None
            return judge(file) if file.size >= least else False

        JUDGES.update({f".{extension}": judged for extension in extensions.split()})
        return judged

    return decorate
