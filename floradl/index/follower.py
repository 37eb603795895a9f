"""Keeps an index current: a sidecar that is written or removed is read at once, whoever wrote it.

Events of the file system name the sidecar. Where there are none (a network mount, a spent inotify limit), the
times of the folders of sidecars are looked at, one for each technique. So they are now and then anyway.

A library in a store sends no events. What the daemon of this machine has saved it says in its event log; for
what others write a listing of the sidecars is compared now and then, the more rarely the more there are.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Final

import anyio
import watchfiles
from anyio import to_thread
from msgspec import Struct

from floradl.errors import FloradlError, innermost
from floradl.fs.mounts import is_shared
from floradl.index.library_index import Changes, LibraryIndex
from floradl.index.tables import IndexDamagedError
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.template import SIDECARS
from floradl.log import get_logger

_RESCAN: Final = 60.0  # seconds
_POLL: Final = 1.5
_AGAIN: Final = 5.0
_TOLD: Final = 0.5
_STEP: Final = 100  # milliseconds
_MOST: Final = 1000  # changes: where more come at once, folders are looked at instead
_LISTED: Final = 1000  # sidecars that a request lists
_PER_REQUEST: Final = 6.0  # seconds between listings for each request that one takes: it is paid for
_SOONEST: Final = 10.0
_LATEST: Final = 600.0
_log = get_logger()


class ReadProgress(Struct, frozen=True):
    """How far the library is read: `done` of `total` sidecars that changed since the index last saw it."""

    done: int
    total: int


class IndexFollower:
    """Follows `library` for `index`; `announce` hears the ids of runs that were just saved.

    `saved` returns the paths of sidecars that were written since the last call, as far as anybody told.
    Blocking; only asked for a library that sends no events.
    """

    def __init__(
        self,
        index: LibraryIndex,
        library: LibraryStore,
        announce: Callable[[list[str]], None],
        saved: Callable[[], list[str]] = list,
    ) -> None:
        self._index = index
        self._root = library.root if isinstance(library, FolderLibrary) else None
        self._announce = announce
        self._saved = saved
        self._next_look = _SOONEST
        self._deaf = False
        self.trouble: str | None = None
        """Why the index is behind the library, where it is."""
        self.reading: ReadProgress | None = ReadProgress(0, 0)
        """How far the first look got; None once it is over."""

    async def serve(self) -> None:
        """Read the whole library, then follow it for ever. Raises `IndexDamagedError`."""
        while not await self._tried(self._rebuild):  # noqa: ASYNC110 - see below
            await anyio.sleep(_AGAIN)  # the disk has no event for when it is there again
        self.reading = None
        if self._root is None:
            await self._follow_store()
        else:
            await self._follow_root(self._root)

    async def _follow_store(self) -> None:
        """Take what the daemon says, and compare a listing now and then."""
        due = time.monotonic() + self._next_look
        while True:
            await anyio.sleep(_TOLD)
            if time.monotonic() > due:
                await self._tried(self._rebuild)
                due = time.monotonic() + self._next_look
            else:
                await self._tried(self._add_saved)

    def _add_saved(self) -> None:
        if paths := self._saved():
            self._add(paths)

    async def _follow_root(self, root: Path) -> None:
        while True:
            folder = root / SIDECARS
            if is_shared(root) or not await to_thread.run_sync(folder.is_dir):
                await anyio.sleep(_POLL)
            else:
                await self._follow(folder)
            await self._tried(self._rebuild)

    async def _follow(self, folder: Path) -> None:
        """Take events until the folder is gone."""
        try:
            async with aclosing(self._events(folder)) as events:
                async for paths in events:
                    if paths is None or len(paths) > _MOST:
                        await self._tried(self._rebuild)
                    else:
                        await self._tried(partial(self._add, paths))
        except (OSError, RuntimeError, ExceptionGroup) as error:
            if not self._deaf:
                message = f"{folder} cannot be watched: its folders are looked at every {_POLL:g} s instead"
                _log.warning("index_not_watching", message=f"{message} ({innermost(error)})")
            self._deaf = True
            await anyio.sleep(_POLL)

    async def _events(self, folder: Path) -> AsyncGenerator[set[str] | None, None]:
        """Yield the paths in the library of sidecars that changed; None where all is to be looked at."""
        stop = threading.Event()
        due = -math.inf  # what was written before the folder was watched is found by a look at all
        watch = watchfiles.awatch(
            folder,
            watch_filter=None,
            step=_STEP,
            debounce=5 * _STEP,
            stop_event=stop,
            rust_timeout=1000,
            yield_on_timeout=True,
        )
        depth = str(folder).count("/") + 1
        try:
            async for changes in watch:
                if not await to_thread.run_sync(folder.is_dir):
                    return
                # A folder made a moment ago may hold what was there before it was watched.
                if time.monotonic() > due or any(path.count("/") == depth for _, path in changes):
                    due = time.monotonic() + _RESCAN
                    yield None
                elif changes:
                    yield {f"{SIDECARS}{path.removeprefix(str(folder))}" for _, path in changes}
        finally:
            stop.set()

    def _rebuild(self) -> None:
        def progress(done: int, total: int) -> None:
            if self.reading is not None:
                self.reading = ReadProgress(done, total)

        # At the first look each: an editor may have written to one in place while nobody followed.
        changes = self._index.rebuild(progress, thorough=self.reading is not None)
        requests = 1 + changes.listed // _LISTED
        self._next_look = min(max(_PER_REQUEST * requests, _SOONEST), _LATEST)
        self._report(changes)

    def _add(self, paths: Iterable[str]) -> None:
        self._report(self._index.add(paths))

    def _report(self, changes: Changes) -> None:
        if self.reading is None and (changes.run_ids or changes.taken_out):
            self._announce(changes.run_ids)

    async def _tried(self, work: Callable[[], None]) -> bool:
        try:
            await to_thread.run_sync(work)
        except IndexDamagedError:
            raise
        except (FloradlError, OSError) as error:
            self._tell(str(error))
            return False
        self.trouble = None
        return True

    def _tell(self, message: str) -> None:
        if message != self.trouble:
            _log.warning("index_behind", message=message)
        self.trouble = message
