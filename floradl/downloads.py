"""The downloaders of media, built from the configuration, and changed with it."""

from __future__ import annotations

import sys
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final

import anyio
from anyio import to_thread

from floradl import __version__
from floradl.config.settings import Config
from floradl.download.downloader import Downloader, DownloadLimits
from floradl.download.small_files import SmallFiles
from floradl.library.base import LibraryStore
from floradl.library.batch_writer import BatchWriter
from floradl.net.bandwidth import BandwidthLimiter
from floradl.net.client import MediaClient, open_client
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.portability import cores
from floradl.runs.output_saver import Fetchers
from floradl.runs.slots import TransferSlots
from floradl.wakeups import next_tick
from floradl.workers.pool import Machine, WorkerPool
from floradl.workers.protocol import WorkerSettings

USER_AGENT: Final = f"floradl/{__version__}"
_TEND_EVERY: Final = 1.0  # seconds


class Downloads:
    """The downloaders of media (`fetchers`), and their limits (`slots`, `bandwidth`)."""

    def __init__(
        self,
        config: Config,
        environ: Mapping[str, str],
        library: LibraryStore,
        url_policy: UrlPolicy,
        client: MediaClient,
        bandwidth: BandwidthLimiter,
    ) -> None:
        self.bandwidth = bandwidth
        self._url_policy = url_policy
        self._client = client
        self._stop = threading.Event()
        self.slots = TransferSlots(config.download.concurrency)
        many = client.many(self.slots)
        self.slots.on_free = many.wake
        self.disk = BatchWriter(library.together, kept_open=library.kept_open)
        self._downloader = Downloader(client, url_policy, _limits(config), self._stop, bandwidth.active_clock)
        # A frozen application's executable is no Python: as a worker it would start the application again.
        processors = 1 if getattr(sys, "frozen", False) else cores()
        machine = Machine(processors, environ, lambda: many.has_work)
        self._worker_pool = WorkerPool(self._downloader, bandwidth, _worker_settings(config), machine)
        self.fetchers = Fetchers(self._worker_pool, SmallFiles(many, self._downloader, self.disk))

    def change(self, config: Config) -> None:
        """Apply another configuration, see `App.change`."""
        download = config.download
        self._url_policy.change(config.network.trusted_private_hosts, download.media_hosts)
        self._client.change(download.concurrency)
        self.bandwidth.change(download.rate_limit)
        self._downloader.change(_limits(config))
        self._worker_pool.change(_worker_settings(config))

    def halt(self) -> None:
        """End all transfers at once, for good; their part files stay. Safe to repeat."""
        self._stop.set()
        self._client.abort()
        self._worker_pool.halt()

    async def tend(self) -> None:
        """Divide the bandwidth among the workers, and end idle ones; runs for ever."""
        while True:
            await next_tick(_TEND_EVERY)
            if self._worker_pool.pids:
                await to_thread.run_sync(self._worker_pool.tend)

    async def close(self) -> None:
        """Halt, and end the workers."""
        self.halt()
        with anyio.CancelScope(shield=True):
            await to_thread.run_sync(self.fetchers.small.close)
            await to_thread.run_sync(self.disk.close)
            await to_thread.run_sync(self._worker_pool.close)


@asynccontextmanager
async def open_downloads(
    config: Config, environ: Mapping[str, str], library: LibraryStore
) -> AsyncIterator[Downloads]:
    """Open the downloaders of media, which have no credentials; close them on exit.

    Raises `ConfigError` for an unusable proxy or certificate file in `environ`.
    """
    download = config.download
    url_policy = UrlPolicy(config.network.trusted_private_hosts, download.media_hosts)
    bandwidth = BandwidthLimiter(download.rate_limit)
    limits = PoolLimits(read=download.stall_timeout, connections=download.concurrency)
    with open_client(
        url_policy, user_agent=USER_AGENT, limits=limits, environ=environ, bandwidth=bandwidth
    ) as client:
        opened = Downloads(config, environ, library, url_policy, client, bandwidth)
        try:
            yield opened
        finally:
            await opened.close()


def _limits(config: Config) -> DownloadLimits:
    download = config.download
    return DownloadLimits(download.max_file_size, download.min_free_space, config.poll.give_up_after)


def _worker_settings(config: Config) -> WorkerSettings:
    download = config.download
    return WorkerSettings(
        USER_AGENT,
        download.stall_timeout,
        tuple(config.network.trusted_private_hosts),
        tuple(download.media_hosts),
        _limits(config),
        download.concurrency,
    )
