"""Width and height of pictures and films, from the first bytes of their files: nothing is decoded.

Sources: PNG (W3C, third edition, 11.2.1, 11.3.3.6) and JPEG (ITU T.81, B.2.2) with Exif 2.32's orientation,
GIF89a, WebP (RFC 9649; Chromium 156 does not turn it by its Exif), BMP, ISO 14496-12 (`tkhd`) and 23008-12
(`ispe`, `irot`), Matroska (RFC 9559). What a file says is not believed beyond its bounds, and at most 512 KiB
of it are read.
"""

from __future__ import annotations

import struct
from typing import BinaryIO, Final

_MOST: Final = 1 << 20  # pixels a side that are believed
_HEAD: Final = 4096
_WINDOW: Final = 512 << 10
_DEEPEST: Final = 8
_SOF: Final = frozenset({*range(0xC0, 0xD0)}) - {0xC4, 0xC8, 0xCC}
_CONTAINERS: Final = frozenset({b"moov", b"trak", b"meta", b"iprp", b"ipco"})
_EBML_TRACKS: Final = (0x18538067, 0x1654AE6B, 0xAE, 0xE0)  # Segment, Tracks, TrackEntry, Video

Size = tuple[int, int]


def read_dimensions(file: BinaryIO) -> Size | None:
    """Return width and height as shown (turned where the file says so); None where that is unknown.

    `file` is at its beginning. Raises `OSError`.
    """
    head = file.read(_HEAD)
    try:
        found = _of(head, file)
    except (struct.error, IndexError, ValueError, RecursionError):
        return None
    if found is None or not (0 < found[0] <= _MOST and 0 < found[1] <= _MOST):
        return None
    return found


def _of(head: bytes, file: BinaryIO) -> Size | None:
    if head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        return _png(head, file)
    if head.startswith(b"\xff\xd8\xff"):
        return _jpeg(head, file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _webp(head)
    if head.startswith((b"GIF87a", b"GIF89a")):
        return _pair("<HH", head, 6)
    if head.startswith(b"BM") and len(head) > 26:
        width, height = struct.unpack_from("<ii", head, 18)
        return abs(width), abs(height)
    if head[4:8] == b"ftyp":
        return _iso(file)
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return _matroska(head + file.read(_WINDOW - len(head)))
    return None


def _pair(form: str, data: bytes, at: int) -> Size:
    width, height = struct.unpack_from(form, data, at)
    return width, height


def _png(head: bytes, file: BinaryIO) -> Size:
    """Read the size of a PNG, turned where a chunk before its pixels says so."""
    width, height = _pair(">II", head, 16)
    at = 8
    for _ in range(64):
        chunk = head[at : at + 8]
        if len(chunk) < 8 or chunk[4:] == b"eXIf":
            file.seek(at)
            chunk = file.read(_HEAD)
        if len(chunk) < 8 or chunk[4:8] == b"IDAT":
            break
        if chunk[4:8] == b"eXIf":
            return (height, width) if _is_turned(chunk[8:]) else (width, height)
        at += 12 + int.from_bytes(chunk[:4], "big")
    return width, height


def _webp(head: bytes) -> Size | None:
    match head[12:16]:
        case b"VP8 " if head[23:26] == b"\x9d\x01\x2a":
            width, height = _pair("<HH", head, 26)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L" if head[20] == 0x2F:
            bits = int.from_bytes(head[21:25], "little")
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    return None


def _jpeg(head: bytes, file: BinaryIO) -> Size | None:
    data, at, turned = head, 2, False
    while True:
        if at + 10 > len(data):
            if len(data) >= _WINDOW or not (
                more := file.read(min(max(at + 10 - len(data), 32 << 10), _WINDOW))
            ):
                return None
            data += more
            continue
        if data[at] != 0xFF:
            return None
        marker = data[at + 1]
        if marker == 0xFF or 0xD0 <= marker <= 0xD8 or marker == 0x01:  # a fill byte, or one without a length
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker in _SOF:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return (height, width) if turned else (width, height)
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\0\0":
            turned = _is_turned(data[at + 10 : at + 2 + length])
        at += 2 + length


def _is_turned(tiff: bytes) -> bool:
    """Whether the Exif orientation lies the picture on its side (5 to 8)."""
    try:
        order = {b"II": "<", b"MM": ">"}[tiff[:2]]
        (at,) = struct.unpack_from(f"{order}I", tiff, 4)
        (entries,) = struct.unpack_from(f"{order}H", tiff, at)
        for nth in range(min(entries, 100)):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, at + 2 + 12 * nth)
            if tag == 0x0112:
                return 5 <= int(value) <= 8
    except (KeyError, struct.error):
        pass
    return False


