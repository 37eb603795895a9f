"""How far a verification is: one line on a terminal, redrawn in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TextIO

from floradl.units import format_size

_EVERY = 0.1  # seconds
_WIPE = "\r\x1b[K"


class ProgressLine:
    """Counts bytes and files, and shows them on `stream` if that is a terminal. Threads may share it."""

    def __init__(
        self, stream: TextIO, *, shown: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self.shown = shown and stream.isatty()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._started = monotonic()
        self._drawn = 0.0
        self.bytes = 0
        self.total: int | None = None
        """All bytes that there are to look at, as soon as that is known."""

    def add(self, size: int) -> None:
        """Count bytes that were read, or passed over."""
        with self._lock:
            self.bytes += size
            now = self._monotonic()
            if self.shown and now - self._drawn >= _EVERY:
                self._drawn = now
                self._draw(_WIPE + self._line(now))

    def clear(self) -> None:
        """Take the line away, for something else is written."""
        if self.shown:
            with self._lock:
                self._drawn = 0.0
                self._draw(_WIPE)

    def _line(self, now: float) -> str:
        rate = self.bytes / max(now - self._started, 0.001)
        done = format_size(self.bytes)
        if self.total:
            share = min(100 * self.bytes // self.total, 100)
            done = f"{share:3} %  {done} of {format_size(self.total)}"
        left = (self.total - self.bytes) / rate if self.total and rate else 0.0
        return f"verifying  {done}  {format_size(int(rate))}/s" + (
            f"  {_clock(left)} left" if left > 1 else ""
        )

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more
            self.shown = False


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
