"""Whether a file is whole, judged by its own container: the last resort where a server gave no length.

`True` is only said where the format itself marks its end and the file ends there; a file cut short never
earns it. `False` means that bytes are missing for sure. Everything else, and every format without an end
of its own (MP3, FLAC, TIFF, texts), is `None`: it cannot be told.

Sources: PNG (W3C) 5.2; ITU-T T.81 annex B (JPEG); GIF89a; RFC 9649 (WebP) and Microsoft's RIFF; ISO/IEC
14496-12 (MP4, HEIF), 4.2; RFC 8794 (EBML), 6; ISO 32000-1 (PDF), 7.5.5; RFC 3533 (Ogg), 6; PKWARE's APPNOTE
(ZIP), 4.3.16; glTF 2.0 (GLB), 4.4.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_MOST_STEPS = 200_000
"""How many chunks, boxes, pages or blocks of one file are walked at most: beyond, it cannot be told."""

_WINDOW = 1 << 16
_SEQUENCES = re.compile(rb"avis|msf1|hevc|hevx")
_CONTINUES = re.compile(rb"MPF\0|MicroVideo|MotionPhoto|Container:Directory")


def is_whole(fd: int, size: int, extension: str) -> bool | None:
    """Say whether the file of `size` bytes behind `fd` is whole, as its `extension` (`.png`) has it.

    Reads by position, so that the file's offset stays; never more than a small window at a time.
    """
    look = _LOOKS.get(extension)
    return look(_File(fd, size)) if look else None


class _File:
    """Bytes by position, through one window, so that walking small blocks costs few reads."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
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
            self._start, offset = start, 0
            self._window = os.pread(self.fd, max(length, min(_WINDOW, self.size - start)), start)
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
        """Judge by the length that the file states: what follows it cannot be told."""
        return None if self.size > length else self.size == length


def _png(file: _File) -> bool | None:
    signature = b"\x89PNG\r\n\x1a\n"
    if not file.begins(signature):
        return None
    at = len(signature)
    for _ in range(_MOST_STEPS):
        if at + 12 > file.size:
            return False
        kind = file.at(at + 4, 4)
        at += 12 + file.big(at, 4)
        if kind == b"IEND":
            return file.compare(at)
    return None


def _jpeg(file: _File) -> bool | None:
    if not file.begins(b"\xff\xd8\xff"):
        return None
    at, more = 2, False
    for _ in range(_MOST_STEPS):
        if at + 4 > file.size:
            return False
        if file.at(at, 1) != b"\xff":
            return None
        marker = file.big(at + 1, 1)
        if marker == 0xFF:  # fill
            at += 1
            continue
        if marker == 0xDA:
            break
        length = file.big(at + 2, 2)
        more = more or bool(0xE0 <= marker <= 0xEF and _CONTINUES.search(file.at(at + 4, length)))
        at += 2 + length
    # Within a scan 0xFF is stuffed, so an end marker after the first scan's start is no accident.
    if file.size >= at + 4 and file.at(file.size - 2, 2) == b"\xff\xd9":
        return None if more else True
    tail = max(at, file.size - (1 << 20))
    return None if b"\xff\xd9" in file.at(tail, file.size - tail) else False


def _gif(file: _File) -> bool | None:
    if not file.begins(b"GIF87a", b"GIF89a"):
        return None
    at = 13 + _colours(file.big(10, 1))
    within = False
    for _ in range(_MOST_STEPS * 5):
        if within:  # sub-blocks: a length of 0 ends them, and so does the end of the file
            length = file.big(at, 1)
            at += 1 + length
            within = length > 0
            continue
        block = file.at(at, 1)
        if block == b"\x3b":
            return file.compare(at + 1)
        if block == b"\x21":
            at += 2
        elif block == b"\x2c":
            at += 11 + _colours(file.big(at + 9, 1))
        else:
            return None if block else False
        within = True
    return None


