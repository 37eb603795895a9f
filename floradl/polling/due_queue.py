"""What is due when, by the monotonic clock: a wall clock that jumps causes no storm and no standstill.

Where more is due than can be asked about, those come first of whom there is news. The others come in turn:
who has been due longest, and who was brought last.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

_LEAST = 0.75  # of a tick: nothing falls due sooner because a tick is near
_Heap: TypeAlias = list[tuple[float, int, str]]


class DueQueue:
    """Names, each due at one moment. `tick` (seconds) is what moments are drawn to, where that is wanted.

    Many that are due at the same tick can be looked up at the price of one. `monotonic` returns seconds.
    """

    def __init__(self, monotonic: Callable[[], float], tick: float) -> None:
        self._monotonic = monotonic
        self._tick = tick
        self._heap: _Heap = []
        self._brought: _Heap = []  # those that were never taken, the newest first
        self._valid: dict[str, int] = {}
        self._numbers = itertools.count()
        self._brought_first = True

    def __contains__(self, name: str) -> bool:
        return name in self._valid

    def put(self, name: str, seconds: float, *, aligned: bool = False) -> float:
        """Make `name` due in `seconds`, whatever was before; `aligned` draws it to a tick nearby.

        Returns the moment (monotonic seconds).
        """
        due = self._monotonic() + seconds
        if aligned:
            early = math.floor(due / self._tick) * self._tick
            near = due - early <= self._tick / 2 and early >= due - seconds + self._tick * _LEAST
            due = early if near else early + self._tick
        self._push(self._heap, due, name)
        return due

    def put_first(self, name: str) -> None:
        """Make `name` due before all that is due by itself: there is news of it, and they grow old."""
        self._push(self._heap, -math.inf, name)

    def add_new(self, names: Iterable[str]) -> None:
        """Make `names` due now, in their order: they are new, and nothing is known of them."""
        now = self._monotonic()
        for name in names:
            self._push(self._brought, -now, name)

    def change(self, tick: float) -> None:
        """Draw moments to this tick from now on; what would be due later than that is due at the first."""
        self._tick = tick
        latest = self._monotonic() + tick
        for due, number, name in list(self._heap):
            if due > latest and self._valid.get(name) == number:
                self.put(name, tick, aligned=True)

    def poll_now(self, name: str) -> None:
        """Put `name` first, if it is waiting."""
        if name in self._valid:
            self.put_first(name)

    def discard(self, name: str) -> None:
        """Take `name` out, if it is waiting."""
        self._valid.pop(name, None)

    def pop(self, *, first_only: bool = False) -> str | None:
        """Take what is due; None where nothing is. `first_only` takes only what was put first."""
        due = self._first(self._heap)
        if due == -math.inf:
            return self._take(self._heap)
        brought = self._first(self._brought) < math.inf
        if first_only or (due > self._monotonic() and not brought):
            return None
        if due > self._monotonic() or (brought and self._brought_first):
            self._brought_first = False
            return self._take(self._brought)
        self._brought_first = True
        return self._take(self._heap)

    def delay(self, *, first_only: bool = False) -> float:
        """Return in how many seconds `pop` has something to take: 0 for now, infinity where nothing waits."""
        due = self._first(self._heap)
        if first_only and due > -math.inf:
            return math.inf
        return max(min(due, self._first(self._brought)) - self._monotonic(), 0.0)

    def _push(self, heap: _Heap, due: float, name: str) -> None:
        number = next(self._numbers)
        self._valid[name] = number
        heapq.heappush(heap, (due, number, name))

    def _take(self, heap: _Heap) -> str:
        _, _, name = heapq.heappop(heap)
        del self._valid[name]
        return name

    def _first(self, heap: _Heap) -> float:
        while heap:
            due, number, name = heap[0]
            if self._valid.get(name) == number:
                return due
            heapq.heappop(heap)  # it was put anew since
        return math.inf
