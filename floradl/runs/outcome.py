"""What the work on a run comes to, and the attempts at one output."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct

from floradl.errors import AttemptsExhaustedError, ErrorCode, ExpiredUrlError, FolderError, TransientError
from floradl.models import QueuedRun
from floradl.retry import Halted, RetryIn, is_given_up
from floradl.runs.events import RunSummary


class Finished(Struct, frozen=True):
    """`run` is done, partial or failed, and recorded so; without a `summary` all of it stood already."""

    run: QueuedRun
    summary: RunSummary | None


class Dropped(Struct, frozen=True):
    """The run is not open any more: somebody else finished it, or it was forgotten."""


Outcome: TypeAlias = Finished | Dropped | RetryIn | Halted


_MISSED = 2  # times that a media host knows nothing of it, before FLORA is asked where it is now
_TRIES = 5  # of trouble without end, before the run is polled anew


class RetryState:
    """The attempts at one output: how often each kind of trouble was met, and what all of it took.

    `stale` says that a fresh URL is to be requested before the next one. `delay` gives the seconds
    until the next attempt as `after_trouble` does.
    """

    def __init__(
        self, delay: Callable[[TransientError, int], float | None], monotonic: Callable[[], float]
    ) -> None:
        self._delay = delay
        self._monotonic = monotonic
        self._met: Counter[ErrorCode] = Counter()
        self._began: float | None = None
        self._spent = 0.0
        self.stale = False

    def begin(self) -> None:
        """Record that a download begins: until then it only waited for a connection."""
        self._began = self._monotonic()

    def failed(self, error: TransientError) -> float | None:
        """Return the seconds until the next attempt, None where the output is given up.

        Raises `AttemptsExhaustedError` where trouble that is never given up was met too often.
        """
        if self._began is not None:
            self._spent += self._monotonic() - self._began
            self._began = None
        self._met[error.code] += 1
        met = self._met[error.code]
        delay = self._delay(error, met)
        if error.code is not ErrorCode.EXPIRED:
            del self._met[ErrorCode.EXPIRED]  # the URL was good meanwhile
        if isinstance(error, ExpiredUrlError):
            self.stale = True
            if met == 1 and error.code is not ErrorCode.BAD_URL:
                delay = 0.0  # a fresh one is there for the asking
        elif error.code is ErrorCode.NOT_FOUND and met == _MISSED:
            self.stale = True
        if delay is None:
            return None
        if isinstance(error, FolderError):  # others must not wait behind it
            raise AttemptsExhaustedError(error, self._spent) from error
        self._spent += delay
        if met > _TRIES and not is_given_up(error.code):
            raise AttemptsExhaustedError(error, self._spent) from error
        return delay
