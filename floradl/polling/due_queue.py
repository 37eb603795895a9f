"""What is due when, by the monotonic clock: a wall clock that jumps causes no storm and no standstill.

What has news comes first. Of the others, the one that has been due longest and the newest come in turn.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Callable, Iterable
from typing import TypeAlias

_LEAST = 0.75  # of a tick: nothing falls due sooner because a tick is near
_Heap: TypeAlias = list[tuple[float, int, bytes | list[bytes]]]
"""A moment, a number that no two have in common, and one name, or many with the next one last."""

_CODING = ("utf-8", "surrogatepass")


class DueQueue:
    """Names, each due at one moment. `monotonic` and `tick` are in seconds.

    They are kept encoded, in copies of their own: a million take 10 MB less than as text, which would hold
    the memory of all that was read with it, too.

    Aligned moments are drawn to multiples of a `tick`: what is due together can be polled by one request.
    """

    def __init__(self, monotonic: Callable[[], float], tick: float) -> None:
        self._monotonic = monotonic
        self._tick = tick
        self._heap: _Heap = []
        self._new: _Heap = []  # never taken yet, the newest first
        self._valid: dict[bytes, int] = {}
        self._numbers = itertools.count()
        self._new_first = True
        self._taken: set[str] | None = None

    def __contains__(self, name: str) -> bool:
        return name.encode(*_CODING) in self._valid

    def __len__(self) -> int:
        return len(self._valid)

    def watch_taken(self) -> set[str]:
        """Return a set of what was taken, from now on, and not put again; its owner drops what is over."""
        self._taken = set()
        return self._taken

    def put(self, name: str, seconds: float, *, aligned: bool = False) -> float:
        """Make `name` due in `seconds`, whatever was before; return the moment (monotonic seconds)."""
        due = self._monotonic() + seconds
        if aligned:
            early = math.floor(due / self._tick) * self._tick
            near = due - early <= self._tick / 2 and early >= due - seconds + self._tick * _LEAST
            due = early if near else early + self._tick
        self._push(self._heap, due, name)
        return due

    def put_all(self, names: Iterable[str]) -> None:
        """Make `names` due now, in their order, whatever was before."""
        self._push_all(self._heap, self._monotonic(), names)

    def put_first(self, name: str) -> None:
        """Make `name` due before all others: it has news."""
        self._push(self._heap, -math.inf, name)

    def add_new(self, names: Iterable[str]) -> None:
        """Make new `names` due now, in their order."""
        self._push_all(self._new, -self._monotonic(), names)

    def change(self, tick: float) -> None:
        """Align to this tick from now on; nothing that waits is due later than in one tick."""
        self._tick = tick
        latest = self._monotonic() + tick
        for due, number, name in list(self._heap):
            if due > latest and isinstance(name, bytes) and self._valid.get(name) == number:
                self.put(name.decode(*_CODING), tick, aligned=True)

    def poll_now(self, name: str) -> None:
        """Put `name` first, if it is waiting."""
        if name in self:
            self.put_first(name)

    def discard(self, name: str) -> None:
        """Take `name` out, if it is waiting."""
        self._valid.pop(name.encode(*_CODING), None)

    def pop(self, *, first_only: bool = False) -> str | None:
        """Take what is due; None where nothing is. `first_only` takes only what was put first."""
        due = self._first(self._heap)
        if due == -math.inf:
            return self._take(self._heap)
        new = self._first(self._new) < math.inf
        if first_only or (due > self._monotonic() and not new):
            return None
        if due > self._monotonic() or (new and self._new_first):
            self._new_first = False
            return self._take(self._new)
        self._new_first = True
        return self._take(self._heap)

    def delay(self, *, first_only: bool = False) -> float:
        """Return in how many seconds `pop` has something to take: 0 for now, infinity where nothing waits."""
        due = self._first(self._heap)
        if first_only and due > -math.inf:
            return math.inf
        return max(min(due, self._first(self._new)) - self._monotonic(), 0.0)

    def names(self) -> list[str]:
        """Return all that wait, in no order."""
        return [key.decode(*_CODING) for key in self._valid]

    def clear(self) -> None:
        """Take all out, and forget what was taken."""
        self._heap, self._new = [], []
        self._valid.clear()
        if self._taken is not None:
            self._taken.clear()

    def _push(self, heap: _Heap, due: float, name: str) -> None:
        number, key = next(self._numbers), name.encode(*_CODING)
        self._valid[key] = number
        heapq.heappush(heap, (due, number, key))
        if self._taken is not None:
            self._taken.discard(name)

    def _push_all(self, heap: _Heap, due: float, names: Iterable[str]) -> None:
        """Push many as one entry: a million names that wait take little more memory than they are long."""
        number, names = next(self._numbers), list(names)
        batch = [name.encode("utf-8", "surrogatepass") for name in names]
        self._valid.update(zip(batch, itertools.repeat(number)))
        if self._taken is not None:
            self._taken.difference_update(names)
        batch.reverse()
        heapq.heappush(heap, (due, number, batch))

    def _take(self, heap: _Heap) -> str:
        _, _, names = heap[0]
        key = names.pop() if isinstance(names, list) else names
        if isinstance(names, bytes):
            heapq.heappop(heap)
        del self._valid[key]
        name = key.decode(*_CODING)
        if self._taken is not None:
            self._taken.add(name)
        return name

    def _first(self, heap: _Heap) -> float:
        while heap:
            due, number, names = heap[0]
            if isinstance(names, bytes):
                if self._valid.get(names) == number:
                    return due
            else:
                while names and self._valid.get(names[-1]) != number:
                    names.pop()  # it was put anew since
                if names:
                    return due
            heapq.heappop(heap)
        return math.inf
