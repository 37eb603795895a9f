"""FLORA's own TypeScript library works against the simulator as it is: the simulator speaks FLORA's API."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import anyio
import npm
import pytest

from floradl.simulator import Simulator, serve

pytestmark = pytest.mark.node

LIBRARY = "@flora-ai/flora@0.11.0"
SCRIPT = Path(__file__).parent / "node" / "official_library.mjs"


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the library into a folder of its own, the script beside it."""
    folder = tmp_path_factory.mktemp("node")
    npm.install(LIBRARY, folder)
    shutil.copy(SCRIPT, folder)
    return folder


@pytest.fixture(scope="session")
def seen(workshop: Path) -> dict[str, Any]:
    """Run the script once; each test looks at a part of what it printed."""

    async def drive() -> bytes:
        simulator = Simulator(speed=20, webhook_secrets=["whsec_new", "whsec_old"])
        for number in range(23):
            simulator.add_run(f"run_{number:02}", technique="product-shot", duration=0)
        simulator.add_run("run_bad", duration=0, fail=("safety_blocked", "The prompt was refused."))
        for number in range(12):
            simulator.add_run(f"run_g{number:02}", technique=None, duration=0)
        async with serve(simulator) as base_url:
            environment = os.environ | {
                "FLORA_BASE_URL": base_url,
                "FLORA_API_KEY": simulator.key,
                "FLORA_WEBHOOK_SECRET": simulator.webhook_secrets[-1],
            }
            with anyio.fail_after(60):
                done = await anyio.run_process(
                    ["node", SCRIPT.name], cwd=workshop, env=environment, stderr=None
                )
        return done.stdout

    found: dict[str, Any] = json.loads(anyio.run(drive))
    return found


def test_a_technique_run_is_started_and_polled_until_it_is_completed(seen: dict[str, Any]) -> None:
    assert seen["started"]["status"] == "pending"
    assert seen["technique"]["run_id"] == seen["started"]["run_id"]
    assert seen["technique"]["status"] == "completed"
    assert len(seen["technique"]["outputs"]) == 5


def test_both_endpoints_give_the_same_run(seen: dict[str, Any]) -> None:
    without_urls = [
        {name: value for name, value in run.items() if name != "outputs"}
        for run in (seen["technique"], seen["retrieved"])
    ]
    assert without_urls[0] == without_urls[1]


def test_a_generation_is_started_and_completed(seen: dict[str, Any]) -> None:
    assert seen["receipt"]["type"] == "generation"
    assert seen["generation"]["status"] == "completed"


def test_a_technique_is_described(seen: dict[str, Any]) -> None:
    assert seen["described"]["outputs"][0]["type"] == "imageUrl"


def test_listing_runs_turns_the_pages_by_itself(seen: dict[str, Any]) -> None:
    assert seen["listed"][0] == seen["started"]["run_id"]
    assert set(seen["listed"][1:]) == {f"run_{number:02}" for number in range(23)} | {"run_bad"}
    assert len(seen["listed"]) == 25


def test_listing_generations_turns_the_pages_by_itself(seen: dict[str, Any]) -> None:
    assert len(seen["generations"]) == len(set(seen["generations"])) == 13


def test_listing_can_ask_for_what_failed(seen: dict[str, Any]) -> None:
    assert seen["failed"] == ["safety_blocked"]


def test_its_webhooks_are_accepted_each_time_while_the_secret_changes(seen: dict[str, Any]) -> None:
    first, second = seen["events"]
    assert first == second
    assert first["type"] == "run.completed"
    assert first["data"]["run_id"] == seen["called"]
    assert seen["forged"] == "WebhookVerificationError"


def test_an_output_is_fetched_from_its_url(seen: dict[str, Any]) -> None:
    assert seen["bytes"] == seen["length"] > 0


def test_answers_have_a_request_id(seen: dict[str, Any]) -> None:
    assert seen["requestId"].startswith("req_")


def test_refusals_become_the_librarys_errors(seen: dict[str, Any]) -> None:
    assert seen["unauthorized"]["name"] == "AuthenticationError"
    assert seen["unauthorized"]["code"] == "invalid_api_key"
    assert seen["missing"] == {"name": "NotFoundError", "status": 404, "code": "not_found"}
