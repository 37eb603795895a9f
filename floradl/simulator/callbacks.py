"""The webhooks of the simulated FLORA: signed, and tried again as FLORA does.

One POST to a run's `callback_url` when it ends: given up on after 10 s, four attempts, the later ones after
10 s, 1 min and 5 min (divided by the simulator's `speed`). Each attempt has the same id. Its signature is of
its own time, or with `webhook_signing: once` that of the first: FLORA's developer site can be read so, and
which FLORA does is not known. FLORA wants a public https address; here any http(s) URL will do. Source:
FLORA's reference of webhooks.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

import aiohttp
import msgspec

from floradl.simulator.runs import RunKind, ScriptedRun
from floradl.simulator.state import Attempt, Simulator

API_VERSION = "2026-06-11"
_TICK = 0.02  # seconds


def event_json(run: ScriptedRun, webhook_id: str) -> dict[str, Any]:
    """Write the body of the webhook of a run that ended."""
    data: dict[str, Any] = {
        "run_id": run.run_id,
        "run_type": "technique" if run.kind is RunKind.TECHNIQUE else "generation",
        "workspace_id": run.workspace_id,
        "status": "failed" if run.fail else "completed",
    }
    if run.fail:
        data["error_code"], data["error_message"] = run.fail
    return {
        "id": webhook_id,
        "type": f"run.{data['status']}",
        "api_version": API_VERSION,
        "created_at": round(run.ended * 1000),
        "data": data,
    }


def sign(body: bytes, keys: Iterable[str], now: float) -> str:
    """Return the header `Flora-Signature` of `body`, with one `v1` for each key; `now` is unix seconds."""
    signed = f"{int(now)}.".encode() + body
    digests = [hmac.new(key.encode(), signed, hashlib.sha256).hexdigest() for key in keys]
    return ",".join([f"t={int(now)}", *(f"v1={digest}" for digest in digests)])


async def send_callbacks(simulator: Simulator) -> None:
    """Send the webhook of each run that has a `callback_url` and ends; until it is cancelled."""
    timeout = aiohttp.ClientTimeout(total=simulator.webhook_timeout)
    waiting: list[ScriptedRun] = []
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as group:
        while True:
            while simulator.callbacks:
                waiting.append(simulator.callbacks.popleft())
            now = simulator.now()
            for run in [run for run in waiting if run.ended <= now]:
                waiting.remove(run)
                group.create_task(_deliver(simulator, session, run))
            await asyncio.sleep(_TICK)


async def _deliver(simulator: Simulator, session: aiohttp.ClientSession, run: ScriptedRun) -> None:
    event = event_json(run, f"whd_{secrets.token_hex(8)}")
    body = msgspec.json.encode(event)
    signature = sign(body, simulator.webhook_secrets, simulator.now())
    for number, delay in enumerate((0.0, *simulator.webhook_delays), 1):
        await asyncio.sleep(delay / simulator.speed)
        if simulator.webhook_signing == "each":
            signature = sign(body, simulator.webhook_secrets, simulator.now())
        headers = {
            "Content-Type": "application/json",
            "Flora-Signature": signature,
            "Flora-Webhook-Id": event["id"],
            "Flora-Event": event["type"],
        }
        status = await _post(session, run.callback_url or "", body, headers)
        simulator.attempts.append(Attempt(simulator.now(), run.run_id, event["id"], number, status))
        if 200 <= status < 300:
            return


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> int:
    """Return the status of the answer, 0 where none came."""
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0
