"""Pictures of the studio: TIFF, EXR, PSD, DDS, KTX, DPX, netpbm, SGI, Sun, TGA, FITS.

Sources: TIFF 6.0, section 2, and BigTIFF; OpenEXR 3 "file layout"; Adobe's Photoshop file format (2019);
Microsoft's DDS_HEADER; Khronos KTX 2.0; SMPTE 268M (DPX); netpbm's ppm(5), pam(5), pfm(5); SGI image file
format 1.00; Truevision TGA 2.0; FITS 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice

from floradl.download.truncation.window import MOST_STEPS, Window, judges

_WIDTHS = dict(enumerate((1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4), 1)) | {16: 8, 17: 8, 18: 8}
"""Bytes of a value, by the number of its type."""

_PARTS = {273: 279, 324: 325, 288: 289, 513: 514}
"""Strips, tiles, free space, a thumbnail: the tag of the offsets, and that of the lengths."""

_FURTHER = frozenset({330})
"""Tags whose values are directories of pictures; those of Exif are often left behind wrong by editors."""

Number = Callable[[int, int], int]
_Field = tuple[int, int, int]
"""Type, count and where the values stand."""
_BLOCKS = {
    **dict.fromkeys((b"DXT1", b"ATI1", b"BC4U"), 8),
    **dict.fromkeys((b"DXT2", b"DXT3", b"DXT4", b"DXT5", b"ATI2"), 16),
}
_PNM = re.compile(
    rb"(P[4-6]|P[fF])\s+(?:#.*\n\s*)*(\d+)\s+(?:#.*\n\s*)*(\d+)\s+(?:#.*\n\s*)*(?:(-?[\d.]+)\s)?"
)
_PAM = re.compile(rb"P7\n(?:.*\n){0,30}?ENDHDR\n")
_PAM_FIELD = re.compile(rb"(?<=\n)(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,9})")


@judges("tif tiff dng nef arw cr2 ptif tf8 btf", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", least=8)
def tiff(file: Window) -> bool | None:
    """Judge TIFF by its directories: what they refer to must be there. It has no end of its own."""
    number: Number = file.little if file.at(0, 1) == b"I" else file.big
    wide = 8 if number(2, 2) == 43 else 4
    waiting, seen = [number(8 if wide == 8 else 4, wide)], set[int]()
    budget = MOST_STEPS
    while waiting and budget > 0:
        at = waiting.pop()
        if at in seen or not at:
            continue
        seen.add(at)
        count = number(at, 8 if wide == 8 else 2)
        at += 8 if wide == 8 else 2
        after = at + count * (4 + 2 * wide)
        budget -= count + 1
        if count > 0xFFFF or budget < 0:
            return None
        fields = _fields(file, number, wide, (at, count)) if after + wide <= file.size else None
        if fields is None or not _parts_are_there(file, number, fields):
            return False
        budget -= sum(field[1] for tag, field in fields.items() if tag in _PARTS)
        for tag in _FURTHER & fields.keys():
            waiting += islice(_values(number, fields[tag]), 100)
        waiting.append(number(after, wide))
    return None


def _fields(file: Window, number: Number, wide: int, table: tuple[int, int]) -> dict[int, _Field] | None:
    """Return the fields of a directory by tag; None where values lie beyond the end."""
    fields: dict[int, _Field] = {}
    at, count = table
    for _ in range(count):
        kind, length = number(at + 2, 2), number(at + 4, wide)
        size = _WIDTHS.get(kind, 1) * length
        value = at + 4 + wide
        start = value if size <= wide else number(value, wide)
        if kind in _WIDTHS and start + size > file.size:
            return None
        fields[number(at, 2)] = (kind, length, start)
        at += 4 + 2 * wide
    return fields


def _parts_are_there(file: Window, number: Number, fields: dict[int, _Field]) -> bool:
    for tag in _PARTS.keys() & fields.keys():
        lengths = fields.get(_PARTS[tag])
        if lengths:
            pairs = zip(_values(number, fields[tag]), _values(number, lengths), strict=False)
            if any(offset + size > file.size for offset, size in pairs if size):
                return False
    return True


def _values(number: Number, field: _Field) -> Iterator[int]:
    kind, length, start = field
    width = _WIDTHS.get(kind, 1)
    return (number(start + width * index, width) for index in range(min(length, MOST_STEPS)))


@judges("exr", b"v/1\x01")
def exr(file: Window) -> bool | None:
    """Judge OpenEXR by its table of chunks, and by the chunk that lies last."""
    flags = file.little(4, 4)
    deep, tiled, parts = flags & 0x800, flags & 0x200, flags & 0x1000
    at = _exr_headers(file, bool(parts))
    if not at or deep:
        return False if at == 0 else None
    first, last = file.size + 1, 0
    start = at
    for _ in range(MOST_STEPS):
        if at + 8 > min(first, file.size):
            break
        offset = file.little(at, 8)
        if not offset or offset < start:
            return None  # left by one who broke off, who may have done so on purpose
        first, last = min(first, offset), max(last, offset)
        at += 8
    if last + 8 > file.size or at < first:
        return False if last + 8 > file.size or at + 8 > file.size else None
    if parts:
        return None
    head = 20 if tiled else 8
    return file.compare(last + head + file.little(last + head - 4, 4)) if last + head <= file.size else False


def _exr_headers(file: Window, parts: bool) -> int | None:  # noqa: FBT001 - of the file's flags
    """Return where the headers end; 0 where they are cut, None where they are malformed."""
    at = 8
    for _ in range(MOST_STEPS):
        name = file.at(at, 256)
        end = name.find(b"\0")
        if end < 0:
            return 0 if len(name) < 256 else None
        if end == 0:
            at += 1
            if not parts or file.at(at, 1) == b"\0":
                return at + (1 if parts else 0)
            continue
        at += end + 1
        kind = file.at(at, 256)
        end = kind.find(b"\0")
        if end < 0:
            return 0 if len(kind) < 256 else None
        at += end + 1
        if at + 4 > file.size:
            return 0
        at += 4 + file.little(at, 4)
    return None


@judges("psd psb", b"8BPS\0\1", b"8BPS\0\2", least=34)
def photoshop(file: Window) -> bool | None:
    """Judge PSD and PSB by their sections, and by the merged picture at the end."""
    large = file.big(4, 2) == 2
    channels, height, width, depth = file.big(12, 2), file.big(14, 4), file.big(18, 4), file.big(22, 2)
    at = 26
    for wide in (4, 4, 8 if large else 4):
        at += wide + file.big(at, wide)
    if file.size < at + 2:
        return False
    coding = file.big(at, 2)
    at += 2
    if coding == 0:
        return file.compare(at + channels * height * (-(-width * depth // 8)))
    if coding != 1 or channels * height > MOST_STEPS * 5:
        return None
    wide = 4 if large else 2
    end = at + wide * channels * height
    if file.size < end:
        return False
    rows = file.at(at, wide * channels * height)
    packed = sum(int.from_bytes(rows[i : i + wide], "big") for i in range(0, len(rows), wide))
    return file.compare(end + packed)


@judges("dds", b"DDS \x7c\0\0\0", least=128)
def direct_draw(file: Window) -> bool | None:
    """Judge DDS by its first picture, which is at least there: smaller ones may follow."""
    height, width, flags, bits = (file.little(at, 4) for at in (12, 16, 80, 88))
    levels = max(1, min(file.little(28, 4), 32)) if file.little(8, 4) & 0x20000 else 1
    block = _BLOCKS.get(file.at(84, 4), 0) if flags & 4 else 0
    if not block and (flags & 4 or not bits):
        return None
    total = 128
    for _ in range(levels):
        total += -(-width // 4) * -(-height // 4) * block if block else -(-width * bits // 8) * height
        width, height = max(1, width // 2), max(1, height // 2)
    return file.reaches(total)


@judges("ktx2", b"\xabKTX 20\xbb\r\n\x1a\n")
def khronos(file: Window) -> bool | None:
    """Judge KTX 2 by where its levels lie."""
    levels = min(max(1, file.little(40, 4)), 64)
    if file.size < 80 + 24 * levels:
        return False
    entries = [80 + 24 * index for index in range(levels)]
    return file.compare(max(file.little(at, 8) + file.little(at + 8, 8) for at in entries))


@judges("dpx", b"SDPX", b"XPDS", least=2048)
def exchange(file: Window) -> bool | None:
    """Judge DPX by the length that it states. Cineon's cannot be believed (ImageMagick 6.9)."""
    length = (file.little if file.at(0, 1) == b"X" else file.big)(16, 4)
    return file.compare(length) if 0 < length < 0xFFFFFFFF else None


