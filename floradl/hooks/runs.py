"""The hook `run_finished`: run at least once for each run that ended, over restarts, beside all other work.

What is to be reported is in the queue from the moment in which the run's end was recorded. When to try again
is kept in memory by the monotonic clock, and forgotten at a restart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import BinaryIO, Protocol

import anyio
from anyio import CapacityLimiter, to_thread

from floradl.clock import unix_seconds
from floradl.errors import FloradlError, QueueUnavailableError
from floradl.hooks.command import RUN_FINISHED, Command, Ended, HookSettings, NotStartedError, run, to_its_end
from floradl.library.base import LibraryStore
from floradl.log import get_logger
from floradl.models import QueuedRun
from floradl.polling.due_queue import DueQueue
from floradl.queue.base import HookEvent, HookOutbox
from floradl.queue.sharing import RunSharing
from floradl.retry import backoff
from floradl.runs.events import RunEvents, RunSummary

_AT_ONCE = 4
_MOST_BACKOFF = 3600.0
_TRIES = 36  # a dozen in the first hour, then each hour for a day
_LOOK_AGAIN = (5.0, 60.0)  # seconds until a missing program is looked for again: first, at most
_ADOPT_EVERY = 20.0  # seconds
_LATER = 60.0  # seconds until a sidecar that cannot be read just now is looked for again
_log = get_logger()


class FailureReport(Protocol):
    """Hears of a hook that failed in a new way, or (`final`) is not tried again for this run."""

    def __call__(self, hook: str, run_id: str | None, message: str, *, final: bool) -> None:
        """Record it."""
        ...


def _ignore(hook: str, run_id: str | None, message: str, *, final: bool) -> None: ...


class FinishListener:
    """A `RunEvents` that passes all on to `progress`, and calls `wake` when a run has ended."""

    def __init__(self, progress: RunEvents, wake: Callable[[], None]) -> None:
        self.run = progress.run
        self.transfer = progress.transfer
        self.transferred = progress.transferred
        self.trouble = progress.trouble
        self.dropped = progress.dropped
        self._finished = progress.finished
        self._wake = wake

    def finished(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Report that a run is finished; the queue has recorded it."""
        self._finished(run, brought)
        self._wake()