def _colours(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _riff(file: _File) -> bool | None:
    length = file.little(4, 4)
    if not file.begins(b"RIFF") or (file.size >= 8 and length in {0, 0xFFFFFFFF}):
        return None  # a length of 0 or all ones: written by one who could not go back
    if file.size < 12:
        return False
    # Chunks are padded to an even length; not every writer counts the padding.
    whole = file.compare(8 + length)
    return None if whole and (length % 2 or file.at(8, 4) == b"AVI ") else whole


def _boxes(file: _File) -> bool | None:
    """Judge MP4, MOV and HEIF: the boxes add up, and those that one cannot do without are there.

    A box of padding or notes at the very end, cut off whole, is not missed: nothing announces it.
    """
    at = 0
    seen: list[bytes] = []
    while at < file.size and len(seen) < _MOST_STEPS:
        kind, length, header = file.at(at + 4, 4), file.big(at, 4), 8
        if length == 1:
            length, header = file.big(at + 8, 8), 16
        if at == 0 and len(kind) == 4 and kind not in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
            return None
        if file.size - at < header:
            return None if _suffices(file, seen) else False
        if length == 0:  # to the end of the file, wherever that is
            return None
        if length < header:
            return None
        at += length
        seen.append(kind)
        if at > file.size:
            return False
    if b"mfra" in seen[-1:]:
        return True
    if b"moof" in seen or seen.count(b"mdat") > 1 or at < file.size:
        return None  # a fragment, or the next of several, may be missing
    return _suffices(file, seen)


def _suffices(file: _File, seen: list[bytes]) -> bool:
    brands = file.at(8, min(file.big(0, 4), 256) - 8) if seen[:1] == [b"ftyp"] else b""
    still = re.search(rb"mif1|avif|heic|heix", brands) and not _SEQUENCES.search(brands)
    return b"mdat" in seen and (b"moov" in seen or bool(still and b"meta" in seen))


def _matroska(file: _File) -> bool | None:
    if not file.begins(b"\x1a\x45\xdf\xa3"):
        return None
    header = _ebml_size(file, 4)
    if header is None:
        return False if file.size < 12 else None
    at = header
    while file.at(at, 1) == b"\xec":  # Void
        void = _ebml_size(file, at + 1)
        if void is None:
            return None
        at = void
    segment = file.at(at, 4)
    if segment != b"\x18\x53\x80\x67":
        return False if len(segment) < 4 else None
    end = _ebml_size(file, at + 4)
    if end is None:  # unknown (live), unless the number itself is cut
        return False if file.size < at + 12 else None
    return file.compare(end)


def _ebml_size(file: _File, at: int) -> int | None:
    """Return where the element ends whose size stands at `at`; `None` for an unknown or missing size."""
    first = file.big(at, 1)
    width = 9 - first.bit_length()
    if not first or at + width > file.size:
        return None
    size = file.big(at, width) & ((1 << 7 * width) - 1)
    return None if size == (1 << 7 * width) - 1 else at + width + size


def _pdf(file: _File) -> bool | None:
    if not file.begins(b"%PDF-"):
        return None
    stated = re.search(rb"/Linearized\b[^>]{0,200}?/L\s+(\d{1,19})", file.at(0, 1024))
    if stated and int(stated[1]) > file.size:
        return False
    start = max(0, file.size - 1024)
    tail = file.at(start, 1024)
    last = max(0, tail.rfind(b"startxref"))
    end = re.match(rb"startxref\s+(\d{1,19})\s+%%EOF(\r\n|\n|)", tail[last:])
    if not end:
        return None if b"%%EOF" in tail else False
    # Without a line's end after the mark it may be the line's end that is missing.
    ends = last + end.end() == len(tail) and end[2]
    return True if ends and 0 < int(end[1]) < file.size else None


def _ogg(file: _File) -> bool | None:
    if not file.begins(b"OggS\0"):
        return None
    at = 0
    ongoing: set[int] = set()
    for _ in range(_MOST_STEPS):
        if at and at == file.size:
            return not ongoing
        page = file.at(at, 27)
        segments = file.at(at + 27, page[26] if len(page) == 27 else 0)
        if page[:4] != b"OggS"[: len(page)]:
            return None
        if len(page) < 27 or len(segments) < page[26]:
            return False
        serial = int.from_bytes(page[14:18], "little")
        ongoing.add(serial)
        if page[5] & 4:
            ongoing.discard(serial)
        at += 27 + len(segments) + sum(segments)
        if at > file.size:
            return False
    return None


def _zip(file: _File) -> bool | None:
    if not file.begins(b"PK\x03\x04", b"PK\x05\x06"):
        return None
    start = max(0, file.size - 22 - 0xFFFF)
    tail = file.at(start, file.size - start)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < 22:
        return False
    at = start + found
    end = at + 22 + file.little(at + 20, 2)
    if end != file.size:
        return None if end < file.size else False
    length, offset = file.little(at + 12, 4), file.little(at + 16, 4)
    if 0xFFFFFFFF in {length, offset}:
        return _zip64(file, at - 20)
    return True if offset + length == at else None


def _zip64(file: _File, locator: int) -> bool | None:
    if locator < 0 or file.at(locator, 4) != b"PK\x06\x07":
        return None
    at = file.little(locator + 8, 8)
    if file.at(at, 4) != b"PK\x06\x06" or at + 12 + file.little(at + 4, 8) != locator:
        return None
    return True if file.little(at + 40, 8) + file.little(at + 48, 8) == at else None


def _glb(file: _File) -> bool | None:
    if not file.begins(b"glTF"):
        return None
    return file.compare(file.little(8, 4)) if file.size >= 12 else False


def _bitmap(file: _File) -> bool | None:
    if not file.begins(b"BM"):
        return None
    return file.compare(file.little(2, 4)) if file.size >= 26 else False


_LOOKS: dict[str, Callable[[_File], bool | None]] = {
    ".png": _png,
    ".gif": _gif,
    ".glb": _glb,
    ".bmp": _bitmap,
    ".pdf": _pdf,
    **dict.fromkeys((".jpg", ".jpeg"), _jpeg),
    **dict.fromkeys((".webp", ".wav", ".avi"), _riff),
    **dict.fromkeys((".mp4", ".m4a", ".m4b", ".m4v", ".mov", ".3gp", ".avif", ".heic", ".heif"), _boxes),
    **dict.fromkeys((".webm", ".mkv", ".mka"), _matroska),
    **dict.fromkeys((".ogg", ".oga", ".ogv", ".opus", ".spx"), _ogg),
    **dict.fromkeys((".zip", ".docx", ".xlsx", ".pptx", ".odt", ".ods", ".odp", ".epub", ".usdz"), _zip),
}
