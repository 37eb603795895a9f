from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, strategies as st

from floradl.polling.durations import LogNormal, fit, gap

BOUNDS = (2.0, 30.0)
FORTY = LogNormal(math.log(40), 0.5)


@given(st.floats(0, 1e9), st.floats(-3, 12), st.floats(0.2, 3))
def test_the_hazard_is_a_rate_at_any_age(age: float, mu: float, sigma: float) -> None:
    assert 0 <= LogNormal(mu, sigma).hazard(age) < math.inf


def test_the_hazard_sums_up_to_what_has_ended() -> None:
    step, summed = 0.01, 0.0
    for index in range(4000):
        summed += FORTY.hazard((index + 0.5) * step) * step
    assert math.exp(-summed) == pytest.approx(0.5, abs=0.001)


@given(st.floats(0, 1e6), st.floats(-3, 12), st.floats(0.2, 3))
def test_a_gap_keeps_its_bounds(age: float, mu: float, sigma: float) -> None:
    assert 2.0 <= gap(age, LogNormal(mu, sigma), BOUNDS) <= 30.0


def test_a_run_is_left_alone_while_it_cannot_be_done_and_asked_about_when_it_is_likely() -> None:
    assert gap(0.0, FORTY, BOUNDS) > 10
    assert gap(40.0, FORTY, BOUNDS) < 6
    assert gap(3000.0, FORTY, BOUNDS) > gap(60.0, FORTY, BOUNDS)


def test_known_durations_cost_a_quarter_less_questions_than_a_loop_at_no_later_news() -> None:
    source = random.Random(5)
    durations = [source.lognormvariate(math.log(40), 0.5) for _ in range(4000)]
    questions, delay = 0, 0.0
    for duration in durations:
        age = 0.0
        while age < duration:
            questions += 1
            age += gap(age, FORTY, BOUNDS)
        questions += 1
        delay += age - duration
    period = 5.1  # a loop of 5 s, whose own questions take time as well
    loop = sum(math.ceil(duration / period) + 1 for duration in durations)
    looped_delay = sum(-duration % period for duration in durations)
    assert questions <= 0.76 * loop
    assert delay <= 1.02 * looped_delay


def test_few_durations_leave_more_open_than_many() -> None:
    source = random.Random(7)
    durations = [source.lognormvariate(math.log(300), 0.4) for _ in range(200)]
    few, many = fit(durations[:5]), fit(durations)
    assert few.sigma > many.sigma
    assert many.mu == pytest.approx(math.log(300), abs=0.15)
    assert many.sigma == pytest.approx(0.4, abs=0.1)


def test_equal_durations_do_not_make_certain() -> None:
    assert fit([60.0] * 400).sigma >= 0.2


def test_runs_that_go_on_count_for_what_they_took_already() -> None:
    source = random.Random(11)
    durations = sorted(source.lognormvariate(math.log(40), 0.5) for _ in range(200))
    ended = durations[:20]
    alone = fit(ended)
    among = fit(ended, [ended[-1]] * 180)
    assert math.exp(alone.mu) < 25
    assert math.exp(among.mu) == pytest.approx(40, rel=0.25)


def test_a_crowd_that_goes_on_says_that_it_takes_longer_than_that() -> None:
    before = gap(10.0, fit([]), BOUNDS)
    after = gap(10.0, fit([], [10.0] * 100), BOUNDS)
    assert after > 1.5 * before


def test_nothing_known_is_spread_wide() -> None:
    expected = fit([])
    assert math.exp(expected.mu) == pytest.approx(30, rel=0.1)
    assert expected.sigma > 1.0


@given(st.lists(st.floats(0.01, 6e5), max_size=30), st.lists(st.floats(0, 6e5), max_size=30))
def test_whatever_was_seen_an_estimate_is_made_of_it(durations: list[float], ages: list[float]) -> None:
    expected = fit(durations, ages)
    assert math.isfinite(expected.mu)
    assert 0 < expected.sigma < math.inf
