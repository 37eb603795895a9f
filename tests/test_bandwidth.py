"""The rate limit, with real threads and a clock that the one who waits puts forward himself."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest
from hands import Frozen, Hands
from hypothesis import given, settings, strategies as st
from studio import TEST_TIMEOUT, wait_until

from floradl.net.bandwidth import BandwidthLimiter, RateSchedule, RateWindow, SystemClock

RATES = [1000, 20_000, 10_000_000]


def in_threads(count: int, work: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    return threads


def join(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()


def read_for(bandwidth: BandwidthLimiter, hands: Hands, seconds: float, most: int = 65_536) -> int:
    """Read as one transfer does, for so many seconds of the clock; returns bytes."""
    ends, total = hands.now + seconds, 0
    while hands.now < ends:
        total += bandwidth.admit(most)
    return total


def test_without_a_limit_nobody_waits() -> None:
    bandwidth = BandwidthLimiter(None, Frozen())
    assert [bandwidth.admit(65_536) for _ in range(3)] == [65_536] * 3
    assert bandwidth.rate() is None


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("transfers", [1, 16])
def test_all_transfers_together_read_at_the_rate(rate: int, transfers: int) -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(rate), hands)
    read: Counter[int] = Counter()

    def work(number: int) -> None:
        read[number] = read_for(bandwidth, hands, 10)

    began = hands.now
    join(in_threads(transfers, work))
    assert read.total() / (hands.now - began) == pytest.approx(rate, rel=0.05)


@settings(max_examples=50)
@given(rate=st.sampled_from(RATES), gaps=st.lists(st.floats(0, 3), max_size=30))
def test_a_burst_is_a_tenth_of_a_second_at_most(rate: int, gaps: list[float]) -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(rate), hands)
    marks = [(hands.now, 0)]
    for gap in [*gaps, 0.0]:
        hands.now += gap
        for _ in range(5):
            before = marks[-1][1]
            marks.append((hands.now, before))  # so that a window may begin just before a read
            got = bandwidth.admit(65_536)
            marks.append((hands.now, before + got))
    for place, (since, before) in enumerate(marks):
        for until, after in marks[place:]:
            assert after - before <= rate * (until - since) + max(rate * 0.1, 64) + 2


@pytest.mark.parametrize(("rate", "turn"), [(1000, 64), (20_000, 1000), (1_000_000, 50_000), (10**9, 65_536)])
def test_a_turn_is_small_enough_for_the_limit_to_hold(rate: int, turn: int) -> None:
    assert BandwidthLimiter(RateSchedule.always(rate), Hands()).admit(65_536) == turn


def test_transfers_take_turns() -> None:
    frozen = Frozen()
    bandwidth = BandwidthLimiter(RateSchedule.always(20_000), frozen)
    order: list[int] = []
    enough = threading.Event()

    def work(number: int) -> None:
        while not enough.is_set():
            bandwidth.admit(65_536)
            order.append(number)

    threads = in_threads(6, work)
    for turns in range(1, 25):
        wait_until(lambda: len(bandwidth._waiting) == 6 and frozen.is_waited_for())
        frozen.advance(0.05)
        wait_until(partial(_longer, order, turns))
    first = order[:24]
    enough.set()
    bandwidth.stop()
    join(threads)
    assert sorted(first[:6]) == list(range(6))
    assert first == first[:6] * 4


def _longer(order: list[int], turns: int) -> bool:
    return len(order) >= turns


def test_what_did_not_come_is_there_for_the_next() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(1_000_000), hands)
    began, read = hands.now, 0
    while hands.now - began < 5:
        allowed = bandwidth.admit(65_536)
        came = min(allowed, 1400)
        bandwidth.give_back(allowed - came)
        read += came
    assert read / (hands.now - began) == pytest.approx(1_000_000, rel=0.05)


def test_whether_there_is_a_limit_is_known_without_waiting() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule((RateWindow(9 * 3600, 18 * 3600, 20_000),)), hands)
    began = hands.now
    hands.of_day = lambda: 9 * 3600 - 5 + hands.now - began
    bandwidth.admit(65_536)
    assert not bandwidth.limits()
    hands.now += 6
    assert bandwidth.limits()
    bandwidth.stop()
    assert not bandwidth.limits()


def test_a_change_reaches_those_that_wait() -> None:
    frozen = Frozen()
    bandwidth = BandwidthLimiter(RateSchedule.always(1000), frozen)
    got: list[int] = []
    threads = in_threads(5, lambda _: got.append(bandwidth.admit(65_536)))
    assert frozen.waiting.wait(TEST_TIMEOUT)
    bandwidth.change(None)
    join(threads)
    assert got == [65_536] * 5


def test_a_stop_ends_every_wait_and_nothing_limits_afterwards() -> None:
    frozen = Frozen()
    bandwidth = BandwidthLimiter(RateSchedule.always(1000), frozen)
    got: list[int] = []
    threads = in_threads(5, lambda _: got.append(bandwidth.admit(65_536)))
    assert frozen.waiting.wait(TEST_TIMEOUT)
    bandwidth.stop()
    join(threads)
    bandwidth.change(RateSchedule.always(1000))
    assert bandwidth.admit(65_536) == 65_536


def test_a_slower_rate_holds_from_the_next_turn_on() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(10_000_000), hands)
    read_for(bandwidth, hands, 1)
    bandwidth.change(RateSchedule.always(10_000))
    began = hands.now
    assert read_for(bandwidth, hands, 10) / (hands.now - began) == pytest.approx(10_000, rel=0.05)


def test_the_time_of_day_sets_the_rate() -> None:
    hands = Hands()
    began = hands.now
    hands.of_day = lambda: 9 * 3600 - 5 + hands.now - began
    bandwidth = BandwidthLimiter(RateSchedule((RateWindow(9 * 3600, 18 * 3600, 20_000),)), hands)
    assert bandwidth.rate() is None
    assert bandwidth.admit(65_536) == 65_536
    hands.now += 6
    assert bandwidth.rate() == 20_000
    assert bandwidth.admit(65_536) == 1000
    hands.now += 9 * 3600
    assert bandwidth.admit(65_536) == 65_536


def test_time_in_which_a_transfer_is_held_back_is_not_its_own() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(1000), hands)
    before, began = bandwidth.active_clock(), hands.now
    read_for(bandwidth, hands, 100)
    assert hands.now - began >= 100
    assert bandwidth.active_clock() - before < 1
    hands.now += 7
    assert bandwidth.active_clock() - before == pytest.approx(7, abs=1)


def test_what_is_reserved_for_other_processes_is_not_read_here() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(1_000_000), hands)
    bandwidth.reserve(900_000)
    began = hands.now
    assert read_for(bandwidth, hands, 10) / (hands.now - began) == pytest.approx(100_000, rel=0.05)
    assert bandwidth.rate() == 1_000_000


def test_an_idle_bucket_holds_no_more_once_more_may_be_read() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(1000), hands)
    bandwidth.admit(64)
    hands.now += 60
    bandwidth.change(RateSchedule.always(1_000_000))
    began = hands.now
    bandwidth.admit(1000)
    assert hands.now - began == pytest.approx(900 / 1_000_000)  # 100 bytes were saved up at the old rate


def test_transfers_that_are_held_back_have_use_for_all_and_others_for_a_little_more_than_they_read() -> None:
    hands = Hands()
    bandwidth = BandwidthLimiter(RateSchedule.always(1_000_000), hands)
    with bandwidth.transfer():
        read_for(bandwidth, hands, 1)
        assert bandwidth.demand() is None
        for _ in range(100):
            hands.now += 0.01
            bandwidth.admit(1000)
        assert bandwidth.demand() == pytest.approx(125_000, rel=0.1)
    assert bandwidth.demand() is None


def test_the_clock_of_the_machine_says_what_its_wall_clock_says() -> None:
    before = time.localtime()
    second = SystemClock().second_of_day()
    after = time.localtime()
    span = [moment.tm_hour * 3600 + moment.tm_min * 60 + moment.tm_sec for moment in (before, after)]
    assert second in range(span[0], span[1] + 1) or span[0] > span[1]
