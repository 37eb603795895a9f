from __future__ import annotations

import math
import random

import pytest

from floradl.flora.rate_limit import AdaptiveLimit


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Limit:
    """A server that lets `rate` requests a second pass, with a burst of five."""

    def __init__(self, clock: Clock, rate: float) -> None:
        self.clock, self.rate, self.tokens, self.since = clock, rate, 5.0, clock.now

    def passes(self) -> bool:
        self.tokens = min(5.0, self.tokens + (self.clock.now - self.since) * self.rate)
        self.since = self.clock.now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


def limited(clock: Clock, times: int, *, every: float) -> AdaptiveLimit:
    """Return one that asked so many times, every so many seconds, and then met a limit."""
    budget = AdaptiveLimit(clock)
    for _ in range(times):
        budget.reserve()
        clock.now += every
    budget.throttled()
    return budget


def test_nothing_is_spaced_before_a_limit_is_met() -> None:
    budget = AdaptiveLimit(Clock())
    assert [budget.reserve() for _ in range(1000)] == [0.0] * 1000
    assert budget.rate == math.inf


def test_a_429_halves_what_was_really_asked() -> None:
    clock = Clock()
    budget = limited(clock, 100, every=0.1)
    assert budget.rate == pytest.approx(5.0, rel=0.05)
    budget.throttled()
    assert budget.rate == pytest.approx(5.0, rel=0.05)


def test_who_asks_rarely_is_not_slowed_by_what_others_do() -> None:
    clock = Clock()
    budget = limited(clock, 5, every=2.0)
    assert budget.rate == math.inf


def test_places_are_given_in_order_and_evenly() -> None:
    clock = Clock()
    budget = limited(clock, 40, every=0.25)
    waits = [budget.reserve() for _ in range(4)]
    assert waits == pytest.approx([0.0, 0.5, 1.0, 1.5], abs=0.05)


@pytest.mark.parametrize("rate", [1.0, 2.0, 5.0])
def test_after_the_first_minute_one_request_in_a_hundred_is_throttled_at_most(rate: float) -> None:
    clock = Clock()
    budget, limit = AdaptiveLimit(clock), Limit(clock, rate)
    asked = throttled = 0
    while clock.now < 1000 + 1860:
        clock.now += budget.reserve() + 0.02
        passed = limit.passes()
        if clock.now > 1060:
            asked += 1
            throttled += not passed
        if not passed:
            budget.throttled()
            clock.now += 1 / rate
    assert throttled < 0.01 * asked
    assert asked > 0.55 * rate * 1800


def test_a_limit_that_is_gone_is_forgotten_in_time() -> None:
    clock = Clock()
    budget = limited(clock, 100, every=0.1)
    clock.now += 3600
    assert budget.rate == math.inf


def drained(seconds: float, chance: float, rate: float = math.inf) -> tuple[float, float]:
    """Ask as fast as the budget allows; each answer takes 20 ms, and one in `1 / chance` is a 429 anyway.

    Returns the requests a second, and the share of them that was throttled.
    """
    clock = Clock()
    budget, limit, dice = AdaptiveLimit(clock), Limit(clock, rate), random.Random(3)
    asked = throttled = 0
    start = clock.now
    while clock.now < start + seconds:
        clock.now += budget.reserve() + 0.02
        asked += 1
        if dice.random() < chance or (rate < math.inf and not limit.passes()):
            throttled += 1
            budget.throttled()
            clock.now += 1.0
    return asked / seconds, throttled / asked


@pytest.mark.parametrize("chance", [0.02, 0.05])
def test_a_429_now_and_then_that_has_nothing_to_do_with_our_rate_does_not_starve_us(chance: float) -> None:
    rate, _ = drained(600.0, chance)
    assert rate > 5.0


def test_a_limit_is_kept_to_among_others_that_have_nothing_to_do_with_it() -> None:
    rate, throttled = drained(1800.0, 0.02, rate=4.0)
    assert 2.0 < rate <= 4.1
    assert throttled < 0.1


def test_a_limit_that_is_raised_is_made_use_of_within_ten_minutes() -> None:
    clock = Clock()
    budget = limited(clock, 20, every=0.5)
    clock.now += 600.0
    assert budget.rate > 10.0


def test_a_burst_at_the_start_is_measured_by_the_time_that_it_took() -> None:
    clock = Clock()
    budget = AdaptiveLimit(clock)
    for _ in range(12):
        budget.reserve()
    clock.now += 0.1
    budget.throttled()
    assert budget.rate == pytest.approx(3.0)
