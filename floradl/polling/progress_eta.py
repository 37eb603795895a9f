"""Whether FLORA's `progress` tells when a run ends, and when.

Nobody says what it means: it may run evenly, jump, stay 0 or stall at 99. So it has to earn its trust. A
forecast takes it to go on evenly; how far off those of past runs were is known, and how likely it made their
ends. Only where that is much likelier than by what the technique usually takes are forecasts made use of, and
not for a run that has outlived one. They lengthen no gap to more than a few usual ones.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Collection

from msgspec import Struct

from floradl.polling.duration_model import LogNormal

_KEPT = 400  # forecasts
_ENOUGH = 15  # runs that ended
_BETTER = 1.0  # by how much the logarithm of the likelihood is to be better, in the mean
_LATE = 1.5  # standard deviations: who goes on for longer than that was forecast wrongly
_FIRST = 1.0  # per cent: less than that says nothing yet
_LEAST = 0.5  # seconds: `progress` is rounded


class ProgressEta(Struct, frozen=True):
    """What was forecast at an age: that it takes `rest` more. Both are in seconds."""

    age: float
    rest: float


class _Error(Struct, frozen=True):
    """Logarithms: of what it took over what was forecast, and of how likely it was by either way."""

    off: float
    rest: float
    usual: float


def forecast(age: float, progress: float) -> ProgressEta | None:
    """Return what `progress` (0 to 100) says at an age of so many seconds; None where it says nothing."""
    if age <= 0 or not _FIRST <= progress < 100:
        return None
    return ProgressEta(age, max((100 - progress) * age / progress, _LEAST))


class EtaAccuracy:
    """How good the forecasts for runs of one technique were."""

    def __init__(self) -> None:
        self._runs = 0
        self._errors: deque[_Error] = deque(maxlen=_KEPT)
        self._off: tuple[float, float] | None = None  # mean and deviation of the logarithms, where trusted

    def ended(self, forecasts: Collection[ProgressEta], duration: float, usual: LogNormal) -> None:
        """Record that a run took `duration` seconds; `usual` is what was expected without forecasts."""
        if not forecasts:
            return
        self._runs += 1
        for each in forecasts:
            rest = max(duration - each.age, _LEAST)
            likelihood = usual.log_density(each.age + rest) - usual.log_survival(each.age)
            self._errors.append(_Error(math.log(rest / each.rest), math.log(rest), likelihood))
        self._off = self._weighed() if self._runs >= _ENOUGH else None

    def rest(self, forecasts: Collection[ProgressEta]) -> LogNormal | None:
        """Return what a run takes from the last of its forecasts on; None where they are not trusted."""
        if self._off is None or not forecasts:
            return None
        mean, spread = self._off
        *before, last = forecasts
        if any(_outlived(each, last.age, mean + _LATE * spread) for each in before):
            return None
        return LogNormal(math.log(last.rest) + mean, spread)

    def _weighed(self) -> tuple[float, float] | None:
        """Return how far off forecasts are, None where the usual durations tell as much."""
        count = len(self._errors)
        mean = math.fsum(each.off for each in self._errors) / (count + 1)
        spread = math.sqrt((math.fsum((each.off - mean) ** 2 for each in self._errors) + 1) / count)
        ours = math.fsum(_log_normal((each.off - mean) / spread, spread) - each.rest for each in self._errors)
        theirs = math.fsum(each.usual for each in self._errors)
        return (mean, spread) if ours >= theirs + _BETTER * count else None


def _outlived(before: ProgressEta, age: float, most_off: float) -> bool:
    return age > before.age + before.rest * math.exp(most_off)


def _log_normal(z: float, sigma: float) -> float:
    return -z * z / 2 - math.log(sigma * math.sqrt(2 * math.pi))