def _iso(file: BinaryIO) -> Size | None:
    """Walk the top boxes to `moov` (films) or `meta` (AVIF, HEIC), which may come last."""
    at = 0
    for _ in range(64):
        file.seek(at)
        box = file.read(16)
        if len(box) < 8:
            return None
        size, kind = struct.unpack_from(">I4s", box)
        start = 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", box, 8)
            start = 16
        if kind in {b"moov", b"meta"}:
            file.seek(at + start)
            body = file.read(min(size - start, _WINDOW) if size else _WINDOW)
            return _film(body) if kind == b"moov" else _still(body[4:])
        if size < start:
            return None
        at += size
    return None


def _boxes(data: bytes, depth: int = 0) -> list[tuple[bytes, bytes]]:
    """Return the boxes in `data` and below, in order."""
    found: list[tuple[bytes, bytes]] = []
    at = 0
    while at + 8 <= len(data) and depth < _DEEPEST and len(found) < 1000:
        size, kind = struct.unpack_from(">I4s", data, at)
        if size < 8:
            break
        body = data[at + 8 : at + size]
        found.append((kind, body))
        if kind in _CONTAINERS:
            found += _boxes(body, depth + 1)
        at += size
    return found


def _film(moov: bytes) -> Size | None:
    for kind, body in _boxes(moov):
        if kind != b"tkhd":
            continue
        at = 52 if body[0] == 1 else 40  # version 1 has longer times
        a, b = struct.unpack_from(">ii", body, at)
        width, height = struct.unpack_from(">II", body, at + 36)
        if width and height:
            size = width >> 16, height >> 16
            return size if a or not b else size[::-1]  # a quarter turn has zeros there
    return None


def _still(meta: bytes) -> Size | None:
    sizes: list[Size] = []
    turned = False
    for kind, body in _boxes(meta):
        if kind == b"ispe":
            sizes.append(_pair(">II", body, 4))
        elif kind == b"irot":
            turned = bool(body[0] & 1)
    if not sizes:
        return None
    largest = max(sizes, key=lambda size: size[0] * size[1])  # thumbnails and tiles have one, too
    return largest[::-1] if turned else largest


def _matroska(data: bytes) -> Size | None:
    at, end = 0, len(data)
    way = list(_EBML_TRACKS)
    width = height = 0
    for _ in range(2000):
        if at >= end:
            break
        ident, at = _vint(data, at, keep=True)
        size, at = _vint(data, at, keep=False)
        if way and ident == way[0]:
            way.pop(0)  # its children follow
            continue
        if not way and ident in {0xB0, 0xBA}:
            number = int.from_bytes(data[at : at + min(size, 8)], "big")
            width, height = (number, height) if ident == 0xB0 else (width, number)
            if width and height:
                return width, height
        elif ident == _EBML_TRACKS[2]:
            way = [_EBML_TRACKS[3]]  # the track before was sound
            continue
        at += size
    return None


def _vint(data: bytes, at: int, *, keep: bool) -> tuple[int, int]:
    """Read a number of variable length (RFC 8794, section 4); `keep` its mark, as an id has it."""
    first = data[at]
    if not first:
        raise ValueError("longer than 8 bytes")
    length = 9 - first.bit_length()
    value = int.from_bytes(data[at : at + length], "big")
    return value if keep else value & ((1 << 7 * length) - 1), at + length
