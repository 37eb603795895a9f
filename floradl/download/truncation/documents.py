"""Archives (ZIP, gzip, bzip2, xz, Zstandard, LZ4, 7z, tar) and documents (PDF, Office, RTF, XML, JSON).

Sources: PKWARE's APPNOTE (ZIP), 4.3.16; RFC 1952 (gzip), 2.2 and 2.3; RFC 8878 (Zstandard), 3.1.1; the .xz
file format 1.2, 2.1.2; LZ4 frame format 1.6; 7zFormat.txt; POSIX pax (tar). ISO 32000-1 (PDF), 7.5.5, 7.5.6
(incremental updates), F.2 (linearized); MS-CFB 2.2, 2.3; RTF 1.9.1; XML 1.0, 2.1; RFC 8259 (JSON), 2.
"""

from __future__ import annotations

import bz2
import re
import struct
import zlib
from collections.abc import Iterator
from xml.parsers import expat

from floradl.download.truncation.window import MOST_STEPS, Window, judges

_MOST_INFLATED = 256 << 20
"""How many bytes are unpacked at most; nothing of it is kept."""

_PIECE = 1 << 20
_MOST_MEMBERS = 10_000
_MOST_RECORDS = 64
_LINEARIZED = re.compile(rb"/Linearized\b[^>]{0,200}?/L\s+(\d{1,19})")
_GOES_ON = re.compile(rb"\A[\s\0]*(?:\d{1,10}\s+\d{1,5}\s+obj\b|xref\b|%)")
_SPECIAL = 0xFFFFFFFA
"""Numbers from here on are no sectors. SheetJS 0.18.5 fills its table up with ends of chains."""
_LARGEST_TEXT = 64 << 20
_RTF = re.compile(rb"\\[{}\\]")
_LARGEST = 32 << 20
_DEEPEST = 10_000
_CUT = {
    expat.errors.XML_ERROR_NO_ELEMENTS,
    expat.errors.XML_ERROR_UNCLOSED_TOKEN,
    expat.errors.XML_ERROR_PARTIAL_CHAR,
    expat.errors.XML_ERROR_UNCLOSED_CDATA_SECTION,
}
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_NOT_JSON = re.compile(rb"[^\[\]{}:,0-9+\-.eEtrufalsnINiy\s]")
_SECOND = re.compile(rb"[\]}]\s*[\[{]")


@judges(
    "zip docx xlsx pptx docm xlsm pptm dotx xltx potx ppsx xlsb vsdx odt ods odp odg ott otp ots epub "
    "usdz cbz 3mf kmz lottie ora kra pages key numbers xps oxps jar apk sketch idml mscz mxl fcstd",
    b"PK\x03\x04",
    b"PK\x05\x06",
)
def zip_archive(file: Window) -> bool | None:
    """Judge ZIP by its directory and the record at its end, wherever in the file that is."""
    before, followed = file.size, False
    for _ in range(_MOST_RECORDS):
        at = file.last(b"PK\x05\x06", before)
        if at is None:
            break
        end = at + 22 + file.little(at + 20, 2)
        fits = at + 22 <= file.size and _directory_fits(file, at)
        if end == file.size:
            return True if fits else None
        # Behind a record something else was appended; or a ZIP within, which is not packed, has ended.
        followed = followed or (end < file.size)
        if fits:
            return None if followed else False
        before = at + 3
    return None if followed else False


def _directory_fits(file: Window, at: int) -> bool:
    """Whether the directory stands where the record at `at` says."""
    length, offset = file.little(at + 12, 4), file.little(at + 16, 4)
    if 0xFFFFFFFF in {length, offset}:
        return _zip64(file, at - 20)
    return offset + length == at and file.at(offset, 4) in {b"PK\x01\x02", b"PK\x05\x06"}


def _zip64(file: Window, locator: int) -> bool:
    if locator < 0 or file.at(locator, 4) != b"PK\x06\x07":
        return False
    at = file.little(locator + 8, 8)
    if file.at(at, 4) != b"PK\x06\x06" or at + 12 + file.little(at + 4, 8) != locator:
        return False
    return file.little(at + 40, 8) + file.little(at + 48, 8) == at


