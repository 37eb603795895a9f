"""Why nothing goes on, and who looks whether it does again: the probe.

What keeps every run from its work is met by one of them. That one is tried again now and then, and no other,
until it goes on; then all do.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import msgspec
import structlog

from floradl.errors import PauseReason
from floradl.polling.due_queue import DueQueue

_FIRST_PROBE = 2.0
_RAREST = 300.0  # seconds
_DOUBLINGS = 8
_PROBE_EVERY = {  # the most seconds between looks at whether a pause can be lifted
    PauseReason.KEY_REFUSED: 60.0,
    PauseReason.CREDITS: 60.0,
    PauseReason.DISK_FULL: 5.0,
    PauseReason.LIBRARY_MISSING: 5.0,
    PauseReason.LIBRARY_READ_ONLY: 5.0,
}
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Pause(msgspec.Struct, frozen=True):
    """Why nothing goes on. `since` is unix seconds, `needed` bytes, see `ServicePausedError`."""

    reason: PauseReason
    message: str
    since: float
    needed: int = 0


class CircuitBreaker:
    """The pause that holds, if one does, and its probe. `monotonic` returns seconds."""

    def __init__(self, due_queue: DueQueue, monotonic: Callable[[], float]) -> None:
        self._due_queue = due_queue
        self._monotonic = monotonic
        self._began_at = 0.0
        self._probe: tuple[float, str] | None = None
        self._in_vain = 0  # how often the probe met the cause again though the disk looked well
        self.now: Pause | None = None
        self.probing: str | None = None
        """The probe, while it is at work."""

    @property
    def leaderless(self) -> bool:
        """Whether somebody else met the cause, and any run will tell when it is over."""
        return self._probe is None and self.probing is None

    def begin(self, reason: PauseReason, message: str, needed: int = 0) -> Pause:
        """Pause, whatever was before."""
        _log.error("paused", reason=reason, message=message)
        self.now = Pause(reason, message, time.time(), needed)
        self._began_at = self._monotonic()
        self._in_vain = 0
        return self.now

    def met(self, run_id: str, reason: PauseReason, message: str, needed: int = 0) -> Pause:
        """Take notice that a run met a cause: it is the probe, unless another one is."""
        pause = self.now
        if pause is None or pause.reason is not reason:
            pause = self.begin(reason, message, needed)
        elif run_id == self.probing:
            self._in_vain += 1
        if self._probe is None:
            self._probe = (self._monotonic() + self.next_look(reason), run_id)
        else:
            self._due_queue.put(run_id, 0.0)
        return pause

    def end(self) -> None:
        """Let all go on."""
        if self.now is not None:
            _log.info("resumed", reason=self.now.reason)
        self.now = None
        if self._probe is not None:
            self._due_queue.put(self._probe[1], 0.0)
            self._probe = None

    def due(self) -> str | None:
        """Take the run that is to look now; None where nobody is."""
        if self.leaderless:
            self.probing = self._due_queue.pop()
            return self.probing
        if self._probe is None or self._probe[0] > self._monotonic():
            return None
        (_, self.probing), self._probe = self._probe, None
        return self.probing

    def delay(self) -> float:
        """Return in how many seconds the probe is due: infinity while it is at work."""
        return self._probe[0] - self._monotonic() if self._probe else math.inf

    def postpone(self, run_id: str, seconds: float) -> bool:
        """Have the probe look again in `seconds`; False where `run_id` is not the probe of a pause."""
        if self.now is None or self._probe is not None or run_id != self.probing:
            return False
        self._probe = (self._monotonic() + seconds, run_id)
        return True

    def looked(self, run_id: str) -> None:
        """Hear that the work on `run_id` is over for now: where it was the probe, nobody looks meanwhile."""
        if run_id == self.probing:
            self.probing = None

    def hurry(self) -> bool:
        """Have the probe look at once; False where somebody is looking just now."""
        if self._probe is None:
            return False
        self._probe = (self._monotonic(), self._probe[1])
        return True

    def next_look(self, reason: PauseReason) -> float:
        """Return the seconds until the next look: soon at first, and more rarely the longer a pause lasts.

        Whether a disk has room is seen without the network; where that deceives (a quota), looks become rare.
        """
        seconds = min(max(self._monotonic() - self._began_at, _FIRST_PROBE), _PROBE_EVERY[reason])
        if reason is PauseReason.DISK_FULL:
            return min(seconds * 2**self._in_vain, _RAREST) if self._in_vain < _DOUBLINGS else _RAREST
        return seconds
