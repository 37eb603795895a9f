"""Builds the objects of a working floradl out of the configuration, and takes them down again."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
import httpx
import msgspec
import structlog
from anyio import CapacityLimiter, to_thread

from floradl.config.credentials import find_api_key, read_api_key
from floradl.config.exposure import exposure
from floradl.config.settings import Config, Key
from floradl.errors import ConfigError, JournalDamagedError, PausedError, PauseReason
from floradl.fetching import USER_AGENT, Fetching, fetching
from floradl.flora.api import Flora
from floradl.flora.asking import Asking
from floradl.flora.doubt import Doubt
from floradl.flora.pace import Pace
from floradl.library.library import Library
from floradl.library.ownership import Owners
from floradl.library.template import Template
from floradl.net.addresses import HostPatterns
from floradl.net.pools import Limits as ClientLimits
from floradl.net.transport import Guard, open_async_client
from floradl.runs.engine import Engine
from floradl.runs.outputs import Manner, OutputSaver
from floradl.runs.pipeline import Patience, Pipeline
from floradl.runs.progress import Progress
from floradl.state.journal import Journal
from floradl.state.store import Store
from floradl.sync import Manner as SyncManner, Sync
from floradl.timing.history import History
from floradl.timing.lookout import Lookout
from floradl.timing.schedule import Schedule
from floradl.timing.ticks import next_tick

_LOOK_AT_KEY_EVERY = 1.0  # seconds, while it is refused
_API_TIMEOUT = 60.0  # seconds, as FLORA's own clients have it
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Works(msgspec.Struct, frozen=True):
    """The objects that do the work.

    `media` is what fetches. `change(config)` lets another configuration hold, as far as
    `CHANGEABLE` goes: in all else it must be what everything was built by. `sync` is None where
    nothing is synced; `doubt` is about the key.
    """

    engine: Engine
    journal: Journal
    library: Library
    flora: Flora
    saver: OutputSaver
    media: Fetching
    pipeline: Pipeline
    sync: Sync | None
    doubt: Doubt
    change: Callable[[Config], None]


CHANGEABLE: Final[frozenset[Key]] = frozenset(
    {
        ("api", "key_file"),
        ("poll", "interval"),
        ("poll", "give_up_after"),
        ("download", "concurrency"),
        ("download", "rate_limit"),
        ("download", "max_file_size"),
        ("download", "min_free_space"),
        ("download", "media_hosts"),
        ("download", "text_url_hosts"),
        ("network", "trusted_private_hosts"),
    }
)
"""What `Works.change` can change."""


def build_library(config: Config) -> Library:
    """Return the library that the configuration describes; nothing of it is touched yet."""
    output = config.output
    template = Template.parse(output.template)
    folders = output.folders.by_kind()
    return Library(output.dir, template, folders, output.max_name_bytes, Owners(_daemon_s(config.state_dir)))


def _daemon_s(state_dir: Path) -> tuple[int, ...]:
    """Return whose daemon keeps its state there: to who else reads or writes the library, it is its own."""
    try:
        return (state_dir.stat().st_uid,)
    except OSError:
        return ()


def api_guard(config: Config) -> Guard:
    """Return the guard of the client that carries the key: it lets it go to the API's host alone."""
    return Guard(
        config.network.trusted_private_hosts,
        _host_of_api(config),
        remedy="api.base_url names the only host that is given the key",
    )


def _host_of_api(config: Config) -> tuple[str]:
    return (urlsplit(config.api.base_url).hostname or "",)


