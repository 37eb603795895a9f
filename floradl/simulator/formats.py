"""Media that open in real programs, of any size, and different for each output; and bodies as such.

Each maker takes the seed (run and output), a title to write into the file where the format has a place for
it, and the wanted size in bytes (`None`: whatever comes natural). All raise `ValueError` for a size that the
format cannot have. Padding sits where the format allows it, so that the file stays valid.
"""

from __future__ import annotations

import base64
import hashlib
import math
import struct
import zlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import google_crc32c

BLOCK = 64 * 1024
CHUNK = 256 * 1024
# As at GCS, where composite objects have a CRC32C and no MD5: large bodies are hashed at the cheaper price.
MD5_UP_TO = 64 * 1024 * 1024
_SAMPLE_RATE = 22_050
_TONE_SECONDS = 6
_PENTATONIC = (0, 2, 4, 7, 9, 12, 14, 16)
_PDF_TEXT = 60


@dataclass(frozen=True)
class Part:
    """A run of equal blocks (the last may be cut), each made when it is read."""

    size: int
    block_size: int
    make: Callable[[int], bytes]

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop`, block by block."""
        while start < stop:
            number, skip = divmod(start, self.block_size)
            piece = self.make(number)[skip : skip + stop - start]
            yield piece
            start += len(piece)


def literal(data: bytes) -> Part:
    """Return a part that is `data` as it is."""
    return Part(len(data), max(len(data), 1), lambda _number: data)


def filler(seed: str, size: int) -> Part:
    """Return `size` bytes that look random, are the same for one `seed`, and differ at every offset.

    Each block carries its number: a body put together from the wrong offsets never passes for the right one.
    """
    noise = _dice(seed, BLOCK - 8)
    return Part(size, BLOCK, lambda number: number.to_bytes(8, "big") + noise)


@lru_cache(maxsize=128)
def _dice(seed: str, length: int) -> bytes:
    return hashlib.shake_256(seed.encode("utf-8", "surrogatepass")).digest(length)


@dataclass(frozen=True)
class Body:
    """A whole body: its parts one after the other."""

    parts: tuple[Part, ...]

    @property
    def size(self) -> int:
        """The length in bytes."""
        return sum(part.size for part in self.parts)

    def chunks(self, start: int = 0, stop: int | None = None) -> Iterator[bytes]:
        """Yield the bytes from `start` up to `stop` (default: the end) in pieces of at most 256 KiB."""
        gathered: list[bytes] = []
        length = 0
        for piece in self._pieces(start, self.size if stop is None else min(stop, self.size)):
            if gathered and length + len(piece) > CHUNK:
                yield b"".join(gathered)
                gathered, length = [], 0
            gathered.append(piece)
            length += len(piece)
        if gathered:
            yield b"".join(gathered)

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop` at once."""
        return b"".join(self.chunks(start, stop))

    def _pieces(self, start: int, stop: int) -> Iterator[bytes]:
        offset = 0
        for part in self.parts:
            begin, end = max(start - offset, 0), min(stop - offset, part.size)
            if begin < end:
                for block in part.blocks(begin, end):
                    for at in range(0, len(block), CHUNK):
                        yield block[at : at + CHUNK]
            offset += part.size


@dataclass(frozen=True)
class BodyDigests:
    """Digests of a stored body as a media host shows them: base64 as in `x-goog-hash`, hex as in an ETag."""

    crc32c: str
    md5: str | None
    md5_hex: str | None


def digest(body: Body) -> BodyDigests:
    """Hash the whole body (about a second per GiB: call it in a thread)."""
    crc = 0
    md5 = hashlib.md5(usedforsecurity=False) if body.size <= MD5_UP_TO else None
    for chunk in body.chunks():
        crc = google_crc32c.extend(crc, chunk)
        if md5 is not None:
            md5.update(chunk)
    return BodyDigests(
        crc32c=base64.b64encode(crc.to_bytes(4, "big")).decode(),
        md5=base64.b64encode(md5.digest()).decode() if md5 else None,
        md5_hex=md5.hexdigest() if md5 else None,
    )


def _too_small(what: str, size: int, least: int) -> ValueError:
    return ValueError(f"{what} of {size} bytes cannot be made: the smallest has {least}")


# --- PNG (W3C PNG, third edition) ---------------------------------------------------------------------------


def png(seed: str, title: str, size: int | None) -> Body:
    """Draw waves of colour; padding is private ancillary chunks (`fiLl`), which decoders skip."""
    least = 0
    for side in (640, 320, 128, 32, 8, 1):
        head, tail = _picture(seed, title, side)
        least = len(head) + len(tail)
        if size is None or size == least:
            return Body((literal(head + tail),))
        if size >= least + 12:
            return Body((literal(head), *_png_padding(seed, size - least), literal(tail)))
    raise _too_small("a PNG", size or 0, least)


@lru_cache(maxsize=128)
def _picture(seed: str, title: str, side: int) -> tuple[bytes, bytes]:
    # In two pieces: chunks may be put between them.
    dice = _dice(seed, 16)
    colours = 256 if side > 8 else 2
    palette = b"".join(_colour(dice, step / colours) for step in range(colours))
    across = _wave(side, colours, dice[0] / 255, dice[1])
    down = _wave(side, colours, dice[2] / 255, dice[3])
    wheel = bytes(range(colours)) * (256 // colours + 1)  # its slice from `n` turns the palette by `n`
    rows = b"".join(b"\0" + across.translate(wheel[by : by + 256]) for by in down)
    comment = b"Title\0" + title.encode("latin-1", "replace")[:200]
    header = struct.pack(">IIBBBBB", side, side, 8, 3, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"tEXt", comment), (b"PLTE", palette))
    head = b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, data) for name, data in chunks)
    return head, _chunk(b"IDAT", zlib.compress(rows, 4)) + _chunk(b"IEND", b"")


def _colour(dice: bytes, turn: float) -> bytes:
    return bytes(
        round(160 + 75 * math.sin(2 * math.pi * (turn + dice[4 + channel] / 255))) for channel in range(3)
    )


def _wave(side: int, colours: int, phase: float, bend: int) -> bytes:
    swell = 0.1 + bend / 1500
    steps = (at / side for at in range(side))
    return bytes(
        int(colours * (phase + at * 0.6 + swell * math.sin(2 * math.pi * (at * 1.5 + phase)))) % colours
        for at in steps
    )


def _chunk(name: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")


def _png_padding(seed: str, size: int) -> tuple[Part, ...]:
    # In all `size` bytes, at least 12: the size of an empty chunk.
    whole, rest = divmod(size, BLOCK)
    if 0 < rest < 12:
        whole, rest = whole - 1, rest + BLOCK
    noise = filler(seed, (whole + 2) * BLOCK)

    def block(number: int) -> bytes:
        return _chunk(b"fiLl", noise.make(number)[: BLOCK - 12])

    parts = [Part(whole * BLOCK, BLOCK, block)] if whole else []
    if rest:
        data = b"".join(noise.blocks((whole + 1) * BLOCK, (whole + 1) * BLOCK + rest - 12))
        parts.append(literal(_chunk(b"fiLl", data[: rest - 12])))
    return tuple(parts)


# --- MP4 (ISO/IEC 14496-12) ---------------------------------------------------------------------------------


def mp4(seed: str, title: str, size: int | None) -> Body:
    """Make a four second clip (H.264, AAC); a `free` box at its end holds the title and the padding."""
    clip = _clip()
    name = title.encode("utf-8", "replace")[:200]
    least = len(clip) + 16 + len(name)
    size = least if size is None else size
    if size < least:
        raise _too_small("an MP4", size, least)
    box = size - len(clip)
    # The 64-bit form of a box's length: padding may be over 4 GiB.
    head = struct.pack(">I4sQ", 1, b"free", box) + name
    return Body((literal(clip), literal(head), filler(seed, box - len(head))))


@lru_cache(maxsize=1)
def _clip() -> bytes:
    return resources.files("floradl.simulator").joinpath("assets/clip.mp4").read_bytes()


# --- WAV (RIFF) ---------------------------------------------------------------------------------------------


def wav(seed: str, title: str, size: int | None) -> Body:
    """Play a few plucked notes; a `JUNK` chunk holds the title and the padding."""
    tone = _melody(_dice(seed, 16))
    name = title.encode("utf-8", "replace")[:200]
    name += b" " * (len(name) % 2)
    overhead = 44 + 8 + len(name)
    size = overhead + len(tone) if size is None else size
    if size < overhead:
        raise _too_small("a WAV", size, overhead)
    # RIFF chunks have even lengths; an odd size ends in one byte behind the RIFF, which players do not read.
    even = size - size % 2
    if even >= 1 << 32:
        raise ValueError("a WAV is smaller than 4 GiB")
    tone = tone[: min(len(tone), even - overhead)]
    padding = even - overhead - len(tone)
    head = struct.pack("<4sI4s", b"RIFF", even - 8, b"WAVE")
    head += struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, _SAMPLE_RATE, _SAMPLE_RATE * 2, 2, 16)
    head += struct.pack("<4sI", b"JUNK", len(name) + padding) + name
    data = struct.pack("<4sI", b"data", len(tone)) + tone
    return Body((literal(head), filler(seed, padding), literal(data + b"\0" * (size - even))))


@lru_cache(maxsize=32)
def _melody(dice: bytes) -> bytes:
    length = _SAMPLE_RATE // 2
    notes = []
    for pick in dice[:4]:
        pitch = 220 * 2 ** (_PENTATONIC[pick % len(_PENTATONIC)] / 12)
        step = 2 * math.pi * pitch / _SAMPLE_RATE
        samples = (9000 * math.exp(-5 * at / length) * math.sin(step * at) for at in range(length))
        notes.append(array("h", map(int, samples)))
    bar = b"".join(struct.pack(f"<{len(note)}h", *note) for note in notes)
    return bar * (_TONE_SECONDS // 2)


# --- PDF (ISO 32000-1) --------------------------------------------------------------------------------------


def pdf(seed: str, title: str, size: int | None) -> Body:
    """Write one A4 page with the title over a band of colour; the padding is a stream that no page uses."""
    front = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n"
    offsets = []
    for number, content in enumerate(_pdf_objects(seed, title), start=1):
        offsets.append(len(front))
        front += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    least = len(front) + len(b"".join(_pdf_tail(offsets, len(front), 0)))
    size = least if size is None else size
    # The padding's length stands twice in the tail, in a varying number of digits: settle it step by step.
    padding = size - least
    for _round in range(8):
        opening, closing = _pdf_tail(offsets, len(front), padding)
        missing = size - len(front) - len(opening) - padding - len(closing)
        if not missing:
            return Body((literal(front + opening), filler(seed, padding), literal(closing)))
        padding = max(padding + missing, 0)
    raise _too_small("a PDF", size, least)


def _pdf_objects(seed: str, title: str) -> tuple[bytes, ...]:
    dice = _dice(seed, 6)
    colours = [b" ".join(b"%.2f" % (0.25 + part / 400) for part in dice[at : at + 3]) for at in (0, 3)]
    shown = title.encode("latin-1", "replace")
    lines = [shown[at : at + _PDF_TEXT] for at in range(0, min(len(shown), 300), _PDF_TEXT)]
    text = b"".join(b"(%s) Tj T* " % _pdf_escaped(line) for line in lines)
    page = (
        b"q 0 0 595 842 re W n /Band sh Q 1 1 1 rg 60 640 475 140 re f 0.15 g "
        b"BT /F1 20 Tf 80 740 Td (Made by the FLORA simulator) Tj ET "
        b"BT /F1 12 Tf 16 TL 80 710 Td %sET" % text
    )
    used = b"<< /Font << /F1 5 0 R >> /Shading << /Band 6 0 R >> >>"
    blend = b"<< /FunctionType 2 /Domain [0 1] /N 1 /C0 [%s] /C1 [%s] >>" % (colours[0], colours[1])
    return (
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents 4 0 R /Resources %s >>" % used,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(page), page),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
        b"<< /ShadingType 2 /ColorSpace /DeviceRGB /Coords [0 0 595 842] /Function %s >>" % blend,
        b"<< /Title (%s) >>" % _pdf_escaped(shown[:300]),
    )


def _pdf_escaped(text: bytes) -> bytes:
    kept = bytes(byte if byte >= 32 else 63 for byte in text)
    return kept.replace(b"\\", b"\\\\").replace(b"(", b"\\(").replace(b")", b"\\)")


def _pdf_tail(offsets: list[int], front: int, padding: int) -> tuple[bytes, bytes]:
    """Return what is before and after the padding: its stream object, the table of offsets, the end."""
    number = len(offsets) + 1
    opening = b"%d 0 obj\n<< /Length %d >>\nstream\n" % (number, padding)
    closing = b"\nendstream\nendobj\n"
    table = front + len(opening) + padding + len(closing)
    entries = b"".join(b"%010d 00000 n \n" % offset for offset in (*offsets, front))
    closing += b"xref\n0 %d\n0000000000 65535 f \n%s" % (number + 1, entries)
    closing += b"trailer\n<< /Size %d /Root 1 0 R /Info %d 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (
        number + 1,
        len(offsets),
        table,
    )
    return opening, closing


# --- text and anything else ---------------------------------------------------------------------------------


def text(seed: str, title: str, size: int | None) -> Body:
    """Write numbered lines of ASCII."""
    content = (
        title.encode("ascii", "replace")[:40].replace(b"\n", b" ") or seed.encode("ascii", "replace")[:40]
    )
    size = 20 * 64 if size is None else size
    if not size:
        return Body(())

    def line(number: int) -> bytes:
        return (b"%09d  %-52s" % (number, content))[:63] + b"\n"

    return Body((Part(size - 1, 64, line), literal(b"\n")))


def binary(seed: str, title: str, size: int | None) -> Body:
    """Make bytes of no known format."""
    name = title.encode("utf-8", "replace")[: size or 200]
    return Body((literal(name), filler(seed, max((64 * 1024 if size is None else size) - len(name), 0))))
