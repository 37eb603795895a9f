from __future__ import annotations

import pytest

from floradl.wakeups import until_tick


@pytest.mark.parametrize("now", [1000.3, 1000.999, 1000.001])
def test_whoever_looks_equally_often_looks_at_the_same_moment(now: float) -> None:
    assert now + until_tick(now, 2.0) == pytest.approx(1002.0)


def test_whoever_looks_more_rarely_looks_with_the_others() -> None:
    assert until_tick(1001.7, 2.0) == until_tick(1001.7, 1.0)


def test_at_a_tick_the_next_one_is_waited_for() -> None:
    assert until_tick(1000.0, 2.0) == 2.0
