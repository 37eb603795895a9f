"""What looks at something now and then does so together, so that an idle machine is woken once for all."""

from __future__ import annotations

import time

import anyio


async def next_tick(seconds: float) -> None:
    """Sleep until the next moment that all share who look each so many seconds."""
    await anyio.sleep(until_tick(time.monotonic(), seconds))


def until_tick(now: float, seconds: float) -> float:
    """Return how long it is from `now` (monotonic seconds) to the next multiple of `seconds`; never 0."""
    return seconds - now % seconds
