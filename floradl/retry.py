"""From an error to what becomes of a run: try again in a while, fail, or pause. A table to read and test."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import (
    AttemptsExhaustedError,
    ErrorCode,
    ForeignAnswerError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.log import get_logger
from floradl.models import QueuedRun, RunFailure
from floradl.redaction import redact

MAX_BACKOFF = 30.0
# A run just created may not be visible yet, a media host may lag behind, an error page may stand where
# an image will be: worth a few tries over about a minute, but not a day.
_SHORT_TRIES = (2.0, 5.0, 10.0, 20.0, 25.0)
_SHORT_LIVED = {
    ErrorCode.NOT_FOUND: _SHORT_TRIES,
    ErrorCode.FORBIDDEN: _SHORT_TRIES,
    ErrorCode.NOT_MEDIA: _SHORT_TRIES,
    ErrorCode.EXPIRED: _SHORT_TRIES,
    ErrorCode.NO_OUTPUTS: _SHORT_TRIES,
    ErrorCode.BAD_REQUEST: _SHORT_TRIES[:2],  # 409 to a request that changes nothing: it will hardly end
    ErrorCode.BAD_URL: _SHORT_TRIES[:3],  # FLORA itself lists it malformed, and will hardly fix that
}
_DAMAGED_TRIES = 8
_AFTER_BUG = 30.0
_log = get_logger()


class RetryIn(Struct, frozen=True):
    """Poll `run` again in `seconds`. `trouble` says why, where it is more than "not finished".

    `shared`: at a moment when others are due, too, since one request may answer for all of them.
    """

    run: QueuedRun
    seconds: float
    trouble: str | None = None
    shared: bool = True


class Failed(Struct, frozen=True):
    """The run, or the outputs that are missing, are given up."""

    failure: RunFailure


class Halted(Struct, frozen=True):
    """No run can go on; `needed` as in `ServicePausedError`."""

    reason: PauseReason
    message: str
    needed: int = 0


def outcome_of(run: QueuedRun, error: Exception, give_up_after: float) -> RetryIn | Failed | Halted:
    """Return what becomes of `run`, which met `error`; a bug is logged, and costs no run.

    `give_up_after` is in seconds.
    """
    match error:
        case ServicePausedError():
            return Halted(error.reason, str(error), error.needed)
        case PermanentError():
            return Failed(RunFailure(error.code, str(error)))
        case TransientError():
            return _after_transient(run, error, give_up_after)
    _log.error("bug", run=run.run_id, technique=run.technique, exc_info=error)
    return RetryIn(replace(run, tries=run.tries + 1), _AFTER_BUG, "a bug: see the log")


def _after_transient(run: QueuedRun, error: TransientError, give_up_after: float) -> RetryIn | Failed:
    again = run.error is not None and run.error.code is error.code
    tries = run.tries + 1 if again else 1  # a 404 after a long outage is the first one
    seconds = after_trouble(error, tries)
    if seconds is None:
        return Failed(RunFailure(error.code, str(error)))
    waited, said = run.waited, str(error)
    if isinstance(error, AttemptsExhaustedError):
        # What the library's disk does is no fault of the outputs.
        waited += 0.0 if error.code is ErrorCode.STORAGE else error.spent + seconds
    elif error.code is ErrorCode.BAD_ANSWER and not isinstance(error, ForeignAnswerError):
        waited += seconds
        said = f"{error}, for {give_up_after:.0f} s (poll.give_up_after)"
    if waited > max(give_up_after, run.waited):
        return Failed(RunFailure(error.code, said))
    # As the queue will give it back: only so is it seen that the next error is the same.
    trouble = redact(str(error))
    failure = RunFailure(error.code, trouble)
    return RetryIn(replace(run, tries=tries, waited=waited, error=failure), seconds, trouble)


def is_given_up(code: ErrorCode) -> bool:
    """Whether a run that meets this error is given up after a few tries; any other may last for long."""
    return code in _SHORT_LIVED or code is ErrorCode.DAMAGED


def after_trouble(error: TransientError, tries: int) -> float | None:
    """Return the seconds until the next try after the `tries`-th failure in a row, or None to give up.

    What the other side asked for (`retry_after`) is honoured.
    """
    if error.code in _SHORT_LIVED:
        delays = _SHORT_LIVED[error.code]
        delay = delays[tries - 1] if tries <= len(delays) else None
    elif error.code is ErrorCode.DAMAGED and tries > _DAMAGED_TRIES:
        delay = None
    else:
        delay = backoff(tries, MAX_BACKOFF)
    if delay is None or error.retry_after is None:
        return delay
    return max(delay, error.retry_after)


def backoff(tries: int, cap: float) -> float:
    """Return the seconds to wait after the `tries`-th failure in a row: doubling, capped, jittered.

    The jitter keeps many that failed together from coming back together.
    """
    import random  # noqa: PLC0415 - most commands retry nothing

    return min(cap, 2.0 ** min(tries - 1, 10)) * random.uniform(0.75, 1.0)  # noqa: S311 - no secret
