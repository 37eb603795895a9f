"""How fast all transfers together may be, by the time of day. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import Final

from msgspec import Struct

DAY: Final = 86_400
"""Seconds of a day, as a clock on the wall shows them."""


class Span(Struct, frozen=True):
    """A part of each day: from `start` up to `end`, in seconds since midnight, at `rate` bytes a second.

    One that ends before it starts goes over midnight; one that ends as it starts would be a whole day.
    """

    start: int
    end: int
    rate: int

    def __contains__(self, second: int) -> bool:
        return (second - self.start) % DAY < ((self.end - self.start) % DAY or DAY)


class Timetable(Struct, frozen=True):
    """Spans of the day, none of which overlap; outside them there is no limit.

    Times are local, as the wall clock tells them: where the clock is put forward an hour of the table falls
    out, and where it is put back one counts twice.
    """

    spans: tuple[Span, ...]

    @classmethod
    def always(cls, rate: int) -> Timetable:
        """Return the table of a rate that holds at any time."""
        return cls((Span(0, 0, rate),))

    def rate(self, second: int) -> int | None:
        """Return the bytes a second that hold `second` seconds after midnight, None for no limit."""
        return next((span.rate for span in self.spans if second in span), None)

    def overlaps(self) -> Iterator[tuple[int, int]]:
        """Give the places of the spans that contradict each other, two at a time."""
        for (first, one), (second, other) in combinations(enumerate(self.spans), 2):
            if other.start in one or one.start in other:
                yield first, second
