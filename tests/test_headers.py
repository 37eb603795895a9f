"""Header fields are read strictly: what cannot be understood counts as absent."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable
from email.utils import format_datetime, formatdate

import pytest
from hypothesis import given, strategies as st

from floradl.net.headers import ContentRange, content_length, content_range, retry_after, strong_etag

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("bytes 0-4/10", ContentRange(0, 4, 10)),
        ("bytes 5-9/10", ContentRange(5, 9, 10)),
        ("bytes 5-9/*", ContentRange(5, 9, None)),
        ("Bytes 5-9/10", ContentRange(5, 9, 10)),
        (" bytes 5-9/10 ", ContentRange(5, 9, 10)),
        ("bytes 5-10/10", None),  # ends behind the end
        ("bytes 9-5/10", None),
        ("bytes */10", None),  # what a 416 says
        ("bytes 5-9", None),
        ("bytes -5-9/10", None),
        ("items 5-9/10", None),
        ("bytes 5-9/10, bytes 0-4/10", None),
        ("bytes \u0665-\u0669/\u0661\u0660", None),  # digits, but not of HTTP
        ("bytes 5-9999999999999999999/99999999999999999999", None),
        ("", None),
    ],
)
def test_a_content_range_is_read_or_counts_as_absent(value: str, expected: ContentRange | None) -> None:
    assert content_range({"content-range": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0),
        ("1234", 1234),
        (" 7 ", 7),
        ("-1", None),
        ("+1", None),
        ("1.0", None),
        ("1_0", None),
        ("5, 5", None),
        ("\u0663", None),
        ("0x10", None),
        ("9" * 19, None),
        ("", None),
    ],
)
def test_a_content_length_is_read_or_counts_as_absent(value: str, expected: int | None) -> None:
    assert content_length({"content-length": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ('"abc"', '"abc"'),
        ('""', '""'),
        (' "a" ', '"a"'),
        ('W/"abc"', None),
        ('"' + "a" * 1000 + '"', '"' + "a" * 1000 + '"'),
        ('"' + "a" * 1001 + '"', None),
        ("abc", None),
        ('"a"b"', None),
        ('"a b"', None),
        ('"a"-gzip', None),
        ("", None),
    ],
)
def test_only_a_strong_etag_counts(value: str, expected: str | None) -> None:
    assert strong_etag({"etag": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("5", 5.0),
        ("0", 0.0),
        ("0.5", 0.5),
        ("-5", 0.0),
        ("86400", 3600.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
        (formatdate(NOW + 1e6, usegmt=True), 3600.0),
        (format_datetime(dt.datetime.fromtimestamp(NOW + 60, dt.timezone(dt.timedelta(hours=2)))), 60.0),
        (formatdate(NOW + 60, localtime=False).replace("-0000", ""), 60.0),  # no zone: UTC all the same
        (formatdate(NOW + 60, localtime=False), 60.0),
        ("nan", None),
        ("inf", None),
        ("soon", None),
        ("", None),
        (" ", None),
    ],
)
def test_retry_after_is_read_as_seconds_or_a_date(value: str, expected: float | None) -> None:
    assert retry_after({"retry-after": value}, NOW) == expected


def test_a_date_without_a_zone_is_utc_wherever_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert retry_after({"retry-after": formatdate(NOW + 60, localtime=False)}, NOW) == 60.0
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_date_counts_from_the_answers_own_date_for_our_clock_may_be_wrong() -> None:
    headers = {"retry-after": formatdate(NOW + 60, usegmt=True), "date": formatdate(NOW, usegmt=True)}
    assert retry_after(headers, NOW - 86_400) == 60.0
    assert retry_after(headers, NOW + 86_400) == 60.0
    assert retry_after({**headers, "date": "yesterday"}, NOW) == 60.0


@pytest.mark.parametrize("read", [content_range, content_length, strong_etag, lambda h: retry_after(h, NOW)])
def test_an_absent_field_is_none(read: Callable[[dict[str, str]], object]) -> None:
    assert read({}) is None


@given(st.text())
def test_no_text_at_all_is_an_error(value: str) -> None:
    names = ("content-range", "content-length", "etag", "retry-after", "date")
    headers = dict.fromkeys(names, value)
    content_range(headers)
    content_length(headers)
    strong_etag(headers)
    seconds = retry_after(headers, NOW)
    assert seconds is None or (math.isfinite(seconds) and 0 <= seconds <= 3600)


@given(
    st.builds(
        "{}, {} {} {} {}:{}:{} {}".format,
        st.sampled_from(["Mon", "Xyz", ""]),
        st.integers(-1, 40),
        st.sampled_from(["Jan", "Feb", "Foo"]),
        st.integers(-1, 100_000),
        st.integers(-1, 30),
        st.integers(-1, 70),
        st.integers(-1, 70),
        st.sampled_from(["GMT", "-0000", "+9999", "", "EST", "+" + "9" * 30]),
    )
)
def test_no_date_at_all_is_an_error(value: str) -> None:
    seconds = retry_after({"retry-after": value}, NOW)
    assert seconds is None or 0 <= seconds <= 3600
