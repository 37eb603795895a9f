"""Which of the daemons that share a queue polls: one is elected, and leads for as long as its lease lasts.

The lease is the queue's, by the queue's clock. Whoever leads counts its end by its own monotonic clock, from
the moment before it asked, so it has stopped before another one can begin: where the queue does not answer,
where an answer comes late, and where the process itself was stopped meanwhile.
"""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio

from floradl.errors import QueueUnavailableError
from floradl.log import get_logger
from floradl.queue.sharing import POLLER_LEASE, RunSharing
from floradl.wakeups import Signal

_EVERY = 0.3  # of the lease, between two requests for it
_ANSWER_WITHIN = 0.5  # of the lease: a connection that hangs is asked again
_STOPPED_BEFORE = 0.1  # of the lease: so long before its end all has stopped
_RESIGN_WITHIN = 2.0  # seconds
_log = get_logger()


class Election:
    """Stands for election, and leads where it is elected. `lease` and `monotonic` are in seconds.

    `stands` says whether this daemon may poll at all.
    """

    def __init__(
        self,
        sharing: RunSharing,
        stands: Callable[[], Awaitable[bool]],
        lease: float = POLLER_LEASE,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sharing = sharing
        self._stands = stands
        self._lease = lease
        self._monotonic = monotonic
        self._until = -math.inf  # when what it was elected for is over
        self._not_before = -math.inf  # when it stands again
        self._outvoted_since = math.inf
        self._hurry, self._asked = Signal(), Signal()
        self.elected = False
        """Whether this daemon polls now."""

    def ask_now(self) -> None:
        """Stand, or stand no more, at once: what `stands` says may have changed."""
        self._hurry.set()

    @property
    def outvoted_for(self) -> float:
        """For how many seconds another daemon has been elected whenever this one stood; 0 where none was."""
        return max(self._monotonic() - self._outvoted_since, 0.0)

    def step_down(self, seconds: float) -> None:
        """Let another daemon be elected: stand no more for so many seconds, with 0 at once again."""
        self._not_before = self._monotonic() + seconds
        self._hurry.set()

    async def serve(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Stand for ever; `lead` runs while this daemon is elected, and is cancelled once it is not.

        At the end another daemon may be elected at once.
        """
        try:
            while True:
                await self._ask()
                if self._left() > 0:
                    await self._lead(lead)
                else:
                    await self._hurry.wait(self._lease * _EVERY)
        finally:
            await self._resign()

    async def _lead(self, lead: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.elected = True
        _log.info("elected", message="this daemon polls FLORA for all that share the queue")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(lead)
                group.start_soon(self._renew)
                while (left := self._left()) > 0:
                    await self._asked.wait(left)
                group.cancel_scope.cancel()
        finally:
            self.elected = False
            self._until = -math.inf
        _log.warning("election_lost", message="another daemon polls FLORA, or none can be elected just now")

    async def _renew(self) -> None:
        while True:
            await self._hurry.wait(self._lease * _EVERY)
            await self._ask()

    async def _ask(self) -> None:
        """Ask for the lease, or give it back; what is held already stays where nobody answers."""
        asked_at = self._monotonic()
        try:
            with anyio.move_on_after(self._lease * _ANSWER_WITHIN):
                if asked_at < self._not_before or not await self._stands():
                    held, self._until = self._until, -math.inf
                    if held > asked_at:
                        await self._resign()
                elif await self._sharing.elect():
                    self._until = asked_at + self._lease * (1 - _STOPPED_BEFORE)
                    self._outvoted_since = math.inf
                else:
                    self._until = -math.inf
                    self._outvoted_since = min(self._outvoted_since, asked_at)
        except QueueUnavailableError as error:
            _log.debug("election_postponed", message=str(error))
        finally:
            self._asked.set()

    def _left(self) -> float:
        return self._until - self._monotonic()

    async def _resign(self) -> None:
        with anyio.move_on_after(_RESIGN_WITHIN, shield=True), suppress(QueueUnavailableError):
            await self._sharing.resign()
