"""Removes what `library.keep` does not keep any longer: now and then, and before a full disk pauses all."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Collection, Mapping
from typing import Final

import anyio
from anyio import from_thread, to_thread

from floradl.clock import Clocks
from floradl.errors import FloradlError
from floradl.library.base import LibraryStore
from floradl.library.retention import Pruned, Pruner, expired_files
from floradl.log import get_logger
from floradl.models import OutputKind, RemovalReason
from floradl.queue.base import RunQueue

_SHORTEST: Final = 60.0  # seconds between two looks, but for a disk that is full
_LONGEST: Final = 6 * 3600.0
_SHARE: Final = 20  # of the shortest time that a kind is kept
_FIRST: Final = 2.0  # seconds after the start, which has other things to do
_log = get_logger()


class Retention:
    """Removes what is older than `keep` says: seconds from the download, by kind. Open runs stay."""

    def __init__(
        self,
        library: LibraryStore,
        queue: RunQueue,
        keep: Mapping[OutputKind, float],
        clocks: Clocks = Clocks(),  # noqa: B008 - it is frozen
        *,
        keep_times: bool,
    ) -> None:
        self._library = library
        self._queue = queue
        self._keep = keep
        self._clocks = clocks
        self._keep_times = keep_times
        self._turn = anyio.Lock()
        self._pressed = anyio.Event()  # set where the disk is full, and nothing is due yet
        self._removed = 0
        self._look_at = -math.inf  # unix seconds: before that nothing is due

    async def serve(self) -> None:
        """Remove what is due, now and then; runs for ever, and may be served again once it was cancelled."""
        if not self._keep:
            return
        shortest = min(self._keep.values())
        between = min(_LONGEST, max(_SHORTEST, shortest / _SHARE))
        await anyio.sleep(_FIRST)
        while True:
            try:
                async with self._turn:
                    await self._sweep()
            except FloradlError as error:
                _log.warning("prune_postponed", message=str(error))
            await self._wait(between)

    async def _wait(self, between: float) -> None:
        """Wait until the next file is due, `between` at least; no longer than that where the disk is full."""
        with anyio.move_on_after(min(max(self._look_at - self._clocks.wall(), between), _LONGEST)):
            await self._pressed.wait()
            self._pressed = anyio.Event()
            await anyio.sleep(max(self._look_at - self._clocks.wall(), 0.0))

    async def make_room(self) -> bool:
        """Remove what is due, as the disk is full; return whether that made room."""
        if not self._keep:
            return False
        before = self._removed
        async with self._turn:  # whoever waits here finds the room that was made meanwhile
            if self._removed == before and self._clocks.wall() >= self._look_at:
                try:
                    await self._sweep()
                except FloradlError as error:
                    _log.warning("prune_postponed", message=str(error))
        if self._removed == before:
            self._pressed.set()
        return self._removed > before

    async def _sweep(self) -> None:
        now = self._clocks.wall()
        open_ids = frozenset(await self._queue.open_ids())
        stopped = threading.Event()
        try:
            done, next_at = await to_thread.run_sync(
                self._prune, now, open_ids, stopped.is_set, abandon_on_cancel=True
            )
        finally:
            stopped.set()
        self._look_at = min(now + min(self._keep.values()), math.inf if next_at is None else next_at)
        self._removed += done.files
        if done.files:
            _log.info("files_pruned", files=done.files, bytes=done.bytes)
        for path, message in done.left[:5]:
            _log.warning("file_not_pruned", path=path, message=message)

    def _prune(
        self, now: float, open_ids: Collection[str], is_stopped: Callable[[], bool]
    ) -> tuple[Pruned, float | None]:
        expiry = expired_files(self._library, self._keep, now, open_ids)

        def is_open(run_id: str) -> bool:
            if is_stopped():  # nobody answers any more
                return True
            run = from_thread.run(self._queue.get, run_id)
            return run is not None and run.state.open

        pruner = Pruner(
            self._library,
            RemovalReason.KEPT_LONG,
            self._clocks.wall,
            is_open=is_open,
            keep_times=self._keep_times,
        )
        return pruner.prune(expiry.files, is_stopped), expiry.next_at
