"""Builds the objects of a working floradl out of the configuration, and takes them down again."""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import msgspec
from anyio import CapacityLimiter

from floradl import __version__
from floradl.config.credentials import read_api_key
from floradl.config.settings import Config
from floradl.engine import Engine
from floradl.errors import ConfigError, PausedError, PauseReason
from floradl.flora.api import Flora
from floradl.flora.pace import Pace
from floradl.library.library import Library
from floradl.library.template import Template
from floradl.media.download import Downloader, Limits
from floradl.net.addresses import HostPatterns
from floradl.net.pools import Limits as ClientLimits
from floradl.net.transport import Guard, open_async_client, open_client
from floradl.outputs import OutputSaver
from floradl.pipeline import Patience, Pipeline
from floradl.progress import Progress
from floradl.state.journal import Journal
from floradl.state.store import Store

USER_AGENT = f"floradl/{__version__}"
_API_TIMEOUT = 60.0  # seconds, as FLORA's own clients have it


class Works(msgspec.Struct, frozen=True):
    """The objects that do the work. `halt()` makes transfers end at once; their part files stay."""

    engine: Engine
    journal: Journal
    library: Library
    halt: Callable[[], None]


def build_library(config: Config) -> Library:
    """Return the library that the configuration describes; nothing is touched yet."""
    output = config.output
    template = Template.parse(output.template)
    return Library(output.dir, template, output.folders.by_kind(), output.max_name_bytes)


def api_guard(config: Config) -> Guard:
    """Return the guard of the client that carries the key: it lets it go to the API's host alone."""
    return Guard(
        config.network.trusted_private_hosts,
        (urlsplit(config.api.base_url).hostname or "",),
        remedy="api.base_url names the only host that is given the key",
    )


@asynccontextmanager
async def working(
    config: Config, environ: Mapping[str, str], store: Store, progress: Progress
) -> AsyncIterator[Works]:
    """Build everything and serve the journal; at the end what is under way is stopped and recorded.

    Raises `ConfigError` where the configuration cannot be put to work.
    """
    read_api_key(config, environ)  # what is wrong with it is said before anything starts

    def key() -> str:
        try:
            secret = read_api_key(config, environ)
        except ConfigError as error:
            raise PausedError(str(error), PauseReason.KEY_REFUSED) from error
        if secret is None:
            raise PausedError(
                "there is no API key: set FLORA_API_KEY, or api.key_file", PauseReason.KEY_REFUSED
            )
        return secret.reveal()

    download = config.download
    guard = Guard(config.network.trusted_private_hosts, download.media_hosts)
    api_limits = ClientLimits(read=_API_TIMEOUT, connections=8)
    media_limits = ClientLimits(read=download.stall_timeout, connections=download.concurrency)
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
    journal = Journal(store)
    library = build_library(config)
    stop = threading.Event()
    with open_client(guard, user_agent=USER_AGENT, limits=media_limits, environ=environ) as media:
        async with open_async_client(
            api_guard(config),
            base_url=config.api.base_url,
            headers=headers,
            limits=api_limits,
            environ=environ,
        ) as api:
            keep_times = config.output.mtime == "completed"
            saver = OutputSaver(
                library,
                Downloader(
                    media,
                    guard,
                    Limits(download.max_file_size, download.min_free_space, config.poll.give_up_after),
                    stop,
                ),
                progress,
                transfers=CapacityLimiter(download.concurrency),
                text_url_hosts=HostPatterns.parse(download.text_url_hosts),
                keep_times=keep_times,
            )
            pipeline = Pipeline(
                Flora(api, key, Pace(time.monotonic)),
                library,
                saver,
                journal,
                progress,
                Patience(config.poll.interval, config.poll.give_up_after, keep_times),
            )

            def halt() -> None:
                stop.set()
                media.abort()

            async with anyio.create_task_group() as group:
                group.start_soon(journal.serve)
                try:
                    yield Works(Engine(pipeline, journal, progress), journal, library, halt)
                finally:
                    halt()
                    journal.close()
