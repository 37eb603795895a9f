"""Film outside MP4 and Matroska: MPEG-TS and PS, FLV, ASF, MXF, IVF, Y4M, SWF.

Sources: ISO/IEC 13818-1; Adobe's FLV 10.1, annex E, and SWF 19; Microsoft's ASF 1.20; SMPTE 377-1 (MXF);
On2's IVF; mjpegtools' yuv4mpeg(5).
"""

from __future__ import annotations

import re
import struct
import zlib

from floradl.media.truncation.window import MOST_STEPS, Window

_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF = bytes.fromhex("060e2b34020501010d0102")
_MXF_INDEX = bytes.fromhex("060e2b34020501010d01020101110100")
_MOST_INFLATED = 64 << 20
_SWF_PLACEHOLDER = 100 << 20
"""The length that ffmpeg 5.1 writes where it cannot go back."""


def transport(file: Window) -> bool | None:
    """Judge MPEG-TS, of Blu-ray's with their time stamps, too: writers write whole packets."""
    for packet, offset in ((188, 0), (192, 4)):
        places = [offset + packet * index for index in range(3)]
        last = (file.size - offset - 1) // packet * packet + offset
        if file.size > 3 * packet and all(file.at(at, 1) == b"\x47" for at in (*places, last - packet)):
            rest = file.size % packet
            return False if rest and file.at(last, 1) in {b"\x47", b""} else None
    return None


def program(file: Window) -> bool | None:
    """Judge an MPEG program stream by its packets, which state their lengths."""
    at = 0
    for _ in range(MOST_STEPS):
        head = file.at(at, 6)
        if not head or head[:3] != b"\0\0\1"[: len(head)]:
            return None
        if len(head) < 4:
            return False
        if head[3] == 0xB9:
            at += 4
        elif len(head) < 6:
            return False
        elif head[3] == 0xBA:
            at += 14 + (file.big(at + 13, 1) & 7) if head[4] >> 6 == 1 else 12
        elif head[3] > 0xBA:
            at += 6 + int.from_bytes(head[4:6], "big")
        else:
            return None  # an elementary stream
        if at > file.size:
            return False
    return None


def flash(file: Window) -> bool | None:
    """Judge FLV by the length in its notes, then by its tags."""
    if not file.begins(b"FLV\1"):
        return None
    if file.size < 13:
        return False
    found = re.search(rb"\0\x08filesize\0(.{8})", file.at(0, 4096), re.DOTALL)
    stated = struct.unpack(">d", found[1])[0] if found else 0.0
    if 0 < stated < 1 << 52:
        return file.compare(int(stated))
    at = file.big(5, 4) + 4
    for _ in range(MOST_STEPS):
        head = file.at(at, 11)
        if not head:
            return None
        if head[0] & 0x1F not in {8, 9, 18}:
            return None
        at += 15 + int.from_bytes(head[1:4], "big")
        if len(head) < 11 or at > file.size:
            return False
    return None


def advanced_systems(file: Window) -> bool | None:
    """Judge ASF (WMV, WMA) by the length that it states, unless it says to be a broadcast."""
    if not file.begins(_ASF):
        return None
    if file.size < 30:
        return False
    at, end = 30, file.little(16, 8)
    if file.size < end:
        return False
    for _ in range(MOST_STEPS):
        if at + 24 > end:
            return None
        length = file.little(at + 16, 8)
        if file.at(at, 16) == _ASF_FILE:
            stated = file.little(at + 40, 8)
            return None if file.little(at + 88, 4) & 1 or not stated else file.compare(stated)
        if length < 24:
            return None
        at += length
    return None


def material_exchange(file: Window) -> bool | None:
    """Judge MXF by its packets of key, length and value; the index at the end is its end."""
    if not file.begins(_MXF):
        return None
    at = 0
    key = b""
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size else True if key == _MXF_INDEX else None
        key = file.at(at, 16)
        if key[:4] != b"\x06\x0e\x2b\x34"[: len(key)]:
            return None
        first = file.at(at + 16, 1)
        if not first:
            return False
        width = first[0] & 0x7F if first[0] & 0x80 else 0
        if width > 8 or at + 17 + width > file.size:
            return None if width > 8 else False
        at += 17 + width + (file.big(at + 17, width) if width else first[0])
    return None


def indeo_video(file: Window) -> bool | None:
    """Judge IVF by its frames, and by their count where it is stated."""
    if not file.begins(b"DKIF"):
        return None
    if file.size < 32:
        return False
    at, stated, count = file.little(6, 2), file.little(24, 4), 0
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size else None
        if at + 12 > file.size:
            return False
        at += 12 + file.little(at, 4)
        count += 1
    return None if stated or count else False


_CHROMA = {b"420": (3, 2), b"422": (2, 1), b"444": (3, 1), b"411": (3, 2), b"mono": (1, 1)}


def raw_frames(file: Window) -> bool | None:
    """Judge YUV4MPEG2 by the size of its frames."""
    if not file.begins(b"YUV4MPEG2 "):
        return None
    head, newline, _ = file.at(0, 1024).partition(b"\n")
    if not newline:
        return False if file.size < 1024 else None
    fields = {word[:1]: word[1:] for word in head.split()[1:] if word[:1] != b"X"}
    chroma = re.fullmatch(rb"(420|422|444)?(?:jpeg|paldv|mpeg2)?", fields.get(b"C", b"420"))
    if not chroma or not all(fields.get(key, b"").isdigit() and len(fields[key]) < 7 for key in (b"W", b"H")):
        return None
    width, height = int(fields[b"W"]), int(fields[b"H"])
    kind = chroma[1] or b"420"
    across, down = (
        (width if kind == b"444" else -(-width // 2)),
        (-(-height // 2) if kind == b"420" else height),
    )
    at, frame = len(head) + 1, width * height + 2 * across * down
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size else None
        line, newline, _ = file.at(at, 256).partition(b"\n")
        if line[:5] != b"FRAME"[: len(line)]:
            return None
        if not newline:
            return False if len(line) < 256 else None
        at += len(line) + 1 + frame
    return None


def shockwave(file: Window) -> bool | None:
    """Judge SWF by the length that it states, packed ones by unpacking them."""
    if file.begins(b"FWS"):
        if file.size < 8:
            return False
        stated = file.little(4, 4)
        return None if stated == _SWF_PLACEHOLDER else file.compare(stated)
    if not file.begins(b"CWS"):
        return None
    unpacker, left = zlib.decompressobj(), _MOST_INFLATED
    for block in file.blocks(8):
        data = block
        while data:
            try:
                left -= len(unpacker.decompress(data, 1 << 20))
            except zlib.error:
                return None
            if unpacker.eof:
                return None if unpacker.unused_data else True
            if left < 0:
                return None
            data = unpacker.unconsumed_tail
    return False
