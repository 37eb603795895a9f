from __future__ import annotations

import io
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from floradl.media.containers import is_whole

SAMPLES = Path(__file__).parent / "samples"
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
    *("sample.webm", "sample.mkv", "sample.ogg", "sample.opus", "sample.pdf", "sample.zip", "sample.docx"),
    "sample.glb",
]
CANNOT_TELL = [
    *("live.webm", "streamed.wav", "tagged.mp3", "bare.mp3", "sample.flac", "sample.aac", "sample.tiff"),
    *("sample.exr", "sample.psd", "sample.svg", "sample.txt", "sample.json", "sample.html"),
]


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    yield fd
    os.close(fd)


def judge(fd: int, data: bytes, extension: str) -> bool | None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, data, 0)
    return is_whole(fd, len(data), extension)


def sample(name: str) -> tuple[bytes, str]:
    path = SAMPLES / name
    return path.read_bytes(), path.suffix


def box(kind: bytes, content: bytes = b"") -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content


@pytest.mark.parametrize("name", TELL)
def test_a_whole_file_is_called_whole(scratch: int, name: str) -> None:
    assert judge(scratch, *sample(name)) is True


@pytest.mark.parametrize("name", TELL)
def test_a_file_cut_short_anywhere_is_never_called_whole(scratch: int, name: str) -> None:
    data, extension = sample(name)
    judge(scratch, data, extension)
    for length in range(len(data) - 1, -1, -1):
        os.ftruncate(scratch, length)
        assert is_whole(scratch, length, extension) is not True, f"cut to {length} of {len(data)} bytes"


@pytest.mark.parametrize("name", sorted({*TELL} - {"sample.pdf", "fragmented.mp4"}))
def test_a_file_cut_short_in_the_middle_is_called_cut(scratch: int, name: str) -> None:
    data, extension = sample(name)
    assert judge(scratch, data[: len(data) * 2 // 3], extension) is False


@pytest.mark.parametrize("name", CANNOT_TELL)
def test_a_format_without_an_end_of_its_own_cannot_be_told(scratch: int, name: str) -> None:
    data, extension = sample(name)
    for length in {len(data), len(data) // 2}:
        assert judge(scratch, data[:length], extension) is None


@pytest.mark.parametrize("name", TELL)
def test_what_follows_the_end_cannot_be_told(scratch: int, name: str) -> None:
    data, extension = sample(name)
    assert judge(scratch, data + b"\0" * 9, extension) is not True


@pytest.mark.parametrize("name", TELL)
def test_an_empty_file_is_called_cut(scratch: int, name: str) -> None:
    assert judge(scratch, b"", Path(name).suffix) is False


@pytest.mark.parametrize("name", TELL)
def test_content_of_another_format_cannot_be_told(scratch: int, name: str) -> None:
    assert judge(scratch, b"something else altogether" * 9, Path(name).suffix) is None


def test_the_files_offset_stays(scratch: int) -> None:
    os.lseek(scratch, 7, os.SEEK_SET)
    judge(scratch, *sample("sample.png"))
    assert os.lseek(scratch, 0, os.SEEK_CUR) == 7


def test_a_jpeg_that_says_more_pictures_follow_cannot_be_told(scratch: int) -> None:
    data, extension = sample("sample.jpg")
    index = b"MPF\0" + bytes(20)
    segment = b"\xff\xe2" + struct.pack(">H", 2 + len(index)) + index
    assert judge(scratch, data[:2] + segment + data[2:], extension) is None


def test_an_mp4_of_fragments_without_an_index_cannot_be_told(scratch: int) -> None:
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + box(b"moof") + box(b"mdat", b"x")
    assert judge(scratch, data, ".mp4") is None


def test_an_mp4_without_its_data_is_called_cut(scratch: int) -> None:
    assert judge(scratch, box(b"ftyp", b"isom\0\0\0\0") + box(b"moov"), ".mp4") is False


def test_an_mp4_with_a_long_box_is_read(scratch: int) -> None:
    long = struct.pack(">I4sQ", 1, b"mdat", 16 + 5) + b"12345"
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + long
    assert judge(scratch, data, ".mp4") is True
    assert judge(scratch, data[:-1], ".mp4") is False


def test_an_mp4_whose_last_box_has_no_length_cannot_be_told(scratch: int) -> None:
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"moov") + struct.pack(">I4s", 0, b"mdat") + b"12345"
    assert judge(scratch, data, ".mp4") is None


def test_a_moving_avif_needs_its_index_too(scratch: int) -> None:
    still = box(b"ftyp", b"avif\0\0\0\0avifmif1") + box(b"meta") + box(b"mdat", b"x")
    assert judge(scratch, still, ".avif") is True
    assert judge(scratch, still.replace(b"avif", b"avis"), ".avif") is False


def test_a_pdf_that_was_updated_ends_at_its_last_mark(scratch: int) -> None:
    data, extension = sample("sample.pdf")
    update = b"xref\n0 0\ntrailer\n<< /Size 4 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(data)
    assert judge(scratch, data + update, extension) is True
    assert judge(scratch, (data + update)[:-20], extension) is None


def test_a_pdf_made_for_the_web_states_its_length(scratch: int) -> None:
    data, extension = sample("sample.pdf")
    data = data.replace(b"<< /Type /Catalog", b"<< /Linearized 1 /L %d /Type /Catalog" % (len(data) + 99), 1)
    assert judge(scratch, data, extension) is False


def test_a_zip_with_a_comment_is_read(scratch: int) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("inner.zip", sample("sample.zip")[0])
        archive.comment = b"a comment"
    data = buffer.getvalue()
    assert judge(scratch, data, ".zip") is True
    for length in range(len(data)):
        assert judge(scratch, data[:length], ".zip") is not True


def test_a_large_zip_is_read(scratch: int) -> None:
    start = b"PK\x03\x04" + bytes(40)
    directory = b"PK\x01\x02" + bytes(42)
    at = len(start) + len(directory)
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 1, 1, len(directory), len(start))
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 1, 1, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    assert judge(scratch, start + directory + record + locator + end, ".zip") is True
    assert judge(scratch, start + record + locator + end, ".zip") is None


def test_sound_and_film_in_one_ogg_must_both_have_ended(scratch: int) -> None:
    def page(serial: int, flags: int) -> bytes:
        return b"OggS\0" + bytes([flags]) + bytes(8) + struct.pack("<III", serial, 0, 0) + b"\1\1x"

    data = page(1, 2) + page(2, 2) + page(1, 4) + page(2, 4)
    assert judge(scratch, data, ".ogg") is True
    assert judge(scratch, data[: -len(page(2, 4))], ".ogg") is False


@given(name=st.sampled_from(TELL), data=st.data())
@settings(max_examples=400, deadline=None)
def test_damage_anywhere_is_judged_without_an_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, data: st.DataObject
) -> None:
    content, extension = sample(name)
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = content[:at] + data.draw(st.binary(max_size=12)) + content[at + data.draw(st.integers(0, 12)) :]
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damaged)
    with path.open("rb") as file:
        assert is_whole(file.fileno(), len(damaged), extension) in {True, False, None}


@pytest.mark.parametrize("extension", ["", ".bin", ".png.exe", "nonsense"])
def test_an_unknown_extension_cannot_be_told(scratch: int, extension: str) -> None:
    assert judge(scratch, b"\x89PNG\r\n\x1a\n", extension) is None
