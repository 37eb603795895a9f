"""Hands finished runs over to the daemons that share the queue: in batches, and not more than they can save.

The URLs in an answer are good for a while only, so a run that would wait for long is polled again instead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable

import anyio

from floradl.errors import QueueUnavailableError
from floradl.log import get_logger
from floradl.models import FinishedRun
from floradl.queue.sharing import RunSharing
from floradl.wakeups import Signal

_MOST = 12_000  # ready runs: those of some minutes, for some daemons
_AT_ONCE = 200
_LOOK_EVERY = 1.0  # seconds, while there is no room
_AGAIN = 1.0  # seconds until the queue is tried again
_log = get_logger()


class HandOver:
    """A `NextStage`: takes what the poller finds finished. `serve` must be running.

    Where `most` ready runs wait, further ones are given to `poll_again` once half of these are taken.
    """

    def __init__(
        self, sharing: RunSharing, poll_again: Callable[[Iterable[str]], None], most: int = _MOST
    ) -> None:
        self._sharing = sharing
        self._poll_again = poll_again
        self._most = most
        self._waiting: deque[FinishedRun] = deque()
        self._turned_away: deque[str] = deque()
        self._ready = 0  # in the queue, when last looked
        self._full = False
        self._news = Signal()
        self.handed: set[str] = set()
        """Runs that were taken here and have not come back: others save them."""

    @property
    def room(self) -> bool:
        """Whether there is some; after it was full, only once half of it is free."""
        used = self._ready + len(self._waiting)
        self._full = used > self._most // 2 if self._full else used >= self._most
        return not self._full

    def offer(self, finished: FinishedRun) -> None:
        """Take a finished run, or have it polled again once there is room."""
        run_id = finished.run.run_id
        if self.room:
            self.handed.add(run_id)
            self._waiting.append(finished)
        else:
            self._turned_away.append(run_id)
        self._news.set()

    def restart(self) -> None:
        """Forget all: another daemon polls. `serve` must not be running."""
        self._waiting.clear()
        self._turned_away.clear()
        self.handed.clear()
        self._ready, self._full = 0, False

    async def serve(self) -> None:
        """Hand over what is offered, for ever."""
        while True:
            if not self._waiting:
                await self._news.wait(_LOOK_EVERY if self._full or self._turned_away else math.inf)
            batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
            try:
                self._ready = await self._sharing.hand_over(batch)
            except QueueUnavailableError as error:
                self._waiting.extendleft(reversed(batch))
                _log.debug("hand_over_postponed", message=str(error))
                await anyio.sleep(_AGAIN)
                continue
            if self._turned_away and self.room:
                free = self._most - self._ready - len(self._waiting)
                count = min(len(self._turned_away), max(free, 1))
                self._poll_again([self._turned_away.popleft() for _ in range(count)])
