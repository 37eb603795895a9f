"""The line of those who ask FLORA alone: it serves the newest run and who has stood longest, in turn.

So a run that was just dropped is asked about at once, whatever crowd stands there, and the crowd gets on.
"""

from __future__ import annotations

import itertools

import anyio
from msgspec import Struct


class Place(Struct, frozen=True):
    """Somebody's place in the line, kept while stepping out of it. `queued_at` says how new the run is."""

    number: int
    queued_at: float


class Line:
    """Lets `most` at a time go on."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._numbers = itertools.count()
        self._waiting: dict[Place, anyio.Event] = {}
        self._newest_first = True

    def place(self, queued_at: float) -> Place:
        """Return a place behind all others."""
        return Place(next(self._numbers), queued_at)

    async def enter(self, place: Place, seconds: float) -> bool:
        """Wait for a turn, for `seconds` at most; whether it came. `leave` ends it."""
        if self._free:
            self._free -= 1
            return True
        turn = self._waiting[place] = anyio.Event()
        try:
            with anyio.move_on_after(seconds):
                await turn.wait()
        except BaseException:
            if self._waiting.pop(place, None) is None:
                self.leave()  # the turn came, and nobody makes use of it
            raise
        return self._waiting.pop(place, None) is None

    def leave(self) -> None:
        """End a turn: the next one has it."""
        if not self._waiting:
            self._free += 1
            return
        if self._newest_first:
            place = max(self._waiting, key=lambda each: (each.queued_at, -each.number))
        else:
            place = min(self._waiting, key=lambda each: each.number)
        self._newest_first = not self._newest_first
        self._waiting.pop(place).set()
