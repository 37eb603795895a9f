"""`floradl run`: all parts run in one task group, until a signal ends it."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import aclosing, suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread
from msgspec.structs import replace

from floradl import __version__
from floradl.app import App, WorkOptions, hook_settings, working
from floradl.config.credentials import read_api_key
from floradl.config.load import Source, passed_over
from floradl.config.settings import Config
from floradl.daemon.startup import StartStoppedError, Startup, opened
from floradl.errors import (
    ConfigError,
    FloradlError,
    PauseReason,
    QueueDamagedError,
    QueueUnavailableError,
)
from floradl.hooks.command import PAUSED
from floradl.hooks.runs import FinishListener, RunHooks
from floradl.log import get_logger
from floradl.models import QueuedRun
from floradl.queue import heartbeat
from floradl.queue.heartbeat import Heartbeat, LivePause, Snapshot, Transfer
from floradl.runs.events import RunEvents, RunSummary
from floradl.wakeups import next_tick

if TYPE_CHECKING:
    from floradl.daemon.hooks import HookRunner
    from floradl.daemon.systemd import Supervision
    from floradl.queue.event_log import EventLog
    from floradl.queue.sharing import RunSharing
    from floradl.sources.inbox import Inbox
    from floradl.sources.intake import Intake, IntakeLimits
    from floradl.sources.queue_file import QueueFile

_STOP_DEADLINE = 7.0  # seconds; 8 are promised
_BEAT = 1.0
_SLOW_BEAT = 10.0
_SHARED_BEAT = 2.0
_STUCK_AFTER = 600.0
_SWEEP_EVERY = 3600.0
_SILENCE = 30.0  # seconds: a shorter silence is not reported
_JOURNALS = 3  # damaged ones in a daemon's life, after which it gives up
_log = get_logger()


def build_inbox(config: Config) -> tuple[Inbox, QueueFile | None]:
    """Return the inbox, its folders made, and the queue file, if there is one. Raises `ConfigError`."""
    from floradl.sources.inbox import Inbox  # noqa: PLC0415 - `get` has no inbox

    queue = config.queue
    inbox = Inbox(queue.watch_dir, keep=queue.keep, queue_file=queue.file)
    inbox.prepare()
    if queue.file is None:
        return inbox, None
    from floradl.sources.queue_file import QueueFile  # noqa: PLC0415 - few have one

    return inbox, QueueFile(queue.file)


def build_bounds(config: Config) -> IntakeLimits:
    """Return how much work is taken in at a time."""
    from floradl.sources.intake import IntakeLimits  # noqa: PLC0415 - as above

    return IntakeLimits(config.queue.max_open, config.state_dir)


def build_start(config: Config, app: App) -> Startup:
    """Return the `Startup` that prepares library and queue."""
    return Startup(config.state_dir, config.queue.watch_dir, app.library, app.queue, app.scheduler)


class _TwoListeners:
    """A `RunEvents` for two: the heartbeat, and what a person sees on a terminal."""

    def __init__(self, heartbeat: Heartbeat, display: RunEvents) -> None:
        self._both: tuple[RunEvents, RunEvents] = (heartbeat, display)

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        for each in self._both:
            each.run(run, next_in)

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        for each in self._both:
            each.transfer(run, output_id, received, total)

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        for each in self._both:
            each.transferred(run, output_id)

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        for each in self._both:
            each.finished(run, summary)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        for each in self._both:
            each.trouble(run, message, next_in)

    def dropped(self, run_id: str) -> None:
        for each in self._both:
            each.dropped(run_id)


async def run(
    config: Config, environ: Mapping[str, str], source: Source, display: RunEvents | None = None
) -> None:
    """Run until SIGTERM or SIGINT. Raises `LockedError`, `ConfigError`.

    `source` is where `config` was read: settings that may change without a restart are read there again.
    `display` shows a person what goes on.
    """
    from floradl.daemon.systemd import ServiceManager, Supervision  # noqa: PLC0415 - as in `_run`

    supervision = Supervision(ServiceManager.of(environ))
    try:
        with suppress(StartStoppedError):
            for _ in range(_JOURNALS):
                try:
                    await _run(config, environ, source, supervision, display)
                    break
                except QueueDamagedError as error:  # begin anew with another one
                    _log.error("journal_damaged", message=str(error))
            else:
                raise ConfigError(
                    f"the journal in {config.state_dir} was damaged {_JOURNALS} times since the start: check "
                    "its disk, this machine's memory and who else writes there, then start floradl again"
                )
    except FloradlError as error:
        supervision.failed(str(error))
        raise
    _log.info("stopped")


async def _run(
    config: Config,
    environ: Mapping[str, str],
    source: Source,
    supervision: Supervision,
    display: RunEvents | None,
) -> None:
    # What a command that runs once has no use for.
    from floradl.daemon.endpoints import serve_endpoints  # noqa: PLC0415
    from floradl.daemon.gallery import serve_gallery  # noqa: PLC0415
    from floradl.daemon.hooks import build_hooks, log_missing, serve_pauses  # noqa: PLC0415
    from floradl.daemon.notify import Notifications  # noqa: PLC0415
    from floradl.daemon.reload import Changing, reloading  # noqa: PLC0415
    from floradl.daemon.systemd import SystemdView, describe  # noqa: PLC0415
    from floradl.queue.event_log import EventLog  # noqa: PLC0415
    from floradl.sources.intake import Intake  # noqa: PLC0415
    from floradl.web.metrics import HealthState  # noqa: PLC0415

    supervision.beat(describe(SystemdView(starting=True)), well=True)
    if (why := passed_over(config)) is not None:
        _log.warning("config_passed_over", message=why)
    inbox, queue_file = build_inbox(config)
    progress = Heartbeat()
    seen = progress if display is None else _TwoListeners(progress, display)
    hooks = build_hooks(config, environ)
    async with (
        opened(config, "run", supervision) as queue,
        aclosing(EventLog(config.state_dir)) as events,
        working(config, environ, queue, FinishListener(seen, hooks.runs.wake), WorkOptions(events)) as app,
        reloading(config, source, changing := Changing(app, hooks, environ), supervision),
    ):
        _warn_without_key(config, environ, shared=app.queue.sharing is not None)
        intake = Intake(inbox, queue_file, app.queue, app.scheduler, build_bounds(config))
        start = build_start(config, app)
        changing.notifications = notifications = Notifications(
            config, environ, app, lambda: _pause(app, start)
        )
        progress.hints.append(lambda: notifications.troubles)
        report_pause = connect(events, app, start, intake, hooks.runs)
        hooks.pauses.on_failure = partial(events.hook_failed, PAUSED, None, final=False)
        state = HealthState(
            progress_at=lambda: _progress_at(_quiet(app, progress, intake, start)),
            paused=lambda: PauseReason(pause.reason) if (pause := _pause(app, start)) else None,
            started=intake.served.is_set,
        )
        async with anyio.create_task_group() as group:
            group.start_soon(events.serve)
            # From the first moment on: a queue that is filled anew may take minutes.
            group.start_soon(_beat, config, app, intake, start, progress, supervision)
            if app.queue.sharing is not None:
                group.start_soon(_beat_to, app.queue.sharing, app, progress)
            group.start_soon(_watch_pause, report_pause)
            group.start_soon(serve_endpoints, config, environ, app, state)
            group.start_soon(serve_gallery, config, environ)
            group.start_soon(_work, config, app, intake, start, hooks)
            group.start_soon(_sweep, inbox)
            group.start_soon(log_missing, hook_settings(config, environ))
            group.start_soon(notifications.serve)
            group.start_soon(serve_pauses, hooks.pauses, app, lambda: _pause(app, start))
            await wait_for_stop(app.media.halt, 0)
            supervision.stopping()
            _log.info("stopping")
            group.cancel_scope.cancel()


def _warn_without_key(config: Config, environ: Mapping[str, str], *, shared: bool) -> None:
    """Log that there is no key, which only the first run would show."""
    if read_api_key(config, environ) is None:
        without = (
            "this daemon never polls, and downloads what another one that shares the queue has polled"
            if shared
            else "job files are taken, and nothing is downloaded"
        )
        tell = _log.info if shared else _log.warning
        tell(
            "api_key_missing",
            message=f"there is no API key: {without} until FLORA_API_KEY or api.key_file "
            "(FLORA_API_KEY_FILE) gives one",
        )


async def _work(config: Config, app: App, intake: Intake, start: Startup, hooks: HookRunner) -> None:
    from floradl.daemon.retention import Retention  # noqa: PLC0415 - as in `_run`
    from floradl.sources.watcher import Watcher  # noqa: PLC0415 - as in `_run`

    keep_times = config.output.mtime == "completed"
    retention = Retention(app.library, app.queue, config.library.keep.by_kind(), keep_times=keep_times)
    app.scheduler.on_full_disk(retention.make_room)
    await hooks.runs.prepare(app.queue.outbox)
    ready = await start.attempt()
    await app.scheduler.resume_open(app.queue)
    watch_dir = config.queue.watch_dir
    _log.info("started", version=__version__, home=str(config.home), watch_dir=str(watch_dir))
    async with anyio.create_task_group() as group:
        if not ready:
            group.start_soon(start.serve)
        # Of daemons that share the queue, and so the library, one does this.
        beside = [
            app.backfill.serve,
            retention.serve,
            *([app.sync.serve] if app.sync is not None else ()),
        ]
        group.start_soon(partial(app.scheduler.serve, beside=beside))
        group.start_soon(hooks.runs.serve, app.queue.outbox, app.library)
        if app.queue.sharing is not None:
            group.start_soon(hooks.runs.adopt_from, app.queue.sharing)
        group.start_soon(intake.serve, Watcher(watch_dir, config.queue.file, report=_report))


async def wait_for_stop(halt: Callable[[], None], code: int) -> None:
    """Wait for SIGTERM or SIGINT, then call `halt`; a second one, or a deadline, ends the process."""
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        await anext(signals)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: os._exit(130))
    # Threads that look up a name cannot be woken. All that matters is on disk: the exit need not wait.
    deadline = threading.Timer(_STOP_DEADLINE, os._exit, (code,))
    deadline.daemon = True
    deadline.start()
    halt()


async def _watch_pause(report: Callable[[], None]) -> None:
    """Call `report` each second: a full disk of the queue's, or a library that is back, causes no event."""
    while True:
        report()
        await next_tick(_BEAT)


