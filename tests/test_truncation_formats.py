from __future__ import annotations

import gzip
import os
import struct

import pytest
from cuts import SAMPLES, box, chunk, judge, sample, wave


@pytest.mark.parametrize(
    "name", ["sample.mp4", "faststart.mp4", "sample.mov", "sample.m4a", "sample.heic", "sample.avif"]
)
@pytest.mark.parametrize(
    "tail",
    [
        b"appended by somebody else",
        b"\x12\x34\x56\x78SEFH" + bytes(30),
        bytes(8),
        bytes(100),
        b"12345678",
        b"\xff" * 16,
        b"\0\0\0\1abcd" + b"\xff" * 8,
    ],
)
def test_bytes_behind_an_mp4_that_are_no_box_are_kept(name: str, tail: bytes) -> None:
    data, extension = sample(name)
    assert judge(data + tail, extension) is None


@pytest.mark.parametrize("name", ["sample.pdf", "sample.zip", "sample.docx", "sample.jpg", "sample.png"])
@pytest.mark.parametrize("length", [8, 2000, 70_000, 3 << 20])
def test_bytes_behind_a_document_or_picture_are_kept(name: str, length: int) -> None:
    data, extension = sample(name)
    assert judge(data + b"x" * length, extension) is None
    assert judge(data + b"\0" * length, extension) is None


def test_bytes_behind_a_zip_whose_offsets_are_those_of_something_before_it_are_kept() -> None:
    data = bytearray(sample("sample.zip")[0])
    data[-6] += 9  # where its directory would be, had somebody put 9 bytes in front
    assert judge(bytes(data), ".zip") is None
    assert judge(bytes(data) + b"x" * 30, ".zip") is None


def test_a_fragmented_mp4_cut_behind_its_first_fragment_is_called_cut() -> None:
    moov = box(b"moov", box(b"mvhd", bytes(100)) + box(b"mvex", box(b"trex", bytes(24))))
    start = box(b"ftyp", b"isom\0\0\0\0") + moov + box(b"mdat", b"x" * 50)
    fragment = box(b"moof", b"y" * 30) + box(b"mdat", b"z" * 30)
    assert judge(start, ".mp4") is False
    assert judge(start + fragment, ".mp4") is None
    assert judge(start + fragment[:38], ".mp4") is False, "a fragment's head without its data"
    assert judge(start + fragment + box(b"mfra", b"w" * 8), ".mp4") is True


def test_a_placeholder_in_a_swf_says_nothing() -> None:
    """As ffmpeg 5.1 leaves it in a pipe."""
    assert judge(b"FWS\6" + struct.pack("<I", 100 << 20) + bytes(500), ".swf") is None
    assert judge(b"FWS\6" + struct.pack("<I", 509) + bytes(500), ".swf") is False


def test_an_mvex_inside_of_the_data_announces_nothing() -> None:
    old = box(b"moov", box(b"mvex"))
    data = box(b"ftyp", b"isom\0\0\0\0") + box(b"free") + box(b"mdat", old) + box(b"moov", box(b"mvhd"))
    assert judge(data, ".mp4") is True


def test_an_index_of_segments_tells_how_long_they_are() -> None:
    fragment = box(b"moof", b"y" * 30) + box(b"mdat", b"z" * 30)
    index = struct.pack(">IIIIIHHIII", 0, 1, 1000, 0, 0, 0, 2, len(fragment), 0, 0) + struct.pack(
        ">III", len(fragment), 0, 0
    )
    start = box(b"ftyp", b"iso5\0\0\0\0") + box(b"moov", box(b"mvex")) + box(b"sidx", index)
    assert judge(start + fragment * 2, ".mp4") is None
    assert judge(start + fragment, ".mp4") is False


def test_a_multi_picture_jpeg_is_judged_by_its_index() -> None:
    data = (SAMPLES / "writers" / "pillow-two.mpo").read_bytes()
    assert judge(data, ".jpg") is True
    second = data.index(b"\xff\xd8\xff", 100)
    assert judge(data[:second], ".jpg") is False, "the first picture alone"
    assert judge(data + b"x", ".jpg") is None


def test_a_chain_of_ogg_cut_between_two_links_is_not_proven() -> None:
    data = (SAMPLES / "writers" / "oggenc-chained.ogg").read_bytes()
    second = data.index(b"OggS\0\2", 100)
    assert judge(data, ".ogg") is None
    assert judge(data[:second], ".ogg") is None


def test_gzip_cut_between_two_members_is_not_proven() -> None:
    first, second = gzip.compress(b"one" * 99), gzip.compress(b"two" * 99)
    assert judge(first + second, ".gz") is None
    assert judge(first, ".gz") is None
    for length in range(len(first) + 1, len(first) + len(second)):
        assert judge((first + second)[:length], ".gz") is False


