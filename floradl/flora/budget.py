"""How many requests a second the workspace has room for: additive increase, multiplicative decrease.

The limit is not published, and others share it. Each 429 halves what we allow ourselves, measured by what
we really asked; from then on it grows slowly, and is where it was after a few minutes, so that hardly one
request in a hundred meets the limit (Chiu and Jain, "Analysis of the Increase and Decrease Algorithms").
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

_WINDOW = 10.0  # seconds in which our own rate is measured
_LEAST = 0.5  # requests a second
_MODEST = 1.0  # who asks no more often than this has no part in a limit that is met
_BACK_AFTER = 200.0  # seconds until the budget is again where it was halved
_FREE = 20.0  # requests a second that are as good as no limit: what we ever ask


class Budget:
    """Spaces requests once a 429 was met; before that it only measures. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sent: deque[float] = deque()
        self._rate = math.inf
        self._growth = 0.0
        self._since = 0.0
        self._next = 0.0

    @property
    def rate(self) -> float:
        """Requests a second that are allowed now; infinity while no limit is known."""
        grown = self._rate + (self._monotonic() - self._since) * self._growth
        return grown if grown < _FREE else math.inf

    def reserve(self) -> float:
        """Take the next place in the queue; returns how many seconds to wait for it."""
        now = self._monotonic()
        rate = self.rate
        start = max(now, self._next)
        self._next = start + (1 / rate if rate < math.inf else 0.0)
        self._sent.append(start)
        while self._sent[0] < now - _WINDOW:
            self._sent.popleft()
        return start - now

    def throttled(self) -> None:
        """Take notice of a 429. Several that come together count once."""
        now = self._monotonic()
        if self._rate < math.inf and now - self._since < 1.0:
            return
        measured = sum(now - _WINDOW <= moment <= now for moment in self._sent) / _WINDOW
        if self.rate == math.inf and measured < _MODEST:
            return
        self._rate = max(min(self.rate, measured) / 2, _LEAST)
        self._growth = self._rate / _BACK_AFTER
        self._since = now
