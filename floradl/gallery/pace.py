"""How fast thumbnails are made: as fast as can be, or a little at a time while downloads are busy.

The lowest priority alone does not do: what makes thumbnails shares caches and memory with a download that has
the processor next to it. So it rests between two, and takes a few hundredths of one processor then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Final

SHARE: Final = 0.04
"""Of one processor, while downloads are busy."""

_FAST: Final = 4 << 20  # bytes a second; slower ones have time to spare
_LOOK_EVERY: Final = 1.0  # seconds; the daemon writes down what goes on as often
_CALM_AFTER: Final = 3.0  # seconds without: between two files there is a moment in which nothing comes
_LONGEST_REST: Final = 10.0  # seconds

Transfers = Mapping[tuple[str, str], int]
"""How many bytes of each output (run, output) have come so far, of those under way."""


class Pace:
    """Says how long to rest after a thumbnail. `transfers` returns what is under way, it blocks.

    `clock` gives monotonic seconds. Any thread may use it.
    """

    def __init__(
        self, transfers: Callable[[], Transfers], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._transfers = transfers
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: Transfers = {}
        self._looked = -_LOOK_EVERY
        self._busy_at = -_CALM_AFTER

    def rest(self, took: float) -> float:
        """Return for how many seconds nothing is to be made after what took `took` seconds. Blocking."""
        with self._lock:
            self._look()
            busy = self._clock() - self._busy_at < _CALM_AFTER
        return min(took * (1 / SHARE - 1), _LONGEST_REST) if busy else 0.0

    def _look(self) -> None:
        now = self._clock()
        since = now - self._looked
        if since < _LOOK_EVERY:
            return
        seen, before = self._transfers(), self._seen
        came = sum(size - before.get(output, 0) for output, size in seen.items())
        # Small files come and go between two looks: they are busy however few bytes they have.
        if seen and (came >= _FAST * min(since, _CALM_AFTER) or len(seen.keys() - before.keys()) > 1):
            self._busy_at = now
        self._seen, self._looked = seen, now
