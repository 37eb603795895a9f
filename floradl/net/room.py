"""How many may be in at once, as a number that can change meanwhile."""

from __future__ import annotations

from threading import Condition


class Room:
    """A semaphore for threads. Where there is less room than there was, those who are in may stay."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._changed = Condition()

    def acquire(self, timeout: float | None) -> bool:
        """Come in, waiting for up to `timeout` seconds; False where there was no room."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._inside < self._most, timeout):
                return False
            self._inside += 1
            return True

    def release(self) -> None:
        """Leave."""
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def change(self, most: int) -> None:
        """Let so many in from now on."""
        with self._changed:
            self._most = most
            self._changed.notify_all()
