from __future__ import annotations

from floradl.errors import ErrorCode
from floradl.runs.events import ErrorLog, LoggedError

NETWORK, DAMAGED = ErrorCode.NETWORK, ErrorCode.DAMAGED


def test_a_run_s_trouble_is_told_when_it_begins_and_not_at_each_question() -> None:
    troubles = ErrorLog()
    assert [troubles.met("run_1", NETWORK) for _ in range(3)] == [
        LoggedError.RUN,
        LoggedError.NOTHING,
        LoggedError.NOTHING,
    ]


def test_another_trouble_of_the_same_run_is_told() -> None:
    troubles = ErrorLog()
    troubles.met("run_1", NETWORK)
    assert troubles.met("run_1", DAMAGED) is LoggedError.RUN


def test_trouble_that_comes_back_is_told_again() -> None:
    troubles = ErrorLog()
    troubles.met("run_1", NETWORK)
    troubles.over("run_1")
    assert troubles.met("run_1", NETWORK) is LoggedError.RUN


def test_of_many_in_the_same_trouble_five_are_told_and_that_there_are_more() -> None:
    troubles = ErrorLog()
    told = [troubles.met(f"run_{number}", NETWORK) for number in range(9)]
    assert told == [LoggedError.RUN] * 5 + [LoggedError.MORE] + [LoggedError.NOTHING] * 3


def test_runs_that_come_and_go_in_a_lasting_trouble_are_not_told_again_and_again() -> None:
    troubles = ErrorLog()
    for number in range(9):
        troubles.met(f"run_{number}", NETWORK)
    troubles.over("run_1")
    assert troubles.met("run_1", NETWORK) is LoggedError.NOTHING


def test_the_end_is_told_once_nobody_is_in_it_any_more() -> None:
    troubles = ErrorLog()
    for number in range(3):
        troubles.met(f"run_{number}", NETWORK)
    assert [troubles.over(f"run_{number}") for number in (0, 1, 2, 2)] == [None, None, NETWORK, None]


def test_the_end_of_a_single_run_s_trouble_is_told_by_how_that_run_ends() -> None:
    troubles = ErrorLog()
    troubles.met("run_1", NETWORK)
    assert troubles.over("run_1") is None
