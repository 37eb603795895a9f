"""The simulated FLORA sends webhooks as FLORA does."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator

import anyio
import httpx
import pytest
from loopback import Server
from studio import TEST_TIMEOUT

from floradl.redaction import Secret
from floradl.simulator import Simulator, serve
from floradl.simulator.runs import WebhookSigning
from floradl.simulator.server import event_json, sign
from floradl.web.webhooks import parse_delivery, verify

pytestmark = pytest.mark.anyio

SPEED = 200.0


@pytest.fixture
async def flora() -> AsyncIterator[Simulator]:
    simulator = Simulator(speed=SPEED)
    async with serve(simulator):
        yield simulator


def answers(*statuses: bytes) -> Server:
    """Answer one request after the other so, and the last way from then on."""
    left = list(statuses)

    def answer(_: bytes) -> bytes:
        status = left.pop(0) if len(left) > 1 else left[0]
        return b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"

    return Server(answer)


async def attempts(simulator: Simulator, number: int) -> None:
    with anyio.fail_after(TEST_TIMEOUT):
        while len(simulator.attempts) < number:  # noqa: ASYNC110 - the simulator keeps a list, and no event
            await anyio.sleep(0.01)


async def test_a_run_that_ends_is_told_signed_and_once(flora: Simulator) -> None:
    with answers(b"200 OK") as receiver:
        flora.add_run("run_a", duration=1)
        flora.call_back("run_a", f"http://127.0.0.1:{receiver.port}/webhook?x=1")
        await attempts(flora, 1)
    assert [(one.run_id, one.number, one.status) for one in flora.attempts] == [("run_a", 1, 200)]
    head = receiver.heads[0].decode()
    headers = httpx.Headers(dict(line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line))
    assert head.startswith("POST /webhook?x=1 ")
    assert headers["Flora-Event"] == "run.completed"
    assert headers["Flora-Webhook-Id"] == flora.attempts[0].webhook_id


async def test_what_is_not_taken_comes_four_times_under_one_id(flora: Simulator) -> None:
    with answers(b"503 No") as receiver:
        flora.add_run("run_a", duration=0)
        flora.call_back("run_a", f"http://127.0.0.1:{receiver.port}/")
        began = flora.now()
        await attempts(flora, 4)
        await anyio.sleep(0.1)
    assert [(one.number, one.status) for one in flora.attempts] == [(1, 503), (2, 503), (3, 503), (4, 503)]
    assert len({one.webhook_id for one in flora.attempts}) == 1
    assert flora.attempts[-1].time - began >= 370 / SPEED


@pytest.mark.parametrize(("signing", "times"), [("each", 4), ("once", 1)])
async def test_each_attempt_is_signed_anew_or_all_at_once(signing: WebhookSigning, times: int) -> None:
    clock = iter(range(1_800_000_000, 1_900_000_000))
    simulator = Simulator(speed=SPEED, now=lambda: float(next(clock)), webhook_signing=signing)
    async with serve(simulator):
        with answers(b"503 No") as receiver:
            simulator.add_run("run_a", duration=0)
            simulator.call_back("run_a", f"http://127.0.0.1:{receiver.port}/")
            await attempts(simulator, 4)
    sent = [re.search(rb"Flora-Signature: t=([0-9]+),", head) for head in receiver.heads]
    assert len({found[1] for found in sent if found}) == times


async def test_it_ends_with_the_first_that_is_taken(flora: Simulator) -> None:
    with answers(b"500 No", b"204 OK") as receiver:
        flora.add_run("run_a", duration=0)
        flora.call_back("run_a", f"http://127.0.0.1:{receiver.port}/")
        await attempts(flora, 2)
        await anyio.sleep(100 / SPEED)
    assert [one.status for one in flora.attempts] == [500, 204]


async def test_a_receiver_that_is_away_is_tried_again(flora: Simulator, closed_port: int) -> None:
    flora.add_run("run_a", duration=0)
    flora.call_back("run_a", f"http://127.0.0.1:{closed_port}/")
    await attempts(flora, 4)
    assert [one.status for one in flora.attempts] == [0, 0, 0, 0]


async def test_whoever_starts_a_run_may_name_where_it_calls_back(flora: Simulator) -> None:
    headers = {"Authorization": f"Bearer {flora.key}"}
    with answers(b"200 OK") as receiver:
        url = f"http://127.0.0.1:{receiver.port}/"
        async with httpx.AsyncClient(
            base_url=flora.base_url, headers=headers, trust_env=False, timeout=TEST_TIMEOUT
        ) as api:
            body = {"mode": "async", "inputs": [], "callback_url": url}
            assert (await api.post("/techniques/campaign/runs", json=body)).status_code == 200
            prompt = {"type": "image", "prompt": "a", "workspace_id": "w", "project_id": "p"}
            assert (await api.post("/generate", json={**prompt, "callback_url": url})).status_code == 200
            named = {"technique_id": "campaign", "callback_url": url}
            assert (await api.post("/runs/technique", json=named)).status_code == 200
            refused = await api.post("/generate", json={**prompt, "callback_url": 7})
        await attempts(flora, 3)
    assert refused.json()["error"]["fields"][0]["field"] == "callback_url"


async def test_the_body_says_how_the_run_ended_and_every_secret_signs_it() -> None:
    simulator = Simulator(now=lambda: 1_800_000_000.0)
    simulator.add_run("run_bad", technique=None, duration=2, fail=("model_timeout", "Too slow."))
    run = simulator.run("run_bad")
    assert run is not None
    body = json.dumps(event_json(run, "whd_1")).encode()
    for secret in ("whsec_a", "whsec_b"):
        verify(sign(body, ["whsec_a", "whsec_b"], 1_800_000_003.5), body, [Secret(secret)], 1_800_000_003)
    delivery = parse_delivery(body)
    assert (delivery.id, delivery.type, delivery.order.reference.run_id) == ("whd_1", "run.failed", "run_bad")
    said = json.loads(body)
    assert said["created_at"] == 1_800_000_002_000
    assert said["data"] == {
        "run_id": "run_bad",
        "run_type": "generation",
        "workspace_id": "ws_simulator",
        "status": "failed",
        "error_code": "model_timeout",
        "error_message": "Too slow.",
    }
