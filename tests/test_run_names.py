"""What a run belongs to, and the technique under which it is filed: read from every answer."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import anyio
import pytest
from memory_queue import MemoryQueue
from msgspec.structs import replace
from polling import Clock, World
from queues import serving
from studio import Home, check_library, until, wait_until

from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.flora.schema import RunPage, decode_page, decode_run, decode_technique, technique_of
from floradl.flora.technique_names import TechniqueNames
from floradl.models import QueuedRun, Reference, RemoteOutput, RemoteRun, RunNames, RunState
from floradl.polling.poller import PollOptions
from floradl.runs.backfill import TechniqueLookup
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

pytestmark = pytest.mark.anyio
OUTPUTS = (RemoteOutput("a", "text", "words"),)
PICTURE = (OutputSpec("a", "imageUrl", size=3000),)
API = "https://app.flora.ai/api/v1"
CAMPAIGN = RunNames(technique_id="tech_1", technique_name="Campaign")


def listed(**fields: Any) -> RemoteRun:
    run = {"run_id": "run_a", "status": "running", **fields}
    return decode_page(json.dumps({"technique_runs": [run], "meta": {}}).encode(), "technique_runs").runs[0]


# Answers


def test_a_listed_run_says_its_technique_workspace_and_project() -> None:
    run = listed(
        technique={"technique_id": "tech_1", "name": "Campaign"},
        workspace_id="ws_1",
        project_id="prj_1",
    )
    assert run.names == RunNames(
        technique_id="tech_1", technique_name="Campaign", workspace_id="ws_1", project_id="prj_1"
    )


def test_a_listed_generation_says_its_model_and_one_without_a_model_is_read() -> None:
    assert listed(model={"model_id": "flux-2"}).names.model_id == "flux-2"
    assert listed(model={"model_id": None}).names == listed(model=None).names == RunNames()


def test_names_in_camel_case_are_read() -> None:
    body = {
        "runId": "run_a",
        "status": "running",
        "technique": {"techniqueId": "tech_1", "name": "Campaign"},
        "workspaceId": "ws_1",
        "projectId": "prj_1",
        "model": {"modelId": "flux-2"},
    }
    names = decode_run(json.dumps(body).encode(), "run_a").names
    assert names == RunNames("tech_1", "Campaign", "ws_1", "prj_1", None, "flux-2")


def test_names_that_are_no_texts_are_left_out_and_long_ones_are_cut() -> None:
    names = listed(technique={"technique_id": 7, "name": []}, project_id="p" * 5000, workspace_id="").names
    assert (names.technique_id, names.technique_name, names.workspace_id) == (None, None, None)
    assert len(names.project_id or "") == 1000


def test_a_technique_is_named_by_poll_url_before_its_id() -> None:
    technique = {"technique_id": "tech_1", "name": "Campaign"}
    assert technique_of(listed(technique=technique)) == "tech_1"
    polled = listed(technique=technique, poll_url=f"{API}/techniques/campaign/runs/run_a?token=x")
    assert technique_of(polled) == "campaign"


def test_a_technique_that_is_none_is_not_taken_from_an_answer() -> None:
    other = listed(poll_url=f"{API}/techniques/campaign/runs/run_b")
    assert technique_of(other) is None
    assert technique_of(listed(poll_url=f"{API}/runs/run_a")) is None
    assert technique_of(listed(technique={"technique_id": "a/b"})) is None
    assert technique_of(listed(poll_url="no url")) is None


def test_an_answer_about_a_technique_is_read_or_refused() -> None:
    assert decode_technique(b'{"technique_id": "tech_1", "name": "Campaign"}') == CAMPAIGN
    assert decode_technique(b'{"techniqueId": "tech_1"}') == RunNames(technique_id="tech_1")
    for body in (b"[]", b"null", b"{", b'{"name": "x"}', b"\xff"):
        assert decode_technique(body) is None


# The poller


class Api:
    """Answers with the run that it holds; lists are refused."""

    def __init__(self, answer: RemoteRun) -> None:
        self.answer = answer

    async def run(self, reference: Reference) -> RemoteRun:  # noqa: ARG002 - a protocol
        return self.answer

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        raise PermanentError(f"no list {kind} {cursor}", ErrorCode.BAD_REQUEST)


def answer(**fields: Any) -> RemoteRun:
    return RemoteRun("run_a", "completed", 100.0, None, outputs=OUTPUTS, **fields)


async def test_a_bare_run_gets_its_technique_and_names_from_the_answer_before_it_is_saved() -> None:
    names = RunNames(project_id="prj_1")
    world = World(Api(answer(poll_url=f"{API}/techniques/campaign/runs/run_a", names=names)), Clock())
    await world.poll("run_a", technique=None)
    assert (world.finished["run_a"].run.technique, world.finished["run_a"].run.names) == ("campaign", names)
    row = await world.rows.get("run_a")
    assert row is not None
    assert (row.technique, row.names) == ("campaign", names)


async def test_the_technique_of_the_reference_stays_whatever_an_answer_says() -> None:
    world = World(Api(answer(poll_url=f"{API}/techniques/campaign/runs/run_a")), Clock())
    await world.poll("run_a", technique="mine")
    assert world.finished["run_a"].run.technique == "mine"


async def test_a_run_that_was_found_to_have_ended_keeps_its_paths_when_it_is_polled_again() -> None:
    world = World(Api(answer(poll_url=f"{API}/techniques/campaign/runs/run_a", names=CAMPAIGN)), Clock())
    world.make_due("run_a", technique=None)
    under_way = QueuedRun(run_id="run_a", state=RunState.DOWNLOADING, queued_at=0.0, detected_at=5.0)
    await world.rows.update(under_way, 5.0)
    async with world.serving():
        await world.answered(["run_a"])
    assert (world.finished["run_a"].run.technique, world.finished["run_a"].run.names) == (None, RunNames())


async def test_an_unfinished_run_keeps_the_names_that_only_an_earlier_answer_had() -> None:
    api = Api(RemoteRun("run_a", "running", 10.0, None, names=CAMPAIGN))
    world = World(api, Clock())
    await world.poll("run_a")
    api.answer = RemoteRun("run_a", "running", 20.0, None, names=RunNames(project_id="prj_1"))
    world.went_on = set()
    world.open_runs.poll_now("run_a")
    async with world.serving():
        await world.answered(["run_a"])
    row = await world.rows.get("run_a")
    assert row is not None
    assert row.names == RunNames(technique_id="tech_1", technique_name="Campaign", project_id="prj_1")


class Missing(Api):
    """Knows no run."""

    async def run(self, reference: Reference) -> RemoteRun:
        raise TransientError(f"404 for {reference}", ErrorCode.NOT_FOUND)


async def test_a_run_that_flora_does_not_know_is_given_up_after_so_many_missing_tries() -> None:
    world = World(Missing(answer()), Clock())
    world.poller._options = PollOptions(86_400.0, missing_tries=1)
    await world.poll("run_a")
    assert world.troubles == {"run_a": 2.0}
    world.open_runs.poll_now("run_a")
    async with world.serving():
        await until(lambda: "run_a" in world.finished)
    failure = world.finished["run_a"].failure
    assert failure is not None
    assert failure.code is ErrorCode.NOT_FOUND


# The names of techniques


def test_what_a_list_says_of_a_technique_names_later_answers_by_slug_and_by_id() -> None:
    names = TechniqueNames()
    names.learn(answer(poll_url=f"{API}/techniques/campaign/runs/run_a", names=CAMPAIGN))
    assert names.add_to(answer(), "campaign").names == CAMPAIGN
    assert names.add_to(answer(), "tech_1").names == CAMPAIGN
    assert names.next_wanted() is None


def test_a_technique_without_a_name_is_wanted_once_and_not_after_it_is_known() -> None:
    names = TechniqueNames()
    for _ in range(3):
        assert names.add_to(answer(), "campaign").names == RunNames()
    assert names.next_wanted() == "campaign"
    names.keep("campaign", CAMPAIGN)
    assert names.next_wanted() is None
    assert names.add_to(answer(), "campaign").names == CAMPAIGN


def test_a_technique_that_flora_does_not_know_is_not_wanted_again_nor_saved() -> None:
    names = TechniqueNames()
    names.add_to(answer(), "gone")
    names.keep("gone", RunNames())
    names.add_to(answer(), "gone")
    assert names.next_wanted() is None
    assert names.take_unsaved() == {}


def test_a_run_under_a_wrong_technique_does_not_get_that_technique_s_name() -> None:
    names = TechniqueNames({"campaign": CAMPAIGN})
    run = QueuedRun(run_id="run_a", technique="campaign", queued_at=0.0)
    assert names.of_run(run) == CAMPAIGN
    other = answer(poll_url=f"{API}/techniques/product-shot/runs/run_a")
    assert names.of_run(run, other) == RunNames()
    assert "'campaign', but under 'product-shot'" in names.wrong["run_a"]


def test_a_slug_and_an_id_of_one_technique_are_no_contradiction() -> None:
    names = TechniqueNames()
    polled = answer(poll_url=f"{API}/techniques/campaign/runs/run_a", names=CAMPAIGN)
    for technique in ("campaign", "tech_1", None):
        names.of_run(QueuedRun(run_id="run_a", technique=technique, queued_at=0.0), polled)
    names.of_run(QueuedRun(run_id="run_a", technique="tech_9", queued_at=0.0), answer())
    names.of_run(QueuedRun(run_id="run_a", technique="campaign", queued_at=0.0), answer(names=CAMPAIGN))
    assert names.wrong == {}
    names.of_run(QueuedRun(run_id="run_a", technique="tech_9", queued_at=0.0), polled)
    assert list(names.wrong) == ["run_a"]


class Techniques:
    """Knows one technique; notes what it is asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def technique(self, name: str) -> RunNames:
        self.asked.append(name)
        if name != "campaign":
            raise TransientError("404", ErrorCode.NOT_FOUND)
        return CAMPAIGN


