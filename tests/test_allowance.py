"""How often FLORA is asked where no limit was met, and what of it in the long run."""

from __future__ import annotations

from floradl.flora.allowance import Allowance


def asked(allowance: Allowance, since: float, until: float, *, ended: bool = False) -> int:
    """Ask as often as is fair between two moments; returns how often that was."""
    now, count = since, 0
    while (now := now + allowance.wait(now)) < until:
        allowance.take(now)
        count += 1
        if ended:
            allowance.give_back()
    return count


def test_forty_may_ask_at_once() -> None:
    allowance = Allowance()
    for _ in range(40):
        assert allowance.wait(1000.0) == 0.0
        allowance.take(1000.0)
    assert 0.0 < allowance.wait(1000.0) <= 0.1


def test_two_hundred_runs_may_be_asked_about_as_often_as_flora_advises_for_a_while() -> None:
    assert 20 * 35 <= asked(Allowance(), 1000.0, 1020.0) <= 20 * 40 + 40


def test_in_the_long_run_a_crowd_is_asked_about_five_times_a_second() -> None:
    allowance = Allowance()
    assert asked(allowance, 1000.0, 1300.0) <= 900 + 300 * 5
    assert 295 * 5 <= asked(allowance, 1300.0, 1600.0) <= 305 * 5


def test_questions_that_hear_of_an_end_may_be_asked_on_and_on() -> None:
    assert asked(Allowance(), 1000.0, 1300.0, ended=True) >= 300 * 39


def test_what_was_not_made_use_of_is_not_saved_up_for_ever() -> None:
    allowance = Allowance()
    asked(allowance, 1000.0, 1300.0)
    assert asked(allowance, 90_000.0, 90_300.0) <= 900 + 300 * 5 + 1


def test_what_is_given_back_is_no_more_than_was_taken() -> None:
    allowance = Allowance()
    allowance.take(1000.0)
    for _ in range(5000):
        allowance.give_back()
    assert asked(allowance, 1000.0, 1300.0) <= 900 + 300 * 5 + 1