@judges("gz tgz svgz", b"\x1f\x8b\x08")
def gzip(file: Window) -> bool | None:
    """Judge gzip by unpacking it: each member has its checksum and length.

    Never True: a further member may follow, and nothing announces it.
    """
    unpacker = zlib.decompressobj(wbits=31)
    left, members, between = _MOST_INFLATED, 0, True
    for block in file.blocks():
        data = block
        while data:
            if between and data[:1] != b"\x1f":
                return None  # zeros, or something else appended
            try:
                left -= len(unpacker.decompress(data, _PIECE))
            except zlib.error:
                return None
            between = unpacker.eof
            data = unpacker.unused_data if between else unpacker.unconsumed_tail
            if between:
                unpacker = zlib.decompressobj(wbits=31)
                members += 1
            if left < 0 or members > _MOST_MEMBERS:
                return None
    return None if between and file.size else False


@judges("bz2", b"BZh")
def bzip2(file: Window) -> bool | None:
    """Judge bzip2 by unpacking it. Never True, as with gzip."""
    unpacker = bz2.BZ2Decompressor()
    left = _MOST_INFLATED // 8
    for block in file.blocks():
        data = block
        while data or not unpacker.needs_input:
            try:
                left -= len(unpacker.decompress(data, _PIECE))
            except (OSError, EOFError):
                return None
            if left < 0:
                return None
            data = b""
            if unpacker.eof:
                return None
    return False


@judges("xz", b"\xfd7zXZ\0")
def xz(file: Window) -> bool | None:
    """Judge xz by its footer, behind which zeros may stand. Never True, as with gzip."""
    if file.size >= 24 and file.at(file.size - 2, 2) == b"YZ":
        return None
    is_padded = file.size >= 32 and file.last(b"YZ", file.size) is not None and file.padded(file.size - 4)
    return None if is_padded else False


@judges("zst", b"\x28\xb5\x2f\xfd")
def zstandard(file: Window) -> bool | None:
    """Judge Zstandard by its blocks. Never True, as with gzip."""
    at, budget = 0, MOST_STEPS
    while budget > 1:
        budget -= 1
        if at >= file.size:
            return None if at == file.size and at else False
        magic = file.at(at, 4)
        if magic[1:] == b"\x2a\x4d\x18" and magic[0] >> 4 == 5:  # a frame to be skipped
            at += 8 + file.little(at + 4, 4)
            continue
        if magic != b"\x28\xb5\x2f\xfd"[: len(magic)]:
            return None
        flags = file.big(at + 4, 1)
        at += 5 + (0 if flags & 32 else 1) + (0, 1, 2, 4)[flags & 3]
        at += (1 if flags & 32 else 0, 2, 4, 8)[flags >> 6]
        while budget := budget - 1:
            if at + 3 > file.size:
                return False
            block = file.little(at, 3)
            kind, size = block >> 1 & 3, block >> 3
            if kind == 3:
                return None
            at += 3 + (1 if kind == 1 else size)
            if block & 1:
                break
        at += 4 if flags & 4 else 0
    return None


@judges("lz4", b"\x04\x22\x4d\x18")
def lz4(file: Window) -> bool | None:
    """Judge LZ4 frames by their blocks. Never True, as with gzip."""
    flags = file.big(4, 1)
    at = 7 + (8 if flags & 8 else 0) + (4 if flags & 1 else 0)
    for _ in range(MOST_STEPS):
        if at + 4 > file.size:
            return False
        size = file.little(at, 4) & 0x7FFFFFFF
        if not size:
            return file.reaches(at + 4 + (4 if flags & 4 else 0))
        at += 4 + size + (4 if flags & 16 else 0)
    return None


@judges("7z", b"7z\xbc\xaf\x27\x1c", least=32)
def seven_zip(file: Window) -> bool | None:
    """Judge 7z by where its first header says that the last one lies."""
    return file.compare(32 + file.little(12, 8) + file.little(20, 8))


