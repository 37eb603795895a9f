"""How long the next runs of each technique take, from finished and unfinished runs and their progress.

`EtaAccuracy` and `WebhookTrust` count how reliable a technique's progress and its webhooks are.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Mapping

from msgspec import Struct, field

from floradl.models import RemoteRun
from floradl.retry import MAX_BACKOFF

COST = 0.45
"""Seconds of delay that one poll costs. Runs of around 40 s are polled every 4 to 5 s."""

_USUAL_INTERVAL = 2.0  # seconds, that COST is for
_STEP = 0.25  # seconds
_SIGMAS = (0.2, 0.35, 0.5, 0.7, 1.0)  # spreads that are tried, equally likely at first
_BINS = 10  # ages a unit of the logarithm
_POINTS = 16  # medians that are tried in a pass
_PASSES = 3  # each over what the one before left possible
_POSSIBLE = 10.0  # medians within e^-10 of the best likelihood are refined
_KEPT_FORECASTS = 400
_ENOUGH_REPORTS = 15  # runs that ended
_BETTER = 1.0  # gain in mean log-likelihood from which forecasts are trusted
_LATE = 1.5  # standard deviations; after that a forecast was wrong
_FIRST = 1.0  # per cent; less is no basis for a forecast
_LEAST = 0.5  # seconds, since `progress` is rounded
_KEPT = 400  # durations a technique, and as many ages of unfinished runs
_ENOUGH = 5  # durations from which a technique is known
_REFIT = 0.5  # seconds between two estimates
_LONGEST = 7 * 86_400.0  # seconds; a longer run was idle
_PROVEN = 3  # ends in a row that a webhook reported


class LogNormal(Struct, frozen=True):
    """A distribution of durations: their logarithms have mean `mu` and standard deviation `sigma`."""

    mu: float
    sigma: float

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return math.exp(self.mu)

    def hazard(self, age: float) -> float:
        """Return the hazard rate, per second: the chance that a run of `age` seconds ends now."""
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
"""For a technique without known runs: images take seconds, videos many minutes."""


def fit(durations: Iterable[float], ages: Iterable[float] = (), medians: LogNormal = ANY) -> LogNormal:
    """Return the distribution of the next duration, in seconds, as far as it is known.

    `durations` are of finished runs, `ages` of unfinished ones, `medians` is the prior of the median. Medians
    and spreads are weighted by their likelihood (Bayes); the result has their mean and variance.
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
    """Logarithms of durations: count, mean and variance of finished runs; unfinished runs by age."""

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
    """Return the seconds until the next poll at this `age`, within `bounds`.

    The integral of the density of polls √(h/2c), from now on, reaches one there.
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


class ProgressEta(Struct, frozen=True):
    """A forecast: at this `age` a run takes `rest` more, in seconds."""

    age: float
    rest: float


class _Error(Struct, frozen=True):
    """Logarithms: actual over forecast rest, actual rest, and its likelihood without forecasts."""

    off: float
    rest: float
    usual: float


def forecast(age: float, progress: float) -> ProgressEta | None:
    """Return the forecast for `progress` (0 to 100) at an age in seconds; None where there is no basis."""
    if age <= 0 or not _FIRST <= progress < 100:
        return None
    return ProgressEta(age, max((100 - progress) * age / progress, _LEAST))


class EtaAccuracy:
    """The errors of past forecasts for one technique."""

    def __init__(self) -> None:
        self._runs = 0
        self._errors: deque[_Error] = deque(maxlen=_KEPT_FORECASTS)
        self._off: tuple[float, float] | None = None  # mean and deviation of `off`, where trusted

    def ended(self, forecasts: Collection[ProgressEta], duration: float, usual: LogNormal) -> None:
        """Record that a run took `duration` seconds; `usual` was expected without forecasts."""
        if not forecasts:
            return
        self._runs += 1
        for each in forecasts:
            rest = max(duration - each.age, _LEAST)
            likelihood = usual.log_density(each.age + rest) - usual.log_survival(each.age)
            self._errors.append(_Error(math.log(rest / each.rest), math.log(rest), likelihood))
        self._off = self._weighed() if self._runs >= _ENOUGH_REPORTS else None

    def rest(self, forecasts: Collection[ProgressEta]) -> LogNormal | None:
        """Return the time that a run takes after its last forecast; None where they are not trusted."""
        if self._off is None or not forecasts:
            return None
        mean, spread = self._off
        *before, last = forecasts
        if any(_outlived(each, last.age, mean + _LATE * spread) for each in before):
            return None
        return LogNormal(math.log(last.rest) + mean, spread)

    def _weighed(self) -> tuple[float, float] | None:
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


class _Known(Struct):
    """One technique: durations of finished runs, ages of unfinished ones by id."""

    durations: deque[float]
    ages: dict[str, float]
    expected: LogNormal | None = None
    fitted_at: float = 0.0
    changed: bool = True
    trust: EtaAccuracy = field(default_factory=EtaAccuracy)


class Durations:
    """Durations by technique, in seconds; runs without one count as one. `monotonic` returns seconds."""

    def __init__(
        self, monotonic: Callable[[], float], durations: Mapping[str, Iterable[float]] | None = None
    ) -> None:
        self._monotonic = monotonic
        self.restart(durations or {})

    def restart(self, durations: Mapping[str, Iterable[float]]) -> None:
        """Begin anew with these durations: another process has learned meanwhile."""
        self._known = {name: _Known(deque(seconds, _KEPT), {}) for name, seconds in durations.items()}

    def expected(self, technique: str | None) -> LogNormal:
        """Return the expected duration of the next run of `technique`, by its runs and all others."""
        known = self._of(technique)
        now = self._monotonic()
        if known.expected is None or (known.changed and now - known.fitted_at >= _REFIT):
            known.expected = fit(known.durations, known.ages.values(), self._medians())
            known.fitted_at, known.changed = now, False
        return known.expected

    def add(
        self, technique: str | None, created_at: float | None, completed_at: float | None
    ) -> float | None:
        """Record a run by the server's times (unix seconds); return its duration, None where unknown."""
        if created_at is None or completed_at is None or not 0 < completed_at - created_at < _LONGEST:
            return None
        known, seconds = self._of(technique), completed_at - created_at
        known.durations.append(seconds)
        known.changed = True
        return seconds

    def goes_on(self, technique: str | None, run_id: str, age: float) -> None:
        """Record that a run is not finished after `age` seconds."""
        known = self._of(technique)
        if run_id in known.ages or len(known.ages) < _KEPT:
            known.ages[run_id] = age
            known.changed = True

    def in_flight(self, technique: str | None) -> int:
        """Return how many unfinished runs of `technique` are known."""
        return len(self._of(technique).ages)

    def is_known(self, technique: str | None) -> bool:
        """Whether enough runs of `technique` finished to predict the next one."""
        return len(self._of(technique).durations) >= _ENOUGH

    def rest(self, technique: str | None, forecasts: Collection[ProgressEta]) -> LogNormal | None:
        """See `EtaAccuracy.rest`."""
        return self._of(technique).trust.rest(forecasts)

    def judge(self, technique: str | None, forecasts: Collection[ProgressEta], duration: float) -> None:
        """Record the `forecasts` of a run that took `duration` seconds."""
        self._of(technique).trust.ended(forecasts, duration, self.expected(technique))

    def ended(self, technique: str | None, run_id: str) -> None:
        """Record that a run ended."""
        known = self._of(technique)
        if known.ages.pop(run_id, None) is not None:
            known.changed = True

    def _of(self, technique: str | None) -> _Known:
        return self._known.setdefault(technique or "", _Known(deque(maxlen=_KEPT), {}))

    def _medians(self) -> LogNormal:
        """Return the distribution of medians over techniques; `ANY` counts as one of them."""
        seen = [known.durations for known in self._known.values()]
        means = [mean_log(durations) for durations in seen if len(durations) >= _ENOUGH]
        return LogNormal((sum(means) + ANY.mu) / (len(means) + 1), ANY.sigma)


class WebhookTrust:
    """Counts, by technique, ends in a row that a webhook reported before a poll did."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()

    def ended(self, technique: str | None, *, by_webhook: bool) -> None:
        """Record the end of a polled run, and whether a webhook was the first to report it."""
        if by_webhook:
            self._in_a_row[technique or ""] += 1
        else:
            self._in_a_row.pop(technique or "", None)

    def expected(self, technique: str | None) -> bool:
        """Whether a webhook is expected to report the next end."""
        return self._in_a_row[technique or ""] >= _PROVEN


def detection_delay(answer: RemoteRun, queued_at: float, now: float) -> float | None:
    """Return how many seconds after its end a run was detected; None where FLORA gives no end.

    Not before `queued_at`; it and `now` are unix seconds. The server's clock counts where the answer has its
    time (to the second), as ours may differ.
    """
    if answer.completed_at is None:
        return None
    if answer.age is not None and answer.created_at is not None:
        since = answer.age - (answer.completed_at - answer.created_at)
    else:
        since = now - answer.completed_at
    return max(min(since, now - queued_at), 0.0)
