"""Film, and whatever is made of boxes: MP4, HEIF, JPEG XL, JPEG 2000, Matroska, MPEG, FLV, ASF, MXF, SWF.

`mvex` counts in the `moov` at the top alone: what ffmpeg 8 leaves with `-movflags hybrid_fragmented` is an
ordinary file with the old `moov` inside its `mdat`. ffmpeg's `frag_keyframe` without `empty_moov` describes
the first fragment by an ordinary `moov`: only `mvex` shows that more must follow. A writer of Matroska that
cannot go back leaves the Segment's size unknown; ffmpeg 5.1 still gives each Cluster its size, GStreamer 1.22
(`streamable`), webm-muxer 5.1 and mediabunny 1.61 do not, but blocks have theirs always.

Sources: ISO/IEC 14496-12, 4.2 (boxes), 8.8.1 (`mvex` announces fragments), 8.8.9 (`mfra` ends them), 8.16.3
(`sidx` states their lengths); ISO/IEC 18181-2, 9 (JPEG XL); ITU-T T.800, annexes A and I (JPEG 2000); RFC
8794 (EBML), 6; RFC 9559 (Matroska); ISO/IEC 13818-1; Adobe's FLV 10.1, annex E, and SWF 19; Microsoft's ASF
1.20; SMPTE 377-1 (MXF); On2's IVF; mjpegtools' yuv4mpeg(5).
"""

from __future__ import annotations

import re
import struct
import zlib

from floradl.download.truncation.window import MOST_STEPS, Window, judges