async def _beat(
    config: Config, app: App, intake: Intake, start: Startup, progress: Heartbeat, supervision: Supervision
) -> None:
    """Write the heartbeat each second while it changes, else each ten seconds; notify the service manager."""
    from floradl.daemon.systemd import SystemdView, describe  # noqa: PLC0415 - as in `_run`

    written = -_SLOW_BEAT
    stable: Snapshot | None = None  # what is written, without what changes all the time
    transfers: tuple[Transfer, ...] = ()
    ahead = 0.0  # of the wall clock; where that jumps, what stands written looks old
    while True:
        now = time.monotonic()
        jumped = abs(time.time() - now - ahead) > _BEAT
        before = stable
        stable = Snapshot(
            pid=os.getpid(),
            version=__version__,
            since=progress.since,
            progress_at=0.0,
            paused=_pause(app, start),
            queue_file_error=intake.queue_file_error,
            hints=(*_hints(app), *(hint for hints in progress.hints for hint in hints())),
            held=intake.held,
            inbox_troubles=intake.troubles,
            rate_limit=app.media.bandwidth.rate(),
        )
        quiet = _quiet(app, progress, intake, start)
        if progress.changed or jumped or stable != before or now - written >= _SLOW_BEAT:
            progress.changed, ahead = False, time.time() - now
            written = now
            silent_until, runs = _wall(app.flora.silent_until), progress.runs()
            snapshot = replace(stable, progress_at=_progress_at(quiet), runs=runs, silent_until=silent_until)
            progress.last = snapshot
            await to_thread.run_sync(heartbeat.write, config.state_dir, snapshot)
            transfers = tuple(transfer for run in snapshot.runs for transfer in run.outputs)
        well = quiet < _STUCK_AFTER
        view = SystemdView(
            starting=not intake.served.is_set(),
            open_runs=app.scheduler.open_runs,
            ended=progress.ended,
            transfers=transfers,
            paused=stable.paused,
            quiet=0.0 if well else quiet,
        )
        if not view.starting:
            supervision.ready()
        supervision.beat(describe(view), well=well)
        with anyio.move_on_after(_BEAT):
            await (intake.served.wait() if view.starting else next_tick(_BEAT))


