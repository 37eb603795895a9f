from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import pytest
from cuts import box, judge, sample
from hypothesis import given, settings, strategies as st

TELL = [
    *("sample.png", "sample.jpg", "thumbnail.jpg", "sample.gif", "sample.webp", "sample.wav", "sample.bmp"),
    *(
        "sample.mp4",
        "faststart.mp4",
        "fragmented.mp4",
        "sample.mov",
        "sample.m4a",
        "sample.avif",
        "sample.heic",
    ),
    *("sample.webm", "sample.mkv", "sample.zip", "sample.docx", "sample.glb", "sample.exr", "sample.psd"),
]
"""The format proves that nothing is missing."""

ONLY_CUTS_TELL = [
    *("sample.ogg", "sample.opus", "sample.pdf", "live.webm", "tagged.mp3", "sample.flac", "sample.aac"),
    *("sample.tiff", "sample.svg", "sample.json"),
]
"""More could always follow, or the format has no end; but a cut shows."""

CANNOT_TELL = ["streamed.wav", "bare.mp3", "sample.txt", "sample.html"]


@pytest.mark.parametrize("name", TELL)
def test_a_whole_file_is_called_whole(name: str) -> None:
    assert judge(*sample(name)) is True


@pytest.mark.parametrize("name", ONLY_CUTS_TELL)
def test_a_whole_file_that_could_go_on_is_neither_called_whole_nor_cut(name: str) -> None:
    assert judge(*sample(name)) is None


@pytest.mark.parametrize("name", [*TELL, *ONLY_CUTS_TELL])
def test_a_file_cut_short_anywhere_is_never_called_whole(name: str) -> None:
    data, extension = sample(name)
    for length in range(len(data) - 1, -1, -1):
        assert judge(data[:length], extension) is not True, f"cut to {length} of {len(data)} bytes"


@pytest.mark.parametrize("name", sorted({*TELL, *ONLY_CUTS_TELL} - {"fragmented.mp4"}))
def test_a_file_cut_short_in_the_middle_is_called_cut(name: str) -> None:
    data, extension = sample(name)
    assert judge(data[: len(data) * 2 // 3], extension) is False


@pytest.mark.parametrize("name", CANNOT_TELL)
def test_a_format_without_an_end_of_its_own_cannot_be_told(name: str) -> None:
    data, extension = sample(name)
    for length in {len(data), len(data) // 2}:
        assert judge(data[:length], extension) is None


@pytest.mark.parametrize("name", TELL)
def test_what_follows_the_end_cannot_be_told(name: str) -> None:
    data, extension = sample(name)
    assert judge(data + b"\0" * 9, extension) is not True


@pytest.mark.parametrize("name", TELL)
def test_an_empty_file_is_called_cut(name: str) -> None:
    assert judge(b"", Path(name).suffix) is False


@pytest.mark.parametrize("name", TELL)
def test_content_of_another_format_cannot_be_told(name: str) -> None:
    assert judge(b"something else altogether" * 9, Path(name).suffix) is None


def test_a_jpeg_that_says_more_pictures_follow_cannot_be_told() -> None:
    data, extension = sample("sample.jpg")
    index = b"MPF\0" + bytes(20)
    segment = b"\xff\xe2" + struct.pack(">H", 2 + len(index)) + index
    assert judge(data[:2] + segment + data[2:], extension) is None


def test_an_mp4_of_fragments_without_an_index_cannot_be_told() -> None:
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + box(b"moof") + box(b"mdat", b"x")
    assert judge(data, ".mp4") is None


def test_an_mp4_without_its_data_is_called_cut() -> None:
    assert judge(box(b"ftyp", b"isom\0\0\0\0") + box(b"moov"), ".mp4") is False


def test_an_mp4_with_a_long_box_is_read() -> None:
    long = struct.pack(">I4sQ", 1, b"mdat", 16 + 5) + b"12345"
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + long
    assert judge(data, ".mp4") is True
    assert judge(data[:-1], ".mp4") is False


def test_an_mp4_whose_last_box_has_no_length_cannot_be_told() -> None:
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + struct.pack(">I4s", 0, b"mdat") + b"12345"
    assert judge(data, ".mp4") is None


def test_a_moving_avif_needs_its_index_too() -> None:
    still = box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta") + box(b"mdat", b"x")
    assert judge(still, ".avif") is True
    assert judge(still.replace(b"avif", b"avis"), ".avif") is False


def test_a_pdf_cut_within_an_update_is_called_cut() -> None:
    data, extension = sample("sample.pdf")
    update = b"xref\n0 0\ntrailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    assert judge(data + update, extension) is None
    assert judge((data + update)[:-20], extension) is False
    assert judge(data, extension) is None, "the older document, whole by itself, is no proof"


def test_a_pdf_made_for_the_web_states_its_length() -> None:
    data, extension = sample("sample.pdf")
    head = b"<< /Linearized 1 /L %05d /Type /Catalog"
    length = len(data) + len(head % 0) - len(b"<< /Type /Catalog")
    linear = data.replace(b"<< /Type /Catalog", head % length, 1)
    assert judge(linear, extension) is True
    assert judge(linear[:-1], extension) is False


def test_a_zip_with_a_comment_is_read() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inner.zip", sample("sample.zip")[0])
        archive.comment = b"a comment"
    data = buffer.getvalue()
    assert judge(data, ".zip") is True
    for length in range(len(data)):
        assert judge(data[:length], ".zip") is not True


def test_a_large_zip_is_read() -> None:
    start = b"PK\x03\x04" + bytes(40)
    directory = b"PK\x01\x02" + bytes(42)
    at = len(start) + len(directory)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(start))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert judge(start + directory + record + locator + end, ".zip") is True
    assert judge(start + record + locator + end, ".zip") is None


def test_sound_and_film_in_one_ogg_must_both_have_ended() -> None:
    def page(serial: int, flags: int) -> bytes:
        return b"OggS\0" + bytes([flags]) + bytes(8) + struct.pack("<III", serial, 0, 0) + b"\1\1x"

    data = page(1, 2) + page(2, 2) + page(1, 4) + page(2, 4)
    assert judge(data, ".ogg") is None
    assert judge(data[: -len(page(2, 4))], ".ogg") is False


@given(name=st.sampled_from(TELL), data=st.data())
@settings(max_examples=400, deadline=None)
def test_damage_anywhere_is_judged_without_an_error(name: str, data: st.DataObject) -> None:
    content, extension = sample(name)
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = content[:at] + data.draw(st.binary(max_size=12)) + content[at + data.draw(st.integers(0, 12)) :]
    assert judge(damaged, extension) in {True, False, None}


@pytest.mark.parametrize("extension", ["", ".bin", ".png.exe", "nonsense"])
def test_an_unknown_extension_cannot_be_told(extension: str) -> None:
    assert judge(b"\x89PNG\r\n\x1a\n", extension) is None
