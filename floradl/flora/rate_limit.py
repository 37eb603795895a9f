"""How many requests a second the workspace has room for.

The limit is not published, and others share it. A 429 halves what we allow ourselves, measured by what we
really sent. From then on it grows back fast at first, slowly near the rate at which the limit was met, and
faster again once that turns out to be no limit any more (Ha, Rhee and Xu, "CUBIC: A New TCP-Friendly
High-Speed TCP Variant", 2008). So hardly one request in a hundred meets the limit.

A 429 may have nothing to do with what we send. Then it is met at half the rate as well, among many requests
that pass. Then what was taken is given again, twice over, and for a while only many of them count.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import anyio
from msgspec import Struct

from floradl.retry import backoff

_AT_ONCE, _FASTEST = 40, 40.0  # requests, and requests a second
_AHEAD, _LASTING = 900, 5.0  # the same, in the long run: 200 runs, each polled alone, end within it
_WINDOW = 10.0  # seconds in which our own rate is measured
_SHORTEST = 2.0  # seconds: a few at once are no rate
_LEAST = 0.5  # requests a second
_MODEST = 1.0  # who sends no more than this has no part in a limit that is met
_BACK_AFTER = 150.0  # seconds until the budget is again where the limit was met
_FREE = 20.0  # requests a second that are as good as no limit: what we ever send
_FAR_BELOW = 0.75  # of the rate at which the limit was met: there it cannot be met again by us
_PASSED = 10  # requests between two 429s that make a few of many
_EXCUSED_FOR = 300.0  # seconds in which few of many do not count
_RECENT, _MANY = 30, 8  # requests, and 429s among them that are too many to be chance
_AFTER_429 = 5.0  # seconds, where `retry-after` is absent
_SLOW = 2
_RECOVERY = 60.0
_MAX_BACKOFF = 30.0


class _Bucket(Struct):
    """`size` tokens at most, `rate` new ones a second. When it is full again is all of its state."""

    size: int
    rate: float
    full_at: float = 0.0

    def wait(self, now: float) -> float:
        return max(self.full_at - (self.size - 1) / self.rate - now, 0.0)

    def take(self, moment: float) -> None:
        self.full_at = max(self.full_at, moment) + 1 / self.rate

    def give_back(self) -> None:
        self.full_at -= 1 / self.rate


class TokenBuckets:
    """Counts requests. Moments are in seconds of one clock."""

    def __init__(self) -> None:
        self._short = _Bucket(_AT_ONCE, _FASTEST)
        self._long = _Bucket(_AHEAD, _LASTING)

    def wait(self, now: float) -> float:
        """Return the seconds until one more request is fair."""
        return max(self._short.wait(now), self._long.wait(now))

    def take(self, moment: float) -> None:
        """Count a request at `moment`."""
        self._short.take(moment)
        self._long.take(moment)

    def give_back(self) -> None:
        """Give one back: a request found a run's end."""
        self._long.give_back()