@pytest.mark.parametrize("extension", [".json", ".gltf"])
def test_json_that_is_not_closed_is_called_cut(extension: str) -> None:
    data = b'\xef\xbb\xbf{"a": ["\\\\", "}\\"]", {"b": null, "c": [1, -2.5e3, true]}], "d": "%s"}\n' % (
        b"x" * 200_000
    )
    assert judge(data, extension) is None
    for length in (*range(3, 60), 70_000, len(data) - 2):
        assert judge(data[:length], extension) is not True
        assert judge(data[: max(length, 4)], extension) is False


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1}\n{"a": 2}\n{"a": ',
        b"// a comment's apostrophe\n{}",
        b'{"a": 1} // a "comment',
        b"{key: 1",
        b"{'a': ['",
        b"[NaN, -Infinity]",
        b'"a string',
        b"12",
        b"words {",
    ],
)
def test_json_of_another_make_cannot_be_told(data: bytes) -> None:
    assert judge(data, ".json") is None


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"<svg><g></g></svg>", None),
        (b"<svg><g></g></svg>\n<!-- end -->\n", None),
        (b"<svg><g></g>", False),
        (b"<svg><g><path d='", False),
        (b"<?xml version='1.0'?>\n", False),
        (b"<svg><![CDATA[ x", False),
        (b"<svg><g></svg>", None),
        (b"<svg></svg>appended", None),
        (b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg>&a;", None),
        (b"<svg>" + b"<g>" * 20_000, None),
        (b"\xff\xfe" + "<svg><g>".encode("utf-16-le"), False),
        (b"plain words", None),
    ],
)
def test_xml_that_is_not_closed_is_called_cut(data: bytes, verdict: bool | None) -> None:  # noqa: FBT001
    assert judge(data, ".svg") is verdict


HOSTILE = {
    ".gz": (gzip.compress(b"") * 60_000, gzip.compress(bytes(1 << 20)) * 2000),
    ".json": (b"[" * (4 << 20), b'{"' + b'\\"' * (4 << 20), b'["",' + b'"",' * (2 << 20)),
    ".svg": (b"<a>" * (2 << 20), b'<a b="' + b"x" * (24 << 20), b"<a>" + b"<b/>" * (2 << 20)),
    ".jpg": (b"\xff\xd8\xff" + b"\xda\0\2\xff" * (1 << 20), b"\xff\xd8" + b"\xff" * (4 << 20)),
    ".mp4": (
        box(b"ftyp", b"isom\0\0\0\0") + box(b"free") * (1 << 19),
        box(b"moof") + box(b"sidx", bytes(40)) * 90_000,
    ),
    ".webm": (b"\x1a\x45\xdf\xa3\x80\x18\x53\x80\x67\xff" + b"\x1f\x43\xb6\x75\xff" * (1 << 20),),
    ".flac": (b"fLaC\x80\0\0\x22" + b"\xff\xff" * 17 + b"\xff\xf8\xc9\x18\0\xc2" * (1 << 18),),
    ".tiff": (b"II+\0\x08\0\0\0\x10" + bytes(7) + (1 << 20).to_bytes(8, "little") + bytes(21 << 20),),
    ".zip": (b"PK\3\4" + b"PK\5\6" * (1 << 20),),
    ".zst": (b"\x28\xb5\x2f\xfd\0\0" + bytes(6 << 20),),
    ".mid": (b"MThd\0\0\0\6\0\1\xff\xff\0\1" + bytes(8 << 20),),
    ".hdr": (b"#?RADIANCE\n\n-Y 99999 +X 32767\n" + b"\2\2\x7f\xff" + b"\1\1" * (2 << 20),),
    ".rtf": (b"{\\rtf" + b"\\" * (4 << 20), b"{\\rtf" + b"{" * (4 << 20)),
    ".tar": (bytes(257) + b"ustar" + bytes(250) + (b"x" * 257 + b"ustar" + bytes(250)) * 4000,),
    ".ply": (
        b"ply\nformat ascii 1.0\nelement vertex 99999999999\nproperty float x\nend_header\n"
        + b"\n" * (4 << 20),
    ),
    ".pdf": (b"%PDF-1.4" + b"%%EOF" * (1 << 20),),
    ".wav": (wave(99, 9, b"")[:36] + chunk(b"junk", b"") * (1 << 19),),
    ".ogg": ((b"OggS\0" + bytes(21) + b"\0") * (1 << 18),),
}


@pytest.mark.parametrize("extension", sorted(HOSTILE))
def test_a_hostile_file_costs_a_bounded_number_of_reads(
    extension: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = {"reads": 0, "bytes": 0}
    pread = os.pread

    def count(fd: int, length: int, offset: int) -> bytes:
        data = pread(fd, length, offset)
        counted["reads"] += 1
        counted["bytes"] += len(data)
        return data

    monkeypatch.setattr(os, "pread", count)
    for data in HOSTILE[extension]:
        counted.update(reads=0, bytes=0)
        assert judge(data, extension) in {False, None}
        assert counted["reads"] <= 250_000
        assert counted["bytes"] <= 8 * len(data) + (1 << 20) + 4096 * counted["reads"]
