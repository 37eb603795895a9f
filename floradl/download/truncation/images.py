"""Pictures for the web (PNG, JPEG, GIF, QOI, ICO, BMP), and then what is drawn: 3D models and fonts.

Sources: PNG (W3C) 5.2; MNG 1.0; ITU-T T.81 annex B (JPEG), T.87 (JPEG-LS), CIPA DC-007 (MPF); GIF89a;
QOI 1.0; Microsoft's BITMAPFILEHEADER and ICONDIR; Apple's ICNS. glTF 2.0, 4.4 (GLB); the descriptions by the
Library of Congress (STL) and Greg Turk (PLY); Blender's "FBX binary file format specification";
OpenUSD's crateFile.h; OpenType 1.9; WOFF 1.0 and 2.0 (W3C).
"""

from __future__ import annotations

import re

from floradl.download.truncation.window import MOST_STEPS, Window, judges

_MORE = re.compile(rb"MicroVideo|MotionPhoto|Container:Directory")
# Within a scan 0xFF is stuffed: with a zero byte, in JPEG-LS with a zero bit.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LS_MARKER = re.compile(rb"\xff[\x80-\xfe]")
_SIZES = {
    **dict.fromkeys((b"char", b"uchar", b"int8", b"uint8"), 1),
    **dict.fromkeys((b"short", b"ushort", b"int16", b"uint16"), 2),
    **dict.fromkeys((b"int", b"uint", b"float", b"int32", b"uint32", b"float32"), 4),
    **dict.fromkeys((b"double", b"float64", b"int64", b"uint64"), 8),
}
_FBX_END = bytes.fromhex("f85a8c6adef5d97eece90ce3758f290b")
_Property = tuple[int, int]
"""The width of a value; with that of the count before it, 0 where it is a single one."""


@judges("png apng mng jng", b"\x89PNG\r\n\x1a\n", b"\x8aMNG\r\n\x1a\n", b"\x8bJNG\r\n\x1a\n")
def png(file: Window) -> bool | None:
    """Judge PNG, APNG, MNG and JNG by their chunks, of which the last says so."""
    at, last = 8, b"MEND" if file.at(0, 1) == b"\x8a" else b"IEND"
    for _ in range(MOST_STEPS):
        if at + 12 > file.size:
            return False
        kind = file.at(at + 4, 4)
        at += 12 + file.big(at, 4)
        if kind == last:
            return file.compare(at)
    return None


@judges("jpg jpeg jpe jfif jls mpo", b"\xff\xd8\xff")
def jpeg(file: Window) -> bool | None:
    """Judge JPEG by its segments and scans, up to the end marker.

    What follows it is a picture more (MPF states how long it is), a film (motion photos), notes of a camera
    (Samsung's end in `SEFT`) or padding: which, is unknown, and whether anything is missing of it.
    """
    at, more, listed = 2, False, 0
    scanned, marks = False, _MARKER
    for _ in range(MOST_STEPS):
        if at + 2 > file.size:
            # A scan that is damaged may have led astray.
            return None if scanned and file.at(file.size - 2, 2) == b"\xff\xd9" else False
        lead, marker = file.at(at, 2)
        if lead != 0xFF:
            return None
        if marker == 0xD9:
            whole = file.compare(max(listed, at + 2))
            return None if whole and more else whole
        length = file.big(at + 2, 2) if marker < 0xFF else -1  # or a byte to fill up
        if 0xE0 <= marker <= 0xEF and not scanned:
            content = file.at(at + 4, length)
            listed = max(listed, _pictures(content, at + 8))
            more = more or bool(_MORE.search(content)) or (content.startswith(b"MPF\0") and not listed)
        marks = _LS_MARKER if marker == 0xF7 else marks
        at += 2 + length
        if marker == 0xDA:
            scanned = True
            found = file.search(marks, at, 1)
            if found is None:
                return False
            at = found
    return None


def _pictures(index: bytes, base: int) -> int:
    """Return where the last picture that an MPF index lists ends, 0 where it is malformed."""
    if not index.startswith(b"MPF\0"):
        return 0
    tiff = index[4:]

    def number(at: int, length: int) -> int:
        return int.from_bytes(tiff[at : at + length], "little" if tiff[:2] == b"II" else "big")

    at, end = number(4, 4), 0
    for entry in range(at + 2, at + 2 + 12 * min(number(at, 2), 64), 12):
        if number(entry, 2) != 0xB002:
            continue
        start = number(entry + 8, 4)
        for picture in range(start, start + number(entry + 4, 4), 16):
            if picture + 16 > len(tiff):
                return 0
            offset = number(picture + 8, 4)
            end = max(end, offset + number(picture + 4, 4) + (base if offset else 0))
    return end


@judges("gif", b"GIF87a", b"GIF89a")
def gif(file: Window) -> bool | None:
    """Judge GIF by its blocks, up to the trailer."""
    at = 13 + _colours(file.big(10, 1))
    within = False
    for _ in range(MOST_STEPS * 5):
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


@judges("qoi", b"qoif")
def qoi(file: Window) -> bool | None:
    """Judge QOI by its end marker, which no sound encoder writes elsewhere."""
    mark = b"\0" * 7 + b"\1"
    if file.size < 22:
        return False
    if file.at(file.size - 8, 8) == mark:
        return True
    return None if file.last(mark, file.size) is not None else False


@judges("bmp dib", b"BM", least=26)
def bitmap(file: Window) -> bool | None:
    """Judge BMP by the length that it states."""
    length = file.little(2, 4)
    return file.compare(length) if length else None