async def test_a_name_that_was_asked_for_is_kept_over_a_restart() -> None:
    flora: Any = Techniques()
    async with serving(MemoryQueue()) as queue, anyio.create_task_group() as group:
        names = TechniqueNames(await queue.technique_names())
        names.add_to(answer(), "campaign")
        breaker = World(Api(answer()), Clock()).breaker
        group.start_soon(TechniqueLookup(flora, names, breaker, queue).serve)
        with anyio.fail_after(60):
            while not await queue.technique_names():  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.005)
            # The run ended before its technique had a name: its sidecar is completed.
            while await queue.incomplete_ids(5) != ["run_a"]:  # noqa: ASYNC110 - as above
                await anyio.sleep(0.005)
        again = TechniqueNames(await queue.technique_names())
        assert again.add_to(answer(), "campaign").names == CAMPAIGN
        assert again.next_wanted() is None
        group.cancel_scope.cancel()
    assert flora.asked == ["campaign"]


# As a user sees it


def test_runs_by_bare_id_are_filed_under_their_techniques_and_say_what_they_belong_to(
    home: Home, simulator: Simulator
) -> None:
    runs = [f"run_{number}" for number in range(30)]
    for run_id in runs:
        simulator.add_run(run_id, technique="campaign", outputs=PICTURE, duration=0)
    assert home.run("get", *runs).returncode == 0
    for run_id in runs:
        sidecar = home.sidecar(f"campaign/{run_id}")
        assert sidecar is not None
        assert sidecar["outputs"][0]["path"] == f"images/campaign/{run_id}-a.png"
        assert (sidecar["technique_name"], sidecar["workspace_id"], sidecar["project_id"]) == (
            "Campaign",
            "ws_simulator",
            "prj_simulator",
        )
        assert sidecar["technique_id"].startswith("tech_")
    assert len(simulator.asked("api")) <= 2
    check_library(home, simulator)