class RunHooks:
    """Runs the hook for the events in the outbox. `serve` must be running."""

    def __init__(self, settings: HookSettings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._settings = settings
        self._monotonic = monotonic
        self._due_queue = DueQueue(monotonic, 1.0)
        self._slots = CapacityLimiter(_AT_ONCE)
        self._taken = 0  # off the schedule, and not yet done with
        self._changed = anyio.Event()
        self._tried = anyio.Event()  # set, and made anew, after each try
        self._expecting: bool | None = None
        self._news = True
        self._looking = anyio.Lock()  # so that who looks waits for a look that is under way
        self._seen = 0
        self._adopted: set[int] = set()  # from other daemons, whatever their number
        self._failures: dict[int, str] = {}
        self._held_until = -math.inf
        self._missing = 0
        self.failures = 0
        """How many tries failed, those that did not begin for a missing program too."""
        self.on_failure: FailureReport = _ignore

    def wake(self) -> None:
        """Look for events: there may be new ones, if there is a hook."""
        if self._expecting is not False:
            self._look_again()

    def _look_again(self) -> None:
        self._news = True
        self._changed.set()

    def change(self, settings: HookSettings) -> None:
        """Let `settings` hold from now on; what runs already goes on as it is."""
        self._settings = settings
        self._held_until = -math.inf
        self._look_again()

    async def prepare(self, outbox: HookOutbox) -> None:
        """Have runs that end from now on put into the outbox, if there is a hook for them."""
        wanted = bool(self._settings.commands.get(RUN_FINISHED))
        if wanted != self._expecting:
            await outbox.expect(finished=wanted)
            self._expecting = wanted

    async def adopt_from(self, sharing: RunSharing) -> None:
        """Run the hook for the runs of daemons that are gone, too; for ever."""
        while True:
            if self._expecting:
                with suppress(QueueUnavailableError):  # others report it
                    for number in await sharing.adopt_events():
                        self._adopted.add(number)
                        self._due_queue.put(str(number), 0.0)
                    self._changed.set()
            await anyio.sleep(_ADOPT_EVERY)

    async def serve(self, outbox: HookOutbox, library: LibraryStore) -> None:
        """Run the hook for all events, for ever; when stopped, hooks that run have some seconds to end."""
        async with anyio.create_task_group() as group:
            while True:
                try:
                    number = await self._next(outbox)
                except QueueUnavailableError as error:  # others report it; the events are kept
                    _log.debug("hook_postponed", hook=RUN_FINISHED, message=str(error))
                    number = None
                    await anyio.sleep(_LATER)
                if number is not None:
                    await self._slots.acquire_on_behalf_of(number)
                    group.start_soon(to_its_end, partial(self._take_on, outbox, library, number))

    async def drain(self, outbox: HookOutbox) -> None:
        """Wait until all that is due now was tried; `serve` must be running."""
        tried = self._tried
        while await self._due(outbox) or self._taken:
            await tried.wait()
            tried = self._tried

    async def _due(self, outbox: HookOutbox) -> bool:
        await self._look(outbox)
        return self._due_queue.delay() <= 0 and self._monotonic() >= self._held_until

    async def _look(self, outbox: HookOutbox) -> None:
        await self.prepare(outbox)
        async with self._looking:
            if not self._news:
                return
            self._news = False
            try:
                numbers = await outbox.after(self._seen)
            except BaseException:
                self._news = True
                raise
            for number in numbers:
                if number not in self._adopted:
                    self._due_queue.put(str(number), 0.0)
                self._seen = number

    async def _next(self, outbox: HookOutbox) -> int | None:
        """Wait for the next one that is due; None where things changed meanwhile."""
        self._changed = anyio.Event()
        await self._look(outbox)
        held = self._held_until - self._monotonic()
        name = self._due_queue.pop() if held <= 0 else None
        if name is not None:
            self._taken += 1
            return int(name)
        with anyio.move_on_after(max(held, self._due_queue.delay())):
            await self._changed.wait()
        return None

    async def _take_on(
        self, outbox: HookOutbox, library: LibraryStore, number: int, hurry: anyio.Event
    ) -> None:
        try:
            again_in = None if hurry.is_set() else await self._announce(outbox, library, number, hurry)
        except (FloradlError, OSError) as error:
            _log.debug("hook_postponed", hook=RUN_FINISHED, message=str(error))
            again_in = _LATER
        except Exception:  # noqa: BLE001 - a bug of ours must not cost the announcement, nor the daemon
            _log.exception("bug", hook=RUN_FINISHED)
            again_in = _LATER
        finally:
            self._slots.release_on_behalf_of(number)
        if again_in is None:
            self._failures.pop(number, None)
        else:
            self._due_queue.put(str(number), again_in)
        self._taken -= 1
        self._changed.set()
        self._tried.set()
        self._tried = anyio.Event()

    async def _announce(
        self, outbox: HookOutbox, library: LibraryStore, number: int, hurry: anyio.Event
    ) -> float | None:
        """Run the hook for one event; return the seconds until it is tried again, None where it is done."""
        event = await outbox.get(number)
        if event is None:
            return None
        found = await to_thread.run_sync(_find, library, event)
        if found is None:
            await outbox.drop(number)
            return None
        path, file = found
        with file:
            place = library.location()
            folder = place if place.startswith("/") else "/"  # a bucket is no folder to work in
            command = self._settings.command(RUN_FINISHED, library.location(path), folder)
            if command is None:
                return None  # it goes with its hook
            return await self._run(outbox, event, command, file.fileno(), hurry)

    async def _run(
        self, outbox: HookOutbox, event: HookEvent, command: Command, stdin: int, hurry: anyio.Event
    ) -> float | None:
        try:
            ended = await run(command, stdin, hurry)
        except NotStartedError as error:
            return self._hold(str(error))
        if self._missing:
            _log.info("hook_found", hook=RUN_FINISHED)
            self._missing = 0
        if ended.trouble is None:
            await outbox.drop(event.number)
            _log.info("hook_done", hook=RUN_FINISHED, run=event.run.run_id, **ended.facts)
            return None
        if hurry.is_set():
            return None  # it was cut short by the stop: the next start runs it
        return await self._failed(outbox, event, ended)

    async def _failed(self, outbox: HookOutbox, event: HookEvent, ended: Ended) -> float | None:
        tries, trouble, run_id = event.tries + 1, ended.trouble or "", event.run.run_id
        facts = {"hook": RUN_FINISHED, "run": run_id} | ended.facts
        self.failures += 1
        if tries >= _TRIES:
            await outbox.give_up(event.number)
            self.on_failure(RUN_FINISHED, run_id, trouble, final=True)
            message = f"{trouble}, {tries} times: this run is not announced any more"
            _log.error("hook_given_up", message=message, **facts)
            return None
        await outbox.count_failure(event.number)
        delay = backoff(tries, _MOST_BACKOFF)
        known = self._failures.get(event.number) == trouble
        self._failures[event.number] = trouble
        if not known:
            self.on_failure(RUN_FINISHED, run_id, trouble, final=False)
        log = _log.debug if known else _log.warning  # one line a change
        log("hook_failed", message=trouble, next_in=round(delay, 1), **facts)
        return delay

    def _hold(self, why: str) -> float:
        """Let all wait while the program is missing: that is no run's fault, and is reported once."""
        now = self._monotonic()
        if now < self._held_until:
            return 0.0  # of those that were under way together the first one counts
        self.failures += 1
        if not self._missing:
            self.on_failure(RUN_FINISHED, None, why, final=False)
            message = f"hooks.{RUN_FINISHED}: {why}; what there is to report is kept"
            _log.error("hook_missing", hook=RUN_FINISHED, message=message)
        first, most = _LOOK_AGAIN
        self._held_until = now + min(first * 2.0 ** min(self._missing, 10), most)
        self._missing += 1
        return 0.0


def _find(library: LibraryStore, event: HookEvent) -> tuple[str, BinaryIO] | None:
    """Open the sidecar of an ended run; return its path in the library, too. None where nothing is new."""
    path, run = event.sidecar, event.run
    if path is None:
        # It was there already when the run was looked at. That it was written since the run was queued shows
        # that it is new: whoever wrote it was stopped before this could be recorded.
        found = library.locate_sidecar(run.reference)
        finished = unix_seconds(found[1].times.finished_at) if found else None
        if found is None or finished is None or finished < run.queued_at:
            return None
        path = found[0]
    file = library.open_file(path)
    if file is None and (moved := library.locate_sidecar(run.reference)) is not None:
        path, _ = moved  # its technique was named meanwhile
        file = library.open_file(path)
    if file is None:
        _log.info("hook_dropped", hook=RUN_FINISHED, run=run.run_id, message=f"{path} is not there any more")
        return None
    from floradl.library.local_file import with_descriptor  # noqa: PLC0415 - where a hook is run

    return path, with_descriptor(file)
