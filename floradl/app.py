"""Builds the working objects from the configuration, and closes them."""

from __future__ import annotations

import math
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import anyio
from anyio import to_thread
from msgspec import Struct

from floradl.clock import Clocks
from floradl.config.credentials import KeyReader, exposure, find_api_key, read_api_key
from floradl.config.settings import Config, Key
from floradl.downloads import USER_AGENT, Downloads, open_downloads
from floradl.errors import ConfigError, ExposedError, PauseReason, QueueDamagedError, ServicePausedError
from floradl.flora.client import FloraClient, WrongWorkspaceCheck
from floradl.flora.rate_limit import RateLimiter
from floradl.flora.technique_names import TechniqueNames
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library_builder import build_library, build_selection
from floradl.log import get_logger
from floradl.net.addresses import HostPatterns
from floradl.net.client import ApiClient
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.open_runs import OpenRuns
from floradl.polling.planner import PollPlanner
from floradl.polling.poller import Poller, PollOptions
from floradl.queue.base import RunQueue
from floradl.redaction import Secret
from floradl.runs.backfill import Backfill, BackfillOptions, TechniqueLookup
from floradl.runs.events import NO_EVENTS, EventSink, RunEvents, RunReports
from floradl.runs.output_saver import OutputOptions, OutputSaver
from floradl.runs.processor import ProcessOptions
from floradl.runs.scheduler import Scheduler, Service, StageOptions, StageParts, Stages, local_stages
from floradl.wakeups import next_tick

if TYPE_CHECKING:
    from floradl.hooks.command import HookSettings
    from floradl.sources.history import HistorySync

_CHECK_KEY_EVERY = 1.0  # seconds, while it is refused
_API_TIMEOUT = 60.0  # seconds, as FLORA's own clients have it
_API_THREADS = 8
_log = get_logger()


class App(Struct, frozen=True):
    """The working objects.

    `change(config)` applies another configuration, which may differ in `CHANGEABLE` alone. `sync` is None
    where nothing is synced.
    """

    scheduler: Scheduler
    queue: RunQueue
    library: LibraryStore
    flora: FloraClient
    saver: OutputSaver
    media: Downloads
    reports: RunReports
    sync: HistorySync | None
    backfill: Backfill
    workspace_check: WrongWorkspaceCheck
    change: Callable[[Config], None]


