"""The rate limit over several processes: this one, and workers that are played here, on one clock."""

from __future__ import annotations

import math
from collections import deque
from contextlib import ExitStack
from threading import Condition

import pytest
from hands import Hands
from hypothesis import given, settings, strategies as st

from floradl.net.bandwidth import BandwidthLimiter, RateSchedule
from floradl.workers.pool import BandwidthShares, Claim, divide
from floradl.workers.process import WorkerProcess

STEP = 0.01  # seconds
LIMIT = 1_000_000
FAST = 1e9


class NotYetError(Exception):
    """A read would have to wait."""


class Steps(Hands):
    """A clock that only the simulation puts forward."""

    def wait(self, condition: Condition, seconds: float | None) -> None:  # noqa: ARG002
        raise NotYetError


class Reader:
    """A process whose server sends `speed` bytes a second; None for nothing to read."""

    def __init__(self, bandwidth: BandwidthLimiter, speed: float | None) -> None:
        self.bandwidth = bandwidth
        self.speed: float | None = None
        self.read = 0
        self._sent = 0.0
        self._transfer = ExitStack()
        self.change(speed)

    def change(self, speed: float | None) -> None:
        if (speed is None) != (self.speed is None):
            self._transfer.close()
            if speed is not None:
                self._transfer.enter_context(self.bandwidth.transfer())
        self.speed = speed

    def step(self) -> None:
        if self.speed is None:
            return
        self._sent = min(self._sent + self.speed * STEP, 65_536)
        try:
            while self._sent >= 1:
                came = self.bandwidth.admit(int(self._sent))
                self._sent -= came
                self.read += came
        except NotYetError:
            pass


class PlayedWorker(WorkerProcess):
    """A worker that applies settings a few steps after they were sent."""

    def __init__(self, clock: Hands, speed: float | None, transfers: int = 1) -> None:
        self.reader = Reader(BandwidthLimiter(RateSchedule.always(1), clock), speed)
        self.busy = 0 if speed is None else transfers
        self.demand = None
        self.delay = 1
        self.assigned = 0
        self._rates = deque([1.0])
        self._changed = Condition()
        self._age = 0

    def assign(self, rate: float) -> None:
        self.assigned += 1
        self._rates.append(rate)
        self._age = 0

    def step(self) -> bool:
        """Return whether settings were applied."""
        self.reader.step()
        self._age += 1
        if len(self._rates) == 1 or self._age < self.delay:
            return False
        self._rates.popleft()
        rate = self._rates[0]
        self.reader.bandwidth.change(None if rate == math.inf else RateSchedule.always(int(rate)))
        self.demand = self.reader.bandwidth.demand()
        return True


class Play:
    """A daemon whose server has a speed, and workers; bytes are counted at each step."""

    def __init__(self, *speeds: float | None, rate: int | None = LIMIT) -> None:
        self.clock = Steps()
        schedule = None if rate is None else RateSchedule.always(rate)
        here, *elsewhere = speeds
        self.daemon = Reader(BandwidthLimiter(schedule, self.clock), here)
        self.workers = [PlayedWorker(self.clock, speed) for speed in elsewhere]
        self.shares = BandwidthShares(self.daemon.bandwidth)
        self.shares.update(self.workers)
        self.sums = [0]

    @property
    def read(self) -> list[int]:
        return [self.daemon.read, *(worker.reader.read for worker in self.workers)]

    def run(self, seconds: float) -> list[float]:
        """Return the bytes a second that each read."""
        before = self.read
        for step in range(1, round(seconds / STEP) + 1):
            self.clock.now += STEP
            self.daemon.step()
            for worker in self.workers:
                if worker.step():
                    self.shares.settle()
            if step % round(1 / STEP) == 0:
                self.shares.update(self.workers)
            self.sums.append(sum(self.read))
        return [(now - then) / seconds for now, then in zip(self.read, before, strict=True)]

    def change(self, *speeds: float | None) -> None:
        self.daemon.change(speeds[0])
        for worker, speed in zip(self.workers, speeds[1:], strict=True):
            began = worker.reader.speed is None and speed is not None
            worker.reader.change(speed)
            worker.busy = 0 if speed is None else 1
            if began:
                self.shares.update(self.workers)


