"""Sound in frames, pages and blocks: MP3, FLAC, Ogg, AAC, AC-3, DTS, AMR, WavPack, TTA, MIDI.

Sources: LAME's "Mp3 info tag" revision 1 (Xing, Info) and Fraunhofer's VBRI; RFC 9639 (FLAC), 9.1 and 9.3;
RFC 3533 (Ogg), 6; ISO/IEC 13818-7 (ADTS), ISO/IEC 14496-3, 1.7 (LOAS); ETSI TS 102 366 (AC-3), TS 102 114
(DTS); RFC 4867 (AMR), 5; WavPack 4/5 file format; TTA1; RP-001 (MIDI).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from floradl.download.file_type.frames import ac3_frame, adts_frame, id3_size, loas_frame, mpeg_frame
from floradl.download.truncation.window import MOST_STEPS, Window, judges

_INFO_AT = (13, 21, 36, 15, 23, 38)
"""Where `Info` or `Xing` stands in a first frame: behind its side information, and a checksum maybe."""

_AMR = {
    b"#!AMR\n": (12, 13, 15, 17, 19, 20, 26, 31, 5),
    b"#!AMR-WB\n": (17, 23, 32, 36, 40, 46, 50, 58, 60, 5),
}
_FLAC_SYNC = re.compile(rb"\xff[\xf8\xf9]")
_MOST_HEADERS = 8
_MOST_SYNCS = 5000


def _after_id3(file: Window) -> int:
    at = 0
    for _ in range(16):
        head = file.at(at, 10)
        if head[:3] != b"ID3" or len(head) < 10:
            break
        at += id3_size(head)
    return at


def _frames(file: Window, at: int, sync: bytes, header: int, size_of: Callable[[bytes], int]) -> bool | None:
    """Judge by frames from `at` on: encoders write whole ones.

    `size_of` returns a frame's size from its first `header` bytes, 0 for what is no frame.
    """
    for _ in range(MOST_STEPS):
        if at > file.size:
            return False
        head = file.at(at, header)
        if len(head) < header:
            return False if head.startswith(sync) else None
        size = size_of(head)
        if not size:
            return None
        at += size
    return None


@judges("mp3")
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


@judges("mp2")
def mpeg_layer_2(file: Window) -> bool | None:
    """Judge MP2 by its frames."""
    return _frames(
        file, _after_id3(file), b"\xff", 4, lambda head: mpeg_frame(head) if head[1] & 0xF6 == 0xF4 else 0
    )


@judges("flac")
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


@judges("ogg oga ogv opus spx ogx", b"OggS\0")
def ogg(file: Window) -> bool | None:
    """Judge Ogg by its pages: each stream in it ends with a page that says so.

    Never True: another link of a chain may follow, and nothing announces it.
    """
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


@judges("aac loas latm")
def advanced_audio(file: Window) -> bool | None:
    """Judge AAC by its frames of ADTS or LOAS."""
    at = _after_id3(file)
    if file.big(at, 2) >> 5 == 0x2B7:
        return _frames(file, at, b"\x56", 3, loas_frame)
    return _frames(file, at, b"\xff", 7, adts_frame)


@judges("ac3 eac3 ec3")
def dolby(file: Window) -> bool | None:
    """Judge AC-3 and E-AC-3 by their frames."""
    return _frames(file, 0, b"\x0b", 6, lambda head: ac3_frame(head)[0])


@judges("dts")
def digital_theater(file: Window) -> bool | None:
    """Judge DTS by its core frames."""

    def size_of(head: bytes) -> int:
        if head[:4] != b"\x7f\xfe\x80\x01":
            return 0
        return ((head[5] & 3) << 12 | head[6] << 4 | head[7] >> 4) + 1

    return _frames(file, 0, b"\x7f", 8, size_of)


@judges("amr awb amr-nb amr-wb")
def adaptive_multi_rate(file: Window) -> bool | None:
    """Judge AMR and AMR-WB by their frames."""
    mark = next((mark for mark in _AMR if file.at(0, len(mark)) == mark), None)
    if mark is None:
        return None
    sizes = dict(enumerate(_AMR[mark])) | {15: 0}
    return _frames(file, len(mark), mark, 1, lambda head: 1 + sizes.get(head[0] >> 3 & 15, -1))


@judges("wv", b"wvpk")
def wavpack(file: Window) -> bool | None:
    """Judge WavPack by its blocks, and by the count of samples where the first states one. Never True."""
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
    short = total not in {0, 0xFFFFFFFF} and reached < total
    return False if short and at == file.size else None


@judges("tta")
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
    sizes = sum(int.from_bytes(table[i : i + 4], "little") for i in range(0, len(table), 4))
    return file.reaches(at + 22 + 4 * frames + 4 + sizes)


@judges("mid midi", b"MThd", least=14)
def midi(file: Window) -> bool | None:
    """Judge a MIDI file by the tracks that it announces."""
    tracks, at = file.big(10, 2), 8 + file.big(4, 4)
    for _ in range(MOST_STEPS):
        if not tracks:
            return file.compare(at)
        if at + 8 > file.size:
            return False
        tracks -= file.at(at, 4) == b"MTrk"
        at += 8 + file.big(at + 4, 4)
    return None
