"""A line on a terminal that shows how far a command is that goes through the library."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, TextIO

from floradl.units import format_clock, format_count

_EVERY: Final = 0.1  # seconds
_WIPE: Final = "\r\x1b[K"


class CountLine:
    """Shows `WORD  1,234 of 50,000 files` on `stream` if that is a terminal.

    For the first `patience` seconds it shows nothing: what is done by then needs no line.
    """

    def __init__(
        self,
        stream: TextIO,
        *,
        shown: bool,
        patience: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._shown = shown and stream.isatty()
        self._monotonic = monotonic
        self._due = monotonic() + patience if patience else -math.inf
        self._stands = False
        self._word = ""
        self._began = 0.0

    def show(self, word: str, done: int, total: int | None = None, noun: str = "file") -> None:
        """Say how many are done, and of how many, where that is known."""
        now = self._monotonic()
        if word != self._word:
            self._word, self._began = word, now
        if not self._shown or now < self._due:
            return
        self._due = now + _EVERY
        text = format_count(done, noun)
        if total:
            rate = done / max(now - self._began, 0.001)
            left = (total - done) / rate if rate else 0.0
            text = f"{done:,} of {format_count(total, noun)}"
            text += f"  {format_clock(int(left))} left" if left > 1 else ""
        self._draw(f"{_WIPE}{word}  {text}")
        self._stands = True

    def clear(self) -> None:
        """Remove the line, before something else is written."""
        if self._stands:
            self._due = -math.inf
            self._draw(_WIPE)
            self._stands = False

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more
            self._shown = False
