"""How fast we may ask: one gate for every request to the API.

Rate limits are per workspace, shared with whatever else uses it, and not published. So we ask no more than
is fair by ourselves (`allowance`), and a 429 speaks to all of us: everybody waits as long as it says, only
two go on at once (FLORA's own advice) until a quiet minute has passed, and the budget is halved. While the
API cannot be reached, one request at a time tries the door.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio

from floradl.flora.allowance import Allowance
from floradl.flora.budget import Budget
from floradl.timing.policy import backoff

_AFTER_429 = 5.0  # seconds, where `retry-after` is absent
_SLOW = 2
_RECOVERY = 60.0
_MAX_BACKOFF = 30.0


class Pace:
    """The gate. `limit` is how many requests may be under way; `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float], limit: int = 8) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._slots = anyio.CapacityLimiter(limit)
        self._not_before = 0.0
        self._slow_until = 0.0
        self._unreachable = 0
        self._budget = Budget(monotonic)
        self._allowance = Allowance()
        self._patient = anyio.Lock()

    @asynccontextmanager
    async def turn(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Of those who are `patient` one at a time stands before the others."""
        if patient:
            async with self._patient:
                await anyio.sleep(max(self._budget.wait(), self._allowance.wait(self._monotonic())))
        async with self._slots:
            await self._silence()
            await anyio.sleep(self._reserve())
            await self._silence()  # a 429 may have come while this one waited for its place
            yield

    @property
    def silent_until(self) -> float:
        """Until when nobody asks: FLORA wants it so, or cannot be reached (monotonic seconds)."""
        return self._not_before

    def _reserve(self) -> float:
        now = self._monotonic()
        seconds = self._budget.reserve(self._allowance.wait(now))
        self._allowance.take(now + seconds)
        return seconds

    async def _silence(self) -> None:
        delay = self._not_before - self._monotonic()
        while delay > 0:  # it may have grown meanwhile
            await anyio.sleep(delay)
            delay = self._not_before - self._monotonic()

    def throttled(self, retry_after: float | None) -> None:
        """Take notice of a 429 that asks for `retry_after` seconds of silence."""
        now = self._monotonic()
        delay = _AFTER_429 if retry_after is None else retry_after
        self._not_before = max(self._not_before, now + delay)
        self._slow_until = now + delay + _RECOVERY
        self._budget.throttled()
        self._slots.total_tokens = min(_SLOW, self._limit)

    def paid(self) -> None:
        """Take notice of an answer that told of a run's end."""
        self._allowance.give_back()

    def closed(self, retry_after: float) -> None:
        """Take notice of an answer that names the time when the API expects to be there again."""
        self._not_before = max(self._not_before, self._monotonic() + retry_after)

    def unreachable(self) -> None:
        """Take notice of a request that got no answer at all."""
        now = self._monotonic()
        self._slots.total_tokens = 1
        if self._unreachable and now < self._not_before:
            return  # many that were under way together fail together: that is one failure
        self._unreachable += 1
        self._not_before = max(self._not_before, now + backoff(self._unreachable, _MAX_BACKOFF))

    def answered(self) -> None:
        """Take notice of an answer that was not a 429."""
        self._unreachable = 0
        slow = self._monotonic() < self._slow_until
        self._slots.total_tokens = min(_SLOW, self._limit) if slow else self._limit
