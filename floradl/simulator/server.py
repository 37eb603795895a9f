"""Serving a `Simulator` on loopback, in the caller's event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from aiohttp import web

from floradl.simulator.api import Api
from floradl.simulator.callbacks import send_callbacks
from floradl.simulator.mediahost import MediaHost
from floradl.simulator.state import Simulator


@asynccontextmanager
async def serve(
    simulator: Simulator, host: str = "127.0.0.1", port: int = 0, *, media_port: int = 0
) -> AsyncIterator[str]:
    """Serve until the block ends, and give the API's base URL, `http://HOST:PORT/api/v1`.

    The media host has a port of its own, so that it is another origin. Port 0 takes a free one. Open
    connections are broken off at the end. Raises `OSError` if a port cannot be had.
    """
    media = _runner(MediaHost(simulator).application())
    api = _runner(Api(simulator).application())
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
