"""What others who may write there can put into the library: it costs that entry alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from mounting import unanswered
from studio import Home, check_library, wait_until

from floradl.simulator import OutputSpec, Simulator

WORDS = (OutputSpec("words", "text", text="Yes."),)
NOBODY = 65534


@contextmanager
def theirs(where: Path) -> Iterator[None]:
    with unanswered(where, NOBODY):
        yield


@contextmanager
def dead(where: Path) -> Iterator[None]:
    with unanswered(where, 0) as fd:
        os.close(fd)
        yield


@pytest.mark.root
@pytest.mark.parametrize("planted", [theirs, dead])
def test_a_mount_upon_a_techniques_sidecars_costs_its_runs_alone(
    home: Home, simulator: Simulator, planted: type
) -> None:
    for technique in ("campaign", "theirs"):
        simulator.add_run(f"run_{technique}", technique=technique, duration=0, outputs=WORDS)
        home.drop(f"{technique}/run_{technique}", technique)
    assert home.run("once").returncode == 0
    for path in home.state.iterdir():
        path.unlink()
    with planted(home.library / "runs/theirs"):
        verified = home.run("verify")
        assert verified.returncode == 1
        assert "runs/theirs" in verified.stdout + verified.stderr
        with home.daemon():
            wait_until(lambda: home.status()["counts"]["done"] == 1)
            simulator.add_run("run_more", technique="campaign", duration=0, outputs=WORDS)
            home.drop("campaign/run_more", "more")
            home.finished("campaign/run_more")
            [waiting] = [run for run in home.status()["runs"] if run["run_id"] == "run_theirs"]
            assert "runs/theirs" in waiting["error"]["message"]
            assert home.status()["paused"] is None
    with home.daemon():
        wait_until(lambda: home.status()["counts"]["done"] == 3)
    check_library(home, simulator)
