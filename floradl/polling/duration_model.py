"""When to check on something that ends at a random time: often where the end is likely.

The best checks follow the hazard h(t) of the durations: they lie √(2c/h) apart, where a check costs as much
as c seconds of delay (Barlow, Hunter and Proschan, "Optimum Checking Procedures", J. SIAM 11, 1963; the
density form is Keller's). Durations of one technique are taken as log-normal: positive, with the long tail
that queues give them. What still goes on counts, too, as longer than its age: otherwise the first to end
would make all others look late (Cox and Oakes, "Analysis of Survival Data", 1984, on censoring).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable

from msgspec import Struct

from floradl.retry import MAX_BACKOFF

COST = 0.45
"""Seconds of delay that a check is worth. Durations around 40 s are checked each 4 to 5 s."""

_USUAL_INTERVAL = 2.0  # seconds, that COST is for
_STEP = 0.25  # seconds
_SIGMAS = (0.2, 0.35, 0.5, 0.7, 1.0)  # spreads that are tried, equally likely at first
_BINS = 10  # ages a unit of the logarithm
_POINTS = 16  # medians that are tried in a pass
_PASSES = 3  # each over what the one before left possible
_POSSIBLE = 10.0  # e^-10 of the best likelihood is none


class LogNormal(Struct, frozen=True):
    """A distribution of durations: their logarithms have mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float

    @property
    def median(self) -> float:
        """The seconds that half of them are shorter than."""
        return math.exp(self.mu)

    def hazard(self, age: float) -> float:
        """Return the chance, per second, that what has lasted `age` seconds ends now."""
        if age < 1e-3:  # nothing ends in no time, and the quotient would be 0/0 here too
            return 0.0
        z = (math.log(age) - self.mu) / self.sigma
        return _mills(z) / (age * self.sigma)

    def log_density(self, seconds: float) -> float:
        """Return the logarithm of the chance, per second, to last `seconds`."""
        z = (_log(seconds) - self.mu) / self.sigma
        return -z * z / 2 - math.log(self.sigma * math.sqrt(2 * math.pi)) - _log(seconds)

    def log_survival(self, age: float) -> float:
        """Return the logarithm of the chance to last longer than `age` seconds."""
        return _survival((_log(age) - self.mu) / self.sigma)


ANY = LogNormal(math.log(30.0), 1.5)
"""For a technique of which nothing is known: images take seconds, videos many minutes."""


def fit(durations: Iterable[float], ages: Iterable[float] = (), medians: LogNormal = ANY) -> LogNormal:
    """Return the distribution of the next duration, in seconds, as far as it is known.

    `durations` are of runs that ended, `ages` of runs that go on, `medians` the prior of the median. Medians
    and spreads are weighed by how well they explain these (Bayes); the answer has their mean and variance.
    """
    seen = _Seen.of(durations, ages)
    tried = [cell for sigma in _SIGMAS for cell in _weighed(seen, sigma, medians)]
    best = max(weight for _, _, weight in tried)
    cells = [(mu, sigma, math.exp(weight - best)) for mu, sigma, weight in tried]
    total = sum(weight for _, _, weight in cells)
    mean = sum(mu * weight for mu, _, weight in cells) / total
    variance = sum((sigma**2 + (mu - mean) ** 2) * weight for mu, sigma, weight in cells) / total
    return LogNormal(mean, math.sqrt(variance))


class _Seen(Struct, frozen=True):
    """Logarithms of durations: number, mean and variance of those that ended, how many go on at each age."""

    count: int
    mean: float
    variance: float
    ages: tuple[tuple[float, int], ...]

    @classmethod
    def of(cls, durations: Iterable[float], ages: Iterable[float]) -> _Seen:
        logs = [_log(seconds) for seconds in durations]
        mean = math.fsum(logs) / max(len(logs), 1)
        variance = sum((each - mean) ** 2 for each in logs) / max(len(logs), 1)
        bins = Counter(round(_log(age) * _BINS) / _BINS for age in ages)
        return cls(len(logs), mean, variance, tuple(bins.items()))

    def likelihood(self, mu: float, sigma: float) -> float:
        ended = -math.log(sigma) - (self.variance + (self.mean - mu) ** 2) / (2 * sigma**2)
        return self.count * ended + sum(many * _survival((age - mu) / sigma) for age, many in self.ages)


def _weighed(seen: _Seen, sigma: float, medians: LogNormal) -> list[tuple[float, float, float]]:
    """Return tuples of a median's logarithm, `sigma`, and the logarithm of their weight."""
    low, high = medians.mu - 4 * medians.sigma, medians.mu + 4 * medians.sigma
    weights: list[tuple[float, float, float]] = []
    for _ in range(_PASSES):
        step = (high - low) / (_POINTS - 1)
        weights = []
        for point in range(_POINTS):
            mu = low + point * step
            before = ((mu - medians.mu) / medians.sigma) ** 2 / 2
            weights.append((mu, sigma, seen.likelihood(mu, sigma) - before + math.log(step)))
        least = max(weight for _, _, weight in weights) - _POSSIBLE
        possible = [mu for mu, _, weight in weights if weight > least]
        low, high = possible[0] - step, possible[-1] + step
    return weights


def gap(age: float, durations: LogNormal, bounds: tuple[float, float], cost: float = COST) -> float:
    """Return the seconds until the next check at this `age`, within `bounds`.

    It is where the density of checks √(h/2c), summed from now on, comes to one.
    """
    least, most = bounds
    missing, waited = 1.0, 0.0
    while missing > 0 and waited < most:
        density = math.sqrt(durations.hazard(age + waited + _STEP / 2) / (2 * cost))
        waited += min(_STEP, missing / density) if density > 0 else _STEP
        missing -= density * _STEP
    return min(max(waited, least), most)


def mean_log(durations: Collection[float]) -> float:
    """Return the mean of the logarithms of `durations`, in seconds; at least one."""
    return math.fsum(_log(seconds) for seconds in durations) / len(durations)


def _log(seconds: float) -> float:
    return math.log(max(seconds, 0.1))


def _mills(z: float) -> float:
    if z > 7:  # far out in the tail the quotient is 0/0
        return z + 1 / z
    return math.exp(-z * z / 2) / (math.sqrt(math.pi / 2) * math.erfc(z / math.sqrt(2)))


def _survival(z: float) -> float:
    if z > 7:
        return -z * z / 2 - math.log(z * math.sqrt(2 * math.pi))
    return math.log(0.5 * math.erfc(z / math.sqrt(2)))


def next_poll(age: float, interval: float, expected: LogNormal, cost: float = COST) -> float:
    """Return the seconds until an unfinished run of this `age` (seconds) is polled again.

    From `interval` (FLORA advises 2 to 5 s) to 30 s, by what its technique is `expected` to take. `cost` is
    for an interval of 2 s, in seconds of delay, and shrinks with a shorter one.
    """
    most = max(interval, MAX_BACKOFF)
    return gap(age, expected, (interval, most), cost * interval / _USUAL_INTERVAL)