@judges("tar")
def tar(file: Window) -> bool | None:
    """Judge tar by its entries and the two empty records behind them."""
    if file.at(257, 5) != b"ustar"[: max(file.size - 257, 0)]:
        return None
    at = 0
    for _ in range(MOST_STEPS):
        head = file.at(at, 512)
        if len(head) < 512:
            return False if head or at > file.size else None
        if not head.strip(b"\0"):
            return None if at + 1024 <= file.size else False
        size = head[124:136]
        if size[0] & 0x80:
            length = int.from_bytes(size[1:], "big")
        elif re.fullmatch(rb"[0-7]+", size.strip(b"\0 ")) and head[257:262] == b"ustar":
            length = int(size.strip(b"\0 "), 8)
        else:
            return None
        at += 512 + length + -length % 512
    return None


@judges("pdf ai", b"%PDF-")
def pdf(file: Window) -> bool | None:
    """Judge PDF by its last end mark, and by the length that one made for the web states.

    Only such a one is ever True: an update, which has an end mark of its own, may be missing behind any
    other, and the older document is whole by itself.
    """
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


@judges("doc xls ppt msg", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", least=512)
def compound(file: Window) -> bool | None:
    """Judge Microsoft's compound files (DOC, XLS, PPT, MSG) by the last sector in use."""
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


@judges("rtf", b"{\\rtf", least=1)
def rich_text(file: Window) -> bool | None:
    """Judge RTF by its braces. Never True: white space may follow."""
    if file.size > _LARGEST_TEXT:
        return None
    depth = 0
    for block in _with_whole_escapes(file):
        text = _RTF.sub(b"", block)
        if b"\\bin" in text:
            return None
        depth += text.count(b"{") - text.count(b"}")
    return False if depth > 0 else None


def _with_whole_escapes(file: Window) -> Iterator[bytes]:
    """Read in blocks; a backslash at an edge comes with what follows, unless another has used it up."""
    carry = b""
    for block in file.blocks():
        text = carry + block
        carry = b"\\" if (len(text) - len(text.rstrip(b"\\"))) % 2 else b""
        yield text.removesuffix(carry)


class _BeyondError(Exception):
    """The document does what nobody is to be made to follow: entities of its own, endless depth."""


@judges(
    "svg xml gpx kml dae fcpxml ttml rss atom mpd fodt fods fodp fodg x3d amf xmp plist vtu musicxml "
    "fb2 opml xhtml xsl xspf icml drawio"
)
def xml(file: Window) -> bool | None:
    """Judge XML: whether all that was opened is closed. Nothing is known of what is malformed otherwise.

    Never True, as JSON is not: white space may follow the last element.
    """
    if file.size > _LARGEST:
        return None
    parser = expat.ParserCreate()
    depth = budget = 0

    def opened(_name: str, _attributes: object) -> None:
        nonlocal depth, budget
        depth += 1
        budget += 1
        if depth > _DEEPEST or budget > MOST_STEPS * 5:
            raise _BeyondError

    def closed(_name: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise _BeyondError

    parser.StartElementHandler = opened
    parser.EndElementHandler = closed
    parser.EntityDeclHandler = refuse
    try:
        # Older ones of expat begin a token that is not yet whole anew with each block.
        for block in file.blocks(growing=True):
            parser.Parse(block, False)
    except (expat.ExpatError, _BeyondError, LookupError, ValueError):
        return None
    try:
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        return False if expat.errors.messages[error.code] in _CUT else None
    return None


@judges("json gltf geojson topojson ipynb webmanifest har")
def json(file: Window) -> bool | None:
    """Judge JSON whose root is an object or a list; nothing is known of lines of JSON, or comments."""
    if file.size > _LARGEST:
        return None
    depth, within, last = 0, False, b""
    for number, block in enumerate(_with_whole_escapes(file)):
        text = block
        if not number:
            text = text.removeprefix(b"\xef\xbb\xbf").lstrip()
            if text and text[:1] not in {b"{", b"["}:
                return None
        # The quote closes a string that is open at the edge; where none is, it is what remains.
        text = _STRING.sub(b" ", b'"' * within + text + b'"')
        within = not text.endswith(b'"')
        text = text.removesuffix(b'"')
        if _NOT_JSON.search(text) or _SECOND.search(last + text):
            return None
        depth += text.count(b"{") + text.count(b"[") - text.count(b"}") - text.count(b"]")
        last = (last + text).rstrip()[-1:]
    return False if depth > 0 or not file.size else None
