"""Signed URLs that run out: FLORA is asked once more for each expiry, and the download goes on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from studio import Home, check_library, served, wait_until

from floradl.simulator import Do, Fault, Match, MediaStyle, OutputSpec, Simulator

SIZE = 4_000_000
CLIP = OutputSpec("clip", "videoUrl", size=SIZE)


@pytest.fixture(params=list(MediaStyle))
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    simulator = Simulator(media_style=request.param)
    with served(simulator):
        yield simulator


def add_run(simulator: Simulator, *outputs: OutputSpec) -> str:
    """Add a run that is completed already: one question is what it takes."""
    past = simulator.now() - 60
    return str(simulator.add_run("run_a", technique="t", outputs=outputs, duration=5, created=past))


def test_urls_that_ran_out_at_the_start_cost_one_question_for_all(home: Home, simulator: Simulator) -> None:
    outputs = [OutputSpec(f"o{number}", "imageUrl") for number in range(6)]
    simulator.faults.add(Fault(do=Do(expire=True), match=Match(host="media"), times=1, per="output"))
    assert home.run("get", add_run(simulator, *outputs)).returncode == 0
    assert len(simulator.asked("api", "run_a")) == 2
    check_library(home, simulator)


def test_a_url_that_ran_out_near_the_end_is_continued_under_a_fresh_one(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(do=Do(cut_after="98%"), match=Match(output="clip"), times=1))
    simulator.faults.add(Fault(do=Do(expire=True), match=Match(output="clip", resumed=True), times=1))
    assert home.run("get", add_run(simulator, CLIP)).returncode == 0
    assert len(simulator.asked("api", "run_a")) == 2
    ranges = [record.range for record in simulator.asked("media", "run_a")]
    assert len(ranges) == 3
    assert ranges[0] is None
    assert ranges[1] == ranges[2] is not None
    assert ranges[2] == f"bytes={SIZE * 98 // 100 - 65_536}-"  # 64 KiB of what is held are compared
    assert simulator.counters.bytes_sent < SIZE * 1.1
    check_library(home, simulator)


def test_a_url_that_ran_out_while_the_program_was_away_is_continued(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(stall_after="50%"), match=Match(output="clip"), times=1))
    home.drop(add_run(simulator, CLIP))
    with home.daemon() as process:
        wait_until(
            lambda: [part for part in home.library.rglob(".*.part") if part.stat().st_size > SIZE * 0.4]
        )
        process.kill()
        process.wait()
    simulator.expire_urls()
    assert home.run("once").returncode == 0
    assert simulator.counters.bytes_sent < SIZE * 1.2
    check_library(home, simulator)


def test_a_run_whose_urls_never_open_asks_flora_a_few_times(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(expire=True), match=Match(host="media", output="bad")))
    reference = add_run(simulator, OutputSpec("bad", "imageUrl"), OutputSpec("good", "imageUrl"))
    home.drop(reference)
    with home.daemon():
        wait_until(lambda: len(simulator.asked("media", "run_a")) >= 3)
        wait_until(lambda: list(home.files()) == ["images/t/run_a-good.png"])
        # The first expiry is met at once, the second only after five seconds.
        assert len(simulator.asked("api", "run_a")) == 2
    assert home.sidecar(reference) is None


@pytest.mark.slow
def test_a_url_that_never_opens_is_told_in_the_sidecar(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(expire=True), match=Match(host="media", output="bad")))
    reference = add_run(simulator, OutputSpec("bad", "imageUrl"), OutputSpec("good", "imageUrl"))
    assert home.run("get", reference, timeout=120).returncode == 3
    assert len(simulator.asked("api", "run_a")) == 6
    sidecar = home.sidecar(reference)
    assert sidecar is not None
    assert sidecar["result"] == "partial"
    assert sidecar["outputs"][0]["error"]["code"] == "expired"
    assert sidecar["outputs"][1]["error"] is None
