from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from floradl.units import (
    LARGEST,
    LONGEST,
    format_count,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2.0),
        ("0.5s", 0.5),
        ("250ms", 0.25),
        ("5m", 300.0),
        ("24h", 86_400.0),
        ("30d", 2_592_000.0),
        ("2w", 1_209_600.0),
        ("1h30m", 5400.0),
        (" 1 h 30 m ", 5400.0),
        ("0", 0.0),
        ("0s", 0.0),
    ],
)
def test_a_duration_reads_as_people_write_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "-1s", "s", "2 seconds", "1,5s", "5m5m", "30m1h", "2S", "18:00", "٣s"])
def test_what_is_no_duration_is_answered_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="2s, 5m, 24h"):
        parse_duration(text)


def test_a_duration_without_unit_is_not_guessed_at() -> None:
    with pytest.raises(ValueError, match="has no unit: write 30s, 30m, 30h or 30d"):
        parse_duration("30")


def test_a_duration_that_would_overflow_the_clock_is_refused() -> None:
    with pytest.raises(ValueError, match="hundred years"):
        parse_duration("999999999999w")


@given(st.integers(0, int(LONGEST) * 1000))
def test_a_duration_that_was_written_is_read_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@given(st.text(alphabet="0123456789.wdhms -", max_size=30) | st.text(max_size=10))
def test_any_text_is_a_duration_in_range_or_refused(text: str) -> None:
    try:
        seconds = parse_duration(text)
    except ValueError:
        return
    assert 0 <= seconds <= LONGEST


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1024", 1024),
        ("500MB", 500_000_000),
        ("500 mb", 500_000_000),
        ("1.5GB", 1_500_000_000),
        ("1GiB", 1 << 30),
        ("64KiB", 65_536),
        ("2kB", 2000),
        ("7B", 7),
    ],
)
def test_a_size_reads_as_people_write_it(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "-1", "many", "1,5GB", "1.5", "5 XB", "1e9", "0x10"])
def test_what_is_no_size_is_answered_with_what_would_be(text: str) -> None:
    with pytest.raises(ValueError, match="MB"):
        parse_size(text)


def test_a_size_that_can_be_read_two_ways_is_asked_about() -> None:
    with pytest.raises(ValueError, match="write 5GB or 5GiB"):
        parse_size("5g")


def test_a_size_beyond_any_file_is_refused() -> None:
    with pytest.raises(ValueError, match="larger than any file"):
        parse_size("999999999PB")


@given(st.text(alphabet="0123456789.kMGTPiB ", max_size=30) | st.text(max_size=10))
def test_any_text_is_a_size_in_range_or_refused(text: str) -> None:
    try:
        size = parse_size(text)
    except ValueError:
        return
    assert 0 <= size <= LARGEST


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1_500_000, "1.5 MB"), (20_000_000_000, "20 GB")],
)
def test_a_size_is_shown_in_three_digits(size: int, text: str) -> None:
    assert format_size(size) == text


@given(st.integers(0, LARGEST))
def test_a_shown_size_has_a_number_and_a_unit(size: int) -> None:
    assert re.fullmatch(r"[0-9.]+ (B|[kMGTP]B)", format_size(size))


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (1200, "1,200 runs")]
)
def test_a_count_is_written_with_its_noun_in_the_right_number(number: int, text: str) -> None:
    assert format_count(number, "run") == text
