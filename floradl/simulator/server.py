"""Serving a `Simulator` on loopback, in the caller's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Literal

from aiohttp import web
from msgspec.structs import replace

from floradl.simulator.api import ApiHost
from floradl.simulator.callbacks import send_callbacks
from floradl.simulator.delivery import AnswerDelivery, Sent, reset, send_plain, send_raw
from floradl.simulator.fault_answers import replacement
from floradl.simulator.faults import Do, Facts
from floradl.simulator.media_host import MediaHost
from floradl.simulator.ranges import StoredAnswer, laid_over
from floradl.simulator.state import Counters, RequestRecord, Simulator

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
        """Do what the fault wants done before anything is answered.

        Give its answer, or a response that is over already; `None` if the real answer is wanted.
        """
        do = self.do
        if do is None:
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
            answer = replace(answer, headers=laid_over(answer.headers, _changes(self.do)))
        delivery = AnswerDelivery.of(self.do, answer.length, rate)
        opened = _Opened(self._simulator.counters, self._host, answer.length)
        try:
            if delivery.plain:
                return await send_plain(self._request, answer, delivery.rate, opened.count)
            record(self._simulator, self._host, self._request, answer.status)
            transport = self._request.transport
            if transport is not None:
                head_only = self._request.method == "HEAD"
                await send_raw(transport, answer, delivery, opened.count, head_only=head_only)
            return Sent()
        finally:
            opened.close()


class _Opened:
    """A request that counts as open until it is closed; a second time does nothing.

    It closes itself before the last bytes leave: who has those may ask for more at once, and must not be
    counted twice.
    """

    def __init__(self, counters: Counters, host: Host, length: int) -> None:
        self._counters = counters
        self._host = host
        self._left = length
        self._open = True
        counters.opened(host, 1)

    def count(self, sent: int) -> None:
        """Count bytes that are about to leave."""
        if self._host == "media":
            self._counters.bytes_sent += sent
        self._left -= sent
        if self._left <= 0:
            self.close()

    def close(self) -> None:
        """Count the request out."""
        if self._open:
            self._counters.opened(self._host, -1)
        self._open = False


def facts(simulator: Simulator, host: Host, request: web.Request) -> Facts:
    """Gather what a fault's rule may look at."""
    run_id = request.match_info.get("run_id")
    run = simulator.run(run_id) if run_id is not None else None
    technique = run.technique if run else simulator.technique(request.match_info.get("technique", ""))
    return Facts(
        host=host,
        method=request.method,
        path=request.path,
        run_id=run_id,
        technique=technique,
        output_id=_output_id(simulator, run_id, request.match_info.get("number")),
        resumed="Range" in request.headers,
    )


def record(simulator: Simulator, host: Host, request: web.Request, status: int) -> None:
    """Write a request down as answered with `status` (0: the connection was broken)."""
    run_id = request.match_info.get("run_id")
    simulator.record(
        RequestRecord(
            time=simulator.now(),
            host=host,
            method=request.method,
            path=request.path,
            status=status,
            authorization="Authorization" in request.headers,
            run_id=run_id,
            output_id=_output_id(simulator, run_id, request.match_info.get("number")),
            query=request.query_string if host == "api" else "",
            range=request.headers.get("Range"),
            accept_encoding=request.headers.get("Accept-Encoding"),
        )
    )


def _output_id(simulator: Simulator, run_id: str | None, number: str | None) -> str | None:
    run = simulator.run(run_id) if run_id is not None else None
    if run is None or number is None or not 0 < int(number) <= len(run.outputs):
        return None
    return run.outputs[int(number) - 1].output_id


def _changes(do: Do) -> dict[str, str | None]:
    changes = dict(do.headers)
    if do.retry_after is not None:
        changes["Retry-After"] = do.retry_after
    return changes


@asynccontextmanager
async def serve(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, media_port: int = 0
) -> AsyncIterator[str]:
    """Serve until the block ends, and give the API's base URL, `http://HOST:PORT/api/v1`.

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
