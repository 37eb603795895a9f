"""Simulated media: they open in real programs, have any size, and differ for each output."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import struct
import subprocess
import tracemalloc
import wave
import zlib
from pathlib import Path

import google_crc32c
import pytest
from hypothesis import given, settings, strategies as st

from floradl.simulator import formats
from floradl.simulator.formats import Body, digest, filler, literal

MIB = 1024 * 1024
MAKERS = [formats.png, formats.mp4, formats.wav, formats.pdf, formats.text, formats.binary]
SIZES = [50_000, 65_536 + 40_007, 3 * MIB + 1, 2_000_000]


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = [], 8
    while at < len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        name, content = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        crc = int.from_bytes(data[at + 8 + length : at + 12 + length], "big")
        assert crc == zlib.crc32(name + content)
        chunks.append((name, content))
        at += 12 + length
    assert at == len(data)
    return chunks


def boxes(data: bytes) -> list[bytes]:
    names, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        names.append(data[at + 4 : at + 8])
        at += int.from_bytes(data[at + 8 : at + 16], "big") if size == 1 else size
    assert at == len(data)
    return names


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: str(make.__name__))
@pytest.mark.parametrize("size", SIZES)
def test_a_body_has_the_size_that_was_asked_for(make: type[Body], size: int) -> None:
    body = make("run_1/0/output_1", "run_1 output_1", size)  # type: ignore[arg-type, call-arg]
    assert body.size == size
    assert len(body.read()) == size


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: str(make.__name__))
def test_two_outputs_never_have_the_same_bytes_and_one_has_the_same_every_time(make: type[Body]) -> None:
    def made(name: str) -> bytes:
        body: Body = make(name, name, None)  # type: ignore[arg-type, call-arg]
        return body.read()

    assert made("run_1/0/a") == made("run_1/0/a")
    assert made("run_1/0/a") != made("run_1/1/b") != made("run_2/0/a")


@given(start=st.integers(0, 300_000), length=st.integers(0, 300_000))
@settings(max_examples=60, deadline=None)
def test_any_slice_of_a_body_is_that_slice_of_the_whole(start: int, length: int) -> None:
    body = formats.png("seed", "title", 400_000)
    assert body.read(start, start + length) == body.read()[start : start + length]


def test_bytes_at_different_offsets_differ() -> None:
    whole = filler("seed", 4 * MIB)
    blocks = {whole.make(number) for number in range(64)}
    assert len(blocks) == 64


def test_a_body_of_a_gibibyte_is_read_in_small_pieces_without_being_held() -> None:
    tracemalloc.start()
    try:
        body = formats.mp4("seed", "title", 1024 * MIB)
        last = b"".join(body.chunks(1024 * MIB - 10))
        longest = max(len(chunk) for chunk in body.chunks(0, 32 * MIB))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(last) == 10
    assert longest <= 256 * 1024
    assert peak < 4 * MIB


@pytest.mark.parametrize("size", [None, 100, 1_000, 70_000, 65_536 * 3 + 5_000])
def test_a_picture_is_a_sound_png_that_pads_with_ancillary_chunks(size: int | None) -> None:
    data = formats.png("seed", "run_1 output_1", size).read() if size != 100 else b""
    if size == 100:
        with pytest.raises(ValueError, match="the smallest has"):
            formats.png("seed", "run_1 output_1", size)
        return
    chunks = png_chunks(data)
    names = [name for name, _ in chunks]
    assert (names[0], names[-1]) == (b"IHDR", b"IEND")
    assert set(names) <= {b"IHDR", b"tEXt", b"PLTE", b"fiLl", b"IDAT", b"IEND"}
    side = int.from_bytes(chunks[0][1][:4], "big")
    pixels = zlib.decompress(b"".join(content for name, content in chunks if name == b"IDAT"))
    assert len(pixels) == side * (side + 1)


@given(size=st.integers(2_000, 400_000))
@settings(max_examples=40, deadline=None)
def test_a_picture_of_any_size_has_sound_chunks(size: int) -> None:
    data = formats.png("seed", "t", size).read()
    assert len(data) == size
    png_chunks(data)


@pytest.mark.parametrize("beyond", [12, 13, 65_535, 65_536, *range(65_537, 65_549), 131_072, 131_075])
def test_padding_of_a_picture_never_leaves_less_than_a_chunk(beyond: int) -> None:
    natural = formats.png("seed", "t", None).size
    data = formats.png("seed", "t", natural + beyond).read()
    assert len(data) == natural + beyond
    png_chunks(data)


@pytest.mark.parametrize("size", [None, 60_000, 5 * MIB])
def test_a_clip_is_whole_boxes_with_the_index_before_the_data(size: int | None) -> None:
    names = boxes(formats.mp4("seed", "run_1 output_1", size).read())
    assert names[0] == b"ftyp"
    assert names.index(b"moov") < names.index(b"mdat") < len(names) - 1
    assert names[-1] == b"free"


@pytest.mark.parametrize("size", [None, 1_000, 1_001, 3 * MIB])
def test_a_tune_is_a_wave_file_that_python_reads(size: int | None) -> None:
    data = formats.wav("seed", "run_1 output_1", size).read()
    assert struct.unpack("<I", data[4:8])[0] + 8 == len(data) - len(data) % 2
    with wave.open(io.BytesIO(data)) as tune:
        assert (tune.getframerate(), tune.getnchannels(), tune.getsampwidth()) == (22_050, 1, 2)
        if size is None or size > MIB:
            assert tune.getnframes() == 6 * 22_050


@pytest.mark.parametrize("size", [None, 2_000, 9_999, 100_000, 3 * MIB])
def test_the_offsets_of_a_page_are_right(size: int | None) -> None:
    data = formats.pdf("seed", "run_1 (output) \\1", size).read()
    assert data.startswith(b"%PDF-1.4\n")
    assert data.endswith(b"%%EOF\n")
    table = int(data.rsplit(b"startxref\n", 1)[1].split()[0])
    lines = data[table:].splitlines()
    assert lines[0] == b"xref"
    count = int(lines[1].split()[1])
    for number in range(1, count):
        at = int(lines[2 + number].split()[0])
        assert data[at:].startswith(b"%d 0 obj" % number)


@pytest.mark.parametrize("size", [1, 63, 64, 65, 1_000_001])
def test_text_is_ascii_that_ends_with_a_line(size: int) -> None:
    data = formats.text("seed", "run_1 output_1", size).read()
    assert len(data) == size
    assert data.isascii()
    assert data.endswith(b"\n")


def test_checksums_are_those_of_the_bytes() -> None:
    data = b"floradl" * 1000
    digests = digest(Body((literal(data[:100]), literal(data[100:]))))
    assert digests.md5_hex == hashlib.md5(data).hexdigest()
    crc = google_crc32c.value(data).to_bytes(4, "big")
    assert digests.crc32c.encode() == base64.b64encode(crc)


@pytest.mark.parametrize("size", [None, 4_000_001])
def test_ffprobe_reads_pictures_clips_and_tunes(tmp_path: Path, size: int | None) -> None:
    ffprobe = needs("ffprobe")
    for make, codec in ((formats.png, "png"), (formats.mp4, "h264"), (formats.wav, "pcm_s16le")):
        path = tmp_path / make.__name__
        path.write_bytes(make("seed", "run_1 output_1", size).read())
        done = subprocess.run(
            [ffprobe, "-v", "error", "-show_entries", "stream=codec_name", "-of", "csv=p=0", path],
            capture_output=True,
            text=True,
            check=True,
        )
        assert codec in done.stdout.split()
        assert done.stderr == ""


@pytest.mark.parametrize("size", [None, 3_000_000])
def test_poppler_reads_the_page_and_its_title(tmp_path: Path, size: int | None) -> None:
    path = tmp_path / "page.pdf"
    path.write_bytes(formats.pdf("seed", "run_1 (output) \\1", size).read())
    info = subprocess.run([needs("pdfinfo"), path], capture_output=True, text=True, check=True)
    assert "run_1 (output) \\1" in info.stdout
    assert info.stderr == ""
    words = subprocess.run([needs("pdftotext"), path, "-"], capture_output=True, text=True, check=True)
    assert "run_1 (output) \\1" in words.stdout
