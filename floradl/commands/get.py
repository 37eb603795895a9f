"""`get` and `once`: download in the foreground until no run is open."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress

import anyio
from anyio import to_thread

from floradl.app import App, working
from floradl.commands.exits import Exit, worst
from floradl.commands.streams import tell
from floradl.config.settings import Config
from floradl.daemon.hooks import safe_orders
from floradl.daemon.run import build_bounds, build_inbox, build_start, wait_for_stop
from floradl.daemon.startup import Startup, first_start, opened
from floradl.display import open_display
from floradl.errors import ConfigError, FloradlError, PauseReason, ServicePausedError, TransientError
from floradl.fs.permissions import make_above
from floradl.hooks.runs import Heard, RunHooks
from floradl.models import QueuedRun, Reference, RunRequest, RunState
from floradl.queue.sqlite import SqliteQueue
from floradl.runs.events import RunEvents, RunSummary
from floradl.sources.intake import Intake

_NO_PROGRESS = 600.0  # seconds
_MISSING_TRIES = 2  # after which a run that FLORA does not know is given up; somebody waits for the answer


class _Watched:
    """Passes run events on; notes failures and when bytes last came."""

    def __init__(self, display: RunEvents) -> None:
        self._display = display
        self.bytes_at = time.monotonic()
        self.failed = False
        self.run = display.run
        self.transferred = display.transferred
        self.trouble = display.trouble

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        self.bytes_at = time.monotonic()
        self._display.transfer(run, output_id, received, total)

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        self.failed = self.failed or run.state is not RunState.DONE
        self._display.finished(run, summary)


async def get(config: Config, environ: Mapping[str, str], references: Iterable[Reference]) -> Exit:
    """Fetch runs now, except those with a sidecar in the library. The daemon's state stays as it is."""
    requests = [RunRequest(reference) for reference in references]
    with open_display(sys.stderr, quiet=_failures_only(config)) as display, SqliteQueue.in_memory() as queue:
        progress = _Watched(display)
        async with working(config, environ, queue, progress, missing_tries=_MISSING_TRIES) as works:
            await to_thread.run_sync(_make_library, config, works)
            touched = await works.queue.submit(requests, time.time(), retry_failed=True)
            works.scheduler.enqueue(touched)
            return await _work_off(works, progress, math.inf)


async def once(config: Config, environ: Mapping[str, str], max_wait: float = math.inf) -> Exit:
    """Take the inbox in, download everything queued, and end. `max_wait` is in seconds."""
    inbox, queue_file = build_inbox(config)
    hooks = RunHooks(safe_orders(config, environ))
    with open_display(sys.stderr, quiet=_failures_only(config)) as display:
        progress = _Watched(display)
        async with (
            opened(config, "once") as queue,
            working(config, environ, queue, Heard(progress, hooks.wake)) as works,
            _run_hooks(hooks, works),
        ):
            start = build_start(config, works)
            ready = await start.attempt()
            intake = Intake(inbox, queue_file, works.queue, works.scheduler, build_bounds(config))
            works.scheduler.resume_open(await works.queue.open_ids())
            code = await _work_off(works, progress, max_wait, intake, None if ready else start)
            await to_thread.run_sync(inbox.sweep)
            if code is not Exit.INTERRUPTED:
                with suppress(FloradlError):  # the next one does it
                    await works.backfill.catch_up(looks=code in {Exit.OK, Exit.FAILED})
                await hooks.drain(works.queue.outbox)
            return worst(code, Exit.FAILED if intake.rejected else Exit.OK)


@asynccontextmanager
async def _run_hooks(hooks: RunHooks, works: App) -> AsyncIterator[None]:
    """Run the hook for finished runs meanwhile; the next command retries one that fails."""
    await hooks.prepare(works.queue.outbox)
    async with anyio.create_task_group() as group:
        group.start_soon(hooks.serve, works.queue.outbox, works.library)
        yield
        group.cancel_scope.cancel()


def _make_library(config: Config, works: App) -> None:
    """Make a new library; a missing one pauses, as for the daemon."""
    try:
        make_above(config.state_dir)
        config.state_dir.mkdir(mode=0o755, exist_ok=True)
        with suppress(ServicePausedError):
            first_start(config.state_dir, works.library)
    except OSError as error:
        message = f"the state folder {config.state_dir} cannot be made or used: {error.strerror}"
        raise ConfigError(f"{message}; fix that, or let --home or state_dir name another") from error


def _failures_only(config: Config) -> bool:
    return config.log.level in {"error", "critical"}


async def _work_off(
    works: App,
    progress: _Watched,
    max_wait: float,
    intake: Intake | None = None,
    start: Startup | None = None,
) -> Exit:
    """Work until no run is open; return the exit code. `start` is a startup that waits for a disk."""
    code = Exit.OK

    async def end(reason: Exit) -> None:
        nonlocal code
        code = reason
        works.media.halt()
        group.cancel_scope.cancel()

    async def interrupted() -> None:
        await wait_for_stop(works.media.halt, Exit.INTERRUPTED)
        await end(Exit.INTERRUPTED)

    async def watch() -> None:
        deadline = time.monotonic() + max_wait
        while True:
            now = time.monotonic()
            paused = works.scheduler.paused
            if paused is not None and paused.reason is PauseReason.KEY_REFUSED:
                tell(f"floradl: {paused.message}")
                await end(Exit.KEY_REFUSED)
            if now >= deadline:
                tell("floradl: --max-wait is over, and some runs are not finished")
                await end(Exit.GAVE_UP)
            rest = min(works.scheduler.rests_until, now)  # a long `poll.interval` is no lack of progress
            if now - max(works.scheduler.moved_at, progress.bytes_at, rest) > _NO_PROGRESS:
                tell("floradl: no progress for ten minutes")
                await end(Exit.GAVE_UP)
            await anyio.sleep(0.1)

    async with anyio.create_task_group() as group:
        group.start_soon(interrupted)
        group.start_soon(watch)
        if start is not None:
            group.start_soon(start.serve)
        if intake is not None:
            code = await _take_and_work(works, intake)
        await works.scheduler.serve(until_idle=True)
        group.cancel_scope.cancel()
    _tell_wrong_techniques(works)
    return worst(code, Exit.FAILED if progress.failed else Exit.OK)


def _tell_wrong_techniques(works: App) -> None:
    for warning in works.flora.wrong_techniques.values():
        tell(f"floradl: {warning}")


async def _take_and_work(works: App, intake: Intake) -> Exit:
    """Take jobs in, as the queue has room, and download in between; return how `sync` went."""
    again_in = await _take_all(intake)
    code = await _sync_once(works)
    while again_in < math.inf:
        await works.scheduler.serve(until_idle=True)
        again_in = await intake.take()
        if works.scheduler.idle and again_in < math.inf:
            await anyio.sleep(again_in)
    return code


async def _sync_once(works: App) -> Exit:
    """Queue the runs of the account's history, if it is to be synced; return how that went."""
    error = await works.sync.look() if works.sync is not None else None
    if works.sync is None or error is None:
        return Exit.OK
    tell(f"floradl: {works.sync.trouble}")
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
