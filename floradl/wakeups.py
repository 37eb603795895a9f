"""What wakes a task: ticks that all share who look now and then, and a signal of a change."""

from __future__ import annotations

import math
import time

import anyio


async def next_tick(seconds: float) -> None:
    """Sleep until the next moment that all share who look each so many seconds."""
    await anyio.sleep(until_tick(time.monotonic(), seconds))


def until_tick(now: float, seconds: float) -> float:
    """Return how long it is from `now` (monotonic seconds) to the next multiple of `seconds`; never 0."""
    return seconds - now % seconds


class Signal:
    """Wakes all who wait for a change."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def set(self) -> None:
        """Wake them."""
        event, self._event = self._event, anyio.Event()
        event.set()

    def next(self) -> anyio.Event:
        """Return the event of the next change: one taken before a look misses none that comes meanwhile."""
        return self._event

    async def wait(self, seconds: float = math.inf) -> None:
        """Wait for the next change, for so many seconds at most."""
        event = self._event
        with anyio.move_on_after(seconds):
            await event.wait()
