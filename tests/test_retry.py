"""When to ask again, and when to give up, as a table."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from floradl.errors import (
    AttemptsExhaustedError,
    ErrorCode,
    ExpiredUrlError,
    ForeignAnswerError,
    PauseReason,
    PermanentError,
    QueueUnavailableError,
    ServicePausedError,
    TransientError,
)
from floradl.models import QueuedRun, RunFailure
from floradl.polling.durations import ANY, LogNormal, next_poll
from floradl.retry import Failed, Halted, RetryIn, after_trouble, outcome_of


def test_without_a_history_long_runs_are_asked_about_rarely() -> None:
    gaps = [next_poll(age, 2.0, ANY) for age in (10.0, 60.0, 300.0, 3600.0)]
    assert 2.0 < gaps[0] < 7.0
    assert gaps == sorted(gaps)
    assert gaps[-1] == 30.0


def test_who_shortens_the_interval_hears_sooner() -> None:
    assert next_poll(30.0, 0.1, ANY) < next_poll(30.0, 2.0, ANY) / 2
    assert next_poll(30.0, 45.0, ANY) == 45.0


@given(st.floats(0, 1e9), st.floats(0.1, 60), st.floats(0.001, 10))
def test_no_run_is_asked_about_faster_than_the_interval(age: float, interval: float, cost: float) -> None:
    for expected in (ANY, LogNormal(3.0, 0.5)):
        assert interval <= next_poll(age, interval, expected, cost) <= max(interval, 30.0)


def delays(error: TransientError, most: int = 50) -> list[float]:
    """The waits between tries until it is given up, at most so many."""
    found = []
    for tries in range(1, most + 1):
        delay = after_trouble(error, tries)
        if delay is None:
            break
        found.append(delay)
    return found


SHORT = [ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN, ErrorCode.NOT_MEDIA, ErrorCode.NO_OUTPUTS]


@pytest.mark.parametrize("code", SHORT)
def test_what_is_not_there_is_asked_for_a_few_times_over_a_minute(code: ErrorCode) -> None:
    found = delays(TransientError("x", code))
    assert 3 <= len(found) <= 8
    assert 55 <= sum(found) <= 75
    assert found == sorted(found)


def test_a_url_that_keeps_expiring_is_given_up() -> None:
    assert len(delays(ExpiredUrlError("x"))) == 5


def test_a_conflict_is_asked_about_twice_more() -> None:
    assert len(delays(TransientError("x", ErrorCode.BAD_REQUEST))) == 2


def test_bytes_that_are_damaged_again_and_again_are_given_up() -> None:
    assert len(delays(TransientError("x", ErrorCode.DAMAGED))) == 8


@pytest.mark.parametrize("code", [ErrorCode.NETWORK, ErrorCode.BAD_ANSWER, ErrorCode.STORAGE])
def test_other_trouble_is_never_given_up_here_and_waits_at_most_half_a_minute(code: ErrorCode) -> None:
    found = delays(TransientError("x", code))
    assert len(found) == 50
    assert found[0] <= 1.0
    assert all(22.5 <= delay <= 30.0 for delay in found[5:])


@pytest.mark.parametrize("code", [ErrorCode.NETWORK, ErrorCode.NOT_FOUND, ErrorCode.DAMAGED])
def test_what_the_other_side_asks_for_is_honoured(code: ErrorCode) -> None:
    assert after_trouble(TransientError("x", code, retry_after=120.0), 1) == 120.0
    few = after_trouble(TransientError("x", code, retry_after=0.0), 3)
    assert few is not None
    assert few > 1.0


@given(st.sampled_from(ErrorCode), st.integers(1, 10**9), st.none() | st.floats(0, 3600))
def test_a_wait_is_never_negative_nor_endless(code: ErrorCode, tries: int, retry_after: float | None) -> None:
    delay = after_trouble(TransientError("x", code, retry_after=retry_after), tries)
    assert delay is None or 0 < delay <= max(30.0, retry_after or 0.0)


PATIENCE = 60.0


def run_with(error: RunFailure | None = None, tries: int = 0, waited: float = 0.0) -> QueuedRun:
    return QueuedRun(run_id="run_a", queued_at=0.0, error=error, tries=tries, waited=waited)


def test_what_pauses_all_is_told_from_what_fails_one_run() -> None:
    paused = outcome_of(run_with(), ServicePausedError("no", PauseReason.CREDITS, needed=3), PATIENCE)
    assert paused == Halted(PauseReason.CREDITS, "no", 3)
    unwritten = outcome_of(run_with(), QueueUnavailableError("no room"), PATIENCE)
    assert unwritten == Halted(PauseReason.DISK_FULL, "no room")
    failed = outcome_of(run_with(), PermanentError("gone", ErrorCode.BAD_REQUEST), PATIENCE)
    assert failed == Failed(RunFailure(ErrorCode.BAD_REQUEST, "gone"))


def test_tries_count_trouble_of_the_same_kind_in_a_row() -> None:
    gone = TransientError("not there", ErrorCode.NOT_FOUND)
    same = RunFailure(ErrorCode.NOT_FOUND, "not there")
    first = outcome_of(run_with(RunFailure(ErrorCode.NETWORK, "down"), tries=9), gone, PATIENCE)
    assert isinstance(first, RetryIn)
    assert (first.run.tries, first.run.error, first.trouble) == (1, same, "not there")
    again = outcome_of(first.run, gone, PATIENCE)
    assert isinstance(again, RetryIn)
    assert again.run.tries == 2
    assert outcome_of(run_with(same, tries=9), gone, PATIENCE) == Failed(same)


@pytest.mark.parametrize(
    ("error", "borne"),
    [
        (TransientError("?", ErrorCode.BAD_ANSWER), False),
        (ForeignAnswerError("a portal"), True),
        (AttemptsExhaustedError(TransientError("down"), 1.0), False),
        (AttemptsExhaustedError(TransientError("rights", ErrorCode.STORAGE), 1.0), True),
        (TransientError("down"), True),
    ],
    ids=["malformed", "foreign", "attempts", "storage", "outage"],
)
def test_what_is_borne_for_ever_and_what_until_patience_ends(error: TransientError, *, borne: bool) -> None:
    outcome = outcome_of(run_with(waited=PATIENCE), error, PATIENCE)
    assert isinstance(outcome, RetryIn) is borne


def test_a_bug_costs_no_run() -> None:
    outcome = outcome_of(run_with(tries=1), ZeroDivisionError(), PATIENCE)
    assert isinstance(outcome, RetryIn)
    assert (outcome.run.tries, outcome.seconds) == (2, 30.0)
