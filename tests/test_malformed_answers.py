"""What FLORA says malformed of a run costs no more than that; what it lists later is saved too."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from studio import Home, check_library, wait_until
from wire import PNG

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

RUN = "t/run_a"
PICTURES = tuple(OutputSpec(name, "imageUrl", size=3000) for name in ("a", "b", "c"))


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    past = simulator.now() - 60
    simulator.add_run("run_a", technique="t", outputs=PICTURES, duration=5, created=past)
    return Home(tmp_path, simulator)


def says(simulator: Simulator, times: int | None = None, **do: Any) -> None:
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(**do), times=times))


def paths(home: Home) -> list[str | None]:
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    return [output["path"] for output in sidecar["outputs"]]


def test_an_output_without_a_url_costs_itself_alone(home: Home, simulator: Simulator) -> None:
    says(simulator, set={"outputs.1.url": "null"})
    assert home.run("get", RUN).returncode == 3
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    assert sidecar["result"] == "partial"
    assert paths(home) == ["images/t/run_a-a.png", None, "images/t/run_a-c.png"]
    assert sidecar["outputs"][1]["error"]["code"] == "bad_url"
    assert home.run("verify").returncode == 0
    assert len(simulator.asked("api", "run_a")) == 4  # it may be there in a moment


def test_a_url_that_is_there_a_moment_later_is_fetched(home: Home, simulator: Simulator) -> None:
    says(simulator, times=1, set={"outputs.1": "null"})
    assert home.run("get", RUN).returncode == 0
    assert paths(home) == [f"images/t/run_a-{name}.png" for name in "abc"]
    check_library(home, simulator)


@pytest.mark.parametrize(
    "do",
    [
        {"accepted": True},
        {"missing_field": "outputs.1.type"},
        {"set": {"outputs.1.output_id": "7"}},
        {"set": {"outputs.1.output_id": "null"}},
        {"set": {"created_at": "2026-11-23T19:03:11Z", "completed_at": "2026-11-23T19:03:20+00:00"}},
        {"set": {"progress": '"100"', "charged_cost": '"0.5"', "created_at": '"1795460591"'}},
    ],
    ids=str,
)
def test_what_is_malformed_and_can_be_understood_costs_nothing(
    home: Home, simulator: Simulator, do: dict[str, Any]
) -> None:
    says(simulator, **do)
    assert home.run("get", RUN).returncode == 0
    assert len(home.files()) == 3
    assert home.run("verify").returncode == 0


def test_a_data_url_is_decoded_and_not_repeated(home: Home, simulator: Simulator) -> None:
    in_base64 = base64.b64encode(PNG).decode()
    says(simulator, set={"outputs.1.url": f"data:image/png;base64,{in_base64}"})
    assert home.run("get", RUN).returncode == 0
    assert home.files()["images/t/run_a-b.png"] == PNG
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    assert sidecar["outputs"][1]["url"] == sidecar["run"]["outputs"][1]["url"] == "data:image/png;base64,"
    assert home.run("verify").returncode == 0


def test_the_outputs_of_a_failed_run_are_kept(home: Home, simulator: Simulator) -> None:
    says(simulator, set={"status": "failed", "error_code": "model_timeout", "error_message": "Too slow."})
    assert home.run("get", RUN).returncode == 3
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    assert sidecar["result"] == "failed"
    assert sidecar["error"] == {"code": "model_timeout", "message": "Too slow."}
    assert paths(home) == [f"images/t/run_a-{name}.png" for name in "abc"]
    check_library(home, simulator)
    assert home.run("verify").returncode == 0
    fetched = len(simulator.asked("media"))
    assert home.run("get", RUN).returncode == 3
    assert len(simulator.asked("media")) == fetched
    assert home.sidecar(RUN)["outputs"] == sidecar["outputs"]  # type: ignore[index]


def test_a_damaged_output_of_a_failed_run_is_repaired(home: Home, simulator: Simulator) -> None:
    says(simulator, set={"status": "failed", "error_code": "model_timeout"})
    assert home.run("get", RUN).returncode == 3
    (home.library / "images/t/run_a-b.png").write_bytes(b"damaged")
    assert home.run("verify", "--repair").returncode == 0
    assert home.sidecar(RUN)["result"] == "failed"  # type: ignore[index]


def test_an_output_that_is_listed_with_a_fresh_url_is_saved_too(home: Home, simulator: Simulator) -> None:
    says(simulator, times=1, missing_field="outputs.2")
    simulator.faults.add(Fault(do=Do(expire=True), match=Match(host="media"), times=1))
    assert home.run("get", RUN).returncode == 0
    assert paths(home) == [f"images/t/run_a-{name}.png" for name in "abc"]
    check_library(home, simulator)


def test_a_retry_saves_what_is_listed_by_then(home: Home, simulator: Simulator) -> None:
    says(simulator, times=1, missing_field="outputs.2")
    assert home.run("get", RUN).returncode == 0
    assert len(home.files()) == 2
    assert home.run("retry", RUN).returncode == 0
    assert home.run("once").returncode == 0
    assert paths(home) == [f"images/t/run_a-{name}.png" for name in "abc"]
    check_library(home, simulator)


def test_a_retry_under_new_ids_orphans_nothing(home: Home, simulator: Simulator) -> None:
    assert home.run("get", RUN).returncode == 0
    says(simulator, set={"outputs.0.output_id": "x", "outputs.1.output_id": "y"})
    assert home.run("retry", RUN).returncode == 0
    assert home.run("once").returncode == 0
    assert paths(home) == [f"images/t/run_a-{name}.png" for name in ("x", "y", "c", "a", "b")]
    assert home.run("verify").returncode == 0


def test_a_retry_that_brings_other_bytes_still_names_those_from_before(
    home: Home, simulator: Simulator
) -> None:
    assert home.run("get", RUN).returncode == 0
    simulator.faults.add(Fault(do=Do(change_content=True), match=Match(output="b")))
    assert home.run("retry", RUN).returncode == 0
    assert home.run("once").returncode == 0
    assert sorted(str(path) for path in paths(home)) == sorted(home.files())
    assert len(home.files()) == 4


def test_a_run_that_is_answered_malformed_for_ever_is_given_up(home: Home, simulator: Simulator) -> None:
    says(simulator, set={"status": "7"})
    done = home.run("get", RUN, FLORADL_POLL__GIVE_UP_AFTER="3s")
    assert done.returncode == 3
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    assert sidecar["error"]["code"] == "bad_answer"
    assert "poll.give_up_after" in sidecar["error"]["message"]


def test_a_portal_in_floras_place_costs_nothing_and_blames_no_key(home: Home, simulator: Simulator) -> None:
    says(simulator, status=401, html=True, times=3)
    with home.daemon():
        home.drop(RUN)
        (trouble, *_) = wait_until(lambda: home.events("run_trouble"))
        home.finished(RUN)
    assert "answered 401 with a web page" in trouble["message"]
    assert home.events("paused") == []
    check_library(home, simulator)
