"""What runs of a technique are expected to take, by what was seen."""

from __future__ import annotations

import math

import pytest

from floradl.polling.durations import Durations


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_history_learns_from_the_server_s_own_times() -> None:
    durations = Durations(Clock(), {"campaign": [110.0, 115.0, 125.0, 130.0] * 10})
    assert durations.add("campaign", 1000.0, 1120.0) == 120.0
    assert math.exp(durations.expected("campaign").mu) == pytest.approx(120, abs=1)


def test_a_technique_that_is_new_is_expected_to_be_like_the_others() -> None:
    assert math.exp(Durations(Clock()).expected("new").mu) == pytest.approx(30, rel=0.1)
    others = Durations(Clock(), {name: [300.0] * 5 for name in ("film", "song", "play")})
    assert math.exp(others.expected("new").mu) > 120


def test_what_is_learned_counts_within_a_second() -> None:
    clock = Clock()
    durations = Durations(clock)
    before = durations.expected("campaign")
    for number in range(20):
        durations.goes_on("campaign", f"run_{number}", 60.0)
    assert durations.expected("campaign") == before
    clock.now += 1.0
    assert durations.expected("campaign").mu > before.mu + 0.5


def test_a_run_that_ended_counts_no_more_as_one_that_goes_on() -> None:
    clock = Clock()
    durations = Durations(clock)
    before = durations.expected("campaign")
    durations.goes_on("campaign", "run_1", 3600.0)
    durations.ended("campaign", "run_1")
    clock.now += 1.0
    assert durations.expected("campaign") == before


@pytest.mark.parametrize(
    ("created_at", "completed_at"), [(None, 5.0), (5.0, None), (10.0, 5.0), (5.0, 5.0), (0.0, 1e9)]
)
def test_times_that_make_no_duration_are_left_out(
    created_at: float | None, completed_at: float | None
) -> None:
    clock = Clock()
    durations = Durations(clock)
    before = durations.expected("campaign")
    assert durations.add("campaign", created_at, completed_at) is None
    clock.now += 1.0
    assert durations.expected("campaign") == before
