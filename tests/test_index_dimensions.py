"""Sizes of pictures and films from their first bytes."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, strategies
from PIL import Image

from floradl.index.dimensions import read_dimensions

SAMPLES = Path(__file__).parent / "samples"
_ENDINGS = {".png", ".jpg", ".gif", ".webp", ".avif", ".bmp", ".mp4", ".mov", ".webm", ".mkv"}
FILES = sorted(
    path for path in SAMPLES.rglob("*") if path.suffix in _ENDINGS and "pipe.webp" not in path.name
)


def measured(data: bytes) -> tuple[int, int] | None:
    return read_dimensions(io.BytesIO(data))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_size_of_a_sample_is_what_ffprobe_says(path: Path) -> None:
    entries = ["-show_entries", "stream=width,height", "-select_streams", "v:0", "-of", "csv=p=0:s=x"]
    try:
        said = subprocess.run(
            ["ffprobe", "-v", "quiet", *entries, path], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("needs ffprobe")
    size = said.stdout.strip().strip("x").split("x")  # nothing for sound alone
    with path.open("rb") as file:
        assert read_dimensions(file) == ((int(size[0]), int(size[1])) if size != [""] else None)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_photo_that_lies_on_its_side_is_measured_as_it_is_shown(turn: int, form: str) -> None:
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.new("RGB", (40, 20)).save(made, form, exif=exif)
    upright = turn < 5 or form == "WEBP"  # which Chromium 156 shows as it lies
    assert measured(made.getvalue()) == ((40, 20) if upright else (20, 40))


def test_a_png_with_a_long_profile_before_its_orientation_is_measured() -> None:
    made = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 20)).save(made, "PNG", exif=exif, icc_profile=os.urandom(200_000))
    assert measured(made.getvalue()) == (20, 40)


def test_a_jpeg_with_a_long_profile_before_its_size_is_measured() -> None:
    made = io.BytesIO()
    Image.new("RGB", (40, 20)).save(made, "JPEG", icc_profile=bytes(200_000))
    assert measured(made.getvalue()) == (40, 20)


def test_what_is_no_picture_or_a_cut_one_has_no_size() -> None:
    for path in FILES:
        data = path.read_bytes()
        for end in (0, 1, 4, 8):
            assert measured(data[:end]) is None
    for other in (b"<svg/>", b"words", bytes(100), b"\xff\xd8\xff" + b"\xff" * 5000):
        assert measured(other) is None


@given(strategies.data())
def test_no_bytes_at_all_make_it_fail_or_read_on_for_ever(data: strategies.DataObject) -> None:
    path = data.draw(strategies.sampled_from(FILES))
    content = bytearray(path.read_bytes()[:5000])
    for _ in range(data.draw(strategies.integers(1, 12))):
        content[data.draw(strategies.integers(0, len(content) - 1))] = data.draw(strategies.integers(0, 255))
    size = measured(bytes(content))
    assert size is None or (0 < size[0] <= 1 << 20 and 0 < size[1] <= 1 << 20)
