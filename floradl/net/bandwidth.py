"""The bandwidth limit of all transfers together.

A token bucket fills at the current rate. Readers queue in order of arrival; the first waits for one turn's
bytes, takes them, reads, and puts back what did not come. So turns rotate, and a slow server delays no other.

With several processes each has a `BandwidthLimiter` for its share of the limit, see `workers.pool`.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import combinations
from threading import Condition, Lock
from typing import Final, Protocol

from msgspec import Struct

DAY: Final = 86_400
"""Seconds of a day by the wall clock."""

_TURN: Final = 0.05  # seconds' worth of bytes in one turn
_BURST: Final = 0.1  # seconds of the limit that an unused bucket keeps
_LEAST: Final = 64  # bytes in one turn
_LOOK_EVERY: Final = 1.0  # seconds between checks of the time of day
_MEASURED: Final = 0.5  # seconds of reading until demand is known
_NEARLY_ALL: Final = 0.9  # of what was allowed: a process that used it is held back by the limit
_HEADROOM: Final = 1.25  # times the use of any other, so that it can show a higher demand


class RateWindow(Struct, frozen=True):
    """A part of each day: from `start` up to `end`, in seconds since midnight, at `rate` bytes a second.

    One that ends before it starts crosses midnight; one that ends as it starts is a whole day.
    """

    start: int
    end: int
    rate: int

    def __contains__(self, second: int) -> bool:
        return (second - self.start) % DAY < ((self.end - self.start) % DAY or DAY)


class RateSchedule(Struct, frozen=True):
    """Windows of the day, which do not overlap; outside them there is no limit.

    Times are local: an hour of the schedule is skipped where the wall clock is put forward, and repeated
    where it is put back.
    """

    windows: tuple[RateWindow, ...]

    @classmethod
    def always(cls, rate: int) -> RateSchedule:
        """Return the schedule of a constant rate."""
        return cls((RateWindow(0, 0, rate),))

    def rate(self, second: int) -> int | None:
        """Return the bytes a second at `second` seconds after midnight, None for no limit."""
        return next((window.rate for window in self.windows if second in window), None)

    def overlaps(self) -> Iterator[tuple[int, int]]:
        """Yield pairs of indexes of windows that overlap."""
        for (first, one), (second, other) in combinations(enumerate(self.windows), 2):
            if other.start in one or one.start in other:
                yield first, second


class Clock(Protocol):
    """The time, and how to wait."""

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        ...

    def second_of_day(self) -> int:
        """Return local seconds since midnight, by the wall clock."""
        ...

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Wait until `condition` is notified, for `seconds` at most."""
        ...


