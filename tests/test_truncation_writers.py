from __future__ import annotations

from pathlib import Path

import pytest
from cuts import SAMPLES, WRITERS, chunk, judge, wave
from hypothesis import given, settings, strategies as st

STREAMED = frozenset(
    {
        *(
            "short-ffmpeg-pipe.wav",
            "short-ffmpeg-pipe-rf64.wav",
            "short-ffmpeg-pipe.aiff",
            "short-ffmpeg-pipe.au",
        ),
        *("short-ffmpeg-pipe.caf", "short-ffmpeg-pipe.w64", "short-sox-pipe.wav", "short-sox-pipe.aiff"),
        *("short-sox-pipe.au", "short-sox-pipe.caf", "short-espeak-pipe.wav", "short-gst-pipe.wav"),
        *("short-lame-pipe.wav", "short-opusdec-pipe.wav", "short-npm-wav-pipe.wav", "short-mpg123-pipe.wav"),
        "short-mpg123-pipe.au",
    }
)
"""Written by one who did not know the length, and could not go back."""

NO_END = STREAMED | {"cjxl.jxl", "cjxl-lossless.jxl", "lame-notag.mp3"}


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.name)
def test_no_whole_file_of_a_real_program_is_called_cut(path: Path) -> None:
    assert judge(path.read_bytes(), path.suffix) is not False


@pytest.mark.parametrize("path", WRITERS, ids=lambda path: path.name)
def test_no_cut_file_of_a_real_program_is_called_whole(path: Path) -> None:
    data = path.read_bytes()
    # The writer's own length and the file's differ by what may be missing: notes, or two bytes of padding.
    appended = {"short-ffmpeg-pipe.webp"}
    lengths = {*range(max(0, len(data) - 64), len(data)), *range(0, len(data), max(1, len(data) // 150))}
    for length in sorted(lengths if path.name not in appended else (), reverse=True):
        assert judge(data[:length], path.suffix) is not True, f"cut to {length} of {len(data)}"


@pytest.mark.parametrize("path", [p for p in WRITERS if p.name not in NO_END], ids=lambda path: path.name)
def test_most_cuts_of_a_real_programs_file_are_told(path: Path) -> None:
    data = path.read_bytes()
    cuts = [len(data) * percent // 100 for percent in range(5, 95, 5)]
    told = sum(judge(data[:length], path.suffix) is False for length in cuts)
    assert told * 2 > len(cuts)


@pytest.mark.parametrize("name", sorted(NO_END))
def test_sound_streamed_with_a_placeholder_for_its_length_cannot_be_told(name: str) -> None:
    path = SAMPLES / "writers" / name
    data = path.read_bytes()
    for length in (len(data), len(data) - 1, len(data) // 2):
        assert judge(data[:length], path.suffix) is None


@pytest.mark.parametrize(
    ("riff", "data"),
    [
        pytest.param(0xFFFFFFFF, 0xFFFFFFFF, id="ffmpeg 5.1"),
        pytest.param(0x7FFFF024, 0x7FFFF000, id="SoX 14.4.2, espeak-ng 1.51"),
        pytest.param(0x7FFF0024, 0x7FFF0000, id="GStreamer 1.22"),
        pytest.param(0x80000023, 0x7FFFFFFF, id="LAME 3.100"),
        pytest.param(0x7FFFFFFF, 0x7FFFFFFF, id="opusdec 0.2"),
        pytest.param(0xFFFFFFBF, 0xFFFFFF9B, id="npm wav 1.0.2"),
        pytest.param(36, 0, id="mpg123 1.31.2"),
        pytest.param(0, 0, id="zeros"),
        pytest.param(0x7F000000, 0x7F000000, id="the least"),
    ],
)
def test_a_placeholder_in_a_wav_says_nothing(riff: int, data: int) -> None:
    sound = bytes(4000)
    assert judge(wave(riff, data, sound), ".wav") is None
    assert judge(wave(riff, data, sound[:1000]), ".wav") is None
    assert judge(wave(riff, data, b""), ".wav") is None, "a header alone is no proof"
    assert judge(wave(riff, data, b"")[:30], ".wav") is False, "a cut header is one"


def test_a_wav_whose_header_states_the_files_size_is_judged_by_its_sound() -> None:
    sound = bytes(4000)
    data = wave(44 + 4000, 4000, sound)
    assert judge(data, ".wav") is None
    assert judge(data[:-1], ".wav") is False


def test_a_wav_whose_header_states_too_much_is_judged_by_its_sound() -> None:
    assert judge(wave(99_000, 4000, bytes(4000)), ".wav") is None


def test_a_wav_cut_within_what_follows_its_sound_is_called_cut() -> None:
    notes = chunk(b"LIST", b"INFOISFT" + bytes(40))
    whole = wave(36 + 4000 + len(notes), 4000, bytes(4000), notes)
    assert judge(whole, ".wav") is True
    assert judge(whole[:-8], ".wav") is False
    assert judge(whole[: -len(notes)], ".wav") is None, "where nothing follows, the header may be wrong"


JUDGED = sorted({path.suffix for path in WRITERS})


@given(extension=st.sampled_from(JUDGED), tail=st.binary(max_size=400), data=st.data())
@settings(max_examples=600, deadline=None)
def test_a_random_tail_is_judged_without_an_error(extension: str, tail: bytes, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from([path for path in WRITERS if path.suffix == extension]))
    content = path.read_bytes()
    damaged = content[: data.draw(st.integers(0, len(content)))] + tail
    assert judge(damaged, extension) in {True, False, None}
