"""Formats without a signature worth the name: known by a structure that repeats, or by several fields.

Sources: ISO/IEC 11172-3 and 13818-3 (MPEG audio), 13818-7, 6.2 (ADTS), 13818-1 (transport stream), 14496-3,
1.7.2 (LOAS); ETSI TS 102 366 (AC-3, E-AC-3); ITU-T H.264 and H.265, annex B; ID3v2.4, 3.1; APEv2; ISO/IEC
18181-1 (JPEG XL); Microsoft's ICO; ZSoft's PCX; Netpbm; the STL of 3D Systems; OpenType 1.9, "Organization".
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from floradl.download.file_type.tables import marks

# kbit/s by index; Hz by index for MPEG-1
_RATES = {
    (3, 3): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (3, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (3, 1): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 3): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_HERTZ = (44100, 48000, 32000)
_SHIFTS = {3: 0, 2: 1, 0: 2}  # MPEG-1, 2, 2.5
_LAYERS = {3: ".mp1", 2: ".mp2", 1: ".mp3"}
_AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_NETPBM = {b"1": ".pbm", b"2": ".pgm", b"3": ".ppm", b"4": ".pbm", b"5": ".pgm", b"6": ".ppm", b"7": ".pam"}
_PNM = re.compile(rb"P([1-6])(?:\s+|#[^\n]*\n)+\d+(?:\s+|#[^\n]*\n)+\d+\s")
_PAM = re.compile(rb"P(7)\n(?:#[^\n]*\n)*(?:WIDTH|HEIGHT|DEPTH|MAXVAL|TUPLTYPE) ")
_MODULES = frozenset(
    {b"M.K.", b"M!K!", b"M&K!", b"FLT4", b"FLT8", b"4CHN", b"6CHN", b"8CHN", b"OCTA", b"CD81"}
)
_BEHIND_A_TAG = marks(r"""
.flac   fLaC
.tta    TTA1
.ape    MAC\x20
.mpc    MPCK MP+\x07
.wv     wvpk
.ogg    OggS
.dsf    DSD\x20
.wav    RIFF
.aiff   FORM
""")
_SFNT_TABLES = frozenset(
    {b"BASE", b"CFF ", b"DSIG", b"FFTM", b"GDEF", b"GPOS", b"GSUB", b"LTSH", b"OS/2", b"cmap"}
)
_START = re.compile(rb"\0{0,8}\0\0\x01(.)(.)", re.DOTALL)


def tagged(head: bytes) -> str | None:
    """Return what is behind ID3v2 and APE tags; MP3 where that is not in sight."""
    at = _end_of_tags(head)
    rest = head[at:].lstrip(b"\0")
    return (_BEHIND_A_TAG.get(rest[:4]) or ac3(rest) or mpeg_audio(rest) or ".mp3") if at else None


def hides_behind_tags(head: bytes) -> bool:
    """Whether tags take all of it, so that a type or a name may know better what sound comes after."""
    return _end_of_tags(head) + 8 > len(head)


def _end_of_tags(head: bytes) -> int:
    at = 0
    while head.startswith((b"ID3", b"APETAGEX"), at) and len(head) >= at + 16:
        is_ape = head[at] == 0x41
        at += 32 + int.from_bytes(head[at + 12 : at + 16], "little") if is_ape else id3_size(head[at:])
    return at


def id3_size(tag: bytes) -> int:
    """Return how many bytes an ID3v2 tag takes, of which the first ten are there."""
    size = sum((tag[6 + place] & 0x7F) << 7 * (3 - place) for place in range(4))
    return 10 + size + (10 if tag[5] & 0x10 else 0)


def mpeg_audio(head: bytes) -> str | None:
    """MPEG audio of any layer, AAC in ADTS or LOAS, AC-3: two frames, one right after the other."""
    if head[:1] == b"\0":  # encoders' delay written as zeros before the first frame
        head = head.lstrip(b"\0")
    if head[:1] != b"\xff":
        return _loas(head)
    layer = _LAYERS.get(head[1] >> 1 & 3, "") if head[1:] else ""
    for size_of, extension in ((mpeg_frame, layer), (adts_frame, ".aac")):
        size = size_of(head)
        if size and extension and size_of(head[size : size + 8]):
            return extension
    return ".mp3" if _free_format(head) else None


def mpeg_frame(head: bytes) -> int:
    """Return the size of an MPEG audio frame, 0 where there is none."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer, rate, hertz = head[1] >> 3 & 3, head[1] >> 1 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 0 or rate in {0, 15} or hertz == 3:
        return 0
    bits = 1000 * _RATES[3 if version == 3 else 2, layer if version == 3 or layer == 3 else 2][rate]
    sampling, padding = _HERTZ[hertz] >> _SHIFTS[version], head[2] >> 1 & 1
    if layer == 3:
        return (12 * bits // sampling + padding) * 4
    return (72 if version != 3 and layer == 1 else 144) * bits // sampling + padding


def _free_format(head: bytes) -> bool:
    """Whether frames of layer III stand here at equal distances whose rate is not one of the table's."""
    is_layer_3 = len(head) >= 4 and head[1] & 0xE6 == 0xE2 and head[1] >> 3 & 3 != 1
    if not is_layer_3 or head[2] >> 4 or head[2] >> 2 & 3 == 3:
        return False
    mark = head[:2]
    at = head.find(mark, 24, 4096)
    while at > 0:
        # One byte of padding at most.
        if all(mark in {head[n * at : n * at + 2], head[n * at + 1 : n * at + 3]} for n in (1, 2, 3)):
            return True
        at = head.find(mark, at + 1, 4096)
    return False


def adts_frame(head: bytes) -> int:
    """Return the size of an ADTS frame, 0 where there is none."""
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return 0
    size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size >= 7 and head[2] >> 2 & 15 < 13 else 0


def _loas(head: bytes) -> str | None:
    at = 0
    for _ in range(3):
        size = loas_frame(head[at : at + 3])
        if not size:
            return None
        at += size
    return ".loas"


def loas_frame(head: bytes) -> int:
    """Return the size of a LOAS frame, 0 where there is none."""
    is_frame = len(head) >= 3 and head[0] == 0x56 and head[1] & 0xE0 == 0xE0
    return 3 + ((head[1] & 0x1F) << 8 | head[2]) if is_frame else 0


def ac3(head: bytes) -> str | None:
    """AC-3 and E-AC-3, in either order of bytes: two frames, or one that is all there is."""
    if head[:2] == b"\x77\x0b":
        even = head[: len(head) & ~1]
        head = b"".join(even[at : at + 2][::-1] for at in range(0, min(len(even), 8192), 2))
    size, extension = ac3_frame(head)
    if not size or (len(head) > size and head[size : size + 2] != b"\x0b\x77"):
        return None
    return extension


def ac3_frame(head: bytes) -> tuple[int, str]:
    """Return the size of a frame of AC-3 or E-AC-3 and its extension, 0 where there is none."""
    if len(head) < 6 or head[:2] != b"\x0b\x77":
        return 0, ""
    kind = head[5] >> 3
    if 10 < kind <= 16:
        return 2 * ((head[2] & 7) << 8 | head[3]) + 2, ".eac3"
    hertz, code = head[4] >> 6, head[4] & 63
    if kind > 10 or hertz == 3 or code >= 38:
        return 0, ""
    rate = _AC3_RATES[code >> 1]
    return 2 * (2 * rate, 320 * rate // 147 + (code & 1), 3 * rate)[hertz], ".ac3"


def transport_stream(head: bytes) -> str | None:
    """MPEG-2 transport streams: packets of 188 bytes, 192 with a time before each, 204 with a checksum."""
    for stride, offset, extension in ((188, 0, ".ts"), (192, 4, ".m2ts"), (204, 0, ".ts")):
        if _in_step(head, offset, stride, 3):
            return extension
    # A recording that began in the middle of a packet.
    found = (at for at in range(1, min(204, len(head))) if head[at] == 0x47)
    return next((".ts" for at in found if _in_step(head, at, 188, 8)), None)


def _in_step(head: bytes, offset: int, stride: int, least: int) -> bool:
    marks = head[offset : offset + 16 * stride : stride]
    return len(marks) >= least and marks.count(0x47) == len(marks)


def annex_b(head: bytes) -> str | None:
    """H.264 and H.265 as a bare stream: a delimiter or parameter sets first, and another unit after it."""
    found = _START.match(head)
    if not found or head.find(b"\0\0\x01", found.end(), found.end() + 4096) < 0:
        return None
    first, second = found[1][0], found[2][0]
    if first in {0x40, 0x42, 0x44, 0x46} and second == 1:
        return ".h265"
    if (first & 0x9F == 7 and second in {44, 66, 77, 83, 86, 88, 100, 110, 118, 122, 128, 244}) or (
        first == 9 and second & 0x1F == 0x10
    ):
        return ".h264"
    return None


def icon(head: bytes) -> str | None:
    """ICO and CUR: a list of pictures, each of which is a bitmap or a PNG at its place."""
    if head[:3] != b"\0\0\x01" and head[:3] != b"\0\0\x02":
        return None
    if len(head) < 22 or head[3]:
        return None
    count = head[4] | head[5] << 8
    for entry in range(min(count, (len(head) - 6) // 16)):
        size, at = struct.unpack_from("<II", head, 6 + 16 * entry + 8)
        if at < 6 + 16 * count or size < 12:
            return None
        if at + 4 <= len(head) and head[at : at + 4] not in {b"\x28\0\0\0", b"\x89PNG", b"\x0c\0\0\0"}:
            return None
    return (".ico" if head[2] == 1 else ".cur") if count else None


def bitmap(head: bytes) -> str | None:
    """BMP of Windows and OS/2; a text that starts with its two letters is none."""
    if head[:2] != b"BM" or len(head) < 18:
        return None
    size, offset = struct.unpack_from("<I", head, 14)[0], struct.unpack_from("<I", head, 10)[0]
    known = size in {12, 16, 40, 52, 56, 64, 108, 124} or (head[6:10] == b"\0\0\0\0" and 12 <= size <= 256)
    return ".bmp" if known and (offset == 0 or 14 + size <= offset < 1 << 24) else None


def netpbm(head: bytes) -> str | None:
    """PBM, PGM, PPM as text or not, PAM; PFM and PHM, their kin with fractions."""
    found = _PNM.match(head[:4096]) or _PAM.match(head[:4096])
    if found:
        return _NETPBM[found[1]]
    floating = re.match(rb"P([FfH4])\n(?:#[^\n]*\n)*\d+\s+\d+\s+-?[\d.]+\s", head[:512])
    return (".phm" if floating[1] == b"H" else ".pfm") if floating else None


def old_picture(head: bytes) -> str | None:
    """PCX, SGI and Targa, by fields that are few values, or zero."""
    if len(head) >= 128 and head[0] == 10 and head[1] in {0, 2, 3, 4, 5} and head[2] <= 1 and head[64] == 0:
        left, top, right, bottom = struct.unpack_from("<4H", head, 4)
        if head[3] in {1, 2, 4, 8} and left <= right and top <= bottom and 1 <= head[65] <= 4:
            return ".pcx"
    if head[:2] == b"\x01\xda" and len(head) >= 12 and head[2] <= 1 and head[3] in {1, 2}:
        return ".sgi" if struct.unpack_from(">H", head, 4)[0] in {1, 2, 3} else None
    return ".tga" if head[-18:] == b"TRUEVISION-XFILE.\0" or _is_targa(head) else None


def _is_targa(head: bytes) -> bool:
    if len(head) < 64 or head[0] or head[8:12] != b"\0\0\0\0":
        return False
    mapped, kind, depth = head[1], head[2], head[16]
    if head[17] & 0xD0 or not all(struct.unpack_from("<HH", head, 12)):
        return False
    if kind in {1, 9}:
        return mapped == 1 and depth == 8 and head[7] in {15, 16, 24, 32} and head[3:5] == b"\0\0"
    known = depth == 8 if kind in {3, 11} else depth in {15, 16, 24, 32} and kind in {2, 10}
    return known and head[1] == 0 and head[3:8] == bytes(5)


def bare_jpeg_xl(head: bytes) -> str | None:
    """JPEG XL's code stream alone: two bytes, and what follows is no text."""
    return ".jxl" if head[:2] == b"\xff\x0a" and len(head) > 12 and 0 in head[2:4096] else None


def mesh(head: bytes) -> str | None:
    """Binary STL: a count, and facets of 50 bytes that are twelve plausible numbers and two zeros."""
    if len(head) < 134:
        return None
    (count,) = struct.unpack_from("<I", head, 80)
    room = min((len(head) - 84) // 50, 50)
    if not 0 < count < 1 << 28 or (count < 4 and len(head) != 84 + 50 * count):
        return None
    facets = list(struct.iter_unpack("<12fH", head[84 : 84 + 50 * min(room, count)]))
    numbers = [abs(number) for *numbers, _ in facets for number in numbers]
    sane = all(number == 0 or 1e-12 < number < 1e12 for number in numbers)
    return ".stl" if sane and max(numbers) > 0 and not any(colour for *_, colour in facets) else None


def tracker(head: bytes) -> str | None:
    """Modules of trackers whose mark stands further in."""
    if head[44:48] == b"SCRM":
        return ".s3m"
    return ".mod" if head[1080:1084] in _MODULES else None


def font(head: bytes) -> str | None:
    """OpenType and TrueType: a number of tables, and their names."""
    kind = head[:4]
    if kind not in {b"OTTO", b"\0\x01\0\0", b"true", b"ttcf"} or len(head) < 28:
        return None
    if kind == b"ttcf":
        return ".ttc" if head[4:8] in {b"\0\x01\0\0", b"\0\x02\0\0"} else None
    count = int.from_bytes(head[4:6], "big")
    if not 0 < count < 100 or not (head[12:16] in _SFNT_TABLES or head[12:16].strip().isalnum()):
        return None
    return ".otf" if kind == b"OTTO" else ".ttf"


def further_in(head: bytes) -> str | None:
    """Find marks that stand at a place of their own."""
    for at, mark, extension in _PLACES:
        if head.startswith(mark, at):
            return extension
    at = head.find(b"%PDF-", 0, 1024)  # as readers take it (ISO 32000-1, annex H.3, note 13)
    return ".pdf" if at > 0 and re.match(rb"%PDF-[12]\.\d", head[at : at + 9]) else None


_PLACES: tuple[tuple[int, bytes, str], ...] = (
    (257, b"ustar", ".tar"),
    (4, b"\xf8\x72\x6f\xba", ".thd"),
    (4, b"\xf8\x72\x6f\xbb", ".mlp"),
    (128, b"DICM", ".dcm"),
    (40, b" EMF\0\0\x01\0", ".emf"),
    (60, b"BOOKMOBI", ".mobi"),
    (8, b"\0\0\xe1\xe2", ".gxf"),
    (30, b"(c)CRI", ".adx"),
    (4, b"RED1", ".r3d"),
    (4, b"RED2", ".r3d"),
)

LOOKS: tuple[Callable[[bytes], str | None], ...] = (
    *(tagged, mpeg_audio, ac3, transport_stream, annex_b, icon, bitmap, netpbm, old_picture),
    *(bare_jpeg_xl, tracker, font, further_in, mesh),
)
