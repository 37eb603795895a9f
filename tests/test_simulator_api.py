"""The simulated API answers as FLORA's does."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from studio import TEST_TIMEOUT

from floradl.simulator import OutputSpec, RunKind, ScriptedRun, Simulator, serve

pytestmark = pytest.mark.anyio


@dataclass
class Clock:
    at: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.at


@dataclass
class Flora:
    simulator: Simulator
    clock: Clock
    client: httpx.AsyncClient

    async def get(self, path: str, **query: str) -> httpx.Response:
        return await self.client.get(path, params=query)

    async def run(self, run_id: str) -> dict[str, Any]:
        answer = await self.get(f"/runs/{run_id}")
        assert answer.status_code == 200
        found: dict[str, Any] = answer.json()
        return found


@pytest.fixture
async def flora() -> AsyncIterator[Flora]:
    clock = Clock()
    simulator = Simulator(now=clock)
    async with (
        serve(simulator) as base_url,
        httpx.AsyncClient(
            base_url=base_url,
            headers={"Authorization": f"Bearer {simulator.key}"},
            trust_env=False,
            timeout=TEST_TIMEOUT,
        ) as client,
    ):
        yield Flora(simulator, clock, client)


async def test_a_run_goes_from_pending_over_running_to_completed(flora: Flora) -> None:
    flora.simulator.add_run("run_a", technique="product-shot", duration=10)
    seen = []
    for _second in range(12):
        answer = await flora.run("run_a")
        seen.append((answer["status"], answer["progress"]))
        flora.clock.at += 1
    statuses = [status for status, _ in seen]
    assert statuses == ["pending", *["running"] * 9, "completed", "completed"]
    assert [progress for _, progress in seen] == sorted(progress for _, progress in seen)
    assert seen[-1][1] == 100


async def test_a_lumpy_progress_jumps_stalls_and_goes_back(flora: Flora) -> None:
    flora.simulator.progress = "lumpy"
    flora.simulator.add_run("run_a", technique="product-shot", duration=40)
    seen = []
    for _second in range(40):
        seen.append((await flora.run("run_a"))["progress"])
        flora.clock.at += 1
    steps = [later - earlier for earlier, later in itertools.pairwise(seen)]
    assert max(steps) > 30
    assert min(steps) < 0
    assert steps.count(0) > 30
    assert max(seen) < 100
    assert (await flora.run("run_a"))["progress"] == 100


async def test_a_completed_run_has_the_fields_of_the_reference(flora: Flora) -> None:
    flora.simulator.add_run("run_a", technique="campaign", duration=4)
    flora.clock.at += 4
    answer = await flora.run("run_a")
    assert set(answer) == {
        "run_id", "status", "progress", "created_at", "started_at", "completed_at", "charged_cost", "outputs",
        "poll_url",
    }  # fmt: skip
    assert answer["completed_at"] - answer["created_at"] == 4
    assert [output["type"] for output in answer["outputs"]] == [
        "imageUrl", "videoUrl", "audioUrl", "documentUrl", "text",
    ]  # fmt: skip
    assert {frozenset(output) for output in answer["outputs"]} == {frozenset({"output_id", "type", "url"})}
    assert answer["outputs"][4]["url"] == "Grown, not made.\n"
    assert (await flora.client.get(answer["poll_url"])).json()["run_id"] == "run_a"


async def test_a_failed_run_names_its_reason_under_http_200(flora: Flora) -> None:
    flora.simulator.add_run("run_a", duration=1, fail=("safety_blocked", "The prompt was refused."))
    flora.clock.at += 1
    answer = await flora.run("run_a")
    assert (answer["status"], answer["error_code"]) == ("failed", "safety_blocked")
    assert answer["error_message"] == "The prompt was refused."
    assert "outputs" not in answer


async def test_speed_compresses_durations(flora: Flora) -> None:
    flora.simulator.speed = 10
    flora.simulator.add_run("run_a", duration=10)
    flora.clock.at += 1
    assert (await flora.run("run_a"))["status"] == "completed"


async def test_times_can_be_milliseconds(flora: Flora) -> None:
    flora.simulator.time_unit = "ms"
    flora.simulator.add_run("run_a")
    assert (await flora.run("run_a"))["created_at"] == 1_800_000_000_000


async def test_a_technique_run_answers_under_slug_and_id_and_no_other_technique(flora: Flora) -> None:
    flora.simulator.add_run("run_a", technique="product-shot")
    technique = flora.simulator.add_technique("product-shot")
    for name, status in (("product-shot", 200), (technique.technique_id, 200), ("camera-move", 404)):
        assert (await flora.get(f"/techniques/{name}/runs/run_a")).status_code == status


async def test_generations_and_actions_answer_under_runs_alone(flora: Flora) -> None:
    flora.simulator.add_run("run_g", technique=None)
    flora.simulator.add(ScriptedRun(run_id="run_x", kind=RunKind.ACTION, created=0, duration=1))
    for run_id in ("run_g", "run_x"):
        assert (await flora.get(f"/runs/{run_id}")).status_code == 200
        assert (await flora.get(f"/techniques/product-shot/runs/{run_id}")).status_code == 404


@pytest.mark.parametrize(
    ("authorization", "code"),
    [(None, "unauthorized"), ("Basic abc", "unauthorized"), ("Bearer sk_test_wrong", "invalid_api_key")],
)
async def test_a_wrong_key_is_refused_with_the_error_envelope(
    flora: Flora, authorization: str | None, code: str
) -> None:
    del flora.client.headers["Authorization"]
    headers = {"Authorization": authorization} if authorization else {}
    answer = await flora.client.get("/runs/run_a", headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == code
    assert set(answer.json()["error"]) == {"code", "message"}


@pytest.mark.parametrize("path", ["/runs/run_unknown", "/techniques/unknown", "/nowhere"])
async def test_what_is_not_there_is_a_404_in_the_envelope(flora: Flora, path: str) -> None:
    answer = await flora.get(path)
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "not_found"


async def test_every_answer_has_a_request_id_of_its_own(flora: Flora) -> None:
    answers = [await flora.get(path) for path in ("/workspaces", "/runs/run_unknown", "/nowhere")]
    ids = {answer.headers["request-id"] for answer in answers}
    assert len(ids) == 3
    assert all(name.startswith("req_") for name in ids)


async def test_listing_gives_pages_newest_first_until_the_cursor_ends(flora: Flora) -> None:
    for number in range(7):
        flora.simulator.add_run(f"run_{number}", created=flora.clock.at + number)
    flora.simulator.add_run("run_g", technique=None)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = (await flora.get("/technique-runs", limit="3", cursor=cursor)).json()
        assert len(page["technique_runs"]) <= 3
        seen += [run["technique_run_id"] for run in page["technique_runs"]]
        cursor = page["meta"]["next_cursor"]
    assert seen == [f"run_{number}" for number in reversed(range(7))]


async def test_a_last_page_that_is_full_has_no_cursor(flora: Flora) -> None:
    for _run in range(3):
        flora.simulator.add_run()
    page = (await flora.get("/technique-runs", limit="3")).json()
    assert len(page["technique_runs"]) == 3
    assert page["meta"]["next_cursor"] is None


async def test_runs_of_the_same_moment_are_listed_once_each(flora: Flora) -> None:
    names = {flora.simulator.add_run(f"run_{number}").run_id for number in range(5)}
    first = (await flora.get("/technique-runs", limit="2")).json()
    second = (await flora.get("/technique-runs", limit="9", cursor=first["meta"]["next_cursor"])).json()
    listed = [run["run_id"] for run in first["technique_runs"] + second["technique_runs"]]
    assert len(listed) == 5
    assert set(listed) == names


async def test_a_run_that_starts_between_two_pages_moves_nothing(flora: Flora) -> None:
    for number in range(4):
        flora.simulator.add_run(f"run_{number}", created=flora.clock.at + number)
    first = (await flora.get("/technique-runs", limit="2")).json()
    flora.simulator.add_run("run_new", created=flora.clock.at + 9)
    second = (await flora.get("/technique-runs", limit="2", cursor=first["meta"]["next_cursor"])).json()
    assert [run["run_id"] for run in second["technique_runs"]] == ["run_1", "run_0"]


async def test_a_listed_run_says_where_it_belongs(flora: Flora) -> None:
    flora.simulator.add_run("run_a", technique="product-shot")
    flora.simulator.add_run("run_g", technique=None)
    (run,) = (await flora.get("/technique-runs")).json()["technique_runs"]
    assert run["technique"]["technique_id"].startswith("tech_")
    assert run["technique"]["name"] == "Product shot"
    assert (run["workspace_id"], run["project_id"]) == ("ws_simulator", "prj_simulator")
    (generation,) = (await flora.get("/generations")).json()["generations"]
    assert generation["generation_id"] == "run_g"


async def test_listings_are_filtered_by_status_technique_and_project(flora: Flora) -> None:
    flora.simulator.add_run("run_done", technique="product-shot", duration=0)
    flora.simulator.add_run("run_open", technique="camera-move", duration=9)
    technique = flora.simulator.add_technique("camera-move")
    for query, expected in (
        ({"status": "completed"}, ["run_done"]),
        ({"technique_id": technique.technique_id}, ["run_open"]),
        ({"project_id": "prj_other"}, []),
        ({"workspace_id": "ws_simulator", "status": "pending"}, ["run_open"]),
    ):
        page = (await flora.get("/technique-runs", **query)).json()
        assert [run["run_id"] for run in page["technique_runs"]] == expected


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"limit": "0"}, "limit"),
        ({"limit": "x"}, "limit"),
        ({"cursor": "x"}, "cursor"),
        ({"status": "x"}, "status"),
    ],
)
async def test_a_wrong_query_is_a_400_that_names_the_field(
    flora: Flora, query: dict[str, str], field: str
) -> None:
    answer = await flora.get("/technique-runs", **query)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "input_validation_error"
    assert answer.json()["error"]["fields"][0]["field"] == field


async def test_a_limit_over_the_most_is_cut_to_it(flora: Flora) -> None:
    flora.simulator.page_limit = 2
    for _run in range(3):
        flora.simulator.add_run()
    assert len((await flora.get("/technique-runs", limit="500")).json()["technique_runs"]) == 2


async def test_a_key_that_may_not_list_gets_a_403(flora: Flora) -> None:
    flora.simulator.listing = False
    answer = await flora.get("/technique-runs")
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")


async def test_beyond_the_rate_limit_there_is_a_429_that_says_when(flora: Flora) -> None:
    flora.simulator.rate_limit, flora.simulator.rate_burst = 0.25, 2
    assert [(await flora.get("/workspaces")).status_code for _try in range(3)] == [200, 200, 429]
    answer = await flora.get("/workspaces")
    assert answer.json()["error"]["code"] == "rate_limited"
    flora.clock.at += int(answer.headers["retry-after"])
    assert (await flora.get("/workspaces")).status_code == 200


async def test_a_technique_is_described_and_a_run_of_it_can_be_started(flora: Flora) -> None:
    technique = (await flora.get("/techniques/campaign")).json()
    assert [output["type"] for output in technique["outputs"]] == [
        "imageUrl", "videoUrl", "audioUrl", "documentUrl", "text",
    ]  # fmt: skip
    body = {"inputs": [{"id": "prompt", "type": "text", "value": "a mug"}], "mode": "async"}
    started = (await flora.client.post("/techniques/campaign/runs", json=body)).json()
    assert (started["status"], started["progress"]) == ("pending", 0)
    flora.clock.at += 60
    assert len((await flora.run(started["run_id"]))["outputs"]) == 5


async def test_a_generation_can_be_started(flora: Flora) -> None:
    body = {"type": "audio", "prompt": "rain", "workspace_id": "ws_1", "project_id": "prj_1"}
    receipt = (await flora.client.post("/generate", json=body)).json()
    assert (receipt["type"], receipt["project_id"]) == ("generation", "prj_1")
    flora.clock.at += 60
    assert (await flora.run(receipt["run_id"]))["outputs"][0]["type"] == "audioUrl"


async def test_an_idempotency_key_starts_one_run(flora: Flora) -> None:
    body = {"inputs": [], "mode": "async"}
    headers = {"Idempotency-Key": "once"}
    first, second = [
        await flora.client.post("/techniques/campaign/runs", json=body, headers=headers) for _try in range(2)
    ]
    assert (first.status_code, second.status_code) == (200, 409)
    assert second.json()["error"]["code"] == "idempotency_duplicate"


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "invalid_json"), (b"[]", "input_validation_error"), (b"{}", "input_validation_error")],
)
async def test_a_bad_body_is_a_400(flora: Flora, content: bytes, code: str) -> None:
    answer = await flora.client.post("/techniques/campaign/runs", content=content)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, code)


async def test_a_run_id_with_odd_characters_is_found(flora: Flora) -> None:
    run = flora.simulator.add_run("run_ä%2F.b", duration=0, outputs=[OutputSpec()])
    answer = (await flora.client.get("/runs/run_%C3%A4%252F.b")).json()
    assert answer["run_id"] == run.run_id
    assert (await flora.client.get(answer["poll_url"])).json()["run_id"] == run.run_id
    assert (await flora.client.get(answer["outputs"][0]["url"])).status_code == 200


async def test_two_runs_cannot_have_one_id(flora: Flora) -> None:
    flora.simulator.add_run("run_a")
    with pytest.raises(ValueError, match="already"):
        flora.simulator.add_run("run_a")


async def test_every_request_is_logged_before_its_answer_arrives(flora: Flora) -> None:
    flora.simulator.add_run("run_a")
    await flora.run("run_a")
    (record,) = flora.simulator.asked("api", "run_a")
    assert (record.method, record.path, record.status) == ("GET", "/api/v1/runs/run_a", 200)
    assert record.authorization
    assert flora.simulator.key not in repr(flora.simulator.requests)
    await flora.get("/technique-runs", status="pending")
    assert flora.simulator.requests[-1].query == "status=pending"
    assert flora.simulator.counters.api == 2