class SystemClock:
    """The clocks of the machine."""

    def monotonic(self) -> float:
        """Return monotonic seconds."""
        return time.monotonic()

    def second_of_day(self) -> int:
        """Return local seconds since midnight, by the wall clock."""
        now = time.localtime()
        return now.tm_hour * 3600 + now.tm_min * 60 + min(now.tm_sec, 59)

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Wait until `condition` is notified, for `seconds` at most."""
        condition.wait(seconds)


class BandwidthLimiter:
    """The limit in one process. Methods may be called from any thread, and cost little without a limit.

    `transfers` is how many are under way.
    """

    def __init__(self, rate_schedule: RateSchedule | None = None, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = Lock()
        self._waiting: deque[Condition] = deque()
        self._rate_schedule = rate_schedule
        self._stopped = False
        self._reserved = 0.0  # bytes a second that other processes may read
        self._limit: int | None = None  # for all processes
        self._rate: float | None = None  # for this one
        self._look_at = -math.inf  # when to look at the time of day again
        self._bytes = 0.0
        self._filled_at = self._clock.monotonic()
        self._held_back = 0.0  # seconds
        self.transfers = 0
        self._demand: float | None = None
        self._used, self._spare, self._seconds = 0, 0.0, 0.0  # of what was allowed, since measured last

    def change(self, rate_schedule: RateSchedule | None) -> None:
        """Apply `rate_schedule` from now on, to waiting readers too."""
        with self._lock:
            if not self._stopped:
                self._begin_anew(rate_schedule)

    def reserve(self, rate: float) -> None:
        """Leave `rate` bytes a second of the limit to other processes."""
        with self._lock:
            if rate != self._reserved:
                self._reserved = rate
                self._begin_anew(self._rate_schedule)

    def stop(self) -> None:
        """End the limit, for good: the connections are about to be shut."""
        with self._lock:
            self._stopped = True
            self._begin_anew(None)

    def rate(self) -> int | None:
        """Return the bytes a second that all processes together may read now, None for no limit."""
        with self._lock:
            self._refresh()
            return self._limit

    def limits(self) -> bool:
        """Whether there may be a limit now. Without a lock: called before every read."""
        return self._rate_schedule is not None and (
            self._limit is not None or self._clock.monotonic() >= self._look_at
        )

    def active_clock(self) -> float:
        """Return monotonic seconds, less those of waiting for the limit, which make no transfer late."""
        with self._lock:
            return self._refresh() - self._held_back

    @contextmanager
    def transfer(self) -> Iterator[None]:
        """Count a transfer under way: bandwidth unused meanwhile is not in demand."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def demand(self) -> float | None:
        """Return the bytes a second that the transfers can use, None for all that they can get.

        That is somewhat more than they used lately, over at least half a second.
        """
        with self._lock:
            self._refresh()
            if self._seconds >= _MEASURED:
                held_back = self._used >= _NEARLY_ALL * (self._used + self._spare)
                self._measure_anew(None if held_back else _HEADROOM * self._used / self._seconds)
            return self._demand

    def admit(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be read now, from 1 to `most`.

        `give_back` what was not read. Returns at once without a limit, and after `stop`.
        """
        if not self.limits():  # a read during a change is unlimited for one turn
            return most
        with self._lock:
            turn = Condition(self._lock)
            self._refresh()
            self._waiting.append(turn)
            try:
                return self._wait(most, turn)
            finally:
                self._waiting.remove(turn)
                self._call_first()

    def give_back(self, unread: int) -> None:
        """Put back bytes that `admit` allowed and nobody read."""
        if unread <= 0 or self._rate_schedule is None:
            return
        with self._lock:
            self._bytes += unread
            self._used = max(self._used - unread, 0)
            self._call_first()

    def _wait(self, most: int, turn: Condition) -> int:
        while True:
            self._refresh()
            rate = self._rate
            if rate is None:
                return most
            if self._waiting[0] is turn:
                share = min(most, max(int(rate * _TURN), _LEAST))
                # Half a byte less will do: rounding may leave a wait too short for any clock.
                if self._bytes >= share - 0.5:
                    self._bytes -= share
                    self._used += share
                    return share
                self._clock.wait(turn, (share - self._bytes) / rate)
            else:
                self._clock.wait(turn, None)

    def _refresh(self) -> float:
        """Fill the bucket at the last rate, look up the current one, and return monotonic seconds."""
        now = self._clock.monotonic()
        if self._rate is not None:
            seconds = now - self._filled_at
            self._held_back += seconds if self._waiting else 0
            self._bytes += seconds * self._rate
            self._drop_spare(self._rate)
            self._seconds += seconds if self.transfers else 0
        self._filled_at = now
        if now >= self._look_at:
            schedule = self._rate_schedule
            self._limit = None if schedule is None else schedule.rate(self._clock.second_of_day())
            self._rate = None if self._limit is None else max(self._limit - self._reserved, 1)
            self._look_at = now + _LOOK_EVERY
            if self._rate is not None:
                self._drop_spare(self._rate)
        return now

    def _drop_spare(self, rate: float) -> None:
        spare = self._bytes - max(rate * _BURST, _LEAST)
        if spare > 0:
            self._bytes -= spare
            self._spare += spare if self.transfers else 0

    def _count(self, change: int) -> None:
        with self._lock:
            self._refresh()
            self.transfers += change
            if not self.transfers:
                self._measure_anew(None)

    def _measure_anew(self, demand: float | None) -> None:
        self._demand = demand
        self._used, self._spare, self._seconds = 0, 0.0, 0.0

    def _begin_anew(self, rate_schedule: RateSchedule | None) -> None:
        self._rate_schedule = rate_schedule
        self._look_at = -math.inf
        self._refresh()
        self._call_first()

    def _call_first(self) -> None:
        """Wake the first in the queue; it wakes the next."""
        if self._waiting:
            self._waiting[0].notify()