@asynccontextmanager
async def working(
    config: Config, environ: Mapping[str, str], store: Store, progress: Progress
) -> AsyncIterator[Works]:
    """Build everything and serve the journal; at the end what is under way is stopped and recorded.

    Raises `ConfigError` where the configuration cannot be put to work, and, in a group, `JournalDamagedError`
    as soon as the journal cannot be worked with any more.
    """
    _look_at_key(config, environ)
    journal = Journal(store)
    library = build_library(config)
    library.keep_free = config.download.min_free_space
    guard = api_guard(config)
    async with (
        fetching(config, environ) as media,
        _api_client(config, environ, guard) as api,
        anyio.create_task_group() as group,
    ):
        group.start_soon(journal.serve)
        while_working, while_open = anyio.CancelScope(), anyio.CancelScope()
        group.start_soon(_watch_all, while_open, partial(_end_with, journal, media.halt))
        try:
            interval = config.poll.interval
            schedule = Schedule(time.monotonic, interval)
            history = History(time.monotonic, await journal.call(Store.durations))
            lookout = Lookout(schedule, history, interval, time.monotonic)
            patience = Patience(
                config.poll.give_up_after, config.output.mtime == "completed", history, lookout
            )
            key = _Key(config, environ)
            doubt = Doubt()
            flora = Flora(api, key, Pace(time.monotonic), doubt)
            asking = Asking(flora, lookout, time.monotonic, interval, doubt)
            saver = OutputSaver(
                library,
                media.fetcher,
                progress,
                CapacityLimiter(config.download.concurrency),
                Manner(
                    HostPatterns.parse(config.download.text_url_hosts),
                    patience.keep_times,
                    monotonic=media.throttle.own_time,
                ),
            )
            pipeline = Pipeline(asking, library, saver, journal, progress, patience)
            engine = Engine(pipeline, journal, progress, schedule, lookout)
            sync = _sync(config, flora, asking, journal, engine)
            group.start_soon(_watch_all, while_working, partial(_watch_key, key, engine, sync), media.tend)

            def change(config: Config) -> None:
                guard.change(config.network.trusted_private_hosts, _host_of_api(config))
                media.change(config)
                download = config.download
                library.keep_free = download.min_free_space
                saver.change(download.concurrency, HostPatterns.parse(download.text_url_hosts))
                pipeline.change(config.poll.give_up_after)
                engine.change(config.poll.interval)
                key.change(config)

            yield Works(engine, journal, library, flora, saver, media, pipeline, sync, doubt, change)
        finally:
            media.halt()
            while_working.cancel()
            while_open.cancel()
            journal.close()


def _api_client(
    config: Config, environ: Mapping[str, str], guard: Guard
) -> AbstractAsyncContextManager[httpx.AsyncClient]:
    headers = {"User-Agent": USER_AGENT, "Accept": "application/json", "Accept-Encoding": "identity"}
    limits = ClientLimits(read=_API_TIMEOUT, connections=8)
    return open_async_client(
        guard, base_url=config.api.base_url, headers=headers, limits=limits, environ=environ
    )


@asynccontextmanager
async def flora_alone(config: Config, environ: Mapping[str, str]) -> AsyncIterator[Flora]:
    """Open the API and nothing else, for a command that only asks. Raises `ConfigError` as `working` does."""
    read_api_key(config, environ)
    async with _api_client(config, environ, api_guard(config)) as api:
        yield Flora(api, _Key(config, environ), Pace(time.monotonic))


def _look_at_key(config: Config, environ: Mapping[str, str]) -> None:
    """Say what is wrong with the key before anything starts. Raises `ConfigError`."""
    found = find_api_key(config, environ)
    if found is not None and found.file is not None and (said := exposure(found.file, environ)):
        _log.warning("key_file_readable", message=f"{said}: chmod 600 '{found.file}'")


class _Key:
    """The key as it is at each moment."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._environ = environ

    def change(self, config: Config) -> None:
        """Look for it where `config` says from now on."""
        self._config = config

    def __call__(self) -> str:
        """Read it. Raises `PausedError` where there is none that can be used."""
        try:
            secret = read_api_key(self._config, self._environ)
        except ConfigError as error:
            raise PausedError(str(error), PauseReason.KEY_REFUSED) from error
        if secret is None:
            raise PausedError(
                "there is no API key: set FLORA_API_KEY, or api.key_file", PauseReason.KEY_REFUSED
            )
        return secret.reveal()


def _sync(config: Config, flora: Flora, asking: Asking, journal: Journal, engine: Engine) -> Sync | None:
    sync, max_open = config.sync, config.queue.max_open
    if not sync.kinds:
        return None
    manner = SyncManner(sync.kinds, sync.projects, sync.techniques, sync.since, sync.interval, max_open)
    return Sync(manner, flora, asking, journal, engine)


async def _watch_all(
    while_working: anyio.CancelScope, *watches: Callable[[], Coroutine[Any, Any, None]]
) -> None:
    """Let `watches` look after things until `while_working` is cancelled."""
    with while_working:
        async with anyio.create_task_group() as group:
            for watch in watches:
                group.start_soon(watch)


async def _end_with(journal: Journal, halt: Callable[[], None]) -> None:
    """End all work where the journal turns out to be damaged, as `JournalDamagedError`."""
    await journal.damaged.wait()
    halt()
    raise JournalDamagedError(f"the journal is damaged: {journal.damage}")


async def _watch_key(key: Callable[[], str], engine: Engine, sync: Sync | None) -> None:
    """Have a pause for the key looked at as soon as another key is in place."""
    known: str | None = None
    while True:
        await next_tick(_LOOK_AT_KEY_EVERY)
        if engine.paused is None or engine.paused.reason is not PauseReason.KEY_REFUSED:
            known = None
            continue
        try:
            found = await to_thread.run_sync(key)
        except PausedError:
            found = ""
        if known is not None and found not in {known, ""} and sync is not None:
            sync.hurry()
        if known is None or found in {known, ""} or engine.probe_now():
            known = found
