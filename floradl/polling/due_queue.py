"""What is due when, by the monotonic clock: a wall clock that jumps causes no storm and no standstill.

Where more is due than can be asked about, those come first of whom there is news. The others come in turn:
who has been due longest, and who was brought last.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

_LEAST = 0.75  # of a tick: nothing falls due sooner because a tick is near
# A name, or many that are due at the same moment, one after the other: a million of them may wait.
_Heap: TypeAlias = list[tuple[float, int, str | deque[str]]]


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
        self._taken: set[str] | None = None

    def __contains__(self, name: str) -> bool:
        return name in self._valid

    def __len__(self) -> int:
        return len(self._valid)

    def watch_taken(self) -> set[str]:
        """Return a set of what was taken, from now on, and not put again; its owner drops what is over."""
        self._taken = set()
        return self._taken

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
        # Copies lie side by side: the names themselves would hold the memory of all that was read with them.
        copies = (name.encode("utf-8", "surrogatepass").decode("utf-8", "surrogatepass") for name in names)
        self._push_all(self._brought, -self._monotonic(), copies)

    def put_all(self, names: Iterable[str]) -> None:
        """Make `names` due now, one after the other."""
        self._push_all(self._heap, self._monotonic(), names)

    def change(self, tick: float) -> None:
        """Draw moments to this tick from now on; what would be due later than that is due at the first."""
        self._tick = tick
        latest = self._monotonic() + tick
        for due, number, name in list(self._heap):
            if due > latest and isinstance(name, str) and self._valid.get(name) == number:
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
        if self._taken is not None:
            self._taken.discard(name)

    def _push_all(self, heap: _Heap, due: float, names: Iterable[str]) -> None:
        number = next(self._numbers)
        many = deque(names)
        self._valid.update(dict.fromkeys(many, number))
        heapq.heappush(heap, (due, number, many))
        if self._taken is not None:
            self._taken.difference_update(many)

    def _take(self, heap: _Heap) -> str:
        """Take the name that `_first` found."""
        name = heap[0][2]
        if isinstance(name, deque):
            name = name.popleft()
        else:
            heapq.heappop(heap)
        del self._valid[name]
        if self._taken is not None:
            self._taken.add(name)
        return name

    def _first(self, heap: _Heap) -> float:
        while heap:
            due, number, name = heap[0]
            if isinstance(name, str):
                if self._valid.get(name) == number:
                    return due
            else:
                while name and self._valid.get(name[0]) != number:
                    name.popleft()  # it was put anew since, as is what is popped below
                if name:
                    return due
            heapq.heappop(heap)
        return math.inf
