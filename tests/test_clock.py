from __future__ import annotations

import re

import pytest
from hypothesis import given, strategies as st

from floradl.clock import rfc3339, unix_seconds, wire_time


@pytest.mark.parametrize(
    ("sent", "seconds"),
    [
        (1_795_460_591, 1_795_460_591.0),
        (1_795_460_591_120, 1_795_460_591.12),
        (99_999_999_999, 99_999_999_999.0),
        (100_000_000_000, 100_000_000.0),
        (0, None),
        (None, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
    ],
)
def test_a_time_of_the_wire_is_seconds_or_milliseconds(sent: float | None, seconds: float | None) -> None:
    assert wire_time(sent) == seconds


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (1_795_460_591.12, "2026-11-23T19:03:11.120Z"),
        (1_795_460_591, "2026-11-23T19:03:11.000Z"),
        (0, None),
        (None, None),
        (float("nan"), None),
        (float("-inf"), None),
        (1e18, None),
        (-1e18, None),
    ],
)
def test_a_time_is_written_in_utc_with_milliseconds(seconds: float | None, text: str | None) -> None:
    assert rfc3339(seconds) == text


@pytest.mark.parametrize("text", [None, "", "yesterday", "2026-11-23T19:03:11", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_with_a_zone_is_unknown(text: str | None) -> None:
    assert unix_seconds(text) is None


@given(st.floats())
def test_any_number_is_a_time_or_unknown(seconds: float) -> None:
    text = rfc3339(seconds)
    assert text is None or re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    wire_time(seconds)


@given(st.floats(0.001, 32_503_680_000))
def test_a_written_time_is_read_back_to_the_millisecond(seconds: float) -> None:
    back = unix_seconds(rfc3339(seconds))
    assert back is not None
    assert abs(back - seconds) <= 0.001001
