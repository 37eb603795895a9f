"""Matroska and WebM. Sources: RFC 8794 (EBML), 6; RFC 9559 (Matroska).

A writer that cannot go back leaves the Segment's size unknown; ffmpeg 5.1 still gives each Cluster its size,
GStreamer 1.22 (`streamable`), webm-muxer 5.1 and mediabunny 1.61 do not, but blocks have theirs always.
"""

from __future__ import annotations

from floradl.media.truncation.window import MOST_STEPS, Window

_EBML = 0x1A45DFA3
_SEGMENT = 0x18538067
_CLUSTER = 0x1F43B675
_KNOWN = frozenset(
    {
        *(_EBML, _SEGMENT, _CLUSTER, 0xEC, 0xBF),
        *(0x114D9B74, 0x1549A966, 0x1654AE6B, 0x1C53BB6B, 0x1941A469, 0x1043A770, 0x1254C367),
        *(0xE7, 0xA3, 0xA0, 0xA7, 0xAB, 0x5854, 0xAF),
    }
)
"""What stands in a segment or in a cluster."""


def matroska(file: Window) -> bool | None:
    """Judge by the segment's size; without one, by its clusters and their blocks."""
    if not file.begins(b"\x1a\x45\xdf\xa3"):
        return None
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
        if width > 4 or (at + width <= file.size and kind not in _KNOWN):
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