@judges("pbm pgm ppm pnm pam pfm", b"P4", b"P5", b"P6", b"P7", b"Pf", b"PF")
def netpbm(file: Window) -> bool | None:
    """Judge PBM, PGM, PPM, PAM and PFM of binary pixels by width and height: more pictures may follow."""
    head = file.at(0, 4096)
    if head.startswith(b"P7"):
        found = _PAM.match(head)
        if not found:
            return None
        fields = _PAM_FIELD.findall(found[0])
        values = {name: int(value) for name, value in reversed(fields)}  # the first counts
        depth = 2 if values.get(b"MAXVAL", 0) > 255 else 1
        pixels = values.get(b"WIDTH", 0) * values.get(b"HEIGHT", 0) * values.get(b"DEPTH", 0)
        return file.reaches(found.end() + pixels * depth)
    found = _PNM.match(head)
    if not found or any(len(value or b"") > 12 for value in found.groups()):
        return None
    kind, width, height, most = found[1], int(found[2]), int(found[3]), found[4]
    if kind == b"P4":
        start = found.start(4) if most else found.end()
        return file.reaches(start + -(-width // 8) * height)
    if not most:
        return None
    if kind in {b"Pf", b"PF"}:
        return file.reaches(found.end() + width * height * (12 if kind == b"PF" else 4))
    deep = 2 if most.isdigit() and int(most) > 255 else 1
    return file.reaches(found.end() + width * height * deep * (3 if kind == b"P6" else 1))


@judges("sgi rgb rgba bw", b"\x01\xda\0\1", b"\x01\xda\0\2", b"\x01\xda\1\1", b"\x01\xda\1\2", least=512)
def silicon_graphics(file: Window) -> bool | None:
    """Judge SGI's picture: rows as they are, or each by its place in a table."""
    dimensions, width, height, channels = (file.big(at, 2) for at in (4, 6, 8, 10))
    rows = (height if dimensions > 1 else 1) * (channels if dimensions > 2 else 1)
    if not file.big(2, 1):
        return file.compare(512 + width * rows * file.big(3, 1))
    if rows > MOST_STEPS:
        return None
    if file.size < 512 + 8 * rows:
        return False
    ends = (file.big(512 + 4 * row, 4) + file.big(512 + 4 * (rows + row), 4) for row in range(rows))
    return file.compare(max(ends, default=0))


@judges("ras sun sr", b"\x59\xa6\x6a\x95", least=32)
def sun_raster(file: Window) -> bool | None:
    """Judge Sun's raster file by the length that it states."""
    length = file.big(16, 4)
    return file.reaches(32 + length + file.big(28, 4)) if length else None


@judges("tga")
def targa(file: Window) -> bool | None:
    """Judge TGA by width, height and the runs of what is packed, or by the footer of version 2."""
    if file.size >= 44 and file.at(file.size - 18, 18) == b"TRUEVISION-XFILE.\0":
        return True
    head = file.at(0, 18)
    if len(head) < 18 or head[1] > 1 or head[16] not in {8, 15, 16, 24, 32}:
        return None
    wide = -(-head[16] // 8)
    at = 18 + head[0] + (int.from_bytes(head[5:7], "little") * -(-head[7] // 8) if head[1] else 0)
    pixels = int.from_bytes(head[12:14], "little") * int.from_bytes(head[14:16], "little")
    if head[2] in {1, 2, 3}:
        return file.reaches(at + pixels * wide)
    if head[2] not in {9, 10, 11}:
        return None
    for _ in range(MOST_STEPS * 5):
        if pixels <= 0:
            return file.reaches(at)
        run = file.big(at, 1)
        if at >= file.size:
            return False
        count = (run & 0x7F) + 1
        pixels -= count
        at += 1 + (wide if run & 0x80 else wide * count)
    return None


@judges("fits fit fts", b"SIMPLE  =")
def flexible_transport(file: Window) -> bool | None:
    """Judge FITS: it consists of records of 2,880 bytes."""
    return False if file.size % 2880 else None


@judges("hdr pic", b"#?RADIANCE", b"#?RGBE")
def radiance(file: Window) -> bool | None:
    """Judge Radiance HDR of packed rows by walking their runs."""
    head = file.at(0, 8192)
    found = re.search(rb"\n\n-Y (\d{1,6}) \+X (\d{1,6})\n", head)
    if not found:
        return False if len(head) == file.size and b"\n\n" not in head else None
    height, width, at = int(found[1]), int(found[2]), found.end()
    if file.at(at, 2) != b"\2\2" or not 8 <= width < 0x8000:
        return None
    budget = MOST_STEPS * 5
    for _ in range(height):
        row = file.at(at, 4)
        if len(row) < 4:
            return False
        if row[:2] != b"\2\2" or row[2] << 8 | row[3] != width:
            return None
        at, budget = _radiance_row(file, at + 4, 4 * width, budget)
        if at > file.size:
            return False
        if not budget:
            return None
    return file.compare(at)


def _radiance_row(file: Window, at: int, left: int, budget: int) -> tuple[int, int]:
    """Return where the row ends, beyond the file for one that is cut, and what remains of the steps."""
    while left > 0 and budget:
        budget -= 1
        run = file.big(at, 1)
        if at >= file.size:
            return file.size + 1, budget
        if not run:
            return at, 0
        left -= run - 128 if run > 128 else run
        at += 2 if run > 128 else 1 + run
    return at, budget
