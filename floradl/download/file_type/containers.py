"""What is inside a container, by its beginning: RIFF, ISO media, Matroska, Ogg, ZIP, OLE, gzip, JPEG.

Sources: ISO/IEC 14496-12 (brands); RFC 9559 (Matroska); RFC 3533, 5334 and 7845 (Ogg); PKWARE's APPNOTE,
4.3.7, and OpenDocument 1.3, part 2, 3.3 (ZIP); Microsoft's MS-CFB, MS-DOC, MS-XLS, MS-PPT (OLE); RFC 1952
(gzip); ITU-T T.81, T.84 annex F and T.87 (JPEG, SPIFF, JPEG-LS); Microsoft's ASF specification 1.2.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable

from floradl.download.file_type.tables import REFINED, TYPES, marks
from floradl.download.file_type.text import from_text, text_of

_RIFF = marks(r"""
.webp   WEBP
.wav    WAVE
.avi    AVI\x20
.rmi    RMID
.ani    ACON
.sf2    sfbk
.dls    DLS\x20
.qcp    QLCM
""")
_IFF = marks(r"""
.aiff   AIFF AIFC
.8svx   8SVX 16SV
.lbm    ILBM PBM\x20
.maud   MAUD
.lwo    LWO2 LWOB
""")
_BRANDS = marks(r"""
.avif   avif avis
.heic   heic heix heim heis hevc hevx
.mov    qt\x20\x20 mqt\x20
.m4a    M4A\x20 M4P\x20 F4A\x20
.m4v    M4V\x20 M4VH M4VP
.f4v    F4V\x20 f4v\x20
.m4b    M4B\x20
.cr3    crx\x20
.jp2    jp2\x20
.jpx    jpx\x20
.jpm    jpm\x20
.jph    jph\x20
.mj2    mjp2 mj2s
.jxl    jxl\x20
.aax    aax\x20
""")
_STILLS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf", b"avci", b"avcs", b"jpeg", b"j2ki"})
_TRACKS = re.compile(rb"hdlr.{8}(vide|soun)", re.DOTALL)
_DOCTYPE = re.compile(rb"\x42\x82(?:[\x84-\x8f]|\x40[\x04-\x0f]|\x01\0{6}[\x04-\x0f])(webm|matroska)")
_MATROSKA_VIDEO = re.compile(rb"\x86(?:[\x85-\xbf]|\x40.|\x01\0{6}.)V_[A-Z]", re.DOTALL)
_OGG = marks(r"""
.ogv    \x80theora BBCD\0 \x01video\0\0\0
.opus   OpusHead
.spx    Speex\x20\x20\x20
.oga    \x7fFLAC
.ogg    \x01vorbis
""")
_MEMBERS = marks(r"""
.docm   word/vbaProject.bin
.xlsm   xl/vbaProject.bin
.pptm   ppt/vbaProject.bin
.docx   word/
.xlsx   xl/
.pptx   ppt/
.vsdx   visio/
.3mf    3D/
.xps    FixedDocSeq FixedDocumentSequence Documents/1/
""")
"""Names of members by their beginning; those of packages with macros stand anywhere, hence first."""
Read = Callable[[int, int], bytes]
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_STREAMS = (
    ("WordDocument", ".doc"),
    ("PowerPoint Document", ".ppt"),
    ("Workbook", ".xls"),
    ("Book", ".xls"),
    ("VisioDocument", ".vsd"),
    ("__properties_version1.0", ".msg"),
)
_OLE_FIRST = marks(r"""
.doc    \xec\xa5
.xls    \x09\x08
.ppt    \0n\x1e\xf0 \x0f\0\xe8\x03 \xa0F\x1d\xf0
""")
_ASF_VIDEO = bytes.fromhex("c0ef19bc4d5bcf11a8fd00805f5c442b")
_ASF_AUDIO = bytes.fromhex("409e69f84d5bcf11a8fd00805f5c442b")


def riff(head: bytes) -> str | None:
    """RIFF (also of 64 bits, and big-endian) and its elder, IFF."""
    if head[:4] in {b"RIFF", b"RF64", b"BW64", b"RIFX"}:
        return _RIFF.get(head[8:12])
    if head[:4] == b"FORM":
        return _IFF.get(head[8:12])
    return ".djvu" if head.startswith(b"AT&TFORM") and head[12:15] == b"DJV" else None


def iso_media(head: bytes) -> str | None:
    """MP4 and its kin, JPEG 2000 and JPEG XL, by brand; QuickTime from before there were brands."""
    kind = head[4:8]
    if kind in {b"moov", b"mdat", b"wide", b"pnot"} or (kind in {b"free", b"skip"} and _atom_follows(head)):
        return ".mov"
    if kind in {b"styp", b"moof", b"sidx"}:
        return ".m4s"
    if head.startswith(b"\0\0\0\x0cjP  \r\n\x87\n"):
        return _BRANDS.get(head[20:24], ".jp2") if head[16:20] == b"ftyp" else ".jp2"
    if kind != b"ftyp":
        return None
    major = head[8:12]
    if major[:2] == b"3g":
        return ".3g2" if major[:3] == b"3g2" else ".3gp"
    if major in _STILLS:
        size = min(int.from_bytes(head[:4], "big"), len(head))
        others = (head[at : at + 4] for at in range(16, size - 3, 4))
        return next((_BRANDS[brand] for brand in others if brand in _BRANDS), ".heif")
    return _BRANDS.get(major, ".mp4")


def _atom_follows(head: bytes) -> bool:
    size = int.from_bytes(head[:4], "big")
    return size >= 8 and head[size + 4 : size + 8] in {b"moov", b"mdat", b"free", b"wide", b"skip"}


def matroska(head: bytes) -> str | None:
    """WebM and Matroska, by document type."""
    if not head.startswith(b"\x1a\x45\xdf\xa3"):
        return None
    found = _DOCTYPE.search(head, 0, 256)
    return ".webm" if found and found[1] == b"webm" else ".mkv"


def ogg(head: bytes) -> str | None:
    """Ogg, by the first packets of its streams; pictures count most."""
    if not head.startswith(b"OggS\0"):
        return None
    first = head[:4096]
    return next((extension for mark, extension in _OGG.items() if mark in first), ".ogg")


def asf(head: bytes) -> str | None:
    """Windows Media, with pictures or sound alone."""
    if not head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return None
    return ".wma" if _ASF_AUDIO in head and _ASF_VIDEO not in head else ".wmv"


def holds_pictures(head: bytes) -> bool | None:
    """Whether an MP4 or Matroska file has a track of pictures; `None` where that is not in sight."""
    if head[4:8] in {b"ftyp", b"styp", b"moov"}:
        found = set(_TRACKS.findall(head))
        return b"vide" in found if found else None
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return bool(_MATROSKA_VIDEO.search(head))
    return None


def beyond(head: bytes, read: Read) -> bytes:
    """Return what says more and lies beyond `head`: the directory of OLE, the index of an MP4."""
    at = 0
    if head.startswith(_OLE) and len(head) >= 52:
        at = ((int.from_bytes(head[48:52], "little") & 0x7FFF_FFFF) + 1) << (head[30] & 15)
        return read(4096, at) if at >= len(head) else b""
    if head[4:8] not in {b"ftyp", b"wide", b"mdat"}:
        return b""
    for _ in range(8):
        size, kind, large = struct.unpack(">I4sQ", read(16, at).ljust(16, b"\0"))
        if kind == b"moov":
            return read(len(head), at) if at >= len(head) else b""
        size = large if size == 1 else size
        if size < 8 or at + size >= 1 << 62:
            break
        at += size
    return b""


def zipped(head: bytes) -> str | None:
    """ZIP and what is made of it, by the first members, whose names stand before their data."""
    if not head.startswith(b"PK\x03\x04"):
        return None
    names = _members(head)
    first = names[0] if names else b""
    if first == b"mimetype":
        kind = re.match(r"[\w.+/-]*", head[38:138].decode("latin-1"))
        # The data's end shows only where the next member begins with its mark.
        found = TYPES.get(kind[0].partition("PK")[0]) if kind else None
        return found if found in REFINED[".zip"] else ".zip"
    if first.endswith((b".usdc", b".usda")):
        return ".usdz"
    if b"manifest.json" in names and any(name.startswith((b"animations/", b"a/")) for name in names):
        return ".lottie"
    if any(name.startswith((b"[Content_Types].xml", b"_rels/", b"docProps/")) for name in names) or any(
        first.startswith(mark) for mark in _MEMBERS
    ):
        return next(
            (ext for mark, ext in _MEMBERS.items() if any(name.startswith(mark) for name in names)), ".zip"
        )
    return ".ora" if b"stack.xml" in names and b"mergedimage.png" in names else ".zip"


def _members(head: bytes) -> list[bytes]:
    """Return the names of the members that show, as far as their lengths lead."""
    names: list[bytes] = []
    at = 0
    while head.startswith(b"PK\x03\x04", at) and len(head) >= at + 30:
        size, name, extra = struct.unpack("<18xI4xHH", head[at : at + 30])
        names.append(head[at + 30 : at + 30 + name])
        at += 30 + name + extra
        if size in {
            0,
            0xFFFF_FFFF,
        }:  # stated after the data, or elsewhere: deflated data hardly hold the mark
            at = max(head.find(b"PK\x03\x04", at), 0) or len(head)
        else:
            at += size
    return names


def ole(head: bytes) -> str | None:
    """Old Office files, by the streams of the directory, else by how the first stream begins."""
    if not head.startswith(_OLE):
        return None
    for name, extension in _OLE_STREAMS:
        if name.encode("utf-16-le") + b"\0\0" in head:
            return extension
    return next((extension for mark, extension in _OLE_FIRST.items() if head.startswith(mark, 512)), ".doc")


def unzipped(head: bytes) -> bytes:
    """Return the first bytes inside a gzip file, as far as they show."""
    try:
        return zlib.decompressobj(31).decompress(head, 4096)
    except zlib.error:
        return b""


def gzipped(head: bytes) -> str | None:
    """Return what is inside gzip, where that has a name of its own."""
    if not head.startswith(b"\x1f\x8b\x08"):
        return None
    inner = unzipped(head)
    if inner.startswith((b"NGSP", b"PSGN")):
        return ".spz"
    if inner.startswith(b"BLENDER"):
        return ".blend"
    if inner.startswith(b"Vgm "):
        return ".vgz"
    text = text_of(inner)
    return ".svgz" if text and from_text(text) == ".svg" else ".gz"


def jpeg(head: bytes) -> str | None:
    """JPEG and JPEG-LS, by the frame's marker; both may have the SPIFF header."""
    if not head.startswith(b"\xff\xd8\xff"):
        return None
    at = 2
    while at + 4 <= len(head) and head[at] == 0xFF:
        marker = head[at + 1]
        if marker == 0xF7:
            return ".jls"
        if marker == 0xFF:
            at += 1
            continue
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:
            break
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return ".jpg"
