"""What is due when, by the monotonic clock: a wall clock that jumps causes no storm and no standstill."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable

_LEAST = 0.75  # of a tick: nothing falls due sooner because a tick is near


class Schedule:
    """Names, each due at one moment. `tick` (seconds) is what moments are drawn to, where that is wanted.

    Many that are due at the same tick can be looked up at the price of one. `monotonic` returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float], tick: float) -> None:
        self._monotonic = monotonic
        self._tick = tick
        self._heap: list[tuple[float, int, str]] = []
        self._valid: dict[str, int] = {}
        self._numbers = itertools.count()

    def __contains__(self, name: str) -> bool:
        return name in self._valid

    def put(self, name: str, seconds: float, *, aligned: bool = False) -> None:
        """Make `name` due in `seconds`, whatever was before; `aligned` draws it to a tick nearby."""
        due = self._monotonic() + seconds
        if aligned:
            early = math.floor(due / self._tick) * self._tick
            near = due - early <= self._tick / 2 and early >= due - seconds + self._tick * _LEAST
            due = early if near else early + self._tick
        number = next(self._numbers)
        self._valid[name] = number
        heapq.heappush(self._heap, (due, number, name))

    def change(self, tick: float) -> None:
        """Draw moments to this tick from now on; what would be due later than that is due at the first."""
        self._tick = tick
        latest = self._monotonic() + tick
        for due, number, name in list(self._heap):
            if due > latest and self._valid.get(name) == number:
                self.put(name, tick, aligned=True)

    def hasten(self, name: str) -> None:
        """Make `name` due before all that is due by itself, if it is waiting: its news grow old."""
        if name in self._valid:
            self.put(name, -math.inf)

    def pop(self) -> str | None:
        """Take what is due; None where nothing is."""
        if self._first() > self._monotonic():
            return None
        _, _, name = heapq.heappop(self._heap)
        del self._valid[name]
        return name

    def delay(self) -> float:
        """Return in how many seconds the next one is due: 0 for now, infinity where nothing waits."""
        return max(self._first() - self._monotonic(), 0.0)

    def _first(self) -> float:
        while self._heap:
            due, number, name = self._heap[0]
            if self._valid.get(name) == number:
                return due
            heapq.heappop(self._heap)  # it was put anew since
        return math.inf
