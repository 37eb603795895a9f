"""Files go to their final names in groups: those that wait while one group is put on disk are the next.

So a burst of small files costs a few turns of a thread, and a few flushes of folders, and one alone waits
for nobody.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from floradl.disk.flushing import Flush, flushed_together

_T = TypeVar("_T")
_GROUP = 32


class _Call:
    """One work that waits: to be done by a group, or to lead the next one."""

    __slots__ = ("leads", "outcome", "woken", "work")

    def __init__(self, work: Callable[[Flush], Any]) -> None:
        self.work = work
        self.outcome: Any = None
        self.leads = False
        self.woken = anyio.Event()


class Publisher:
    """Does works that put files on disk, one group at a time, in a worker thread.

    No task of its own: whoever comes first leads a group, and its end wakes who leads the next.
    """

    def __init__(self) -> None:
        self._waiting: list[_Call] = []
        self._busy = False

    async def put(self, work: Callable[[Flush], _T]) -> _T:
        """Do `work`, which hands changed folders to the `Flush` that it is given; all is on disk on return.

        Raises what `work` raised, and `OSError` where a flush failed. A work that has begun is seen to its
        end before a cancellation is heeded.
        """
        call = _Call(work)
        self._waiting.append(call)
        call.leads, self._busy = not self._busy, True
        if not call.leads:
            await self._turn(call)
        if call.leads:
            await self._lead()
        if isinstance(call.outcome, Exception):
            raise call.outcome
        outcome: _T = call.outcome
        return outcome

    async def _turn(self, call: _Call) -> None:
        """Wait until `call` was done by others, or has to lead."""
        try:
            await call.woken.wait()
        except BaseException:
            if call in self._waiting:
                self._waiting.remove(call)
                if call.leads:
                    self._pass_on()
            else:
                with anyio.CancelScope(shield=True):
                    await call.woken.wait()
            raise

    async def _lead(self) -> None:
        group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
        try:
            with anyio.CancelScope(shield=True):
                outcomes = await to_thread.run_sync(flushed_together, [call.work for call in group])
            for call, outcome in zip(group, outcomes, strict=True):
                call.outcome = outcome
        except BaseException as error:
            for call in group:
                call.outcome = error
            raise
        finally:
            for call in group:
                call.woken.set()
            self._pass_on()

    def _pass_on(self) -> None:
        self._busy = bool(self._waiting)
        if self._waiting:
            self._waiting[0].leads = True
            self._waiting[0].woken.set()
