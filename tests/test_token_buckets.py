"""How often FLORA is asked where no limit was met, and what of it in the long run."""

from __future__ import annotations

from floradl.flora.rate_limit import TokenBuckets


def asked(token_buckets: TokenBuckets, since: float, until: float, *, ended: bool = False) -> int:
    """Ask as often as is fair between two moments; returns how often that was."""
    now, count = since, 0
    while (now := now + token_buckets.wait(now)) < until:
        token_buckets.take(now)
        count += 1
        if ended:
            token_buckets.give_back()
    return count


def test_forty_may_ask_at_once() -> None:
    token_buckets = TokenBuckets()
    for _ in range(40):
        assert token_buckets.wait(1000.0) == 0.0
        token_buckets.take(1000.0)
    assert 0.0 < token_buckets.wait(1000.0) <= 0.1


def test_two_hundred_runs_may_be_asked_about_as_often_as_flora_advises_for_a_while() -> None:
    assert 20 * 35 <= asked(TokenBuckets(), 1000.0, 1020.0) <= 20 * 40 + 40


def test_in_the_long_run_a_crowd_is_asked_about_five_times_a_second() -> None:
    token_buckets = TokenBuckets()
    assert asked(token_buckets, 1000.0, 1300.0) <= 900 + 300 * 5
    assert 295 * 5 <= asked(token_buckets, 1300.0, 1600.0) <= 305 * 5


def test_questions_that_hear_of_an_end_may_be_asked_on_and_on() -> None:
    assert asked(TokenBuckets(), 1000.0, 1300.0, ended=True) >= 300 * 39


def test_what_was_not_made_use_of_is_not_saved_up_for_ever() -> None:
    token_buckets = TokenBuckets()
    asked(token_buckets, 1000.0, 1300.0)
    assert asked(token_buckets, 90_000.0, 90_300.0) <= 900 + 300 * 5 + 1


def test_what_is_given_back_is_no_more_than_was_taken() -> None:
    token_buckets = TokenBuckets()
    token_buckets.take(1000.0)
    for _ in range(5000):
        token_buckets.give_back()
    assert asked(token_buckets, 1000.0, 1300.0) <= 900 + 300 * 5 + 1
