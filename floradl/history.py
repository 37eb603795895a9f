"""How long runs of each technique took so far: what the next ones are expected to take."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from floradl.hazard import LogNormal, fit

_KEPT = 400  # durations a technique
_ENOUGH = 5
_LONGEST = 7 * 86_400.0  # seconds; what took longer was forgotten rather than at work


class History:
    """Past durations in seconds, by technique; runs without one count as a technique of their own."""

    def __init__(self, durations: Mapping[str, Iterable[float]] | None = None) -> None:
        self._durations = {name: deque(seconds, _KEPT) for name, seconds in (durations or {}).items()}
        self._fitted: dict[str, LogNormal] = {}

    def expected(self, technique: str | None) -> LogNormal | None:
        """Return the distribution of the durations of `technique`; None where too few are known."""
        name = technique or ""
        seen = self._durations.get(name, ())
        if name not in self._fitted and len(seen) >= _ENOUGH:
            self._fitted[name] = fit(seen)
        return self._fitted.get(name)

    def add(
        self, technique: str | None, created_at: float | None, completed_at: float | None
    ) -> float | None:
        """Take in a run by the server's own times (unix seconds); returns its duration, None for none."""
        if created_at is None or completed_at is None or not 0 < completed_at - created_at < _LONGEST:
            return None
        name, seconds = technique or "", completed_at - created_at
        self._durations.setdefault(name, deque(maxlen=_KEPT)).append(seconds)
        self._fitted.pop(name, None)
        return seconds
