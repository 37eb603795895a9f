"""Downloads for a program that imports floradl: in a thread with an event loop of its own.

It works inside any event loop or none, several times in one process, and does not touch the program's
signals, logging and garbage collector. Runs are returned as they end; an error that stops all is raised.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import anyio
from anyio import to_thread

from floradl.app import App, WorkOptions, working
from floradl.config.settings import Config
from floradl.daemon.startup import first_start, refuse_unusable, unmounted_below
from floradl.errors import ConfigError, PauseReason, ServicePausedError, TransientError, innermost
from floradl.library.base import LibraryStore
from floradl.models import QueuedRun, RunRequest
from floradl.polling.poller import FEW_TRIES
from floradl.queue.sqlite import SqliteQueue
from floradl.redaction import Secret
from floradl.runs.events import RunSummary

_TICK = 0.1


class _Ended:
    """Passes on runs as they end (a `RunEvents`); notes when bytes last came."""

    def __init__(self, ended: queue.SimpleQueue[QueuedRun | BaseException | None]) -> None:
        self._ended = ended
        self.bytes_at = time.monotonic()

    def run(self, run: QueuedRun, next_in: float | None) -> None: ...

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        del run, output_id, received, total
        self.bytes_at = time.monotonic()

    def transferred(self, run: QueuedRun, output_id: str) -> None: ...

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        del summary
        self._ended.put(run)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None: ...

    def dropped(self, run_id: str) -> None: ...


class FetchSession:
    """Downloads `requests` from the start on until `stop`, or until no run is open.

    `key` is the API key where the program names one. The daemon's state is left alone.
    """

    def __init__(
        self, config: Config, environ: Mapping[str, str], requests: Sequence[RunRequest], key: Secret | None
    ) -> None:
        self._config = config
        self._environ = environ
        self._requests = requests
        self._key = key
        self._ended: queue.SimpleQueue[QueuedRun | BaseException | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopped = False
        self._stop_loop: asyncio.AbstractEventLoop | None = None
        self._scope: anyio.CancelScope | None = None
        self._app: App | None = None
        self._thread = threading.Thread(target=self._run, name="floradl-fetch")
        self._thread.start()

    def next(self) -> QueuedRun | None:
        """Wait for the next run that ends; None when all have. Raises what ended the work. Blocking."""
        ended = self._ended.get()
        if isinstance(ended, BaseException):
            raise ended
        return ended

    def stop(self) -> None:
        """End the work: transfers at once, part files stay. From any thread; safe to repeat."""
        with self._lock:
            self._stopped = True
            app, loop, scope = self._app, self._stop_loop, self._scope
        if app is not None:
            app.media.halt()
        if loop is not None and scope is not None:
            with suppress(RuntimeError):  # it has ended just now
                loop.call_soon_threadsafe(scope.cancel)

    def join(self) -> None:
        """Wait until its thread has ended. Blocking."""
        self._thread.join()

    def _run(self) -> None:
        try:
            anyio.run(self._serve)
        except BaseException as error:  # noqa: BLE001 - it is raised where the runs are waited for
            self._ended.put(innermost(error))
        else:
            self._ended.put(None)

    async def _serve(self) -> None:
        with anyio.CancelScope() as scope:
            with self._lock:
                self._stop_loop, self._scope = asyncio.get_running_loop(), scope
                if self._stopped:
                    return
            await self._work()

    async def _work(self) -> None:
        events = _Ended(self._ended)
        options = WorkOptions(key=self._key, missing_tries=FEW_TRIES)
        with SqliteQueue.in_memory() as runs:
            async with working(self._config, self._environ, runs, events, options) as app:
                with self._lock:
                    self._app = app
                await to_thread.run_sync(_make_library, self._config, app.library)
                touched = await runs.submit(self._requests, time.time(), retry_failed=True)
                app.scheduler.enqueue(touched)
                async with anyio.create_task_group() as group:
                    group.start_soon(self._watch, app, events)
                    await app.scheduler.serve(until_idle=True)
                    group.cancel_scope.cancel()

    async def _watch(self, app: App, events: _Ended) -> None:
        """Raise once no run can go on; stop once the program ends, which waits for threads only then."""
        program = threading.main_thread()
        watched = program.is_alive()
        while True:
            paused = app.scheduler.paused
            if paused is not None and paused.reason is PauseReason.KEY_REFUSED:
                app.media.halt()
                raise ServicePausedError(paused.message, PauseReason.KEY_REFUSED)
            if app.scheduler.is_stalled(events.bytes_at):
                app.media.halt()
                if paused is not None:
                    raise ServicePausedError(paused.message, PauseReason(paused.reason))
                raise TransientError("no progress for ten minutes")
            if watched and not program.is_alive():
                self.stop()
            await anyio.sleep(_TICK)


def _make_library(config: Config, library: LibraryStore) -> None:
    """Make a new library. Raises `ServicePausedError` where one that was there is missing, `ConfigError`."""
    refuse_unusable(library)
    if config.state_dir.is_dir():
        try:
            first_start(config.state_dir, library, beside=True)
        except OSError as error:
            message = f"the state folder {config.state_dir} cannot be used: {error.strerror}"
            raise ConfigError(f"{message}; fix that, or name another home (settings)") from error
    elif (point := unmounted_below(library)) is not None:
        raise ServicePausedError(
            f"{library.location()}: nothing is mounted at {point}, as /etc/fstab wants it",
            PauseReason.LIBRARY_MISSING,
        )
    else:  # there is no state folder that would say whether this library was seen before
        library.create()
    library.require()
