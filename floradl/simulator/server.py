"""Serving a `Simulator` on loopback, in the caller's event loop, and its callbacks: FLORA's webhooks."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from typing import Any, Literal

import aiohttp
import msgspec
from aiohttp import web
from msgspec.structs import replace

from floradl.simulator.api import ApiHost
from floradl.simulator.delivery import (
    AnswerDelivery,
    Sent,
    StoredAnswer,
    laid_over,
    replacement,
    reset,
    send_plain,
    send_raw,
)
from floradl.simulator.faults import Facts
from floradl.simulator.media_host import MediaHost
from floradl.simulator.runs import RunKind, ScriptedRun
from floradl.simulator.state import Attempt, Counters, RequestRecord, Simulator

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
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            return response.status
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return 0


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Host = Literal["api", "media"]


class ServedRequest:
    """One request to one of the hosts, the fault that hits it, and its answer."""

    def __init__(self, simulator: Simulator, host: Host, request: web.Request) -> None:
        self._simulator = simulator
        self._host = host
        self._request = request
        self.do = simulator.faults.pick(facts(simulator, host, request), simulator.now())

    async def begin(self) -> StoredAnswer | web.StreamResponse | None:
        """Do what precedes an answer; return the fault's answer, or one that is over, or None."""
        if (do := self.do) is None:
            return None
        if do.delay:
            await asyncio.sleep(do.delay)
        transport = self._request.transport
        if do.reset and transport is not None:
            record(self._simulator, self._host, self._request, 0)
            reset(transport)
            return Sent()
        if not do.replaces:
            return None
        again = self._request.url.extend_query(again="1")
        media, base = self._simulator.media_url, self._simulator.base_url
        return replacement(do, self._host, {"media": media, "base": base, "again": str(again)})

    async def finish(self, answer: StoredAnswer, rate: float | None = None) -> web.StreamResponse:
        """Send `answer` as the fault, if any, wants it sent; `rate` is in bytes a second."""
        if self.do is not None:
            again = {} if self.do.retry_after is None else {"Retry-After": self.do.retry_after}
            answer = replace(answer, headers=laid_over(answer.headers, {**self.do.headers, **again}))
        delivery = AnswerDelivery.of(self.do, answer.length, rate)
        opened = _Opened(self._simulator.counters, self._host, answer.length)
        try:
            if delivery.plain:
                return await send_plain(self._request, answer, delivery.rate, opened.count)
            record(self._simulator, self._host, self._request, answer.status)
            if (transport := self._request.transport) is not None:
                head_only = self._request.method == "HEAD"
                await send_raw(transport, answer, delivery, opened.count, head_only=head_only)
            return Sent()
        finally:
            opened.close()


class _Opened:
    """A request that is open until its last bytes leave: who has them may send another at once."""

    def __init__(self, counters: Counters, host: Host, length: int) -> None:
        self._counters = counters
        self._host = host
        self._left = length
        self._open = True
        counters.opened(host, 1)

    def count(self, sent: int) -> None:
        if self._host == "media":
            self._counters.bytes_sent += sent
        self._left -= sent
        if self._left <= 0:
            self.close()

    def close(self) -> None:
        if self._open:
            self._counters.opened(self._host, -1)
        self._open = False


def facts(simulator: Simulator, host: Host, request: web.Request) -> Facts:
    """Return what a fault's rule may look at."""
    run_id, number = request.match_info.get("run_id"), int(request.match_info.get("number", "0"))
    run = simulator.run(run_id) if run_id is not None else None
    output = run.outputs[number - 1] if run is not None and 0 < number <= len(run.outputs) else None
    technique = run.technique if run else simulator.technique(request.match_info.get("technique", ""))
    return Facts(
        host=host,
        method=request.method,
        path=request.path,
        run_id=run_id,
        technique=technique,
        output_id=None if output is None else output.output_id,
        resumed="Range" in request.headers,
    )


def record(simulator: Simulator, host: Host, request: web.Request, status: int) -> None:
    """Write a request down as answered with `status` (0: the connection was broken)."""
    found = facts(simulator, host, request)
    simulator.record(
        RequestRecord(
            time=simulator.now(),
            host=host,
            method=request.method,
            path=request.path,
            status=status,
            authorization="Authorization" in request.headers,
            run_id=found.run_id,
            output_id=found.output_id,
            query=request.query_string if host == "api" else "",
            range=request.headers.get("Range"),
            accept_encoding=request.headers.get("Accept-Encoding"),
        )
    )


@asynccontextmanager
async def serve(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, media_port: int = 0
) -> AsyncIterator[str]:
    """Serve until the block ends; yields the API's base URL, `http://HOST:PORT/api/v1`.

    The media host has a port of its own, so that it is another origin. Port 0 takes a free one. Open
    connections are broken off at the end. Raises `OSError` if a port is taken.
    """
    media = _runner(MediaHost(simulator).application())
    api = _runner(ApiHost(simulator).application())
    try:
        simulator.media_url = await _listen(media, host, media_port)
        simulator.base_url = f"{await _listen(api, host, port)}/api/v1"
        callbacks = asyncio.create_task(send_callbacks(simulator))
        try:
            yield simulator.base_url
        finally:
            callbacks.cancel()
            with suppress(asyncio.CancelledError):
                await callbacks
    finally:
        await api.cleanup()
        await media.cleanup()


def _runner(app: web.Application) -> web.AppRunner:
    # A handler that waits (a stall, a throttled body) ends when its client goes away.
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    bound: tuple[str, int] = runner.addresses[0]
    return f"http://{host}:{bound[1]}"