async def _beat_to(sharing: RunSharing, app: App, progress: Heartbeat) -> None:
    """Report to the daemons that share the queue whenever the state changes, each ten seconds at least."""
    sent: tuple[Snapshot, bool] | None = None
    sent_at = -_SLOW_BEAT
    while True:
        snapshot, polls, now = progress.last, app.scheduler.polls, time.monotonic()
        if snapshot is not None and ((snapshot, polls) != sent or now - sent_at >= _SLOW_BEAT):
            with suppress(QueueUnavailableError), anyio.move_on_after(_SLOW_BEAT):
                await sharing.beat(heartbeat.shortened(snapshot), polls=polls)
                sent, sent_at = (snapshot, polls), now
        await next_tick(_SHARED_BEAT)


def connect(
    events: EventLog, app: App, start: Startup | None, intake: Intake, hooks: RunHooks
) -> Callable[[], None]:
    """Record rejected jobs, failed hooks and pauses as events; return the function that records the pause."""

    def report_pause() -> None:
        paused = _pause(app, start)
        events.pause(paused.reason if paused else None, paused.message if paused else "")

    app.scheduler.on_pause(report_pause)
    intake.on_rejected = events.rejected
    hooks.on_failure = events.hook_failed
    return report_pause


def _hints(app: App) -> tuple[str, ...]:
    trouble = app.sync.trouble if app.sync is not None and app.scheduler.paused is None else None
    silences = {"FLORA": app.flora.silent_until} | app.saver.quiet_hosts
    asked = [
        f"{who} asked to be left alone until {_clock(until)}: the next request is sent then"
        for who, until in silences.items()
        if _wall(until) is not None
    ]
    return tuple(hint for hint in (trouble, app.workspace_check.hint, *asked) if hint)