_SEQUENCES = re.compile(rb"avis|msf1|hevc|hevx")
_STILLS = re.compile(rb"mif1|avif|heic|heix|miaf")
_FIRST = frozenset(
    {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx", b"moof", b"jP  "}
)
_KNOWN_BOXES = _FIRST | {
    *(b"uuid", b"mfra", b"meta", b"udta", b"ssix", b"prft", b"emsg", b"pdin", b"imda", b"meco", b"junk"),
    *(b"jxlc", b"jxlp", b"jxli", b"jxll", b"jbrd", b"brob", b"Exif", b"xml ", b"jumb", b"JXL ", b"jhgm"),
    *(b"mpvd", b"sefd", b"jp2h", b"jp2c", b"jp2i", b"uinf", b"PICT", b"bloc"),
}

_MOST_INDEXES = 200
_MOST_INDEXED = 2000

Box = tuple[bytes, int, int]
"""Kind, start of the content, end."""
_EBML = 0x1A45DFA3
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_KNOWN_ELEMENTS = frozenset(
    {
        *(_EBML, _SEGMENT, _CLUSTER, 0xEC, 0xBF),
        *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
        *(0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF),
    }
)
"""What stands in a segment or in a cluster."""
_ASF = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c")
_ASF_FILE = bytes.fromhex("a1dcab8c47a9cf118ee400c00c205365")
_MXF = bytes.fromhex("060e2b34020501010d0102")
_MXF_INDEX = bytes.fromhex("060e2b34020501010d01020101110100")
_MOST_INFLATED = 64 << 20
_SWF_PLACEHOLDER = 100 << 20
"""The length that ffmpeg 5.1 writes where it cannot go back."""


@judges("mp4 m4a m4b m4v mov 3gp 3g2 f4v ismv isma mj2 qt avif avifs heic heif hif cr3")
def film(file: Window) -> bool | None:
    """Judge MP4, MOV and HEIF: the boxes add up, and those that one cannot do without are there.

    A box of padding or notes at the very end, cut off whole, is not missed: nothing announces it.
    """
    return _judge(file, segment=False)


@judges("m4s cmfv cmfa")
def segment(file: Window) -> bool | None:
    """Judge a segment of DASH or HLS, which has no end of its own: an initialization segment counts, too."""
    return _judge(file, segment=True)


def _judge(file: Window, *, segment: bool) -> bool | None:
    boxes, ends = _walk(file)
    if ends is None or (file.size >= 8 and file.at(4, 4) not in _FIRST):
        return None
    if not ends:
        # What is no box, behind all that one needs: somebody appended it.
        appended = boxes and boxes[-1][0] not in _KNOWN_BOXES and _suffices(file, boxes[:-1])
        return None if appended else False
    kinds = [kind for kind, _, _ in boxes]
    indexes = [(start, end) for kind, start, end in boxes if kind == b"sidx"][:_MOST_INDEXES]
    if indexes and (b"moof" not in kinds or any(file.size < _indexed(file, *index) for index in indexes)):
        return False
    if kinds[-1:] == [b"moof"]:
        return False
    moov = next((box for box in boxes if box[0] == b"moov"), None)
    if kinds[-1:] == [b"mfra"] and moov:
        return True
    if b"moof" in kinds or segment:
        return None  # the next fragment may be missing
    awaited = moov and any(kind == b"mvex" for kind, _, _ in _walk(file, moov[1], moov[2])[0])
    if awaited or not _suffices(file, boxes):
        return False
    return True if kinds.count(b"mdat") == 1 else None


def _walk(file: Window, at: int = 0, end: int | None = None) -> tuple[list[Box], bool | None]:
    """Return the boxes, and whether the last ends at the end.

    None where something else follows, or one without a length. False, with that box as the last, where it
    reaches beyond.
    """
    end = file.size if end is None else min(end, file.size)
    boxes: list[Box] = []
    while at < end:
        if len(boxes) >= MOST_STEPS:
            return boxes, None
        length, kind, header = file.big(at, 4), file.at(at + 4, 4), 8
        if length == 1:
            length, header = file.big(at + 8, 8), 16
        if end - at < header:
            boxes.append((b"", at, end))
            return boxes, False
        if length == 0 or length < header:
            # A length of 0 is the last box, up to the end, wherever that is; or zeros were appended.
            return boxes, None
        boxes.append((kind, at + header, at + length))
        at += length
    return boxes, at == end


def _suffices(file: Window, boxes: list[Box]) -> bool:
    seen = {kind for kind, _, _ in boxes}
    brands = file.at(8, min(file.big(0, 4), 256) - 8) if file.at(4, 4) == b"ftyp" else b""
    still = _STILLS.search(brands) and not _SEQUENCES.search(brands)
    return b"mdat" in seen and (b"moov" in seen or bool(still and b"meta" in seen))


def _indexed(file: Window, start: int, end: int) -> int:
    """Return where what a `sidx` lists ends; 0 where it lists other indexes or is malformed."""
    wide = 8 if file.at(start, 1) == b"\1" else 4
    at = start + 12 + 2 * wide + 4
    total = end + file.big(at - 4 - wide, wide)
    count = file.big(at - 2, 2)
    if at + 12 * count > end or count > _MOST_INDEXED:
        return 0
    for index in range(count):
        size = file.big(at + 12 * index, 4)
        if size >> 31:
            return 0
        total += size
    return total


@judges("jxl", b"\0\0\0\x0cJXL \r\n\x87\n")
def jpeg_xl(file: Window) -> bool | None:
    """Judge JPEG XL in boxes; a bare codestream (FF 0A) has no end of its own."""
    boxes, ends = _walk(file)
    if ends is None:
        return None
    coded = [
        kind == b"jxlc" or (kind == b"jxlp" and bool(file.big(start, 4) >> 31)) for kind, start, _ in boxes
    ]
    if not ends:
        # What is no box, behind the picture: somebody appended it.
        return None if any(coded[:-1]) and boxes[-1][0] not in _KNOWN_BOXES else False
    return any(coded)


@judges("jp2 j2k j2c jpc jpx jpf jpm")
def jpeg_2000(file: Window) -> bool | None:
    """Judge JPEG 2000, in boxes (JP2, JPX, JPM) or as a bare codestream, by its tile-parts and end marker."""
    if file.begins(b"\xff\x4f\xff\x51"):
        return _codestream(file, 0)
    if not file.begins(b"\0\0\0\x0cjP  \r\n\x87\n"):
        return None
    boxes, ends = _walk(file)
    at = boxes[-1][2] if boxes else 0
    if ends is None and file.at(at, 8) == b"\0\0\0\0jp2c":
        return _codestream(file, at + 8)
    if ends is None:
        return None
    kinds = [kind for kind, _, _ in boxes]
    if not ends:
        return None if b"jp2c" in kinds[:-1] and kinds[-1] not in _KNOWN_BOXES else False
    if b"jp2c" in kinds:
        return True
    return None if b"mdat" in kinds else False  # JPX may keep its codestreams there


def _codestream(file: Window, at: int) -> bool | None:
    if file.at(at, 4) != b"\xff\x4f\xff\x51"[: file.size - at]:
        return None
    at += 2
    for _ in range(MOST_STEPS):
        marker = file.big(at, 2)
        if at + 2 > file.size:
            return False
        if marker == 0xFFD9:
            return file.compare(at + 2)
        if at + 12 > file.size:
            return False
        if marker == 0xFF90:  # a tile-part; a length of 0 is the last, up to the end marker
            length = file.big(at + 6, 4)
            if length == 0:
                return None if file.last(b"\xff\xd9", file.size) is not None else False
            if length < 12:
                return None
            at += length
        elif 0xFF4F < marker < 0xFF90:
            at += 2 + file.big(at + 2, 2)
        else:
            return None
    return None


@judges("webm mkv mka mks mk3d", b"\x1a\x45\xdf\xa3")
def matroska(file: Window) -> bool | None:
    """Judge by the segment's size; without one, by its clusters and their blocks."""
    size, start = _size(file, 4)
    if size is None:
        return False if file.size < 12 else None
    at = start + size
    for _ in range(MOST_STEPS):
        if file.at(at, 1) != b"\xec":
            break
        size, start = _size(file, at + 1)
        if size is None:
            return None
        at = start + size
    segment = file.at(at, 4)
    if segment != b"\x18\x53\x80\x67":
        return False if len(segment) < 4 else None
    size, start = _size(file, at + 4)
    if start == 0:  # the number itself is cut
        return False
    return file.compare(start + size) if size is not None else _live(file, start)


def _live(file: Window, at: int) -> bool | None:
    clusters = 0
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return None if at == file.size and clusters else False
        width = 9 - file.big(at, 1).bit_length()
        kind = file.big(at, width)
        if width > 4 or (at + width <= file.size and kind not in _KNOWN_ELEMENTS):
            return None  # appended, or not known to us
        size, start = _size(file, at + width)
        if not start:  # cut within the number; or zeros, which are none
            return None if at + width < file.size and not file.big(at + width, 1) else False
        clusters += kind == _CLUSTER
        if size is not None:
            at = start + size
        elif kind in {_SEGMENT, _CLUSTER}:
            at = start
        else:
            return None
    return None


def _size(file: Window, at: int) -> tuple[int | None, int]:
    """Return the size of an element, None if unknown, and where its content begins, 0 beyond the end."""
    first = file.big(at, 1)
    width = 9 - first.bit_length()
    if not first or at + width > file.size:
        return None, 0
    size = file.big(at, width) & ((1 << 7 * width) - 1)
    return (None if size == (1 << 7 * width) - 1 else size), at + width


@judges("ts m2ts mts")
def transport(file: Window) -> bool | None:
    """Judge MPEG-TS, of Blu-ray's with their time stamps, too: writers write whole packets."""
    for packet, offset in ((188, 0), (192, 4)):
        places = [offset + packet * index for index in range(3)]
        last = (file.size - offset - 1) // packet * packet + offset
        if file.size > 3 * packet and all(file.at(at, 1) == b"\x47" for at in (*places, last - packet)):
            rest = file.size % packet
            return False if rest and file.at(last, 1) in {b"\x47", b""} else None
    return None


@judges("mpg mpeg vob")
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


@judges("flv", b"FLV\1", least=13)
def flash(file: Window) -> bool | None:
    """Judge FLV by the length in its notes, then by its tags."""
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


@judges("wmv wma asf", _ASF, least=30)
def advanced_systems(file: Window) -> bool | None:
    """Judge ASF (WMV, WMA) by the length that it states, unless it says to be a broadcast."""
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


@judges("mxf", _MXF)
def material_exchange(file: Window) -> bool | None:
    """Judge MXF by its packets of key, length and value; the index at the end is its end."""
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


@judges("ivf", b"DKIF", least=32)
def indeo_video(file: Window) -> bool | None:
    """Judge IVF by its frames, and by their count where it is stated."""
    at, stated, count = file.little(6, 2), file.little(24, 4), 0
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size else None
        if at + 12 > file.size:
            return False
        at += 12 + file.little(at, 4)
        count += 1
    return None if stated or count else False


@judges("y4m", b"YUV4MPEG2 ")
def raw_frames(file: Window) -> bool | None:
    """Judge YUV4MPEG2 by the size of its frames."""
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


@judges("swf")
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
