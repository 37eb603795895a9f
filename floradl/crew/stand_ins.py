"""What stands, in a worker, for things that are not there: each asks for it over the line."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from floradl.crew.line import Line
from floradl.crew.messages import (
    TO_ERRAND,
    Arrived,
    Discard,
    Errand,
    Note,
    Open,
    Opened,
    ToErrand,
    Turn,
    Unread,
    Wanted,
)
from floradl.disk.files import AppendedFile
from floradl.media.download import StoppedError
from floradl.models import AttemptNotes
from floradl.net.throttle import OwnTime

_TELL_EVERY = 0.2  # seconds between two words about one transfer


class SlotStandIn:
    """The slot of an errand, see `media.download.Slot`."""

    def __init__(self, errand: Errand, line: Line) -> None:
        self.kind = errand.kind
        self.notes = errand.notes
        self._errand = errand
        self._line = line

    def held(self) -> AbstractContextManager[None]:
        """Return nothing to do: the folder is held where it is known."""
        return nullcontext()

    def note(self, notes: AttemptNotes) -> None:
        """Let the next attempt, in whatever process, know this."""
        self.notes = notes
        self._line.send(Note(notes))

    def leftover(self) -> tuple[str, int] | None:
        """Return validator and size of what an earlier attempt left."""
        return (self._errand.validator, self._errand.size) if self._errand.size else None

    def open(self, validator: str) -> PartStandIn:
        """Ask for the part file. Raises `StoppedError` where there is none, whatever the reason."""
        self._line.send(Open(validator))
        answer, fd = self._line.receive(TO_ERRAND)
        if not isinstance(answer, Opened) or fd is None:
            raise StoppedError
        return PartStandIn(fd, self._line)


class PartStandIn(AppendedFile):
    """A part file that was opened elsewhere."""

    def __init__(self, fd: int, line: Line) -> None:
        super().__init__(fd, "the part file")
        self._line = line

    def discard(self) -> None:
        """Have it removed."""
        self._line.send(Discard())


class Reporter:
    """Tells now and then how far a transfer is."""

    def __init__(self, line: Line, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._monotonic = monotonic
        self._told_at = monotonic()

    def __call__(self, received: int, total: int | None) -> None:
        """Hear of every step."""
        now = self._monotonic()
        if now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            self._line.send(Arrived(received, total))


class CapStandIn:
    """The cap on all transfers, see `net.throttle.Cap`: a turn is asked for over the line of the thread."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._capped = False
        self._lines = threading.local()
        self._lock = threading.Lock()
        self._waiting = 0
        self._time = OwnTime(monotonic)

    def serve(self, line: Line) -> None:
        """Ask for the turns of this thread over `line`."""
        self._lines.line = line

    def change(self, *, capped: bool) -> None:
        """Ask for turns from now on, or do not."""
        self._capped = capped

    def stop(self) -> None:
        """Hold nobody back any more."""
        self._capped = False

    def limits(self) -> bool:
        """Whether there may be a limit now."""
        return self._capped

    def own_time(self) -> float:
        """Return monotonic seconds, without those in which a transfer of this worker waited for a turn."""
        with self._lock:
            return self._time.now()

    def admit(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be read now."""
        if not self._capped:
            return most
        line: Line = self._lines.line
        with self._held():
            line.send(Wanted(most))
            answer: ToErrand = line.receive(TO_ERRAND)[0]
        return min(answer.bytes, most) if isinstance(answer, Turn) else most

    def give_back(self, unread: int) -> None:
        """Put back bytes that were allowed and not read."""
        if unread > 0 and self._capped:
            line: Line = self._lines.line
            line.send(Unread(unread))

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        with self._lock:
            self._waiting += change
            self._time.note(held=self._waiting > 0)
