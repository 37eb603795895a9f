"""A key of another workspace is suspected where FLORA knows none of the runs, and only there."""

from __future__ import annotations

import pytest
from studio import Home, wait_until

from floradl.flora.client import WrongWorkspaceCheck
from floradl.simulator import OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Grown."),)


def doubt_after(*run_ids: str) -> WrongWorkspaceCheck:
    workspace_check = WrongWorkspaceCheck()
    workspace_check.use_key("one")
    for run_id in run_ids:
        workspace_check.missing(run_id)
    return workspace_check


FIVE = ("run_1", "run_2", "run_3", "run_4", "run_5")


def test_five_different_runs_that_are_not_there_are_a_reason() -> None:
    assert doubt_after(*FIVE[:4]).hint is None
    assert "another workspace" in str(doubt_after(*FIVE).hint)


def test_one_run_that_is_not_there_again_and_again_is_none() -> None:
    assert doubt_after(*["run_1"] * 20).hint is None


@pytest.mark.parametrize("before", [True, False])
def test_one_run_that_is_there_settles_it(*, before: bool) -> None:
    workspace_check = doubt_after(*([] if before else FIVE))
    workspace_check.found()
    for run_id in FIVE if before else ():
        workspace_check.missing(run_id)
    assert workspace_check.hint is None


def test_with_another_key_it_is_seen_anew() -> None:
    workspace_check = doubt_after(*FIVE)
    workspace_check.use_key("another")
    assert workspace_check.hint is None
    workspace_check.found()
    workspace_check.use_key("third")
    for run_id in FIVE:
        workspace_check.missing(run_id)
    assert workspace_check.hint is not None


def test_a_daemon_says_so_once_and_a_run_that_is_there_takes_it_back(
    home: Home, simulator: Simulator
) -> None:
    with home.daemon():
        home.drop("".join(f"campaign/{run_id}\n" for run_id in FIVE), "five.txt")
        assert "another workspace" in wait_until(lambda: home.status()["hints"])[0]
        assert len(home.events("key_in_doubt")) == 1
        simulator.add_run("run_there", technique="campaign", outputs=WORDS, duration=0.1)
        home.drop("campaign/run_there\n")
        home.finished("campaign/run_there")
        wait_until(lambda: home.status()["hints"] == [])
        assert len(home.events("key_in_doubt")) == 1


def test_status_names_its_home(home: Home) -> None:
    assert home.status()["home"] == str(home.path)
    assert home.run("status").stdout.splitlines()[0] == f"home     {home.path}"
