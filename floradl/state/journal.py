"""The store, for the event loop: calls queue up, and those that wait together are committed together.

A commit costs an fsync. While one is under way the next calls gather, so a hundred runs that finish at
once cost a handful of fsyncs, and one alone waits for no timer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from floradl.state.store import Store

_T = TypeVar("_T")
_BATCH = 256


class _Call:
    """One call that waits: what to do, and how it went."""

    __slots__ = ("done", "error", "result", "work")

    def __init__(self, work: Callable[[Store], Any]) -> None:
        self.work = work
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = anyio.Event()


class Journal:
    """The one way to the store from the event loop. `serve` must be running."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._send, self._receive = anyio.create_memory_object_stream[_Call](math.inf)

    async def call(self, work: Callable[[Store], _T]) -> _T:
        """Run `work` on the store; it is durable when this returns. Raises what `work` raised.

        A `work` that raised leaves nothing behind, and does not touch those committed with it.
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
                # Shielded: those who wait must hear how their commit went, even while all is stopping.
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(self._commit, batch)
                for call in batch:
                    call.done.set()

    def close(self) -> None:
        """Take no more calls; `serve` ends once those that wait are committed."""
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
