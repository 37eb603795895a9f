"""Work on the disk is done in batches: what waits while the batches before it are at work is the next one.

So a burst of small files costs a few turns of a thread, and a few flushes of folders; one alone waits for
nobody.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Thread, current_thread
from typing import Any, Final, TypeAlias, overload

import anyio

from floradl.fs.durable import Steps
from floradl.library.base import T

_THREADS: Final = 2  # flushes that overlap share their work, and more threads mostly contend
_BATCH: Final = 24
_GATHER: Final = 0.006  # seconds between the beginnings of two batches, while there are many
_MANY: Final = 8  # batches, in `_SPAN`
_SPAN: Final = 0.08  # seconds
_LINGER: Final = 0.05  # seconds without work in a burst, after which it may be over

Together: TypeAlias = Callable[[Sequence[Callable[[], Any]]], list[Any]]
"""`LibraryStore.together`, or the like."""

KeptOpen: TypeAlias = Callable[[], AbstractContextManager[None]]
"""`LibraryStore.kept_open`, or the like."""

Then: TypeAlias = Callable[[], None]
"""What is left to do in the event loop."""


class _Work:
    """Work that waits; once it `has_begun`, or `is_withdrawn`, the other cannot be any more."""

    __slots__ = ("do", "done", "has_begun", "is_withdrawn")

    def __init__(self, do: Callable[[], Any], done: Callable[[Any], Then | None]) -> None:
        self.do = do
        self.done = done
        self.has_begun = self.is_withdrawn = False


class BatchWriter:
    """Does work that reads from the disk or puts files there, in at most `threads` threads of its own.

    `together` does a batch, those of a burst within `kept_open`. The threads start when there is use for
    them.
    """

    def __init__(
        self,
        together: Together,
        threads: int = _THREADS,
        *,
        kept_open: KeptOpen = nullcontext,
    ) -> None:
        self._together = together
        self._kept_open = kept_open
        self._most = threads
        self._threads: list[Thread] = []
        self._idle = 0
        self._lock = Lock()
        self._waiting: SimpleQueue[_Work | None] = SimpleQueue()  # None only wakes a thread
        self._is_closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._begun: deque[float] = deque([-math.inf] * _MANY, _MANY)

    def attach(self) -> None:
        """Run what is left to do in the running event loop from now on."""
        self._loop = asyncio.get_running_loop()

    def put(self, do: Callable[[], T | Steps[T]], done: Callable[[T | Exception], Then | None]) -> None:
        """Have `do` done, which may be in `Steps`. May be called from any thread.

        What it wrote is on disk when `done` is called, in the same thread, with what it returned or raised.
        What that returns is called in the event loop.
        """
        self._put(_Work(do, done))

    @overload
    async def do(self, do: Callable[[], Steps[T]]) -> T: ...
    @overload
    async def do(self, do: Callable[[], T]) -> T: ...
    async def do(self, do: Callable[[], Any]) -> Any:
        """Do `do`; what it wrote is on disk on return. Raises what it raised, and where a flush failed.

        Work that has begun is completed before a cancellation takes effect.
        """
        self.attach()
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        work = _Work(do, lambda result: partial(_settle, future, result))
        self._put(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            with self._lock:
                work.is_withdrawn = not work.has_begun
            if work.has_begun:
                with anyio.CancelScope(shield=True):
                    await asyncio.wait([future])
                if not future.cancelled():
                    future.exception()  # it is known: whoever waited has gone
            raise

    def close(self) -> None:
        """Let the threads end once all that waits is done, and wait for that. Safe to repeat."""
        while True:
            with self._lock:
                threads = [*self._threads]
                self._is_closing = bool(threads)
            if not threads:
                return
            self._waiting.put(None)
            for thread in threads:  # what they do last may bring more work, and that another thread
                thread.join()

    def _put(self, work: _Work) -> None:
        self._waiting.put(work)
        with self._lock:
            if self._idle or len(self._threads) >= self._most:
                return
            thread = Thread(target=self._serve, name="floradl-disk", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self) -> None:
        try:
            while not self._ends():
                if not self._is_burst():
                    self._do(self._next())
                    continue
                with self._kept_open():
                    while self._is_burst() and not self._is_closing:
                        self._do(self._next(_LINGER))
        except BaseException:  # a bug: the next work starts another thread
            with self._lock:
                self._threads.remove(current_thread())
            raise

    def _ends(self) -> bool:
        """Whether this thread is to end; it wakes the next one then."""
        with self._lock:
            if not (self._is_closing and self._waiting.empty()):
                return False
            self._threads.remove(current_thread())
            if self._threads:
                self._waiting.put(None)
            return True

    def _is_burst(self) -> bool:
        """Whether batches follow closely. What one alone opens is closed before anybody hears of its end."""
        return time.monotonic() - self._begun[0] < _SPAN

    def _do(self, batch: list[_Work]) -> None:
        if not batch:
            return
        try:
            results = self._together([work.do for work in batch])
        except Exception as error:  # noqa: BLE001 - all of them meet it
            results = [error] * len(batch)
        left = [work.done(result) for work, result in zip(batch, results, strict=True)]
        then = [each for each in left if each is not None]
        if then and self._loop is not None:
            with suppress(RuntimeError):  # it is closed: nobody waits any more
                self._loop.call_soon_threadsafe(_run, then)

    def _next(self, seconds: float | None = None) -> list[_Work]:
        """Wait for work, or for the end, or so long; return what there is of it, a batch at most."""
        with self._lock:
            self._idle += 1
        try:
            work = self._waiting.get(timeout=seconds)
        except Empty:
            work = None
        else:
            self._gather()
        batch: list[_Work] = []
        with self._lock:
            self._idle -= 1
            while True:
                if work is not None and not work.is_withdrawn:
                    work.has_begun = True
                    batch.append(work)
                if len(batch) == _BATCH:
                    return batch
                try:
                    work = self._waiting.get_nowait()
                except Empty:
                    return batch

    def _gather(self) -> None:
        """Let work gather, where batches follow one another: each costs threads a turn, and disks a flush."""
        now = time.monotonic()
        since = now - self._begun[-1]
        if since < _GATHER and self._is_burst() and self._waiting.qsize() < _BATCH:
            time.sleep(_GATHER - since)
        self._begun.append(time.monotonic())


def _settle(future: asyncio.Future[T], result: T | Exception) -> None:
    if future.done():
        return
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)


def _run(then: list[Then]) -> None:
    for each in then:
        each()
