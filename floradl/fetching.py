"""Builds what fetches media: in this process and in others, under one cap, with one set of rules."""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import anyio
from anyio import to_thread

from floradl import __version__
from floradl.config.settings import Config
from floradl.crew.crew import Crew, Machine
from floradl.crew.messages import Rules, Terms
from floradl.media.download import Downloader, Fetcher, Limits
from floradl.net.guard import Guard
from floradl.net.pools import Limits as ClientLimits
from floradl.net.throttle import Throttle
from floradl.net.transport import MediaClient, open_client
from floradl.timing.ticks import next_tick

USER_AGENT = f"floradl/{__version__}"
_LOOK_AT_CREW_EVERY = 30.0  # seconds


class Fetching:
    """Who fetches (`fetcher`), and what caps all that together (`throttle`)."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        guard: Guard,
        client: MediaClient,
        throttle: Throttle,
    ) -> None:
        self.throttle = throttle
        self._guard = guard
        self._client = client
        self._stop = threading.Event()
        self._downloader = Downloader(client, guard, _limits(config), self._stop, throttle.own_time)
        terms = Terms(USER_AGENT, config.download.stall_timeout)
        machine = Machine(len(os.sched_getaffinity(0)), environ)
        self._crew = Crew(self._downloader, throttle, terms, _rules(config), machine)

    @property
    def fetcher(self) -> Fetcher:
        """Who fetches."""
        return self._crew

    def change(self, config: Config) -> None:
        """Let another configuration hold, see `Works.change`."""
        download = config.download
        self._guard.change(config.network.trusted_private_hosts, download.media_hosts)
        self._client.change(download.concurrency)
        self.throttle.change(download.rate_limit)
        self._downloader.change(_limits(config))
        self._crew.change(_rules(config))

    def halt(self) -> None:
        """End all transfers at once, for good; their part files stay. Safe to repeat."""
        self._stop.set()
        self._client.abort()
        self._crew.halt()

    async def tend(self) -> None:
        """Let workers go home when there is nothing to fetch, for ever."""
        while True:
            await next_tick(_LOOK_AT_CREW_EVERY)
            if self._crew.pids:
                await to_thread.run_sync(self._crew.rest)

    async def close(self) -> None:
        """Halt, and see the workers to their end."""
        self.halt()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self._crew.close)


@asynccontextmanager
async def fetching(config: Config, environ: Mapping[str, str]) -> AsyncIterator[Fetching]:
    """Open what fetches media; it has no credentials. At the end nothing of it is left.

    Raises `ConfigError` for a proxy or certificate file in `environ` that cannot be used.
    """
    download = config.download
    guard = Guard(config.network.trusted_private_hosts, download.media_hosts)
    throttle = Throttle(download.rate_limit)
    limits = ClientLimits(read=download.stall_timeout, connections=download.concurrency)
    with open_client(
        guard, user_agent=USER_AGENT, limits=limits, environ=environ, throttle=throttle
    ) as client:
        opened = Fetching(config, environ, guard, client, throttle)
        try:
            yield opened
        finally:
            await opened.close()


def _limits(config: Config) -> Limits:
    """Return what one transfer may take."""
    download = config.download
    return Limits(download.max_file_size, download.min_free_space, config.poll.give_up_after)


def _rules(config: Config) -> Rules:
    """Return what holds for transfers that other processes make."""
    download = config.download
    return Rules(
        tuple(config.network.trusted_private_hosts),
        tuple(download.media_hosts),
        _limits(config),
        download.concurrency,
        capped=download.rate_limit is not None,
    )
