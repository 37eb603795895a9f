"""`floradl simulate`: a FLORA on loopback, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from floradl.commands.exits import needing_simulator
from floradl.commands.streams import tell
from floradl.errors import ConfigError

if TYPE_CHECKING:
    from floradl.simulator import Simulator

_HOST = "127.0.0.1"


def simulate(*, port: int, speed: float, rate_limit: float | None, scenario: Path | None) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit code 0.

    The first line on stdout holds the base URL and the key, as assignments; how to try it follows on stderr.
    `port` 0 takes a free one, `speed` divides durations, `rate_limit` is in requests a second. Raises
    `ConfigError` without aiohttp, for a port that is taken, and for a scenario that cannot be read.
    """
    with needing_simulator("the simulator"):
        from floradl.simulator import Simulator, serve  # noqa: PLC0415  # an extra, and heavy
        from floradl.simulator.scenario import load_scenario  # noqa: PLC0415  # as above
    simulator = Simulator(speed=speed)
    if scenario is not None:
        load_scenario(scenario).stage(simulator)
    if rate_limit is not None:
        simulator.rate_limit = rate_limit
    try:
        asyncio.run(_until_stopped(simulator, serve(simulator, _HOST, port)))
    except OSError as error:
        if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
            raise
        raise ConfigError(
            f"port {port} of {_HOST} is unavailable ({os.strerror(error.errno)}): name another one with "
            "--port, or leave it out to get a free one"
        ) from error
    return 0


async def _until_stopped(simulator: Simulator, serving: AbstractAsyncContextManager[str]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with serving as base_url:
        click.echo(f"FLORA_BASE_URL={base_url} FLORA_API_KEY={simulator.key}")
        with contextlib.suppress(BrokenPipeError):
            tell(_introduction(simulator, base_url))
        await stop.wait()


def _introduction(simulator: Simulator, base_url: str) -> str:
    techniques = "\n".join(
        f"  {technique.slug:<24}{technique.description}" for technique in simulator.techniques
    )
    return f"""
A simulated FLORA; Ctrl-C ends it. Start a run, and see what comes back:
  curl -s {base_url}/techniques/campaign/runs -H 'Authorization: Bearer {simulator.key}' \\
    -H 'Content-Type: application/json' -d '{{"mode": "async", "inputs": []}}'
floradl fetches it with the variables of the first line, and permission to speak plain http to this host:
  FLORADL_NETWORK__TRUSTED_PRIVATE_HOSTS={_HOST} floradl get campaign/RUN_ID
A run that is started with "callback_url" gets a webhook when it ends, signed with
  FLORA_WEBHOOK_SECRET={simulator.webhook_secrets[0]}
Techniques:
{techniques}"""
