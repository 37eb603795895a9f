"""RIFF and its kin: WAV, RF64, AVI, WebP, AIFF, W64, CAF, AU, VOC.

A writer that cannot go back leaves a placeholder where a size belongs. Seen in the RIFF or FORM field: ffmpeg
5.1 0xFFFFFFFF (AIFF, animated WebP: 0), SoX 14.4.2 and espeak-ng 1.51 0x7FFFF024 (AIFF: 0x7F000050),
GStreamer 1.22 0x7FFF0024, LAME 3.100 0x80000023, opusdec 0.2 0x7FFFFFFF, npm's wav 1.0 0xFFFFFFBF, mpg123
1.31 36; in the data chunk: 0, or 0x7F000000 and more, from all of them; in CAF's also 4 (SoX). Some writers
put the file's size where eight bytes less belong. So the chunk that holds the sound is what counts; such a
number is a placeholder.

Sources: Microsoft's RIFF (1991); EBU Tech 3306 (RF64), ITU-R BS.2088 (BW64); Sony's Wave64; Apple's AIFF-C
(1991) and Core Audio Format; Sun's .au; RFC 9649 (WebP).
"""

from __future__ import annotations

from collections.abc import Callable

from floradl.download.truncation.window import MOST_STEPS, Window, judges

_PLACEHOLDER = 0x7F000000
_WAVE64 = bytes.fromhex("2e91cf11a5d628db04c10000")
_LISTS = (b"RIFF", b"LIST")

Number = Callable[[int, int], int]


def _is_placeholder(length: int) -> bool:
    return not 0 < length < _PLACEHOLDER


@judges("webp wav avi rf64 bwf", b"RIFF", b"RIFX", b"RF64", b"BW64", least=12)
def riff(file: Window) -> bool | None:
    """Judge WAV, RF64, AVI and WebP."""
    form = file.at(8, 4)
    if form == b"WAVE":
        return _sound(file, file.big if file.at(0, 4) == b"RIFX" else file.little, b"data")
    if form == b"AVI ":
        return _film(file)
    return _picture(file) if form == b"WEBP" else None


@judges("aif aiff aifc 8svx", b"FORM", least=12)
def form(file: Window) -> bool | None:
    """Judge AIFF, AIFF-C and 8SVX."""
    sound = {b"AIFF": b"SSND", b"AIFC": b"SSND", b"8SVX": b"BODY"}.get(file.at(8, 4))
    return _sound(file, file.big, sound) if sound else None


def _sound(file: Window, number: Number, kind: bytes) -> bool | None:
    """Judge by the chunk `kind`, then by what follows it."""
    at, large, empty = 12, 0, False
    for _ in range(MOST_STEPS):
        if at + 8 > file.size:
            return None if empty else False  # the sound has not even begun
        name, length = file.at(at, 4), number(at + 4, 4)
        if name == b"ds64":
            large = file.little(at + 16, 8)
        elif name == kind:
            if length == 0xFFFFFFFF and large:
                length = large
            elif _is_placeholder(length):
                return None
            return _after_sound(file, number, at + 8 + length, large)
        elif file.at(at + 8, 4) == b"wavl":
            return None
        elif name == b"COMM":
            empty = not number(at + 10, 4)
        at += 8 + length + length % 2
    return None


def _after_sound(file: Window, number: Number, end: int, large: int) -> bool | None:
    if file.size < end:
        return False
    stated = file.little(20, 8) if large else number(4, 4)
    if not large and _is_placeholder(stated):
        return None
    stated += 8
    if stated == file.size:
        # Chunks are padded to an even length; not every writer counts the padding.
        return None if stated % 2 else True
    # Does what comes behind the sound break off? Where nothing comes, the header may just be wrong.
    return False if stated > file.size and _torn(file, number, end + end % 2) else None


def _torn(file: Window, number: Number, at: int) -> bool:
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return at > file.size + 1
        if at + 8 > file.size:
            return True
        length = number(at + 4, 4)
        at += 8 + length + length % 2
    return False


def _picture(file: Window) -> bool | None:
    stated = file.little(4, 4)
    torn = _torn(file, file.little, 12)
    if not _is_placeholder(stated):
        if 8 + stated == file.size:
            # Chunks are padded to an even length; not every writer counts the padding.
            return None if stated % 2 or torn else True
        if 8 + stated < file.size:
            return None
        if stated != file.size:
            return False
    return False if torn else None


def _film(file: Window) -> bool | None:
    stated = file.little(4, 4)
    if not _is_placeholder(stated) and stated not in {file.size, file.size - 7} and 8 + stated > file.size:
        return False
    at = 12
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size + 1 else None
        if at + 8 > file.size:
            return None if file.padded(at) else False
        name, length = file.at(at, 4), file.little(at + 4, 4)
        if not name.isascii() or b"\0" in name:
            return None
        if name in _LISTS and (_is_placeholder(length) or name == b"RIFF"):
            at += 12
        else:
            at += 8 + length + length % 2
    return None


@judges("w64", b"riff" + _WAVE64)
def wave64(file: Window) -> bool | None:
    """Judge Sony's Wave64: sizes of 64 bit that count their own header."""
    at = 40
    for _ in range(MOST_STEPS):
        if at + 24 > file.size:
            return False
        name, length = file.at(at, 4), file.little(at + 16, 8)
        if name == b"data":
            if not 24 < length < 1 << 62:
                return None
            if file.size < at + length:
                return False
            return True if file.little(16, 8) == file.size else None
        if length < 24:
            return None
        at += length + -length % 8
    return None


@judges("caf", b"caff\0\x01")
def core_audio(file: Window) -> bool | None:
    """Judge Apple's Core Audio Format; sound without packets of one size needs its table of them, too."""
    at = 8
    seen: set[bytes] = set()
    tabled = False
    for _ in range(MOST_STEPS):
        if at >= file.size:
            break
        name, length = file.at(at, 4), file.big(at + 4, 8)
        if at + 12 > file.size:
            return None if b"data" in seen and file.padded(at) else False
        if not name.isascii() or length >= 1 << 62:
            return None
        if name == b"data" and (length <= 4 or length % 2):  # libsndfile 1.2 to a pipe: 4; odd ones it pads
            return file.reaches(at + 12 + length)
        if name == b"desc":
            tabled = not (file.big(at + 28, 4) and file.big(at + 32, 4))
        seen.add(name)
        at += 12 + length
        if at > file.size:
            return False if name != b"free" else None
    whole = b"data" in seen and (not tabled or b"pakt" in seen)
    return whole and at == file.size


@judges("au snd", b".snd", least=24)
def sun_audio(file: Window) -> bool | None:
    """Judge .au; without a length nothing is known."""
    start, length = file.big(4, 4), file.big(8, 4)
    if _is_placeholder(length):
        return file.reaches(start)
    return file.compare(start + length)


@judges("voc", b"Creative Voice File\x1a")
def creative_voice(file: Window) -> bool | None:
    """Judge Creative's VOC, whose closing block of one byte may be missing."""
    at = file.little(20, 2)
    if file.size < 26 or at < 26:
        return False if file.size < 26 else None
    for _ in range(MOST_STEPS):
        kind, length = file.at(at, 1), file.little(at + 1, 3)
        if kind in {b"", b"\0"}:
            return None
        if length >= 0xFFFF00:
            return None
        at += 4 + length
        if at > file.size:
            return False if kind in {b"\x01", b"\x09", b"\x02"} else None
    return None
