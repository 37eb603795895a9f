"""Clocks for the tests of the rate limit."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import Condition


class Hands:
    """A clock that stands still unless somebody waits for it."""

    def __init__(self) -> None:
        self.now = 1e6
        self.of_day: Callable[[], float] = lambda: 0.0

    def monotonic(self) -> float:
        return self.now

    def second_of_day(self) -> int:
        return int(self.of_day())

    def wait(self, condition: Condition, seconds: float | None) -> None:
        if seconds is None:
            condition.wait()
        else:
            self.now += seconds


class Frozen(Hands):
    """A clock that the test alone puts forward."""

    def __init__(self) -> None:
        super().__init__()
        self.waiting = threading.Event()
        self._timed: list[Condition] = []

    def wait(self, condition: Condition, seconds: float | None) -> None:
        if seconds is None:
            condition.wait()
            return
        self._timed.append(condition)
        self.waiting.set()
        condition.wait()
        self._timed.remove(condition)

    def is_waited_for(self) -> bool:
        return bool(self._timed)

    def advance(self, seconds: float) -> None:
        """Put it forward, and wake those who wait for that: the last to come first, as a system may."""
        timed = self._timed[::-1]
        with timed[0]:  # they share one lock
            self.now += seconds
            for condition in timed:
                condition.notify()
