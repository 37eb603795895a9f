"""Bad days at FLORA's API and at the media host, and what the whole program makes of them."""

from __future__ import annotations

import itertools
import time
from typing import Literal, TypeAlias

import pytest
from studio import Home, check_library, wait_until

from floradl.simulator import Do, Fault, FaultBook, Match, OutputSpec, Simulator

IMAGE = OutputSpec("picture", "imageUrl")
API = Match(host="api")
Host: TypeAlias = Literal["api", "media"]


def add_runs(simulator: Simulator, count: int) -> list[str]:
    names = (f"run_{number:03}" for number in range(count))
    return [str(simulator.add_run(name, technique="t", outputs=[IMAGE], duration=0.1)) for name in names]


def work_off(home: Home, references: list[str]) -> None:
    home.drop("\n".join(references))
    done = home.run("once")
    assert done.returncode == 0, done.stderr
    assert home.status()["counts"]["done"] == len(references)


@pytest.mark.parametrize(("host", "status"), [("api", 429), ("api", 503), ("media", 429)])
def test_no_request_comes_before_the_time_that_retry_after_names(
    home: Home, simulator: Simulator, host: Host, status: int
) -> None:
    match = Match(host=host)
    simulator.faults.add(Fault(do=Do(status=status, retry_after="2"), match=match, times=1))
    home.environ["FLORADL_DOWNLOAD__CONCURRENCY"] = "4"
    work_off(home, add_runs(simulator, 12))
    records = simulator.asked(host)
    first = next(record.time for record in records if record.status == status)
    # What was on its way already, when the answer came, cannot be called back: that is none at the API,
    # where the list was asked for alone, and no more of the media than may be downloaded at a time.
    on_the_way = 0 if host == "api" else 3
    assert len([record for record in records if first < record.time < first + 1.99]) <= on_the_way
    check_library(home, simulator)


def test_a_retry_after_that_is_a_date_is_honoured(home: Home, simulator: Simulator) -> None:
    until = int(time.time() + 4)
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(until))
    simulator.faults.add(Fault(do=Do(status=429, retry_after=date), match=API, times=1))
    work_off(home, add_runs(simulator, 3))
    times = [record.time for record in simulator.asked("api")]
    assert times[1] >= until - 0.1


@pytest.mark.parametrize(("host", "status"), [("api", 500), ("media", 502)])
def test_a_storm_without_retry_after_makes_no_tight_loop(
    home: Home, simulator: Simulator, host: Host, status: int
) -> None:
    simulator.faults.add(Fault(do=Do(status=status, html=True), match=Match(host=host), seconds=1.5))
    work_off(home, add_runs(simulator, 5))
    records = [record for record in simulator.asked(host) if record.status == status]
    # Each of five comes back after a second or two; a list may be tried beside them.
    assert 5 <= len(records) <= 20
    check_library(home, simulator)


def test_a_storm_of_429_without_retry_after_makes_no_tight_loop(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(status=429), match=API, times=1))
    work_off(home, add_runs(simulator, 3))
    times = [record.time for record in simulator.asked("api")]
    assert times[1] - times[0] >= 5.0
    check_library(home, simulator)


NONSENSE = [
    Do(status=502, html=True),
    Do(html=True),
    Do(cut_json="50%"),
    Do(cut_after="50%"),
    Do(body="null"),
    Do(body="", status=204),
    Do(missing_field="status"),
    Do(wrong_type="outputs"),
    Do(redirect="{again}"),
    Do(reset=True),
]


def test_answers_that_make_no_sense_cost_nothing_but_time(home: Home, simulator: Simulator) -> None:
    references = add_runs(simulator, len(NONSENSE))
    for do, reference in zip(NONSENSE, references, strict=True):
        run_id = reference.removeprefix("t/")
        simulator.faults.add(Fault(do=do, match=Match(host="api", run=run_id), times=2))
    simulator.faults.add(Fault(do=Do(html=True), match=Match(path="*/technique-runs")))
    work_off(home, references)
    assert {len(simulator.asked("api", reference.removeprefix("t/"))) for reference in references} == {3}
    check_library(home, simulator)


# --- pauses -------------------------------------------------------------------------------------------------


def paused(home: Home) -> str | None:
    state = home.status()["paused"]
    return state["reason"] if state else None


