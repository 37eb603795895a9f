from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from floradl.net.bandwidth import DAY, RateSchedule, RateWindow

HOUR = 3600
_SECONDS = st.integers(0, DAY - 1)
_SPANS = st.builds(RateWindow, _SECONDS, _SECONDS, st.integers(1000, 10**9))


def seconds_of(span: RateWindow) -> set[int]:
    """The quarters of an hour that a span covers, walked along the clock."""
    found, second = set(), span.start
    while True:
        found.add(second)
        second = (second + 900) % DAY
        if second == span.end:
            return found


_QUARTERS = st.integers(0, 95).map(lambda quarter: quarter * 900)
_COARSE = st.builds(RateWindow, _QUARTERS, _QUARTERS, st.integers(1000, 10**9))


@pytest.mark.parametrize(
    ("hour", "rate"), [(8.99, None), (9, 2000), (17.99, 2000), (18, None), (0, None), (23.99, None)]
)
def test_a_span_holds_from_its_start_up_to_its_end(hour: float, rate: int | None) -> None:
    table = RateSchedule((RateWindow(9 * HOUR, 18 * HOUR, 2000),))
    assert table.rate(int(hour * HOUR)) == rate


@pytest.mark.parametrize(("hour", "rate"), [(21, None), (22, 5000), (23.99, 5000), (0, 5000), (6, None)])
def test_a_span_may_go_over_midnight(hour: float, rate: int | None) -> None:
    table = RateSchedule((RateWindow(22 * HOUR, 6 * HOUR, 5000),))
    assert table.rate(int(hour * HOUR)) == rate


@given(_SECONDS)
def test_one_rate_holds_at_any_time(second: int) -> None:
    assert RateSchedule.always(3000).rate(second) == 3000
    assert RateSchedule(()).rate(second) is None


@given(_COARSE, _QUARTERS)
def test_a_span_covers_what_the_clock_passes_on_the_way_from_start_to_end(
    span: RateWindow, second: int
) -> None:
    assert (second in span) == (second in seconds_of(span))


@given(st.lists(_COARSE, max_size=4))
def test_spans_overlap_where_some_time_of_day_lies_in_two(spans: list[RateWindow]) -> None:
    overlapping = {
        (one, other)
        for other in range(len(spans))
        for one in range(other)
        if seconds_of(spans[one]) & seconds_of(spans[other])
    }
    assert set(RateSchedule(tuple(spans)).overlaps()) == overlapping


@given(st.lists(_SPANS, max_size=4), _SECONDS)
def test_where_nothing_overlaps_the_order_does_not_matter(spans: list[RateWindow], second: int) -> None:
    table = RateSchedule(tuple(spans))
    if not list(table.overlaps()):
        assert table.rate(second) == RateSchedule(tuple(reversed(spans))).rate(second)
