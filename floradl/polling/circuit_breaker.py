"""The pause of all runs for a cause that concerns every one, and its probe: the one run tried meanwhile.

A run meets the cause, becomes the probe, and is tried again now and then. Once it gets through, all go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from msgspec import Struct

from floradl.clock import Clocks
from floradl.errors import PauseReason
from floradl.log import get_logger
from floradl.models import FinishedRun
from floradl.polling.due_queue import DueQueue
from floradl.retry import Halted
from floradl.wakeups import Signal

_FIRST_PROBE = 2.0
_RAREST = 300.0  # seconds
_DOUBLINGS = 8
_PROBE_EVERY = {  # seconds between two probes, at most
    PauseReason.KEY_REFUSED: 60.0,
    PauseReason.CREDITS: 60.0,
    PauseReason.DISK_FULL: 5.0,
    PauseReason.LIBRARY_MISSING: 5.0,
    PauseReason.LIBRARY_OTHER: 5.0,
    PauseReason.LIBRARY_READ_ONLY: 5.0,
    PauseReason.QUEUE_UNAVAILABLE: 5.0,
}
_log = get_logger()


class Pause(Struct, frozen=True):
    """Why nothing goes on. `since` is unix seconds, `needed` bytes, see `ServicePausedError`."""

    reason: PauseReason
    message: str
    since: float
    needed: int = 0


class Probe(Struct, frozen=True):
    """The run that tries whether a pause is over, from `due` on (monotonic seconds).

    It is saved where it met the cause as a `finished` one; otherwise it is polled.
    """

    run_id: str
    due: float
    finished: FinishedRun | None = None


class CircuitBreaker:
    """The pause that holds, if one does, and its probe."""

    def __init__(self, due_queue: DueQueue, clocks: Clocks) -> None:
        self._due_queue = due_queue
        self._monotonic = clocks.monotonic
        self._wall = clocks.wall
        self._began_at = 0.0
        self._waiting: Probe | None = None
        self._probing: Probe | None = None
        self._in_vain = 0  # probes that met the cause again, although the disk seemed to have room
        self.now: Pause | None = None
        self.unlogged: PauseReason | None = None
        """The reason that whoever waits for the end is told anyway: no line of the log says it."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when a pause begins or ends."""
        self.changed = Signal()
        """Set when a pause or its probe changes, and by whoever makes runs due."""

    @property
    def leaderless(self) -> bool:
        """Whether no run met the cause, so that any run can be the probe."""
        return self._waiting is None and self._probing is None

    def is_probe(self, run_id: str) -> bool:
        """Whether `run_id` is the probe, and at work."""
        return self._probing is not None and self._probing.run_id == run_id

    def begin(self, reason: PauseReason, message: str, needed: int = 0) -> Pause:
        """Pause, whatever was before."""
        if reason is not self.unlogged:
            _log.error("paused", reason=reason, message=message)
        self.now = Pause(reason, message, self._wall(), needed)
        self._began_at = self._monotonic()
        self._in_vain = 0
        self.on_change()
        self.changed.set()
        return self.now

    def meet(self, run_id: str, halted: Halted, finished: FinishedRun | None = None) -> Pause:
        """Pause, since a run met a cause. It becomes the probe, unless another run is."""
        pause = self.now
        if pause is None or pause.reason is not halted.reason:
            pause = self.begin(halted.reason, halted.message, halted.needed)
        elif self.is_probe(run_id):
            self._in_vain += 1
        if self._waiting is None:
            due = self._monotonic() + self.next_look(halted.reason)
            self._waiting = Probe(run_id, due, finished)
        else:
            self._due_queue.put(run_id, 0.0)
        self.changed.set()
        return pause

    def end(self) -> None:
        """Let all go on."""
        if self.now is not None:
            _log.info("resumed", reason=self.now.reason)
            self.now = None
            self.on_change()
        if self._waiting is not None:
            self._due_queue.put(self._waiting.run_id, 0.0)
            self._waiting = None
        self.changed.set()

    async def passes(self) -> None:
        """Wait until no pause holds."""
        while self.now is not None:
            await self.changed.wait()

    async def next_probe(self) -> Probe:
        """Wait until a probe is due; `looked` must follow."""
        while True:
            if (probe := self._take()) is not None:
                self._probing = probe
                return probe
            if self.now is None or self._probing is not None:
                delay = math.inf
            elif self._waiting is not None:
                delay = self._waiting.due - self._monotonic()
            else:
                delay = self._due_queue.delay()
            await self.changed.wait(delay)

    def _take(self) -> Probe | None:
        if self.now is None or self._probing is not None:
            return None
        if self._waiting is None:
            run_id = self._due_queue.pop()
            return Probe(run_id, 0.0) if run_id is not None else None
        if self._waiting.due > self._monotonic():
            return None
        probe, self._waiting = self._waiting, None
        return probe

    def postpone(self, run_id: str, seconds: float) -> bool:
        """Have the probe try again in `seconds`; False where `run_id` is not the probe of a pause."""
        if self.now is None or self._waiting is not None or not self.is_probe(run_id):
            return False
        finished = self._probing.finished if self._probing is not None else None
        self._waiting = Probe(run_id, self._monotonic() + seconds, finished)
        return True

    def looked(self) -> None:
        """Record that the probe has tried."""
        self._probing = None
        self.changed.set()

    def forget_probe(self) -> None:
        """Let any run be the probe of a pause that lasts: the one that was is not known here any more."""
        self._waiting = None
        self.looked()

    def hurry(self) -> bool:
        """Have the probe try at once; False where it is at it just now."""
        if self._waiting is None:
            return False
        self._waiting = Probe(self._waiting.run_id, self._monotonic(), self._waiting.finished)
        self.changed.set()
        return True

    def next_look(self, reason: PauseReason) -> float:
        """Return the seconds until the next probe: the longer a pause lasts, the more.

        Free space is seen without the network; where it deceives (a quota), probes become rare.
        """
        seconds = min(max(self._monotonic() - self._began_at, _FIRST_PROBE), _PROBE_EVERY[reason])
        if reason is PauseReason.DISK_FULL:
            return min(seconds * 2**self._in_vain, _RAREST) if self._in_vain < _DOUBLINGS else _RAREST
        return seconds
