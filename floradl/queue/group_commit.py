"""Calls of the event loop on an SQLite connection: those that wait together are committed together.

A commit costs an fsync. While one is under way the next calls gather, so a hundred runs that finish at
once cost a handful of fsyncs, and one alone waits for no timer.

Where the disk does not take a commit the calls wait until it does: nobody has to do anything twice.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any, TypeVar

import anyio

from floradl.errors import PauseReason, QueueDamagedError, QueueUnavailableError
from floradl.log import get_logger
from floradl.queue.base import QueueTrouble
from floradl.queue.migrations import is_damage

_T = TypeVar("_T")
_BATCH = 256
_GATHER = 0.006  # seconds between the beginnings of two commits, while calls overlap
# What the disk or a neighbour does to us; all else is a fault of the call or of the file.
_MAY_PASS = tuple(f"SQLITE_{name}" for name in ("FULL", "IOERR", "CANTOPEN", "READONLY", "BUSY", "NOMEM"))
_TRANSACTION = ("BEGIN IMMEDIATE", "COMMIT", "ROLLBACK")
_SAVEPOINT = ("SAVEPOINT work", "RELEASE work", "ROLLBACK TO work", "RELEASE work")
_log = get_logger()


class _Call:
    """One call that waits: what to do, and how it went."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[sqlite3.Connection], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class GroupCommit:
    """The one way from the event loop to the connection `db`. `serve` must be running.

    A thread of its own commits. Where the disk does not take a commit it is tried again each `retry_after`
    seconds; `trouble` says so.
    """

    def __init__(self, db: sqlite3.Connection, retry_after: float) -> None:
        self._db = db
        self._retry_after = retry_after
        self._closing = Event()
        self._begun = -math.inf
        self._overlap = False  # whether calls of several callers were in the last batch
        self._waiting: SimpleQueue[_Call | None] = SimpleQueue()  # None only wakes the thread
        self.trouble: QueueTrouble | None = None

    async def call(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Run `work` on the connection; it is durable when this returns.

        A `work` that raised leaves nothing behind, and does not touch those committed with it. It is run
        again where its commit was refused, so it must not use anything up. Raises what `work` raised;
        `QueueUnavailableError` in place of SQLite's own errors.
        """
        if self._closing.is_set():
            raise anyio.ClosedResourceError
        call = _Call(work)
        self._waiting.put(call)
        await call.done
        if isinstance(call.error, sqlite3.Error):
            raise QueueUnavailableError(f"the journal cannot be written: {call.error}") from call.error
        if call.error is not None:
            raise call.error
        result: _T = call.result
        call.result = None  # the thread may hold the call a moment longer
        return result

    async def serve(self) -> None:
        """Commit what comes, until `close`. Raises `QueueDamagedError`: then calls that wait never return.

        What was called before a cancellation is committed, and its callers know, when that takes effect.
        """
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        Thread(target=self._serve, args=(loop, ended), name="floradl-queue", daemon=True).start()
        try:
            await asyncio.shield(ended)
        except asyncio.CancelledError:
            self.close()
            with anyio.CancelScope(shield=True):
                await ended
            raise
        finally:
            self._closing.set()

    def _serve(self, loop: asyncio.AbstractEventLoop, ended: asyncio.Future[None]) -> None:
        try:
            while not (self._closing.is_set() and self._waiting.empty()):
                batch = self._next()
                while batch:
                    batch = self._record(loop, batch)
        except BaseException as error:  # noqa: BLE001 - whoever serves has it
            _call_soon(loop, ended.set_exception, error)
        else:
            _call_soon(loop, ended.set_result, None)

    def _next(self) -> list[_Call]:
        """Wait for a call, or for the end; return what there is, a batch at most."""
        call = self._waiting.get()
        self._gather()
        batch = []
        while True:
            if call is not None:
                batch.append(call)
            if len(batch) == _BATCH:
                break
            try:
                call = self._waiting.get_nowait()
            except Empty:
                break
        self._overlap = len(batch) > 1
        return batch

    def _gather(self) -> None:
        """Let calls gather, where they overlap: a commit costs threads a turn, and the disk a flush.

        A caller that makes one call after the other has nobody to wait for.
        """
        since = time.monotonic() - self._begun
        if self._overlap and since < _GATHER and not self._closing.is_set():
            time.sleep(_GATHER - since)
        self._begun = time.monotonic()

    def _record(self, loop: asyncio.AbstractEventLoop, batch: list[_Call]) -> list[_Call]:
        """Commit a batch; return what the disk did not take, after the time until the next try."""
        self._commit(batch)
        damage = next((call.error for call in batch if is_damage(call.error)), None)
        if damage is not None:
            raise QueueDamagedError(str(damage))
        refused = [] if self._closing.is_set() else [call for call in batch if _may_pass(call.error)]
        self._note(refused[0].error if refused else None)
        _call_soon(loop, _settle, [call for call in batch if call not in refused] if refused else batch)
        if refused:
            self._closing.wait(self._retry_after)
        for call in refused:
            call.error = None
        return refused

    def _note(self, error: BaseException | None) -> None:
        """Log once that nothing can be recorded, and once that it can again."""
        if error is None:
            if self.trouble is not None:
                _log.info("resumed", reason=PauseReason.DISK_FULL)
            self.trouble = None
        elif self.trouble is None:
            remedy = "look at the disk of the state folder: is it full, or read-only?"
            name = getattr(error, "sqlite_errorname", "")
            if name.startswith("SQLITE_BUSY"):
                remedy = "another program has it open: close that"
            elif name.startswith("SQLITE_FULL"):
                remedy = "make room on the disk of the state folder"
            message = f"the journal cannot be written ({error}): {remedy}"
            _log.error("paused", reason=PauseReason.DISK_FULL, message=message)
            self.trouble = QueueTrouble(message, time.time())

    def close(self) -> None:
        """Take no more calls; `serve` ends once those that wait are committed, or were refused once more."""
        self._closing.set()
        self._waiting.put(None)

    def disconnect(self) -> None:
        """Close the connection, and whatever calls would come by. `serve` must not be running."""
        self.close()
        self._db.close()

    def _commit(self, batch: list[_Call]) -> None:
        try:
            with _all_or_nothing(self._db, *_TRANSACTION):
                for call in batch:
                    try:
                        with _all_or_nothing(self._db, *_SAVEPOINT):
                            call.result = call.work(self._db)
                    except Exception as error:
                        call.error = error
                        if not self._db.in_transaction:  # all that was to be committed is gone
                            raise
        except Exception as error:  # noqa: BLE001 - the commit failed: all who wait must know
            for call in batch:
                call.error = call.error or error


@contextmanager
def _all_or_nothing(db: sqlite3.Connection, begin: str, end: str, *undo: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute(end)
    except BaseException:
        if db.in_transaction:  # a full disk makes SQLite roll back by itself
            for statement in undo:
                db.execute(statement)
        raise


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[_T], object], value: _T) -> None:
    with suppress(RuntimeError):  # it is closed: nobody waits any more
        loop.call_soon_threadsafe(call, value)


def _settle(batch: list[_Call]) -> None:
    for call in batch:
        if not call.done.done():
            call.done.set_result(None)


def _may_pass(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname.startswith(_MAY_PASS)
