"""Sound in frames, pages and blocks: MP3, FLAC, Ogg, AAC, AC-3, DTS, AMR, WavPack, TTA, MIDI.

Sources: LAME's "Mp3 info tag" revision 1 (Xing, Info) and Fraunhofer's VBRI; RFC 9639 (FLAC), 9.1 and 9.3;
RFC 3533 (Ogg), 6; ISO/IEC 13818-7 (ADTS), ISO/IEC 14496-3, 1.7 (LOAS); ETSI TS 102 366 (AC-3), TS 102 114
(DTS); RFC 4867 (AMR), 5; WavPack 4/5 file format; TTA1; RP-001 (MIDI).
"""

from __future__ import annotations

import re

from floradl.download.truncation.window import MOST_STEPS, Window

_INFO_AT = (13, 21, 36, 15, 23, 38)
"""Where `Info` or `Xing` stands in a first frame: behind its side information, and a checksum maybe."""

_AC3_RATES = (32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 576, 640)
_AMR = {
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5),
}
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_MOST_HEADERS = 8
_MOST_SYNCS = 5000
_LAYER_2_RATES = (
    (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
)


def _after_id3(file: Window) -> int:
    """Return where the sound begins behind ID3v2 tags."""
    at = 0
    for _ in range(16):
        head = file.at(at, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        length = 0
        for byte in head[6:10]:
            length = length << 7 | byte & 0x7F
        at += 10 + length + (10 if head[5] & 0x10 else 0)
    return at


def mpeg_layer_3(file: Window) -> bool | None:
    """Judge MP3 by the byte count of its first frame (Info, Xing, VBRI), where it has one.

    Never True: notes (APE, ID3v1) may follow, which are not counted.

    A last frame that breaks off proves nothing: LAME 3.100 as a library ends so where its caller never
    flushes it.
    """
    at = _after_id3(file)
    if at > file.size:
        return False
    frame = file.at(at, 64)
    if len(frame) < 64 or frame[0] != 0xFF or frame[1] & 0xE0 != 0xE0:
        return None
    for offset in _INFO_AT:
        if frame[offset : offset + 4] in {b"Xing", b"Info"}:
            flags = file.big(at + offset + 4, 4)
            counted = file.big(at + offset + 8 + (4 if flags & 1 else 0), 4) if flags & 2 else 0
            return file.reaches(at + counted) if counted else None
    if frame[36:40] == b"VBRI":
        return file.reaches(at + int.from_bytes(frame[46:50], "big"))
    return None


def mpeg_layer_2(file: Window) -> bool | None:
    """Judge MP2: frames stand for themselves, and encoders write whole ones."""
    at = _after_id3(file)
    if at > file.size:
        return False
    for _ in range(MOST_STEPS):
        head = file.at(at, 4)
        if len(head) < 4:
            return _partial(head, b"\xff")
        if head[0] != 0xFF or head[1] & 0xF6 != 0xF4:
            return None
        rate, hertz = head[2] >> 4, head[2] >> 2 & 3
        if rate in {0, 15} or hertz == 3:
            return None
        first = head[1] >> 3 & 1
        sampling = (44100, 48000, 32000)[hertz] // (1 if first else 2)
        at += 144_000 * _LAYER_2_RATES[1 - first][rate] // sampling + (head[2] >> 1 & 1)
        if at > file.size:
            return False
    return None


def flac(file: Window) -> bool | None:
    """Judge FLAC by its blocks, then by the last frame: its checksum, and the count of samples.

    Never True: where a checksum ends in a zero byte, it holds without that, too.
    """
    at = _after_id3(file)
    if file.at(at, 4) != b"fLaC"[: max(file.size - at, 0)]:
        return None
    at += 4
    block, largest = file.big(at + 6, 2), file.big(at + 11, 3)
    fixed = file.big(at + 4, 2) == block
    shape = file.big(at + 14, 8)  # rate 20, channels 3, bits 5, samples 36
    samples = shape & 0xFFFFFFFFF
    largest = largest or block * ((shape >> 41 & 7) + 1) * 4 + 64
    for _ in range(MOST_STEPS):
        head = file.big(at, 4)
        if at + 4 > file.size:
            return False
        at += 4 + (head & 0xFFFFFF)
        if head >> 31:
            break
    if at >= file.size:
        return False if samples or at > file.size else None
    tail = max(at, file.size - 2 * largest - 64)
    first, end = _last_frame(file.at(tail, file.size - tail), block if fixed else 0, whole=tail == at)
    if first is None or not end:
        return False if first is not None else None
    counted = samples and fixed and tail + end == file.size
    return False if counted and first + block < samples else None


def _last_frame(data: bytes, block: int, *, whole: bool) -> tuple[int | None, int]:
    """Return the first sample of the last frame and where that ends; 0 where it is cut, None where none is.

    A frame is whole where its own checksum holds. What looks like a header may stand within one, so that a
    frame only counts as cut where the one before ends at it, or where it is the first (`whole` data).
    """
    starts = [match.start() for match in _FLAC_SYNC.finditer(data)][-_MOST_SYNCS:]
    cut: dict[int, int] = {}
    for start in reversed(starts):
        first = _flac_header(data[start : start + 16], block)
        if first is None:
            continue
        end = _flac_end(data, start)
        if end in cut:
            return cut[end], 0
        if end and (end == len(data) or not cut):
            return first, end
        if whole and not start:
            return first, 0
        cut[start] = first
        if len(cut) > _MOST_HEADERS:
            break
    return None, 0


def _flac_header(head: bytes, block: int) -> int | None:
    """Return the first sample of the frame that begins so, None where none does."""
    if len(head) < 6 or head[2] >> 4 == 0 or head[3] & 1:
        return None
    lead = head[4]
    more = 0 if lead < 0x80 else 7 - (~lead & 0xFF).bit_length()
    if more < 0 or (more == 0 and lead >= 0x80):
        return None
    number = lead if more == 0 else lead & (0x3F >> more)
    for byte in head[5 : 5 + more]:
        if byte >> 6 != 2:
            return None
        number = number << 6 | byte & 0x3F
    at = 5 + more
    size, rate = head[2] >> 4, head[2] & 15
    at += {6: 1, 7: 2}.get(size, 0) + {12: 1, 13: 2, 14: 2}.get(rate, 0)
    if at >= len(head) or rate == 15 or _crc8(head[:at]) != head[at]:
        return None
    return number if head[1] & 1 else number * block


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


def _table16() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        crc = byte << 8
        for _ in range(8):
            crc = (crc << 1 ^ 0x8005) & 0xFFFF if crc & 0x8000 else crc << 1
        table.append(crc)
    return tuple(table)


_CRC16 = _table16()


def _flac_end(data: bytes, start: int) -> int:
    """Return where the frame's own checksum holds last; 0 where it holds nowhere: the frame is cut."""
    crc, end, table = 0, 0, _CRC16
    for at in range(start, len(data)):
        crc = (crc << 8 & 0xFF00) ^ table[crc >> 8 ^ data[at]]
        if not crc:
            end = at + 1
    return end


def ogg(file: Window) -> bool | None:
    """Judge Ogg by its pages: each stream in it ends with a page that says so.

    Never True: another link of a chain may follow, and nothing announces it.
    """
    if not file.begins(b"OggS\0"):
        return None
    at = 0
    ongoing: set[int] = set()
    for _ in range(MOST_STEPS):
        if at and at == file.size:
            return False if ongoing else None
        page = file.at(at, 27)
        segments = file.at(at + 27, page[26] if len(page) == 27 else 0)
        if page[:4] != b"OggS"[: len(page)]:
            return None
        if len(page) < 27 or len(segments) < page[26]:
            return False
        serial = int.from_bytes(page[14:18], "little")
        ongoing.add(serial)
        if page[5] & 4:
            ongoing.discard(serial)
        at += 27 + len(segments) + sum(segments)
        if at > file.size:
            return False
    return None


def advanced_audio(file: Window) -> bool | None:
    """Judge AAC in ADTS or LOAS frames: encoders write whole ones."""
    at = _after_id3(file)
    if at > file.size:
        return False
    loas = file.big(at, 2) >> 5 == 0x2B7
    for _ in range(MOST_STEPS):
        head = file.at(at, 7)
        if len(head) < 7:
            return _partial(head, b"\x56" if loas else b"\xff")
        if loas:
            if head[0] != 0x56 or head[1] >> 5 != 7:
                return None
            at += 3 + ((head[1] & 0x1F) << 8 | head[2])
        else:
            size = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
            if head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or size < 7:
                return None
            at += size
        if at > file.size:
            return False
    return None


def _partial(head: bytes, sync: bytes) -> bool | None:
    return False if head and head.startswith(sync) else None


def dolby(file: Window) -> bool | None:
    """Judge AC-3 and E-AC-3: encoders write whole frames."""
    at = 0
    for _ in range(MOST_STEPS):
        head = file.at(at, 6)
        if len(head) < 6:
            return _partial(head, b"\x0b")
        if head[:2] != b"\x0b\x77":
            return None
        if head[5] >> 3 > 10:  # E-AC-3
            at += 2 * (((head[2] & 7) << 8 | head[3]) + 1)
        else:
            rate, size = head[4] >> 6, head[4] & 63
            if rate == 3 or size >= 38:
                return None
            kbits = _AC3_RATES[size >> 1]
            at += 2 * (2 * kbits, kbits * 320 // 147 + (size & 1), 3 * kbits)[rate]
        if at > file.size:
            return False
    return None


def digital_theater(file: Window) -> bool | None:
    """Judge DTS core frames: encoders write whole ones."""
    at = 0
    for _ in range(MOST_STEPS):
        head = file.at(at, 8)
        if len(head) < 8:
            return _partial(head, b"\x7f")
        if head[:4] != b"\x7f\xfe\x80\x01":
            return None
        at += ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1
        if at > file.size:
            return False
    return None


def adaptive_multi_rate(file: Window) -> bool | None:
    """Judge AMR and AMR-WB: encoders write whole frames."""
    mark = next((mark for mark in _AMR if file.at(0, len(mark)) == mark), None)
    if mark is None:
        return None
    at, sizes = len(mark), _AMR[mark]
    for _ in range(MOST_STEPS):
        if at >= file.size:
            return False if at > file.size else None
        mode = file.big(at, 1) >> 3 & 15
        if mode == 15:
            at += 1
            continue
        if mode >= len(sizes):
            return None
        at += 1 + sizes[mode]
    return None


def wavpack(file: Window) -> bool | None:
    """Judge WavPack by its blocks, and by the count of samples where the first states one. Never True."""
    if not file.begins(b"wvpk"):
        return None
    at, reached = 0, 0
    total = file.little(12, 4)
    for _ in range(MOST_STEPS):
        head = file.at(at, 32)
        if head[:4] != b"wvpk"[: len(head)] or not head:
            break
        if len(head) < 32:
            return False
        reached = max(reached, int.from_bytes(head[16:20], "little") + int.from_bytes(head[20:24], "little"))
        at += 8 + int.from_bytes(head[4:8], "little")
        if at > file.size:
            return False
    if total in {0, 0xFFFFFFFF}:
        return None
    if reached < total:
        return False if at == file.size else None
    return None


def true_audio(file: Window) -> bool | None:
    """Judge TTA by the table of its frames. Never True: notes may follow."""
    at = _after_id3(file)
    if file.at(at, 4) != b"TTA1":
        return None
    if file.size < at + 22:
        return False
    rate, samples = file.little(at + 10, 4), file.little(at + 14, 4)
    length = 256 * rate // 245
    frames = -(-samples // length) if length else 0
    if not 0 < frames <= MOST_STEPS:
        return None
    table = file.at(at + 22, 4 * frames)
    return file.reaches(
        at
        + 22
        + 4 * frames
        + 4
        + sum(int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4))
    )


def midi(file: Window) -> bool | None:
    """Judge a MIDI file by the tracks that it announces."""
    if not file.begins(b"MThd"):
        return None
    if file.size < 14:
        return False
    tracks, at = file.big(10, 2), 8 + file.big(4, 4)
    for _ in range(MOST_STEPS):
        if not tracks:
            return file.compare(at)
        if at + 8 > file.size:
            return False
        tracks -= file.at(at, 4) == b"MTrk"
        at += 8 + file.big(at + 4, 4)
    return None