def test_a_refused_key_stops_the_questions_and_a_new_one_is_picked_up(
    home: Home, simulator: Simulator
) -> None:
    key_file = home.path / "key"
    key_file.write_text("sk_test_wrong")
    settings = {"FLORA_API_KEY": "", "FLORA_API_KEY_FILE": str(key_file)}
    references = add_runs(simulator, 100)
    home.drop("\n".join(references))
    with home.daemon(**settings):
        reason = wait_until(lambda: paused(home))
        assert reason == "key_refused"
        assert home.run("status", "--check").returncode == 0
        time_of_pause = time.monotonic()
        wait_until(lambda: time.monotonic() - time_of_pause > 2)
        # As many as were under way together, the lists, and a look now and then whether it is mended.
        assert len(simulator.asked("api")) <= 15
        key_file.write_text(simulator.key)
        wait_until(lambda: not paused(home))
        for reference in references:
            home.finished(reference)
    assert len(home.events("paused")) == 1
    assert len(home.events("resumed")) == 1
    assert "sk_test_wrong" not in (home.path / "daemon.log").read_text()
    check_library(home, simulator)


def test_no_credits_pause_all_and_a_pause_lifts_by_itself(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(status=402), match=API, seconds=1.5))
    references = add_runs(simulator, 20)
    home.drop("\n".join(references))
    with home.daemon():
        assert wait_until(lambda: paused(home)) == "credits"
        for reference in references:
            home.finished(reference)
        wait_until(lambda: not paused(home))
    assert len(home.events("paused")) == 1
    refused = [record for record in simulator.asked("api") if record.status == 402]
    assert len(refused) <= 15


def test_one_run_that_is_forbidden_stops_no_other(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(status=403), match=Match(host="api", run="run_000")))
    references = add_runs(simulator, 4)
    home.drop("\n".join(references))
    with home.daemon(FLORADL_POLL__INTERVAL="200ms"):
        for reference in references[1:]:
            home.finished(reference)
        assert paused(home) is None
    assert home.events("paused") == []


def test_a_key_that_may_read_no_run_pauses_all(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(status=403), match=API))
    references = add_runs(simulator, 5)
    home.drop("\n".join(references))
    with home.daemon():
        assert wait_until(lambda: paused(home)) == "key_refused"
        simulator.faults = FaultBook()
        for reference in references:
            home.finished(reference)
    assert len(home.events("paused")) == 1
    check_library(home, simulator)


def test_the_media_host_never_sees_the_key_and_the_api_always_does(home: Home, simulator: Simulator) -> None:
    work_off(home, add_runs(simulator, 3))
    assert {record.authorization for record in simulator.asked("media")} == {False}
    assert {record.authorization for record in simulator.asked("api")} == {True}


# --- slow ---------------------------------------------------------------------------------------------------


def test_transfers_that_hang_are_tried_again_while_others_go_on(home: Home, simulator: Simulator) -> None:
    hanging = [Do(drip=20), Do(stall_after="50%"), Do(delay=60)]
    for number, do in enumerate(hanging):
        simulator.faults.add(Fault(do=do, match=Match(run=f"run_{number:03}", host="media"), times=1))
    references = add_runs(simulator, 8)
    home.drop("\n".join(references))
    with home.daemon(FLORADL_DOWNLOAD__STALL_TIMEOUT="2s", FLORADL_DOWNLOAD__CONCURRENCY="4"):
        for reference in references:
            assert home.finished(reference)["result"] == "complete"
    asked = [
        [record.time for record in simulator.asked("media", reference.removeprefix("t/"))]
        for reference in references
    ]
    others = [times[0] for times in asked[len(hanging) :]]
    for times in asked[: len(hanging)]:
        assert all(max(others) < again for again in times[1:])
        assert all(later - sooner < 10 for sooner, later in itertools.pairwise(times))
    check_library(home, simulator)


@pytest.mark.slow
def test_a_download_that_is_never_done_is_given_up(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(do=Do(stall_after=0), match=Match(output="picture", host="media")))
    simulator.add_run("run_a", technique="t", outputs=[IMAGE, OutputSpec("clip", "videoUrl")], duration=0.1)
    home.drop("t/run_a")
    settings = {"FLORADL_DOWNLOAD__STALL_TIMEOUT": "1s", "FLORADL_POLL__GIVE_UP_AFTER": "10s"}
    assert home.run("once", timeout=90, **settings).returncode == 3
    sidecar = home.sidecar("t/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "partial"
    assert sidecar["outputs"][0]["error"]["code"] == "network"
    assert sidecar["outputs"][1]["error"] is None