@judges("ico cur", b"\0\0\1\0", b"\0\0\2\0")
def icon(file: Window) -> bool | None:
    """Judge ICO and CUR by where their pictures lie."""
    count = file.little(4, 2)
    if file.size < 6 + 16 * count:
        return False
    entries = [6 + 16 * index for index in range(count)]
    ends = [file.little(at + 8, 4) + file.little(at + 12, 4) for at in entries]
    return file.compare(max(ends)) if ends else None


@judges("icns", b"icns", least=8)
def apple_icon(file: Window) -> bool | None:
    """Judge ICNS by the length that it states."""
    return file.compare(file.big(4, 4))


@judges("glb vrm", b"glTF", least=12)
def binary_gltf(file: Window) -> bool | None:
    """Judge GLB by the length that it states."""
    return file.compare(file.little(8, 4))


@judges("stl")
def stereolithography(file: Window) -> bool | None:
    """Judge STL, binary by its count of facets, as a text by its last word; it has no signature."""
    head = file.at(0, 1024)
    if head.lstrip()[:5].lower() == b"solid" and b"\0" not in head and (b"facet" in head or len(head) < 84):
        tail = file.at(max(0, file.size - 1024), 1024)
        ends = b"endsolid" in tail.lower() or file.last(b"endsolid", file.size) is not None
        return None if ends else False
    if file.size < 84:
        return None
    count = file.little(80, 4)
    # The count is believed where the first facet's unused word is zero, as nearly all writers leave it.
    return file.compare(84 + 50 * count) if count and not file.little(132, 2) else None


@judges("ply", b"ply\n", b"ply\r\n")
def polygons(file: Window) -> bool | None:
    """Judge PLY by the counts of its header."""
    head = file.at(0, 1 << 14)
    found = re.search(rb"\nend_header\r?\n", head)
    if not found:
        return False if len(head) == file.size else None
    kind = re.search(rb"\nformat\s+(\w+)", head)
    elements = _elements(head[: found.start() + 1])
    if not kind or elements is None:
        return None
    if kind[1] == b"ascii":
        return _lines(file, found.end(), sum(count for count, _ in elements))
    return _rows(file, found.end(), elements, little=kind[1] == b"binary_little_endian")


def _elements(head: bytes) -> list[tuple[int, list[_Property]]] | None:
    elements: list[tuple[int, list[_Property]]] = []
    for line in head.split(b"\n"):
        words = line.split()
        if words[:1] == [b"element"] and len(words) == 3 and words[2].isdigit() and len(words[2]) < 12:
            elements.append((int(words[2]), []))
        elif words[:1] == [b"property"]:
            kinds = words[2:4] if words[1:2] == [b"list"] else [b"", *words[1:2]]
            if not elements or len(kinds) < 2 or not {*kinds} <= _SIZES.keys() | {b""}:
                return None
            elements[-1][1].append((_SIZES[kinds[1]], _SIZES.get(kinds[0], 0)))
    return elements


def _rows(file: Window, at: int, elements: list[tuple[int, list[_Property]]], *, little: bool) -> bool | None:
    budget = MOST_STEPS
    for count, properties in elements:
        least = sum(counted or width for width, counted in properties)
        if at + count * least > file.size:
            return False
        if not any(counted for _, counted in properties):
            at += count * least
            continue
        budget -= count * len(properties)
        if budget < 0:
            return None
        for _ in range(count):
            for width, counted in properties:
                number = (file.little if little else file.big)(at, counted) if counted else 1
                at += counted + number * width
            if at > file.size:
                return False
    return file.compare(at)


def _lines(file: Window, at: int, wanted: int) -> bool | None:
    lines = sum(block.count(b"\n") for block in file.blocks(at))
    if lines >= wanted:
        return True if lines == wanted and file.at(file.size - 1, 1) == b"\n" else None
    return None if lines == wanted - 1 and file.at(file.size - 1, 1) != b"\n" else False


@judges("fbx", b"Kaydara FBX Binary  \0", least=27)
def filmbox(file: Window) -> bool | None:
    """Judge binary FBX by its records at the top, then by its footer."""
    wide = 8 if file.little(23, 4) >= 7500 else 4
    at = 27
    for _ in range(MOST_STEPS):
        if at + wide > file.size:
            return False
        end = file.little(at, wide)
        if not end:
            return True if file.at(file.size - 16, 16) == _FBX_END else None
        if end <= at:
            return None
        at = end
    return None


@judges("3ds")
def chunked_studio(file: Window) -> bool | None:
    """Judge 3DS by the length of its outermost chunk."""
    if file.at(0, 2) != b"MM" or file.size < 6 or file.at(2, 2) in {b"\0*", b"\0+"}:
        return None
    return file.compare(file.little(2, 4)) if file.little(2, 4) > 6 else None


@judges("usdc", b"PXR-USDC", least=88)
def crate(file: Window) -> bool | None:
    """Judge USDC by its table of contents."""
    at = file.little(16, 8)
    count = file.little(at, 8)
    end = at + 8 + 32 * count
    if at < 88 or end > file.size:
        return False
    if count > MOST_STEPS:
        return None
    entries = range(at + 8, end, 32)
    return file.compare(
        max([end, *(file.little(entry + 16, 8) + file.little(entry + 24, 8) for entry in entries)])
    )


@judges("ttf otf woff woff2")
def font(file: Window) -> bool | None:
    """Judge TrueType, OpenType, WOFF and WOFF 2."""
    if file.begins(b"wOFF", b"wOF2") and file.size:
        return file.compare(file.big(8, 4)) if file.size >= 12 else False
    if not file.begins(b"\0\1\0\0", b"OTTO", b"true"):
        return None
    tables = file.big(4, 2)
    if file.size < 12 + 16 * tables:
        return False
    entries = range(12, 12 + 16 * tables, 16)
    return file.reaches(max((file.big(at + 8, 4) + file.big(at + 12, 4) for at in entries), default=0))
