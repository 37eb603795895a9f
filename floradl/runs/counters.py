"""Sums over a process's life, for whoever wants figures. Each is kept by the one who does what it counts."""

from __future__ import annotations

import bisect
import math
from collections import Counter

from floradl.models import OutputKind


class Histogram:
    """How many values there were up to each bound, and their sum."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = (*sorted(bounds), math.inf)
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Take a value in."""
        self._counts[bisect.bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return each bound, the last one infinity, with how many values were not above it."""
        total, found = 0, []
        for bound, number in zip(self._bounds, self._counts, strict=True):
            total += number
            found.append((bound, total))
        return found


class OutputCounters:
    """What was saved. `seconds` are those of transfers, from the request until the file stands on disk."""

    def __init__(self) -> None:
        self.outputs: Counter[OutputKind] = Counter()
        self.bytes: Counter[OutputKind] = Counter()
        self.seconds = Histogram(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

    def saved(self, kind: OutputKind, size: int, seconds: float | None) -> None:
        """Count an output of `size` bytes; `seconds` is None where nothing was transferred."""
        self.outputs[kind] += 1
        self.bytes[kind] += size
        if seconds is not None:
            self.seconds.add(seconds)
