"""One cap on what all transfers together read.

A bucket of bytes fills at the rate of the moment. Whoever wants to read stands in line; the first waits until
the bucket holds a turn's worth, takes it, reads, and puts back what did not come. So nobody gets two turns
before everybody had one, and a server that is slow holds up none of the others.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import combinations
from threading import Condition, Lock
from typing import Final, Protocol

from msgspec import Struct

DAY: Final = 86_400
"""Seconds of a day, as a clock on the wall shows them."""


class RateWindow(Struct, frozen=True):
    """A part of each day: from `start` up to `end`, in seconds since midnight, at `rate` bytes a second.

    One that ends before it starts goes over midnight; one that ends as it starts would be a whole day.
    """

    start: int
    end: int
    rate: int

    def __contains__(self, second: int) -> bool:
        return (second - self.start) % DAY < ((self.end - self.start) % DAY or DAY)


class RateSchedule(Struct, frozen=True):
    """Spans of the day, none of which overlap; outside them there is no limit.

    Times are local, as the wall clock tells them: where the clock is put forward an hour of the table falls
    out, and where it is put back one counts twice.
    """

    spans: tuple[RateWindow, ...]

    @classmethod
    def always(cls, rate: int) -> RateSchedule:
        """Return the table of a rate that holds at any time."""
        return cls((RateWindow(0, 0, rate),))

    def rate(self, second: int) -> int | None:
        """Return the bytes a second that hold `second` seconds after midnight, None for no limit."""
        return next((span.rate for span in self.spans if second in span), None)

    def overlaps(self) -> Iterator[tuple[int, int]]:
        """Give the places of the spans that contradict each other, two at a time."""
        for (first, one), (second, other) in combinations(enumerate(self.spans), 2):
            if other.start in one or one.start in other:
                yield first, second


_TURN: Final = 0.05  # seconds' worth of bytes at one turn
_BURST: Final = 0.1  # and as much is saved up while nobody reads
_LEAST: Final = 64  # bytes at one turn
_LOOK_EVERY: Final = 1.0  # seconds between looks at the time of day


class Clock(Protocol):
    """What time it is, and how to wait."""

    def monotonic(self) -> float:
        """Return seconds since whenever."""
        ...

    def second_of_day(self) -> int:
        """Return local seconds since midnight, as the wall clock shows them."""
        ...

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Wait until `condition` is notified, for `seconds` at most."""
        ...


class SystemClock:
    """The time that the machine has."""

    def monotonic(self) -> float:
        """Return seconds since whenever."""
        return time.monotonic()

    def second_of_day(self) -> int:
        """Return local seconds since midnight, as the wall clock shows them."""
        now = time.localtime()
        return now.tm_hour * 3600 + now.tm_min * 60 + min(now.tm_sec, 59)

    def wait(self, condition: Condition, seconds: float | None) -> None:
        """Wait until `condition` is notified, for `seconds` at most."""
        condition.wait(seconds)


class ReadLimit(Protocol):
    """What a reader knows of the cap."""

    def limits(self) -> bool:
        """Whether there may be a limit now. It is looked at before every read."""
        ...

    def admit(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be read now, at most `most` and at least one."""
        ...

    def give_back(self, unread: int) -> None:
        """Put back bytes that `admit` allowed and that were not read."""
        ...

    def stop(self) -> None:
        """Hold nobody back any more, for good."""
        ...


class ActiveClock:
    """Monotonic seconds, without those in which somebody had to wait for a turn.

    By this clock a transfer is not late because it was held back here. For one thread at a time.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._held = 0.0
        self._held_since: float | None = None

    def now(self) -> float:
        """Return the time."""
        now = self._monotonic()
        return now - self._held - (0.0 if self._held_since is None else now - self._held_since)

    def note(self, *, held: bool) -> None:
        """Hear whether somebody waits from now on."""
        now = self._monotonic()
        if held and self._held_since is None:
            self._held_since = now
        elif not held and self._held_since is not None:
            self._held += now - self._held_since
            self._held_since = None


class BandwidthLimiter:
    """The cap. Every method may be called from any thread; without a limit they cost next to nothing."""

    def __init__(self, rate_schedule: RateSchedule | None = None, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = Lock()
        self._line: deque[Condition] = deque()
        self._rate_schedule = rate_schedule
        self._stopped = False
        self._rate: int | None = None
        self._look_at = -math.inf  # when to look at the time of day again
        self._bytes = 0.0
        self._filled_at = self._clock.monotonic()
        self._active_clock = ActiveClock(self._clock.monotonic)

    def change(self, rate_schedule: RateSchedule | None) -> None:
        """Let `timetable` hold from now on, for those that wait already too."""
        with self._lock:
            if not self._stopped:
                self._rate_schedule = rate_schedule
                self._begin_anew()

    def stop(self) -> None:
        """Hold nobody back any more, for good: the connections are about to be shut."""
        with self._lock:
            self._stopped = True
            self._rate_schedule = None
            self._begin_anew()

    def rate(self) -> int | None:
        """Return the bytes a second that hold now, None for no limit."""
        with self._lock:
            return self._rate_at(self._clock.monotonic())

    def limits(self) -> bool:
        """Whether there may be a limit now. Asks for no lock: it is for those who look at every read."""
        return self._rate_schedule is not None and (
            self._rate is not None or self._clock.monotonic() >= self._look_at
        )

    def active_clock(self) -> float:
        """Return the seconds of `ActiveClock`."""
        with self._lock:
            return self._active_clock.now()

    def admit(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be read now, at most `most` and at least one.

        `give_back` what was not read. Returns at once where there is no limit, and after `stop`.
        """
        if not self.limits():  # whoever reads past a change by a hair reads one turn that was not limited
            return most
        with self._lock:
            turn = Condition(self._lock)
            self._line.append(turn)
            try:
                return self._wait(most, turn)
            finally:
                self._line.remove(turn)
                self._active_clock.note(held=bool(self._line))
                self._call_first()

    def give_back(self, unread: int) -> None:
        """Put back bytes that `admit` allowed and that were not read."""
        if unread <= 0 or self._rate_schedule is None:
            return
        with self._lock:
            self._bytes += unread
            self._call_first()

    def _wait(self, most: int, turn: Condition) -> int:
        while True:
            now = self._clock.monotonic()
            rate = self._rate_at(now)
            if rate is None:
                return most
            if self._line[0] is turn:
                share = min(most, max(int(rate * _TURN), _LEAST))
                self._fill(now, rate)
                # Half a byte of grace: what rounding leaves to wait for may be too short for any clock.
                if self._bytes >= share - 0.5:
                    self._bytes -= share
                    return share
                self._active_clock.note(held=True)
                self._clock.wait(turn, (share - self._bytes) / rate)
            else:
                self._clock.wait(turn, None)

    def _rate_at(self, now: float) -> int | None:
        if now >= self._look_at:
            table = self._rate_schedule
            self._rate = None if table is None else table.rate(self._clock.second_of_day())
            self._look_at = now + _LOOK_EVERY
        return self._rate

    def _fill(self, now: float, rate: int) -> None:
        full = max(rate * _BURST, _LEAST)
        self._bytes = min(full, self._bytes + (now - self._filled_at) * rate)
        self._filled_at = now

    def _begin_anew(self) -> None:
        self._look_at = -math.inf
        self._call_first()

    def _call_first(self) -> None:
        """Wake the first in line; it wakes the next when it leaves."""
        if self._line:
            self._line[0].notify()
