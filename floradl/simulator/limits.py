"""The rate limit of a workspace."""

from __future__ import annotations


class TokenBucket:
    """Tokens that come back at a steady rate, up to a burst."""

    def __init__(self) -> None:
        self._tokens: float | None = None
        self._at = 0.0

    def take(self, now: float, rate: float, burst: float) -> float:
        """Take one token; give 0, or the seconds until there is one. `rate` is in tokens a second."""
        tokens = burst if self._tokens is None else min(burst, self._tokens + (now - self._at) * rate)
        self._at = now
        if tokens >= 1:
            self._tokens = tokens - 1
            return 0.0
        self._tokens = tokens
        return (1 - tokens) / rate
