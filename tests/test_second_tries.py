"""What a later attempt cannot have leaves what an earlier one had."""

from __future__ import annotations

from pathlib import Path

import pytest
from studio import Home, check_library

from floradl.library.sidecar import by_key
from floradl.models import Integrity, OutputKind, SavedOutput
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURES = (OutputSpec("a", "imageUrl", size=40_000), OutputSpec("b", "imageUrl", size=50_000))
GONE = Do(status=451)


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURES, duration=0.1)
    return Home(tmp_path, simulator)


def again(home: Home, *, code: int) -> None:
    """Retry the run, and work it off."""
    assert home.run("retry", "campaign/run_a").returncode == 0
    assert home.run("once").returncode == code


def test_a_retry_that_flora_refuses_leaves_the_sidecar_of_a_done_run(
    home: Home, simulator: Simulator
) -> None:
    assert home.run("get", "campaign/run_a").returncode == 0
    before = home.sidecar("campaign/run_a")
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=400, code="invalid_json")))
    again(home, code=3)
    assert home.sidecar("campaign/run_a") == before
    assert home.status()["counts"]["failed"] == 1
    check_library(home, simulator)


def test_a_retry_keeps_the_outputs_that_cannot_be_had_any_more(home: Home, simulator: Simulator) -> None:
    assert home.run("get", "campaign/run_a").returncode == 0
    simulator.faults.add(Fault(match=Match(output="b"), do=GONE))
    again(home, code=3)
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "complete"
    assert home.status()["runs"][0]["state"] == "partial"
    check_library(home, simulator)


def test_what_is_gone_here_and_there_is_told(home: Home, simulator: Simulator) -> None:
    assert home.run("get", "campaign/run_a").returncode == 0
    (home.library / "images/campaign/run_a-b.png").unlink()
    simulator.faults.add(Fault(match=Match(output="b"), do=GONE))
    again(home, code=3)
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "partial"
    assert [output["path"] for output in sidecar["outputs"]] == ["images/campaign/run_a-a.png", None]


def test_a_partial_run_that_flora_knows_no_more_keeps_what_it_has(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(output="b"), do=GONE, times=1))
    assert home.run("get", "campaign/run_a").returncode == 3
    before = home.sidecar("campaign/run_a")
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=400, code="invalid_json")))
    assert home.run("get", "campaign/run_a").returncode == 3
    assert home.sidecar("campaign/run_a") == before
    check_library(home, simulator)


def test_a_partial_run_completes_when_the_rest_can_be_had(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(output="b"), do=GONE, times=1))
    assert home.run("get", "campaign/run_a").returncode == 3
    assert home.run("get", "campaign/run_a").returncode == 0
    assert [record.output_id for record in simulator.asked("media")].count("a") == 1
    check_library(home, simulator)


def test_outputs_that_share_an_id_have_keys_of_their_own() -> None:
    outputs = [
        SavedOutput(
            output_id=name, type="imageUrl", kind=OutputKind.IMAGE, path=f"{n}", integrity=Integrity.VERIFIED
        )
        for n, name in enumerate(("x", "y", "x", "x"))
    ]
    assert {key: output.path for key, output in by_key(outputs).items()} == {
        "x": "0",
        "y": "1",
        "x\0002": "2",
        "x\0003": "3",
    }
