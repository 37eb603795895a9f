"""PDF, the older Office formats and RTF.

Sources: ISO 32000-1 (PDF), 7.5.5, 7.5.6 (incremental updates), F.2 (linearized); MS-CFB 2.2, 2.3; RTF 1.9.1.
"""

from __future__ import annotations

import re
import struct

from floradl.media.truncation.window import Window

_LINEARIZED = re.compile(rb"/Linearized\b[^>]{0,200}?/L\s+(\d{1,19})")
_END = re.compile(rb"startxref\s+(\d{1,19})\s+%%EOF")
_GOES_ON = re.compile(rb"\A[\s\0]*(?:\d{1,10}\s+\d{1,5}\s+obj\b|xref\b|%)")
_SPECIAL = 0xFFFFFFFA
"""Numbers from here on are no sectors. SheetJS 0.18.5 fills its table up with ends of chains."""

_LARGEST_TEXT = 64 << 20


def pdf(file: Window) -> bool | None:
    """Judge PDF by its last end mark, and by the length that one made for the web states.

    Only such a one is ever True: an update, which has an end mark of its own, may be missing behind any
    other, and the older document is whole by itself.
    """
    if not file.begins(b"%PDF-"):
        return None
    stated = _LINEARIZED.search(file.at(0, 1024))
    if stated and int(stated[1]) > file.size:
        return False
    at = file.last(b"%%EOF", file.size)
    if at is None:
        return False
    if stated and int(stated[1]) == file.size:
        return True
    # Behind an end mark an update may have begun; anything else was appended by somebody.
    behind = file.at(at + 5, 64)
    return False if _GOES_ON.match(behind) and len(behind.strip()) >= 8 else None


def compound(file: Window) -> bool | None:
    """Judge Microsoft's compound files (DOC, XLS, PPT, MSG) by the last sector in use."""
    if not file.begins(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"):
        return None
    if file.size < 512:
        return False
    shift, tables = file.little(30, 2), file.little(44, 4)
    if shift not in {9, 12}:
        return None
    sector = 1 << shift
    last = max(file.little(48, 4), 0) if file.little(48, 4) < _SPECIAL else 0
    for index in range(min(tables, 109)):
        place = file.little(76 + 4 * index, 4)
        if place >= _SPECIAL:
            break
        table = file.at((place + 1) << shift, sector)
        if len(table) < sector:
            return False
        follow = (entry for (entry,) in struct.iter_unpack("<I", table) if entry < _SPECIAL)
        last = max(last, place, *follow, 0)
    # The last sector may be short where its writer did not fill it up.
    return file.reaches(((last + 1) << shift) + 1)


_RTF = re.compile(rb"\\[{}\\]")


def rich_text(file: Window) -> bool | None:
    """Judge RTF by its braces. Never True: white space may follow."""
    if not file.begins(b"{\\rtf"):
        return None
    if file.size > _LARGEST_TEXT:
        return None
    if not file.size:
        return False
    depth, carry = 0, b""
    for block in file.blocks():
        text = carry + block
        # A backslash at the edge belongs to what follows, unless another has used it up.
        carry = b"\\" if (len(text) - len(text.rstrip(b"\\"))) % 2 else b""
        text = _RTF.sub(b"", text.removesuffix(carry))
        if b"\\bin" in text:
            return None
        depth += text.count(b"{") - text.count(b"}")
    return False if depth > 0 else None
