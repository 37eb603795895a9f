"""The store, for the event loop: calls queue up, and those that wait together are committed together.

A commit costs an fsync. While one is under way the next calls gather, so a hundred runs that finish at
once cost a handful of fsyncs, and one alone waits for no timer.

Where the disk does not take a commit the calls wait until it does: nobody has to do anything twice, and
whoever waits goes on where he was. Where the file is damaged they wait for good: `damaged` is set, and
whoever opened the journal ends the work and opens another.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import msgspec
import structlog
from anyio import to_thread

from floradl.errors import PauseReason
from floradl.queue.recovery import is_damage
from floradl.queue.sqlite import SqliteQueue

_T = TypeVar("_T")
_BATCH = 256
# What the disk or a neighbour does to us; all else is a fault of the call or of the file.
_MAY_PASS = tuple(f"SQLITE_{name}" for name in ("FULL", "IOERR", "CANTOPEN", "READONLY", "BUSY", "NOMEM"))
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class _Call:
    """One call that waits: what to do, and how it went."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[SqliteQueue], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = anyio.Event()


class QueueTrouble(msgspec.Struct, frozen=True):
    """Why nothing can be recorded. `since` is unix seconds."""

    message: str
    since: float


class GroupCommit:
    """The one way to the store from the event loop. `serve` must be running.

    Where the disk does not take a commit it is tried again each `again` seconds; `trouble` says so.
    """

    def __init__(self, store: SqliteQueue, again: float = 5.0) -> None:
        self._store = store
        self._again = again
        self._closing = anyio.Event()
        self.trouble: QueueTrouble | None = None
        self.damage: str | None = None
        """What is wrong with the file, once `damaged` is set: from then on no call returns."""
        self.damaged = anyio.Event()
        self._send, self._receive = anyio.create_memory_object_stream[_Call](math.inf)

    async def call(self, work: Callable[[SqliteQueue], _T]) -> _T:
        """Run `work` on the store; it is durable when this returns. Raises what `work` raised.

        A `work` that raised leaves nothing behind, and does not touch those committed with it. It is run
        again where its commit was refused, so it must not use anything up.
        """
        call = _Call(work)
        self._send.send_nowait(call)
        await call.done.wait()
        if call.error is not None:
            raise call.error
        result: _T = call.result
        return result

    async def serve(self) -> None:
        """Commit what comes, until `close`."""
        with self._receive:
            async for first in self._receive:
                batch = [first]
                while len(batch) < _BATCH:
                    try:
                        batch.append(self._receive.receive_nowait())
                    except (anyio.WouldBlock, anyio.EndOfStream):
                        break
                while batch:
                    batch = await self._record(batch)

    async def _record(self, batch: list[_Call]) -> list[_Call]:
        """Commit a batch; return what the disk did not take, after the time until the next try."""
        # Shielded: those who wait must hear how their commit went, even while all is stopping.
        with anyio.CancelScope(shield=True):
            if self.damage is None:
                await to_thread.run_sync(self._commit, batch)
        damage = next((call.error for call in batch if is_damage(call.error)), None)
        if damage is not None:
            self.give_up(str(damage))
        if self.damage is not None:
            return []
        refused = [] if self._closing.is_set() else [call for call in batch if _may_pass(call.error)]
        for call in batch:
            if call not in refused:
                call.done.set()
        self._note(refused[0].error if refused else None)
        if refused:
            with anyio.move_on_after(self._again):
                await self._closing.wait()
        for call in refused:
            call.error = None
        return refused

    def _note(self, error: BaseException | None) -> None:
        """Say once that nothing can be recorded, and once that it goes on."""
        if error is None:
            if self.trouble is not None:
                _log.info("resumed", reason=PauseReason.DISK_FULL)
            self.trouble = None
        elif self.trouble is None:
            remedy = "see to the disk of the state folder: is it full, or read-only?"
            if getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY"):
                remedy = "another program has it open: close that"
            message = f"the journal cannot be written ({error}): {remedy}"
            _log.error("paused", reason=PauseReason.DISK_FULL, message=message)
            self.trouble = QueueTrouble(message, time.time())

    def give_up(self, why: str) -> None:
        """Record nothing any more: the file is damaged, or is not where it was."""
        self.damage = self.damage or why
        self.trouble = QueueTrouble(f"the journal cannot be used: {self.damage}", time.time())
        self.damaged.set()

    def close(self) -> None:
        """Take no more calls; `serve` ends once those that wait are committed, or were refused once more."""
        self._closing.set()
        self._send.close()

    def _commit(self, batch: list[_Call]) -> None:
        try:
            with self._store.transaction():
                for call in batch:
                    try:
                        with self._store.savepoint():
                            call.result = call.work(self._store)
                    except Exception as error:
                        call.error = error
                        if not self._store.in_transaction:  # all that was to be committed is gone
                            raise
        except Exception as error:  # noqa: BLE001 - the commit failed: all who wait must know
            for call in batch:
                call.error = call.error or error


def _may_pass(error: BaseException | None) -> bool:
    return isinstance(error, sqlite3.OperationalError) and error.sqlite_errorname.startswith(_MAY_PASS)