SPEEDS = st.sampled_from([None, 0.0, 20_000.0, 300_000.0, FAST])


@settings(max_examples=40)
@given(
    phases=st.lists(st.tuples(SPEEDS, SPEEDS, SPEEDS, st.integers(1, 200)), min_size=2, max_size=6),
    delays=st.tuples(st.integers(1, 150), st.integers(1, 150)),
    rate=st.sampled_from([1000, 50_000, LIMIT]),
)
def test_the_daemon_and_two_workers_together_never_exceed_the_limit(
    phases: list[tuple[float | None, float | None, float | None, int]], delays: tuple[int, int], rate: int
) -> None:
    play = Play(None, None, None, rate=rate)
    for worker, delay in zip(play.workers, delays, strict=True):
        worker.delay = delay
    for *speeds, steps in phases:
        play.change(*speeds)
        play.run(steps * STEP)
    # In any window: what a tenth of a second gives may be saved up, and 64 bytes in each process.
    lowest = math.inf
    for step, total in enumerate(play.sums):
        above = total - rate * STEP * step
        lowest = min(lowest, above)
        assert above - lowest <= rate * 0.1 + 3 * 64 + 3 * STEP * step + rate * STEP


def test_all_get_as_much_as_all_have_use_for() -> None:
    play = Play(FAST, FAST, FAST)
    play.run(3)
    assert play.run(5) == pytest.approx([LIMIT / 3] * 3, rel=0.05)


def test_an_unused_share_goes_to_who_can_use_it() -> None:
    play = Play(None, 100_000, FAST)
    play.run(4)
    here, slow, fast = play.run(5)
    assert here == 0
    assert slow == pytest.approx(100_000, rel=0.05)
    assert fast > 0.8 * LIMIT


def test_a_worker_that_is_alone_has_nearly_all_of_the_limit_however_slow_it_was() -> None:
    play = Play(None, 10_000, None)
    play.run(3)
    play.change(None, FAST, None)
    play.run(2)
    assert play.run(5)[1] > 0.95 * LIMIT


def test_a_transfer_that_gets_faster_gets_its_share_within_three_seconds() -> None:
    play = Play(None, 10_000, FAST)
    play.run(5)
    play.change(None, FAST, FAST)
    play.run(3)
    assert play.run(3)[1] > 0.4 * LIMIT


def test_small_files_are_not_held_up_by_workers_that_use_all() -> None:
    play = Play(None, FAST, FAST)
    play.run(3)
    play.change(FAST, FAST, FAST)
    assert play.run(0.5)[0] > LIMIT / 100
    play.run(2)
    assert play.run(3)[0] == pytest.approx(LIMIT / 3, rel=0.1)


def test_shares_go_by_transfers() -> None:
    assert divide(4000, [Claim(3, None), Claim(1, None)]) == [3000, 1000]
    assert divide(4000, [Claim(3, 300), Claim(1, None)]) == [300, 3700]


@given(
    st.integers(1000, 10**9),
    st.lists(st.builds(Claim, st.integers(1, 20), st.none() | st.floats(0, 1e10)), min_size=1, max_size=5),
)
def test_shares_are_the_whole_limit_and_no_more(limit: int, claims: list[Claim]) -> None:
    assert limit - len(claims) - 1 <= sum(divide(limit, claims)) <= limit


def test_a_worker_is_sent_a_share_once_a_second_and_nothing_without_a_limit() -> None:
    play = Play(None, FAST, FAST)
    play.run(10)
    assert all(worker.assigned <= 13 for worker in play.workers)
    unlimited = Play(None, FAST, FAST, rate=None)
    unlimited.run(10)
    assert [worker.assigned for worker in unlimited.workers] == [1, 1]
