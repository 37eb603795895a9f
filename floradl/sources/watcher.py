"""When to look at the watch folder and the queue file: on events, and wherever events are unreliable.

Events are hints. The system loses them when its queue overflows, sends none on network mounts nor where a
limit of inotify is used up, and none any more once the folder was deleted. So there is a wake-up
at start, after every restart of the watcher, where the folder's own time changed without an event, and every
30 s anyway.

Each event and tick of a watcher is a wake-up of a thread. They stay in that one thread: the event loop, whose
wake-up costs twice as much, gets only the events that matter.
"""

from __future__ import annotations

import math
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, closing
from pathlib import Path
from typing import TypeAlias

import anyio
import msgspec
from anyio import lowlevel, to_thread

from floradl.errors import innermost
from floradl.fs.mounts import is_shared
from floradl.sources.folder_events import NOTHING, FolderChanges, FolderEvents, watch_folders
from floradl.sources.scan import is_ignored

Identity: TypeAlias = tuple[int, ...] | None


class WatchTimes(msgspec.Struct, frozen=True):
    """How often to do what, in seconds.

    What happens within `step` is told together, but the first of it at once; a file that was made and not
    closed by its writer is looked at after it. `tick` is how often it is checked that the folder is still the
    one watched, `poll` how often to look where there are no events.
    """

    step: float = 0.02
    tick: float = 0.5
    rescan: float = 30.0
    poll: float = 2.0
    max_backoff: float = 60.0


class _Wake(msgspec.Struct, frozen=True):
    """Why waiting ended: a look is due, or another folder stands where the watched one was."""

    due: bool
    replaced: bool


class Watcher:
    """Yields whenever a look is due: `async for _ in watcher.wakes()`; `report` gets messages."""

    def __init__(
        self,
        watch_dir: Path,
        queue_file: Path | None = None,
        *,
        report: Callable[[str], None],
        pace: WatchTimes | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dir = watch_dir.absolute()
        self._queue_file = queue_file.absolute() if queue_file else None
        self._report = report
        self._pace = pace or WatchTimes()
        self._monotonic = monotonic
        self._folder_name = str(self._dir)  # events name files as the folder was named
        self._queue_name = str(self._queue_file) if queue_file else None
        self._gone = False
        self._last_wake = -math.inf
        self._queue_seen: Identity = None
        self._changed_at: int | None = None
        self._failures = 0

    async def wakes(self) -> AsyncGenerator[None, None]:
        """Yield at once, and then whenever a look is due, without end. Close it with `aclosing`."""
        while True:
            gone = _identity(self._dir) is None
            if gone is not self._gone:
                self._gone = gone
                state = "is gone: waiting for it" if gone else "is back"
                self._report(f"the watch folder {self._dir} {state}")
            if not gone or self._due():
                self._woken()
                yield
            if gone:
                await anyio.sleep(self._pace.tick)
            elif is_shared(self._dir):
                await anyio.sleep(self._pace.poll)
            else:
                async with aclosing(self._watched()) as wakes:
                    async for _ in wakes:
                        yield

    async def _watched(self) -> AsyncGenerator[None, None]:
        folder, started = _identity(self._dir), self._monotonic()
        first = True
        cause: BaseException | str = "it stopped by itself"
        try:
            with closing(watch_folders(self._folders(), self._pace.step, self._pace.tick)) as events:
                while wake := await self._wait(events, folder, first=first):
                    first = False
                    if wake.due:
                        self._woken()
                        yield
                    if wake.replaced:
                        if _identity(self._dir) is not None:
                            self._report(f"the watch folder {self._dir} was replaced: watching the new one")
                        return
        except (OSError, ValueError, RuntimeError, ExceptionGroup) as error:
            cause = innermost(error)
        lived = self._monotonic() - started
        self._failures = 1 if lived > self._pace.max_backoff else self._failures + 1
        # The first time it is made anew at once: what ended it was mostly a single odd name.
        delay = min(self._pace.max_backoff, 2.0 ** (self._failures - 2)) if self._failures > 1 else 0.0
        remedy = f"trying again in {delay:.0f} s, looking meanwhile"
        self._report(f"watching {self._dir} ended ({cause}): {remedy}")
        until = self._monotonic() + delay
        while (left := until - self._monotonic()) > 0:
            await anyio.sleep(min(left, self._pace.poll))
            self._woken()
            yield

    async def _wait(self, events: FolderEvents, folder: Identity, *, first: bool) -> _Wake | None:
        """Wait in a thread until there is something to do; None where the watcher stopped by itself."""

        def wait() -> _Wake | None:
            begun: set[str] = set()  # files that may be complete at the next look
            while (changes := events.wait(self._pace.step if begun else self._pace.tick)) is not None:
                # The folder was looked at before the watcher stood: what came between is seen now.
                missed = self._missed(changes) or first
                begun -= changes.gone
                due = missed or changes.lost or self._due() or bool(begun)
                due = due or any(map(self._matters, changes.whole))
                begun |= set(filter(self._matters, changes.begun))
                # One that is made again at once often gets the number of the old one.
                replaced = changes.ended or _identity(self._dir) != folder
                if due or replaced:
                    return _Wake(due, replaced)
            return None

        async def stop_with_us() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                if not group.cancel_scope.cancel_called:  # it is not we who leave: all is stopping
                    events.stop()

        async with anyio.create_task_group() as group:
            group.start_soon(stop_with_us)
            wake = await to_thread.run_sync(wait)
            group.cancel_scope.cancel()
        await lowlevel.checkpoint_if_cancelled()  # a watcher that was stopped did not stop by itself
        return wake

    def _folders(self) -> list[Path]:
        beside = self._queue_file.parent if self._queue_file else self._dir
        if beside != self._dir and beside.is_dir() and not is_shared(beside):
            return [self._dir, beside]
        return [self._dir]

    def _missed(self, changes: FolderChanges) -> bool:
        """Whether the folder's names changed without an event: the watcher is deaf, or some were lost."""
        before, self._changed_at = self._changed_at, _changed_at(self._dir)
        return changes == NOTHING and self._changed_at != before

    def _matters(self, path: str) -> bool:
        if path == self._queue_name:
            return True
        # Deletions in the watch folder are mostly our own moves: they do not matter.
        folder, _, name = path.rpartition("/")
        return folder == self._folder_name and not is_ignored(name)

    def _due(self) -> bool:
        """Whether a look is due without an event: the time has come, or the queue file is another one."""
        queue = _identity(self._queue_file) if self._queue_file else None
        return queue != self._queue_seen or self._monotonic() - self._last_wake >= self._pace.rescan

    def _woken(self) -> None:
        self._last_wake = self._monotonic()
        self._queue_seen = _identity(self._queue_file) if self._queue_file else None


def _identity(path: Path) -> Identity:
    """Identify what is at `path`: a folder, or a file with this content."""
    try:
        status = path.stat()
    except OSError:
        return None
    which = (status.st_dev, status.st_ino)
    if stat.S_ISDIR(status.st_mode):
        return which
    return (*which, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _changed_at(folder: Path) -> int | None:
    try:
        return folder.stat().st_mtime_ns
    except OSError:
        return None