class AdaptiveLimit:
    """Spaces requests once a 429 was met; before that it only measures. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._sent: deque[float] = deque()
        self._met = math.inf  # the rate at which the limit was met
        self._since = 0.0
        self._next = 0.0
        self._count = 0
        self._throttled: deque[int] = deque(maxlen=_MANY)  # the last 429s, by the count of requests
        self._excused_until = -math.inf

    @property
    def rate(self) -> float:
        """Requests a second that are allowed now; infinity while no limit is known."""
        if self._met == math.inf:
            return math.inf
        away = (self._monotonic() - self._since) / _BACK_AFTER - 1
        grown = self._met * (1 + away**3 / 2)
        return max(grown, _LEAST) if grown < _FREE else math.inf

    def wait(self) -> float:
        """Return the seconds until one who takes a place now may go on."""
        return max(self._next - self._monotonic(), 0.0)

    def reserve(self, least: float = 0.0) -> float:
        """Take the next place in the queue, in `least` seconds or later; returns how many seconds to wait."""
        now = self._monotonic()
        rate = self.rate
        start = max(now + least, self._next)
        self._next = start + (1 / rate if rate < math.inf else 0.0)
        self._count += 1
        self._sent.append(start)
        while self._sent[0] < now - _WINDOW:
            self._sent.popleft()
        return start - now

    def throttled(self) -> None:
        """Record a 429. Several that come together count once."""
        now = self._monotonic()
        passed = self._count - (self._throttled[-1] if self._throttled else 0)
        self._throttled.append(self._count)
        if self._met < math.inf and now - self._since < 1.0:
            return
        measured = self._measured(now)
        rate = min(self.rate, measured)
        if self._met == math.inf and measured < _MODEST:
            return
        if now < self._excused_until and not self._many():
            return
        if self._met < math.inf and passed >= _PASSED and rate < self._met * _FAR_BELOW:
            self._excused_until = now + _EXCUSED_FOR
            self._met, self._since = 2 * self._met, now - _BACK_AFTER
            return
        self._met, self._since = rate, now
        self._excused_until = -math.inf

    def _measured(self, now: float) -> float:
        """Return how many requests a second were sent lately: one that begins is as fast as it begins."""
        sent = [moment for moment in self._sent if now - _WINDOW <= moment <= now]
        return len(sent) / max(now - sent[0], _SHORTEST) if sent else 0.0

    def _many(self) -> bool:
        return len(self._throttled) == _MANY and self._count - self._throttled[0] < _RECENT


class RateLimiter:
    """The gate. `limit` is how many requests may be under way; `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float], limit: int = 8) -> None:
        self._monotonic = monotonic
        self._limit = limit
        self._slots = anyio.CapacityLimiter(limit)
        self._not_before = 0.0
        self._slow_until = 0.0
        self._unreachable = 0
        self._budget = AdaptiveLimit(monotonic)
        self._token_buckets = TokenBuckets()
        self._patient = anyio.Lock()

    @asynccontextmanager
    async def turn(self, *, patient: bool = False) -> AsyncIterator[None]:
        """Wait for a turn and hold it. Of those who are `patient` one at a time stands before the others."""
        if patient:
            async with self._patient:
                await anyio.sleep(max(self._budget.wait(), self._token_buckets.wait(self._monotonic())))
        async with self._slots:
            await self._silence()
            now = self._monotonic()
            seconds = self._budget.reserve(self._token_buckets.wait(now))
            self._token_buckets.take(now + seconds)
            await anyio.sleep(seconds)
            await self._silence()  # a 429 may have come while this one waited for its place
            yield

    @property
    def silent_until(self) -> float:
        """Until when nobody asks: FLORA wants it so, or cannot be reached (monotonic seconds)."""
        return self._not_before

    async def _silence(self) -> None:
        delay = self._not_before - self._monotonic()
        while delay > 0:  # it may have grown meanwhile
            await anyio.sleep(delay)
            delay = self._not_before - self._monotonic()

    def throttled(self, retry_after: float | None) -> None:
        """Record a 429 that asks for `retry_after` seconds of silence."""
        now = self._monotonic()
        delay = _AFTER_429 if retry_after is None else retry_after
        self._not_before = max(self._not_before, now + delay)
        self._slow_until = now + delay + _RECOVERY
        self._budget.throttled()
        self._slots.total_tokens = min(_SLOW, self._limit)

    def paid(self) -> None:
        """Record an answer that found a run's end."""
        self._token_buckets.give_back()

    def closed(self, retry_after: float) -> None:
        """Record an answer that names the time when the API expects to be there again."""
        self._not_before = max(self._not_before, self._monotonic() + retry_after)

    def unreachable(self) -> None:
        """Record a request that got no answer at all."""
        now = self._monotonic()
        self._slots.total_tokens = 1
        if self._unreachable and now < self._not_before:
            return  # many that were under way together fail together: that is one failure
        self._unreachable += 1
        self._not_before = max(self._not_before, now + backoff(self._unreachable, _MAX_BACKOFF))

    def answered(self) -> None:
        """Record an answer that was not a 429."""
        self._unreachable = 0
        slow = self._monotonic() < self._slow_until
        self._slots.total_tokens = min(_SLOW, self._limit) if slow else self._limit
