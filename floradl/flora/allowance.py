"""How often we ask by ourselves, while no limit was met: enough for some hundred runs, and for no crowd.

The limit is not published, and others share it. FLORA's advice is a question every 2 to 5 s about a run: two
hundred runs in flight may ask 40 times a second by it. What goes on for minutes is to be less. Two buckets of
tokens hold us to that: a small one that fills fast, and a large one that fills slowly.

A question that hears of a run's end is given back to the large one. A run ends once, however many there are;
it is those that go on who could be asked about for ever.
"""

from __future__ import annotations

from msgspec import Struct

_AT_ONCE, _FASTEST = 40, 40.0  # requests, and requests a second
_AHEAD, _LASTING = 900, 5.0  # the same, in the long run: 200 runs, each asked about alone, end within it


class _Bucket(Struct):
    """`size` tokens at most, `rate` new ones a second. The moment at which it is full again tells all."""

    size: int
    rate: float
    full_at: float = 0.0

    def wait(self, now: float) -> float:
        return max(self.full_at - (self.size - 1) / self.rate - now, 0.0)

    def take(self, moment: float) -> None:
        self.full_at = max(self.full_at, moment) + 1 / self.rate

    def give_back(self) -> None:
        self.full_at -= 1 / self.rate


class Allowance:
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
        """Hear that a request told of a run's end."""
        self._long.give_back()
