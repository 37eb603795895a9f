"""Pictures for the web: PNG (APNG, MNG), JPEG, GIF, QOI, ICO, BMP.

Sources: PNG (W3C) 5.2; MNG 1.0; ITU-T T.81 annex B (JPEG), T.87 (JPEG-LS), CIPA DC-007 (MPF); GIF89a;
QOI 1.0; Microsoft's BITMAPFILEHEADER and ICONDIR; Apple's ICNS.
"""

from __future__ import annotations

import re

from floradl.download.truncation.window import MOST_STEPS, Window

_PNG_KINDS = {
    b"\x89PNG\r\n\x1a\n": b"IEND",
    b"\x8aMNG\r\n\x1a\n": b"MEND",
    b"\x8bJNG\r\n\x1a\n": b"IEND",
}
_MORE = re.compile(rb"MicroVideo|MotionPhoto|Container:Directory")
# Within a scan 0xFF is stuffed: with a zero byte, in JPEG-LS with a zero bit.
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_LS_MARKER = re.compile(rb"\xff[\x80-\xfe]")


def png(file: Window) -> bool | None:
    """Judge PNG, APNG, MNG and JNG by their chunks, of which the last says so."""
    signature = next((mark for mark in _PNG_KINDS if file.begins(mark)), None)
    if signature is None:
        return None
    at = len(signature)
    for _ in range(MOST_STEPS):
        if at + 12 > file.size:
            return False
        kind = file.at(at + 4, 4)
        at += 12 + file.big(at, 4)
        if kind == _PNG_KINDS[signature]:
            return file.compare(at)
    return None


def jpeg(file: Window) -> bool | None:
    """Judge JPEG by its segments and scans, up to the end marker.

    What follows it is a picture more (MPF tells how long it is), a film (motion photos), notes of a camera
    (Samsung's end in `SEFT`) or padding: it cannot be told, nor that nothing is missing of it.
    """
    if not file.begins(b"\xff\xd8\xff"):
        return None
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


def gif(file: Window) -> bool | None:
    """Judge GIF by its blocks, up to the trailer."""
    if not file.begins(b"GIF87a", b"GIF89a"):
        return None
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


def qoi(file: Window) -> bool | None:
    """Judge QOI by its end marker, which no sound encoder writes elsewhere."""
    if not file.begins(b"qoif"):
        return None
    mark = b"\0" * 7 + b"\1"
    if file.size < 22:
        return False
    if file.at(file.size - 8, 8) == mark:
        return True
    return None if file.last(mark, file.size) is not None else False


def bitmap(file: Window) -> bool | None:
    """Judge BMP by the length that it states."""
    if not file.begins(b"BM"):
        return None
    if file.size < 26:
        return False
    length = file.little(2, 4)
    return file.compare(length) if length else None


def icon(file: Window) -> bool | None:
    """Judge ICO and CUR by where their pictures lie."""
    if not file.begins(b"\0\0\1\0", b"\0\0\2\0"):
        return None
    count = file.little(4, 2)
    if file.size < 6 + 16 * count or file.size < 6:
        return False
    entries = [6 + 16 * index for index in range(count)]
    ends = [file.little(at + 8, 4) + file.little(at + 12, 4) for at in entries]
    return file.compare(max(ends)) if ends else None


def apple_icon(file: Window) -> bool | None:
    """Judge ICNS by the length that it states."""
    if not file.begins(b"icns"):
        return None
    return file.compare(file.big(4, 4)) if file.size >= 8 else False