def _wall(until: float) -> float | None:
    """Convert a future moment from monotonic to unix seconds; None if past, or less than 30 s away."""
    left = until - time.monotonic()
    return time.time() + left if left > _SILENCE else None


def _clock(until: float) -> str:
    """Format such a moment for a person, rounded up to a minute, so that the text stays the same."""
    minutes = math.ceil((_wall(until) or time.time()) / 60 + 0.01)
    return time.strftime("%d %b %H:%M", time.localtime(minutes * 60))


def _pause(app: App, start: Startup | None) -> LivePause | None:
    """Return why all work waits: a pause of the runs, or a queue that cannot record."""
    paused, stuck = (start.pause if start else None) or app.scheduler.paused, app.queue.trouble
    if paused is not None:
        return LivePause(paused.reason, paused.message, paused.since)
    return LivePause(stuck.reason, stuck.message, stuck.since) if stuck is not None else None


def _progress_at(quiet: float) -> float:
    """Return when progress was last seen (unix seconds): now, unless nothing was done for long."""
    return time.time() - (quiet if quiet >= _STUCK_AFTER else 0.0)


def _quiet(app: App, progress: Heartbeat, intake: Intake, start: Startup) -> float:
    """Return for how many seconds nothing was done although there is work; 0 in a pause, which is no fault.

    The part that is quiet the longest counts. The inbox is looked at even where no file arrives.
    """
    if _pause(app, start) is not None:
        return 0.0
    scheduler = app.scheduler
    since = intake.turned_at if intake.served.is_set() else max(intake.turned_at, start.turned_at)
    now = time.monotonic()
    if not scheduler.idle:
        # What was asked for is no fault: a long interval, or the `Retry-After` of the server.
        rest = min(max(scheduler.rests_until, app.flora.silent_until, *app.saver.quiet_hosts.values()), now)
        since = min(since, max(scheduler.turned_at, progress.bytes_at, rest))
    return now - since


def _report(message: str) -> None:
    _log.warning("watching", message=message)


async def _sweep(inbox: Inbox) -> None:
    while True:
        await to_thread.run_sync(inbox.sweep)
        await anyio.sleep(_SWEEP_EVERY)
