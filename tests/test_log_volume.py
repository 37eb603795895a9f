"""The log of a daemon that runs for months: a line when something changes, none for each question."""

from __future__ import annotations

import pytest
from studio import Home, wait_until

from floradl.simulator import Do, Fault, FaultBook, Match, OutputSpec, Simulator

RUNS = [f"run_{number}" for number in range(12)]


def queue(home: Home, simulator: Simulator, duration: float, *outputs: OutputSpec) -> None:
    for run_id in RUNS:
        simulator.add_run(run_id, technique="campaign", outputs=outputs, duration=duration)
    home.drop("".join(f"campaign/{run_id}\n" for run_id in RUNS))


def lines(home: Home) -> int:
    return len((home.path / "daemon.log").read_text().splitlines())


@pytest.mark.parametrize(
    "do",
    [
        Do(status=503, code="service_unavailable"),
        Do(status=502, html=True),
        Do(status=500, code="internal_error"),
    ],
    ids=["503", "a gateway's page", "500"],
)
def test_an_outage_of_the_api_is_told_once_however_many_questions_it_takes(
    home: Home, simulator: Simulator, do: Do
) -> None:
    goes_on = Fault(match=Match(host="api"), do=Do(set={"status": "running"}))
    outage = Fault(match=Match(host="api"), do=do, times=3 + 3 * len(RUNS))  # the list, and each run
    simulator.faults.add(goes_on)
    with home.daemon():
        queue(home, simulator, 0.1, OutputSpec("words", "text", text="x"))
        wait_until(lambda: home.status()["counts"]["running"] == len(RUNS))
        before = lines(home)
        simulator.faults = FaultBook([outage])
        asked = len(simulator.requests)
        wait_until(lambda: len(home.events("run_finished")) == len(RUNS))
        wait_until(lambda: home.events("trouble_over"))
        assert len(simulator.requests) - asked > 3 * len(RUNS)
        assert len(home.events("run_trouble")) == 5
        assert len(home.events("more_in_trouble")) == 1
        assert len(home.events("trouble_over")) == 1
        of_runs = len(
            home.events("run_completed") + home.events("run_finished") + home.events("output_saved")
        )
        assert lines(home) - before == of_runs + 8  # those, and that the list cannot be had
        assert len(home.events("list_refused")) == 1


def test_an_output_that_is_tried_again_and_again_is_told_once(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(status=503)))
    simulator.add_run("run_a", technique="campaign", outputs=(OutputSpec("a", "imageUrl"),), duration=0.1)
    with home.daemon():
        home.drop("campaign/run_a\n")
        wait_until(lambda: len(simulator.asked("media")) >= 4)
        assert len(home.events("output_trouble")) == 1


def test_a_pause_is_one_line_and_its_end_another(home: Home, simulator: Simulator) -> None:
    refused = Fault(match=Match(host="api"), do=Do(status=401, code="unauthorized"), seconds=8)
    simulator.faults.add(refused)
    with home.daemon():
        queue(home, simulator, 0.1, OutputSpec("words", "text", text="x"))
        wait_until(lambda: home.status()["counts"]["done"] == len(RUNS))
        assert len(home.events("paused")) == len(home.events("resumed")) == 1
        assert home.events("run_trouble") == []


def test_a_daemon_that_has_nothing_to_do_logs_nothing(home: Home, simulator: Simulator) -> None:
    with home.daemon(
        FLORADL_SYNC__TECHNIQUE_RUNS="true", FLORADL_SYNC__GENERATIONS="true", FLORADL_SYNC__INTERVAL="5s"
    ):
        before = lines(home)
        wait_until(lambda: len(simulator.asked("api")) >= 6)
        assert lines(home) == before
