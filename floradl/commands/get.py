"""`get` and `once`: download in the foreground until no run is open."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from floradl.app import App, WorkOptions, safe_hook_settings, working
from floradl.commands.exits import Exit, worst
from floradl.commands.streams import Show, tell
from floradl.config.settings import Config
from floradl.daemon.run import build_bounds, build_inbox, build_start, connect, wait_for_stop
from floradl.daemon.startup import Startup, first_start, opened, refuse_unusable
from floradl.display import open_display
from floradl.errors import ConfigError, FloradlError, PauseReason, ServicePausedError, TransientError
from floradl.fs.permissions import make_above
from floradl.hooks.runs import FinishListener, RunHooks
from floradl.models import QueuedRun, Reference, RunRequest, RunState
from floradl.polling.poller import FEW_TRIES
from floradl.queue.sqlite import SqliteQueue
from floradl.redaction import redact
from floradl.runs.events import RunEvents, RunSummary

if TYPE_CHECKING:
    from floradl.commands.results import ResultWriter
    from floradl.library.base import LibraryStore
    from floradl.queue.event_log import EventLog
    from floradl.sources.intake import Intake

_MOST_NAMED = 5  # failed runs, in a command
_UNRECORDED = 10.0  # seconds for which nothing can be recorded: a disk that is full stays so


class _ForegroundEvents:
    """A `RunEvents` for `display` and `results`, which notes failures and when the last bytes arrived."""

    def __init__(self, display: RunEvents, results: ResultWriter | None) -> None:
        self._display = display
        self._results = results
        self.bytes_at = time.monotonic()
        self.failed: list[Reference] = []
        self.ended = 0
        self.notes: list[str] = []
        """Further lines for the end."""
        self.ends_at_once: Callable[[], bool] = lambda: False
        """Whether there is no next try: the key was refused."""
        self.report_pause: Callable[[], None] = lambda: None
        self.run = display.run
        self.transferred = display.transferred
        self.dropped = display.dropped

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        if not self.ends_at_once():
            self._display.trouble(run, message, next_in)

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        self.bytes_at = time.monotonic()
        self._display.transfer(run, output_id, received, total)

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        self.ended += 1
        if run.state is not RunState.DONE:
            self.failed.append(run.reference)
        self._display.finished(run, summary)
        if self._results is not None:
            self._results.finished(run, summary)

    def open(self, library: LibraryStore) -> None:
        """Begin to write the runs that end, whose files are in `library`."""
        if self._results is not None:
            self._results.open(library)


@contextmanager
def _written(show: Show) -> Iterator[ResultWriter | None]:
    if show is Show.NOTHING:
        yield None
        return
    from floradl.commands.results import written  # noqa: PLC0415 - where it is wanted

    with written(show) as results:
        yield results


async def get(
    config: Config, environ: Mapping[str, str], requests: Sequence[RunRequest], show: Show = Show.NOTHING
) -> Exit:
    """Fetch runs now, except those with a sidecar in the library. The daemon's state does not change.

    What `show` says of each run is written to standard output as it ends.
    """
    total = len({request.reference.run_id for request in requests})
    with (
        open_display(sys.stderr, quiet=_failures_only(config), total=total) as display,
        _written(show) as results,
        SqliteQueue.in_memory() as queue,
    ):
        progress = _ForegroundEvents(display, results)
        async with working(config, environ, queue, progress, WorkOptions(missing_tries=FEW_TRIES)) as app:
            progress.open(app.library)
            await to_thread.run_sync(_make_library, config, app)
            touched = await app.queue.submit(requests, time.time(), retry_failed=True)
            app.scheduler.enqueue(touched)
            code = await _work_off(app, progress, math.inf)
    if not isinstance(config.output.dir, Path):
        from floradl.commands.alone import changing  # noqa: PLC0415 - here alone

        with changing(config):  # no event tells of it
            pass
    if progress.ended:
        _tell_where(config)
        if progress.failed and not _failures_only(config):
            _tell_next_try(progress.failed)
    _tell_interrupted(code)
    return worst(code, results.report_missing() if results is not None else Exit.OK)


async def once(
    config: Config, environ: Mapping[str, str], max_wait: float = math.inf, show: Show = Show.NOTHING
) -> Exit:
    """Take in the inbox, download all that is queued, and end. `max_wait` is in seconds; `show`: as `get`."""
    with (
        open_display(sys.stderr, quiet=_failures_only(config)) as display,
        _written(show) as results,
    ):
        progress = _ForegroundEvents(display, results)
        code = await _once(config, environ, max_wait, progress)
    if results is not None:
        code = worst(code, results.report_missing())
    for note in progress.notes:
        tell(f"floradl: {redact(note)}")
    if progress.ended:
        _tell_where(config)
    elif code is Exit.OK and not _failures_only(config):
        tell(f"nothing to do: no run is queued, and no job file is in {config.queue.watch_dir}")
    _tell_interrupted(code)
    return code


async def _once(
    config: Config, environ: Mapping[str, str], max_wait: float, progress: _ForegroundEvents
) -> Exit:
    from floradl.queue.event_log import EventLog  # noqa: PLC0415 - `get` needs none of it
    from floradl.sources.intake import Intake  # noqa: PLC0415 - as above

    inbox, queue_file = build_inbox(config)
    hooks = RunHooks(safe_hook_settings(config, environ))
    async with (
        opened(config, "once") as queue,
        aclosing(EventLog(config.state_dir)) as events,
        working(config, environ, queue, FinishListener(progress, hooks.wake), WorkOptions(events)) as app,
        _run_hooks(hooks, app, events),
    ):
        progress.open(app.library)
        start = build_start(config, app)
        intake = Intake(inbox, queue_file, app.queue, app.scheduler, build_bounds(config))
        progress.report_pause = connect(events, app, start, intake, hooks)
        _note_failures(progress.notes, intake, hooks)
        ready = await start.attempt()
        if start.pause is not None and start.pause.reason is PauseReason.LIBRARY_OTHER:
            progress.report_pause()
            tell(f"floradl: {start.pause.message}")
            return Exit.GAVE_UP
        await app.scheduler.resume_open(app.queue)
        code = await _work_off(app, progress, max_wait, intake, None if ready else start)
        await to_thread.run_sync(inbox.sweep)
        if code is not Exit.INTERRUPTED and app.queue.trouble is None:
            with suppress(FloradlError):  # the next one does it
                await app.backfill.catch_up(looks=code in {Exit.OK, Exit.FAILED})
            await hooks.drain(app.queue.outbox)
        return worst(code, Exit.FAILED if intake.rejected or hooks.failures else Exit.OK)


def _note_failures(notes: list[str], intake: Intake, hooks: RunHooks) -> None:
    """Add to `notes` why `once` ends with 3, which the log may not show at its level."""
    record_rejected, record_failed = intake.on_rejected, hooks.on_failure

    def rejected(file: str, message: str) -> None:
        record_rejected(file, message)
        notes.append(f"{file} was rejected: {message}; see inbox/rejected/{file}.error.txt")

    def failed(hook: str, run_id: str | None, message: str, *, final: bool) -> None:
        record_failed(hook, run_id, message, final=final)
        if run_id is not None and not final:
            again = "it is tried again at the next 'floradl once' or by the daemon"
            notes.append(f"hook {hook} failed for {run_id}: {message}; {again}")

    intake.on_rejected, hooks.on_failure = rejected, failed


@asynccontextmanager
async def _run_hooks(hooks: RunHooks, app: App, events: EventLog) -> AsyncIterator[None]:
    """Meanwhile run the hook for finished runs, and write events; a hook that fails is retried next time."""
    await hooks.prepare(app.queue.outbox)
    async with anyio.create_task_group() as group:
        group.start_soon(events.serve)
        group.start_soon(hooks.serve, app.queue.outbox, app.library)
        yield
        group.cancel_scope.cancel()


def _make_library(config: Config, app: App) -> None:
    """Make a new library; a missing one pauses, as for the daemon."""
    refuse_unusable(app.library)
    try:
        make_above(config.state_dir)
        config.state_dir.mkdir(mode=0o755, exist_ok=True)
        with suppress(ServicePausedError):
            first_start(config.state_dir, app.library, beside=True)
    except OSError as error:
        message = f"the state folder {config.state_dir} cannot be made or used: {error.strerror}"
        raise ConfigError(f"{message}; fix that, or let --home or state_dir name another") from error


def _tell_where(config: Config) -> None:
    """Say on stderr where the files are."""
    if not _failures_only(config):
        tell(f"library: {config.output.dir}")


def _tell_next_try(failed: Sequence[Reference]) -> None:
    """Say on stderr which command retries failed runs."""
    if len(failed) <= _MOST_NAMED:
        tell(f"'floradl get {' '.join(map(str, failed))}' tries again what failed")
    else:
        tell("'floradl retry --failed' queues again what failed")


def _tell_interrupted(code: Exit) -> None:
    if code is Exit.INTERRUPTED:
        tell("floradl: interrupted; the same command goes on where it stopped")


def _failures_only(config: Config) -> bool:
    return config.log.level in {"error", "critical"}


async def _work_off(
    app: App,
    progress: _ForegroundEvents,
    max_wait: float,
    intake: Intake | None = None,
    start: Startup | None = None,
) -> Exit:
    """Work until no run is open; return the exit code. `start` is a startup that waits for a disk."""
    code = Exit.OK

    async def end(reason: Exit) -> None:
        nonlocal code
        code = reason
        app.media.halt()
        group.cancel_scope.cancel()

    async def interrupted() -> None:
        await wait_for_stop(app.media.halt, Exit.INTERRUPTED)
        await end(Exit.INTERRUPTED)

    async def watch() -> None:
        deadline = time.monotonic() + max_wait
        while True:
            progress.report_pause()
            if (ending := _is_over(app, progress, deadline)) is not None:
                tell(f"floradl: {ending[1]}")
                await end(ending[0])
            await anyio.sleep(0.1)

    app.scheduler.leave_unlogged(PauseReason.KEY_REFUSED)  # which `watch` tells
    progress.ends_at_once = lambda: _refusal(app) is not None
    async with anyio.create_task_group() as group:
        group.start_soon(interrupted)
        group.start_soon(watch)
        if start is not None:
            group.start_soon(start.serve)
        if intake is not None:
            code = await _take_and_work(app, intake)
        await app.scheduler.serve(until_idle=True)
        group.cancel_scope.cancel()
    _tell_wrong_techniques(app)
    return worst(code, Exit.FAILED if progress.failed else Exit.OK)


def _tell_wrong_techniques(app: App) -> None:
    for warning in app.flora.wrong_techniques.values():
        tell(f"floradl: {warning}")


def _is_over(app: App, progress: _ForegroundEvents, deadline: float) -> tuple[Exit, str] | None:
    """Return why the work ends before its time, if it does. `deadline` is in monotonic seconds."""
    if (refused := _refusal(app)) is not None:
        return Exit.KEY_REFUSED, refused
    if time.monotonic() >= deadline:
        return Exit.GAVE_UP, "--max-wait is over, and some runs are not finished"
    trouble = app.queue.trouble
    if (
        trouble is not None
        and trouble.reason is PauseReason.DISK_FULL
        and time.time() - trouble.since > _UNRECORDED
    ):
        return Exit.GAVE_UP, trouble.message
    if app.scheduler.is_stalled(progress.bytes_at):
        return Exit.GAVE_UP, "no progress for ten minutes"
    return None


def _refusal(app: App) -> str | None:
    """Return why the key was refused, None where it was not."""
    paused = app.scheduler.paused
    return paused.message if paused is not None and paused.reason is PauseReason.KEY_REFUSED else None


async def _take_and_work(app: App, intake: Intake) -> Exit:
    """Take jobs in, as the queue has room, and download in between; return how `sync` went."""
    again_in = await _take_all(intake)
    code = await _sync_once(app)
    while again_in < math.inf:
        await app.scheduler.serve(until_idle=True)
        again_in = await intake.take()
        if app.scheduler.idle and again_in < math.inf:
            await anyio.sleep(again_in)
    return code


async def _sync_once(app: App) -> Exit:
    """Queue the runs of the account's history, if it is to be synced; return how that went."""
    error = await app.sync.look() if app.sync is not None else None
    if app.sync is None or error is None:
        return Exit.OK
    tell(f"floradl: {app.sync.trouble}")
    if isinstance(error, ServicePausedError) and error.reason is PauseReason.KEY_REFUSED:
        return Exit.KEY_REFUSED
    return Exit.GAVE_UP if isinstance(error, TransientError | ServicePausedError) else Exit.FAILED


async def _take_all(intake: Intake) -> float:
    """Take in the inbox and the queue file, as far as the queue has room.

    Returns the seconds until the next try for what waits for room; infinity where nothing does.
    """
    again_in = await intake.take()
    while again_in < math.inf and intake.held is None:
        await anyio.sleep(again_in)  # some files must stay unchanged for a moment
        again_in = await intake.take()
    return again_in