CHANGEABLE: Final[frozenset[Key]] = frozenset(
    {
        ("api", "key_file"),
        ("output", "kinds"),
        ("output", "rules"),
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
"""The settings that `App.change` can change."""


def hook_settings(config: Config, environ: Mapping[str, str]) -> HookSettings:
    """Return which programs the hooks run, and how long each may take."""
    from floradl.hooks.command import PAUSED, RUN_FINISHED, HookSettings  # noqa: PLC0415 - `get` has no hook

    hooks = config.hooks
    return HookSettings({RUN_FINISHED: hooks.run_finished, PAUSED: hooks.paused}, hooks.timeout, environ)


def safe_hook_settings(config: Config, environ: Mapping[str, str]) -> HookSettings:
    """As `hook_settings`; raises `ExposedError` where others could replace a hook's program. Blocking."""
    settings = hook_settings(config, environ)
    if faults := [f"hooks.{event}: {why}" for event, why in settings.exposed().items()]:
        raise ExposedError("\n".join(faults))
    return settings


def api_guard(config: Config) -> UrlPolicy:
    """Return the URL policy of the client with the key: it allows the API's host alone."""
    return UrlPolicy(
        config.network.trusted_private_hosts,
        _host_of_api(config),
        remedy="api.base_url names the only host that is given the key",
    )


def _host_of_api(config: Config) -> tuple[str]:
    return (urlsplit(config.api.base_url).hostname or "",)


class WorkOptions(Struct, frozen=True):
    """What differs between commands: `events` gets the events for other programs.

    `key` replaces the configured API key; `missing_tries` is that of `PollOptions`.
    """

    events: EventSink = NO_EVENTS
    key: Secret | None = None
    missing_tries: float = math.inf


_USUAL: Final = WorkOptions()


def _shared_library(config: Config, environ: Mapping[str, str]) -> LibraryStore:
    """Return the library as `build_library` does, which knows what runs have that go on."""
    library = build_library(config, environ)
    library.under_way = partial(_saved_files, config.state_dir)
    return library


def _saved_files(state_dir: Path) -> dict[str, tuple[str, str]]:
    """Return the files of runs that go on, the daemon's beside this process, too."""
    from floradl.queue.reader import read_queue  # noqa: PLC0415 - seldom asked

    with read_queue(state_dir) as queue:
        return queue.saved_files() if queue is not None else {}


@asynccontextmanager
async def working(
    config: Config,
    environ: Mapping[str, str],
    queue: RunQueue,
    progress: RunEvents,
    options: WorkOptions = _USUAL,
) -> AsyncIterator[App]:
    """Build everything and serve the queue; on exit stop and record the work under way.

    `progress` gets each step, to be shown to people.

    Raises `ConfigError` for an unusable configuration, and, in a group, `QueueDamagedError` as soon as the
    queue is unusable.
    """
    _check_key(config, environ, options.key)
    library = _shared_library(config, environ)
    url_policy = api_guard(config)
    async with AsyncExitStack() as stack:
        media = await stack.enter_async_context(open_downloads(config, environ, library))
        api = stack.enter_context(_api_client(config, environ, url_policy))
        group = await stack.enter_async_context(anyio.create_task_group())
        group.start_soon(_serve_queue, queue, media.halt)
        while_working = anyio.CancelScope()
        stages: Stages | None = None
        try:
            give_up_after = config.poll.give_up_after
            reports = RunReports(progress, options.events)
            open_runs = await _open_runs(queue, reports, config.poll.interval)
            breaker, clocks = open_runs.breaker, open_runs.clocks
            key = _Key(config, environ, options.key)
            workspace_check = WrongWorkspaceCheck()
            names = TechniqueNames(await queue.technique_names())
            flora = FloraClient(api, key, RateLimiter(time.monotonic), workspace_check, names, key.forget)
            poll_options = PollOptions(give_up_after, config.poll.interval, options.missing_tries)
            keep_times = config.output.mtime == "completed"
            saver = _saver(config, library, media, progress, options.events)
            process_options = ProcessOptions(
                give_up_after, keep_times, build_selection(config), clocks.wall, names.of_run
            )
            look_up_names = TechniqueLookup(flora, names, breaker, queue).serve
            parts = StageParts(
                queue, library, flora, open_runs, saver, media.slots, progress, reports, workspace_check
            )
            stages = _stages(
                parts,
                StageOptions(poll_options, process_options, partial(_is_usable, key), (look_up_names,)),
            )
            poller, scheduler = stages.poller, stages.scheduler
            sync = _sync(config, flora, poller, queue, scheduler)
            backfill = Backfill(
                poller,
                breaker,
                queue,
                library,
                names,
                BackfillOptions(keep_times, clocks, saver.tally.charge),
            )
            watch_key = partial(_watch_key, key, scheduler, sync)
            group.start_soon(_watch_all, while_working, watch_key, media.tend, *stages.beside)

            select = stages.processor.select

            def change(config: Config) -> None:
                url_policy.change(config.network.trusted_private_hosts, _host_of_api(config))
                media.change(config)
                if isinstance(library, FolderLibrary):
                    library.keep_free = config.download.min_free_space
                saver.change(config.download.concurrency, HostPatterns.parse(config.download.text_url_hosts))
                scheduler.change(config.poll.interval, config.poll.give_up_after)
                select(build_selection(config))
                key.change(config)

            yield App(
                scheduler,
                queue,
                library,
                flora,
                saver,
                media,
                reports,
                sync,
                backfill,
                workspace_check,
                change,
            )
        finally:
            media.halt()
            while_working.cancel()
            queue.close()
            if stages is not None:
                stages.close()


def _stages(parts: StageParts, options: StageOptions) -> Stages:
    sharing = parts.queue.sharing
    if sharing is None:
        return local_stages(parts, options)
    from floradl.runs.shared_stages import shared_stages  # noqa: PLC0415 - most have a queue of their own

    return shared_stages(parts, options, sharing)


def _saver(
    config: Config, library: LibraryStore, media: Downloads, progress: RunEvents, sink: EventSink
) -> OutputSaver:
    text_hosts = HostPatterns.parse(config.download.text_url_hosts)
    keep_times = config.output.mtime == "completed"
    active = media.bandwidth.active_clock
    options = OutputOptions(text_hosts, keep_times, monotonic=active, report=sink.saved)
    return OutputSaver(library, media.disk, media.fetchers, progress, media.slots, options)


async def _open_runs(queue: RunQueue, reports: RunReports, interval: float) -> OpenRuns:
    """Return the open runs, none of them due yet; `interval` is in seconds."""
    clocks = Clocks()
    due_queue = DueQueue(clocks.monotonic, interval)
    durations = Durations(clocks.monotonic, await queue.durations())
    planner = PollPlanner(due_queue, durations, interval, clocks.monotonic)
    return OpenRuns(queue, due_queue, planner, CircuitBreaker(due_queue, clocks), reports, clocks)


def _api_client(config: Config, environ: Mapping[str, str], url_policy: UrlPolicy) -> ApiClient:
    limits = PoolLimits(read=_API_TIMEOUT, connections=_API_THREADS)
    return ApiClient(url_policy, config.api.base_url, user_agent=USER_AGENT, limits=limits, environ=environ)


@asynccontextmanager
async def flora_alone(config: Config, environ: Mapping[str, str]) -> AsyncIterator[FloraClient]:
    """Open the API client alone, for a command that only reads. Raises `ConfigError` as `working`."""
    read_api_key(config, environ)
    with _api_client(config, environ, api_guard(config)) as api:
        yield FloraClient(api, _Key(config, environ), RateLimiter(time.monotonic))


def _check_key(config: Config, environ: Mapping[str, str], given: Secret | None) -> None:
    """Check the key at startup; log a warning where others can read its file. Raises `ConfigError`."""
    found = find_api_key(config, environ) if given is None else None
    if found is not None and found.file is not None and (warning := exposure(found.file, environ)):
        _log.warning("key_file_readable", message=f"{warning}: chmod 600 '{found.file}'")


class _Key:
    """Reads the current key on each call."""

    def __init__(self, config: Config, environ: Mapping[str, str], given: Secret | None = None) -> None:
        self._reader = KeyReader(config, environ, time.monotonic)
        self._given = given
        self.change, self.forget = self._reader.change, self._reader.forget

    def __call__(self) -> str:
        """Return the key. Raises `ServicePausedError` where none is usable."""
        if self._given is not None:
            return self._given.reveal()
        try:
            secret = self._reader.read()
        except ConfigError as error:
            raise ServicePausedError(str(error), PauseReason.KEY_REFUSED) from error
        if secret is None:
            raise ServicePausedError(
                "there is no API key: set FLORA_API_KEY, or api.key_file", PauseReason.KEY_REFUSED
            )
        return secret.reveal()


def _sync(
    config: Config, flora: FloraClient, poller: Poller, queue: RunQueue, scheduler: Scheduler
) -> HistorySync | None:
    sync, max_open = config.sync, config.queue.max_open
    if not sync.kinds:
        return None
    from floradl.sources.history import HistoryOptions, HistorySync  # noqa: PLC0415 - where it is wanted

    options = HistoryOptions(sync.kinds, sync.projects, sync.techniques, sync.since, sync.interval, max_open)
    return HistorySync(options, flora, poller, queue, scheduler)


async def _watch_all(while_working: anyio.CancelScope, *watches: Service) -> None:
    """Run `watches` until `while_working` is cancelled."""
    with while_working:
        async with anyio.create_task_group() as group:
            for watch in watches:
                group.start_soon(watch)


async def _serve_queue(queue: RunQueue, halt: Callable[[], None]) -> None:
    """Serve the queue; damage ends all work with `QueueDamagedError`."""
    try:
        await queue.serve()
    except* QueueDamagedError:
        halt()  # transfers in threads, which cannot be cancelled
        raise


async def _is_usable(key: Callable[[], str]) -> bool:
    """Whether there is a key."""
    try:
        await to_thread.run_sync(key)
    except ServicePausedError:
        return False
    return True


async def _watch_key(key: Callable[[], str], scheduler: Scheduler, sync: HistorySync | None) -> None:
    """End a pause for a refused key as soon as the key changes, by a probe."""
    known: str | None = None
    while True:
        await next_tick(_CHECK_KEY_EVERY)
        if scheduler.paused is None or scheduler.paused.reason is not PauseReason.KEY_REFUSED:
            known = None
            continue
        try:
            found = await to_thread.run_sync(key)
        except ServicePausedError:
            found = ""
        if known is not None and found not in {known, ""} and sync is not None:
            sync.hurry()
        if known is None or found in {known, ""} or scheduler.probe_now():
            known = found
