"""How fast FLORA is asked: a 429 speaks to all, and an API that is away is not stormed."""

from __future__ import annotations

import functools
import itertools
import math
import random
import time

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, strategies as st
from studio import TEST_TIMEOUT

from floradl.flora.rate_limit import RateLimiter
from floradl.retry import backoff

pytestmark = pytest.mark.anyio


class Clock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Askers:
    """Tasks that each take a turn and hold it until they are let go."""

    def __init__(self, rate_limiter: RateLimiter) -> None:
        self.rate_limiter = rate_limiter
        self.under_way = 0
        self.go = anyio.Event()

    async def ask(self) -> None:
        async with self.rate_limiter.turn():
            self.under_way += 1
            await self.go.wait()
            self.under_way -= 1


async def most_at_once(rate_limiter: RateLimiter, number: int = 20) -> int:
    """How many of `number` turns are held at once."""
    askers = Askers(rate_limiter)
    async with anyio.create_task_group() as group:
        for _ in range(number):
            group.start_soon(askers.ask)
        await anyio.wait_all_tasks_blocked()
        most = askers.under_way
        askers.go.set()
    return most


async def waits(rate_limiter: RateLimiter) -> bool:
    """Whether a turn is not given at once."""
    with anyio.move_on_after(0.1):
        async with rate_limiter.turn():
            return False
    return True


async def test_as_many_ask_at_once_as_the_limit_says() -> None:
    assert await most_at_once(RateLimiter(Clock(), limit=8)) == 8


async def test_after_a_429_everybody_waits_as_long_as_it_says() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock)
    rate_limiter.throttled(30.0)
    clock.now += 29.9
    assert await waits(rate_limiter)
    clock.now += 0.1
    assert not await waits(rate_limiter)


async def test_a_429_that_names_no_time_means_five_seconds() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock)
    rate_limiter.throttled(None)
    clock.now += 4.9
    assert await waits(rate_limiter)
    clock.now += 0.1
    assert not await waits(rate_limiter)


async def test_a_429_of_zero_seconds_means_at_once() -> None:
    rate_limiter = RateLimiter(Clock())
    rate_limiter.throttled(0.0)
    assert not await waits(rate_limiter)


async def test_a_shorter_429_does_not_shorten_a_longer_one() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock)
    rate_limiter.throttled(30.0)
    rate_limiter.throttled(1.0)
    clock.now += 2.0
    assert await waits(rate_limiter)


async def test_a_429_that_comes_while_one_waits_is_waited_for_too() -> None:
    rate_limiter = RateLimiter(time.monotonic)
    rate_limiter.throttled(0.05)
    started = time.monotonic()
    turns: list[float] = []

    async def ask() -> None:
        async with rate_limiter.turn():
            turns.append(time.monotonic() - started)

    with anyio.fail_after(TEST_TIMEOUT):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            await checkpoint()
            await checkpoint()
            rate_limiter.throttled(0.2)
    assert turns[0] >= 0.2


async def test_after_a_429_two_ask_at_once_until_a_minute_was_quiet() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock, limit=8)
    rate_limiter.throttled(10.0)
    clock.now += 10.0
    assert await most_at_once(rate_limiter) == 2
    rate_limiter.answered()
    clock.now += 59.9
    rate_limiter.answered()
    assert await most_at_once(rate_limiter) == 2
    clock.now += 0.1
    rate_limiter.answered()
    assert await most_at_once(rate_limiter) == 8


async def test_a_limit_of_one_stays_one_after_a_429() -> None:
    rate_limiter = RateLimiter(Clock(), limit=1)
    rate_limiter.throttled(0.0)
    assert await most_at_once(rate_limiter) == 1


async def test_while_the_api_is_away_one_at_a_time_tries_the_door() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock, limit=8)
    rate_limiter.unreachable()
    clock.now += 1.0
    assert await most_at_once(rate_limiter) == 1
    rate_limiter.answered()
    assert await most_at_once(rate_limiter) == 8


async def test_many_that_fail_together_are_one_failure() -> None:
    """Else eight requests that one restart of the API cut would keep everybody waiting for half a minute."""
    clock = Clock()
    rate_limiter = RateLimiter(clock, limit=8)
    for _ in range(8):
        rate_limiter.unreachable()
    clock.now += 1.0
    assert not await waits(rate_limiter)


async def test_the_longer_the_api_is_away_the_longer_is_waited_up_to_half_a_minute() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock)
    gaps = []
    for _ in range(10):
        rate_limiter.unreachable()
        start = clock.now
        clock.now = rate_limiter._not_before
        gaps.append(clock.now - start)
    assert all(later > earlier for earlier, later in itertools.pairwise(gaps[:5]))
    assert all(22.5 <= gap <= 30.0 for gap in gaps[5:])
    rate_limiter.answered()
    start = clock.now
    rate_limiter.unreachable()
    assert rate_limiter._not_before - start <= 1.0


async def test_a_turn_that_fails_is_given_back() -> None:
    rate_limiter = RateLimiter(Clock(), limit=1)
    for _ in range(3):
        with pytest.raises(KeyError):
            async with rate_limiter.turn():
                raise KeyError
    assert not await waits(rate_limiter)


async def test_a_turn_that_nobody_waits_for_any_more_is_given_back() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock, limit=1)
    rate_limiter.throttled(10.0)
    assert await waits(rate_limiter)  # and is cancelled
    clock.now += 10.0
    assert not await waits(rate_limiter)


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_a_backoff_doubles_is_spread_and_stays_below_its_cap(tries: int, seed: int) -> None:
    random.seed(seed)
    delay = backoff(tries, 30.0)
    full = min(30.0, math.ldexp(1.0, min(tries - 1, 10)))
    assert 0.75 * full <= delay <= full


def test_those_that_failed_together_do_not_come_back_together() -> None:
    assert len({backoff(6, 30.0) for _ in range(100)}) > 90


async def test_whoever_is_not_patient_does_not_stand_behind_a_crowd_that_is() -> None:
    """A list answers for a hundred runs: it is not to wait for as many single questions."""
    rate_limiter = RateLimiter(time.monotonic)
    for _ in range(40):
        async with rate_limiter.turn():
            pass
    order: list[str] = []

    async def ask(name: str, *, patient: bool) -> None:
        async with rate_limiter.turn(patient=patient):
            order.append(name)

    with anyio.fail_after(TEST_TIMEOUT):
        async with anyio.create_task_group() as group:
            for number in range(30):
                group.start_soon(functools.partial(ask, f"single_{number}", patient=True))
            await anyio.sleep(0.1)
            before = len(order)
            group.start_soon(functools.partial(ask, "list", patient=False))
    assert before < 20
    assert order.index("list") <= before + 4


async def test_what_an_end_was_heard_by_is_not_counted_for_long() -> None:
    clock = Clock()
    rate_limiter = RateLimiter(clock)
    for _ in range(3000):
        async with rate_limiter.turn():
            rate_limiter.paid()
        clock.now += 1 / 40
    assert not await waits(rate_limiter)
