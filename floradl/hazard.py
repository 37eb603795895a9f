"""When to look at something that ends at a random time: checks where the end is likely, few where it is not.

The best times for n checks follow the hazard h(t) of the durations: checks lie √(2c/h) apart, c being what
a check costs against what a second of delay does (Barlow, Hunter and Proschan, "Optimum Checking
Procedures", J. SIAM 11, 1963; the density form is Keller's). Durations of one technique are taken as
log-normal: bounded below by nothing but zero, and with the long tail that queues give them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from msgspec import Struct

COST = 0.42
"""Seconds of delay that one check is worth: with it, durations around 40 s are checked each 4 to 5 s."""

_STEP = 0.25  # seconds
_UNSEEN = 3.0
_LEAST_SIGMA = 0.2  # a technique that took the same time thrice may take another the fourth time


class LogNormal(Struct, frozen=True):
    """A distribution of durations: their logarithms have mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float

    def hazard(self, age: float) -> float:
        """Return how likely it is, per second, that what has lasted `age` seconds ends now."""
        if age < 1e-3:  # nothing ends in no time, and the quotient would be 0/0 here too
            return 0.0
        z = (math.log(age) - self.mu) / self.sigma
        survival = 0.5 * math.erfc(z / math.sqrt(2))
        if survival < 1e-12:  # far out in the tail the quotient is 0/0; there it is z over sigma t
            return z / (self.sigma * age)
        density = math.exp(-z * z / 2) / (age * self.sigma * math.sqrt(2 * math.pi))
        return density / survival


def fit(durations: Sequence[float]) -> LogNormal:
    """Estimate the distribution from past `durations`, in seconds; at least one."""
    logs = [math.log(max(seconds, 0.1)) for seconds in durations]
    mu = sum(logs) / len(logs)
    # As if there were a few more, and these spread by e: little is known from little.
    spread = sum((value - mu) ** 2 for value in logs) + _UNSEEN * math.exp(-len(logs) / 10)
    sigma = math.sqrt(spread / (len(logs) + _UNSEEN * math.exp(-len(logs) / 10)))
    return LogNormal(mu, max(sigma, _LEAST_SIGMA))


def gap(age: float, durations: LogNormal, bounds: tuple[float, float], cost: float = COST) -> float:
    """Return the seconds until something of this `age` is checked again, within `bounds`.

    The next check is where the density of checks √(h/2c), summed from now on, comes to one.
    """
    least, most = bounds
    missing, waited = 1.0, 0.0
    while missing > 0 and waited < most:
        density = math.sqrt(durations.hazard(age + waited + _STEP / 2) / (2 * cost))
        waited += min(_STEP, missing / density) if density > 0 else _STEP
        missing -= density * _STEP
    return min(max(waited, least), most)