def test_the_technique_s_name_is_asked_for_once_and_not_again_after_a_restart(
    home: Home, simulator: Simulator
) -> None:
    def names_asked() -> int:
        return sum(request.path.endswith("/techniques/campaign") for request in simulator.asked("api"))

    def is_named(reference: str) -> bool:
        return (home.sidecar(reference) or {}).get("technique_name") == "Campaign"

    for number in range(2):
        run_id = f"run_{number}"
        simulator.add_run(run_id, technique="campaign", outputs=PICTURE, duration=0)
        with home.daemon():
            home.drop(run_id, f"{run_id}.txt")
            home.finished(f"campaign/{run_id}")
            # It may come after the end: then the sidecar is completed.
            wait_until(partial(is_named, f"campaign/{run_id}"))
    assert names_asked() == 1


def test_a_right_run_under_a_wrong_technique_is_downloaded_and_both_are_named(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="product-shot", outputs=PICTURE, duration=0)
    done = home.run("get", "campaign/run_a")
    assert done.returncode == 0
    assert "no run_a under the technique 'campaign', but under 'product-shot'" in done.stderr
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["result"] == "complete"
    assert sidecar["technique_name"] != "Campaign"
    check_library(home, simulator)


def test_a_list_that_shows_a_run_of_another_technique_is_warned_about_too(
    home: Home, simulator: Simulator
) -> None:
    for number in range(3):
        simulator.add_run(f"run_{number}", technique="product-shot", outputs=PICTURE, duration=0)
    done = home.run("get", "campaign/run_0", "run_1", "run_2")
    assert done.returncode == 0
    assert done.stderr.count("no run_0 under the technique 'campaign', but under 'product-shot'") == 1
    assert "no run_1" not in done.stderr
    check_library(home, simulator)


def test_a_run_under_a_wrong_technique_gets_fresh_urls_too(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="product-shot", outputs=PICTURE, duration=0)
    simulator.faults.add(Fault(match=Match(host="media"), times=1, do=Do(expire=True)))
    assert home.run("get", "campaign/run_a").returncode == 0
    check_library(home, simulator)


def test_a_run_that_a_webhook_or_job_names_by_id_alone_stands_under_its_technique_in_status(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=3600)
    with home.daemon():
        home.drop("run_a")
        found = wait_until(lambda: [r for r in home.status()["runs"] if r["state"] == "running"])
    assert found[0]["reference"] == "campaign/run_a"


def test_after_a_restart_a_run_under_a_wrong_technique_does_not_get_that_technique_s_name_either() -> None:
    names = TechniqueNames({"campaign": RunNames(technique_id="tech_1", technique_name="Campaign")})
    of_another = RunNames(technique_id="tech_2")
    run = QueuedRun(run_id="run_a", technique="campaign", queued_at=0.0, names=of_another)
    assert names.of_run(run) == of_another
    assert names.of_run(replace(run, names=RunNames())).technique_name == "Campaign"
