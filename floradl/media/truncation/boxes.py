"""ISO base media files (MP4, MOV, HEIF, AVIF), and what else is made of boxes: JPEG XL and JPEG 2000.

Sources: ISO/IEC 14496-12, 4.2 (boxes), 8.8.1 (`mvex` announces fragments), 8.8.9 (`mfra` ends them), 8.16.3
(`sidx` tells their lengths); ISO/IEC 18181-2, 9 (JPEG XL); ITU-T T.800, annexes A and I (JPEG 2000).

`mvex` counts in the `moov` at the top alone: what ffmpeg 8 leaves with `-movflags hybrid_fragmented` is an
ordinary file with the old `moov` inside its `mdat`. ffmpeg's `frag_keyframe` without `empty_moov` describes
the first fragment by an ordinary `moov`: only `mvex` tells that more must follow.
"""

from __future__ import annotations

import re

from floradl.media.truncation.window import MOST_STEPS, Window

_SEQUENCES = re.compile(rb"avis|msf1|hevc|hevx")
_STILLS = re.compile(rb"mif1|avif|heic|heix|miaf")
_FIRST = frozenset(
    {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot", b"styp", b"sidx", b"moof", b"jP  "}
)
_KNOWN = _FIRST | {
    *(b"uuid", b"mfra", b"meta", b"udta", b"ssix", b"prft", b"emsg", b"pdin", b"imda", b"meco", b"junk"),
    *(b"jxlc", b"jxlp", b"jxli", b"jxll", b"jbrd", b"brob", b"Exif", b"xml ", b"jumb", b"JXL ", b"jhgm"),
    *(b"mpvd", b"sefd", b"jp2h", b"jp2c", b"jp2i", b"uinf", b"PICT", b"bloc"),
}

_MOST_INDEXES = 200
_MOST_INDEXED = 2000

Box = tuple[bytes, int, int]
"""Kind, start of the content, end."""


def film(file: Window) -> bool | None:
    """Judge MP4, MOV and HEIF: the boxes add up, and those that one cannot do without are there.

    A box of padding or notes at the very end, cut off whole, is not missed: nothing announces it.
    """
    return _judge(file, segment=False)


def segment(file: Window) -> bool | None:
    """Judge a segment of DASH or HLS, which has no end of its own: an initialization segment counts, too."""
    return _judge(file, segment=True)


def _judge(file: Window, *, segment: bool) -> bool | None:
    boxes, ends = _walk(file)
    if ends is None or (file.size >= 8 and file.at(4, 4) not in _FIRST):
        return None
    if not ends:
        # What is no box, behind all that one needs: somebody appended it.
        appended = boxes and boxes[-1][0] not in _KNOWN and _suffices(file, boxes[:-1])
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
    """Return where what a `sidx` lists ends; 0 where it lists other indexes or makes no sense."""
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


def jpeg_xl(file: Window) -> bool | None:
    """Judge JPEG XL in boxes; a bare codestream (FF 0A) has no end of its own."""
    if not file.begins(b"\0\0\0\x0cJXL \r\n\x87\n"):
        return None
    boxes, ends = _walk(file)
    if ends is None:
        return None
    coded = [
        kind == b"jxlc" or (kind == b"jxlp" and bool(file.big(start, 4) >> 31)) for kind, start, _ in boxes
    ]
    if not ends:
        # What is no box, behind the picture: somebody appended it.
        return None if any(coded[:-1]) and boxes[-1][0] not in _KNOWN else False
    return any(coded)


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
        return None if b"jp2c" in kinds[:-1] and kinds[-1] not in _KNOWN else False
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
