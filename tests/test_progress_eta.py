"""Whether progress tells when a run ends: a table of runs that ended."""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import pytest

from floradl.polling.durations import EtaAccuracy, LogNormal, ProgressEta, forecast

USUAL = LogNormal(math.log(40.0), 0.5)


def told(age: float, progress: float) -> ProgressEta:
    heard = forecast(age, progress)
    assert heard is not None
    return heard


def trust_after(runs: int, progress: Callable[[float, float], float]) -> EtaAccuracy:
    """Return the trust after so many runs, each asked about every 5 s."""
    trust, dice = EtaAccuracy(), random.Random(1)
    for _ in range(runs):
        duration = dice.lognormvariate(USUAL.mu, USUAL.sigma)
        ages = range(5, math.ceil(duration), 5)
        heard = [forecast(age, progress(age, duration)) for age in ages]
        trust.ended([each for each in heard if each], duration, USUAL)
    return trust


def test_progress_is_taken_to_go_on_as_it_went() -> None:
    assert forecast(20.0, 40.0) == ProgressEta(20.0, 30.0)


@pytest.mark.parametrize("progress", [0.0, 0.5, 100.0, 250.0, -3.0, math.nan])
def test_what_says_nothing_of_the_end_is_no_forecast(progress: float) -> None:
    assert forecast(20.0, progress) is None


def test_forecasts_that_came_true_are_trusted() -> None:
    trust = trust_after(20, lambda age, duration: 100 * age / duration)
    rest = trust.rest([told(20.0, 50.0)])
    assert rest is not None
    assert math.exp(rest.mu) == pytest.approx(20.0, rel=0.1)
    assert rest.sigma < 0.2


def test_a_few_runs_are_not_enough_to_trust_them() -> None:
    assert trust_after(10, lambda age, duration: 100 * age / duration).rest([told(20.0, 50.0)]) is None


@pytest.mark.parametrize(
    "progress",
    [lambda _age, _duration: 99.0, lambda age, _duration: min(99.0, 4 * age), lambda age, _duration: age],
    ids=["stuck at 99", "stuck at 99 after a while", "by a clock of its own"],
)
def test_forecasts_that_tell_no_more_than_the_usual_are_not_trusted(
    progress: Callable[[float, float], float],
) -> None:
    assert trust_after(100, progress).rest([told(20.0, 50.0)]) is None


def test_a_run_that_outlived_a_forecast_is_not_believed_any_more() -> None:
    trust = trust_after(50, lambda age, duration: 100 * age / duration)
    assert trust.rest([told(10.0, 50.0), told(30.0, 75.0)]) is None
    assert trust.rest([told(10.0, 25.0), told(30.0, 75.0)]) is not None
