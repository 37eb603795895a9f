"""Work on the disk is done in groups: those that wait while the groups before them are at it are the next.

So a burst of small files costs a few turns of a thread, and a few flushes of folders, and one alone waits
for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import anyio
from anyio import to_thread

from floradl.library.base import T

_GROUPS = 2  # at once: flushes that overlap share their work, and more threads only contend
_GROUP = 16

Together: TypeAlias = Callable[[Sequence[Callable[[], Any]]], list[Any]]
"""`Library.together`, or the like."""


class _Call:
    """One work that waits. It is woken when it was done, or when it has to lead `group`, itself the first."""

    __slots__ = ("group", "outcome", "woken", "work")

    def __init__(self, work: Callable[[], Any]) -> None:
        self.work = work
        self.group: list[_Call] = []
        self.outcome: Any = None
        self.woken = anyio.Event()


class BatchWriter:
    """Does works that read from the disk or put files there, a few groups at a time, each in a thread.

    `together` does those of a group. No task of its own: who comes while there is room for a group leads one,
    and its end wakes who leads the next. At most `most` groups are under way.
    """

    def __init__(self, together: Together, most: int = _GROUPS) -> None:
        self._together = together
        self._waiting: list[_Call] = []
        self._groups = 0
        self._most = most

    async def do(self, work: Callable[[], T]) -> T:
        """Do `work`; what it wrote is on disk on return. Raises what it raised, and where a flush failed.

        A work that has begun is completed before a cancellation takes effect.
        """
        call = _Call(work)
        self._waiting.append(call)
        self._gather()
        await self._turn(call)
        if call.group:
            await self._lead(call.group)
        if isinstance(call.outcome, BaseException):
            raise call.outcome
        outcome: T = call.outcome
        return outcome

    def _gather(self) -> None:
        """Make a group of those that wait, where there is room for one."""
        if self._waiting and self._groups < self._most:
            self._groups += 1
            group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
            _appoint(group)

    async def _turn(self, call: _Call) -> None:
        """Wait until `call` was done, or has to lead."""
        try:
            await call.woken.wait()
        except BaseException:
            if call in self._waiting:
                self._waiting.remove(call)
            elif not call.group:
                with anyio.CancelScope(shield=True):
                    await call.woken.wait()
            if call.group:
                self._leave(call.group)
            raise

    def _leave(self, group: list[_Call]) -> None:
        if len(group) > 1:
            _appoint(group[1:])
        else:
            self._end_group()

    async def _lead(self, group: list[_Call]) -> None:
        try:
            with anyio.CancelScope(shield=True):
                outcomes = await to_thread.run_sync(self._together, [call.work for call in group])
            for call, outcome in zip(group, outcomes, strict=True):
                call.outcome = outcome
        except BaseException as error:
            for call in group:
                call.outcome = error
            raise
        finally:
            for call in group:
                call.woken.set()
            self._end_group()

    def _end_group(self) -> None:
        self._groups -= 1
        self._gather()


def _appoint(group: list[_Call]) -> None:
    group[0].group = group
    group[0].woken.set()
