"""Everything that can go wrong, as one tree under `FloradlError`.

Whoever detects an error says which of these it is; what follows is decided in one place, `retry.outcome_of`,
by three families: a `TransientError` may pass, a `PermanentError` will not, and a `ServicePausedError`
concerns every run. The others end the command. Messages are for a person: what happened, where, what to do.
None carries a key or a URL query.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class ErrorCode(StrEnum):
    """Why a run or an output failed, as sidecars and `status` say it. A closed list that only grows."""

    # FLORA says so of a run that failed there
    PROVIDER_ERROR = "provider_error"
    MODEL_TIMEOUT = "model_timeout"
    SAFETY_BLOCKED = "safety_blocked"
    INPUT_UNREACHABLE = "input_unreachable"
    INTERNAL_ERROR = "internal_error"
    RUN_FAILED = "run_failed"  # failed at FLORA for a reason that this version does not know
    # the run could not be retrieved
    NOT_FOUND = "not_found"
    FORBIDDEN = "forbidden"
    BAD_REQUEST = "bad_request"
    BAD_ANSWER = "bad_answer"
    GAVE_UP = "gave_up"
    NO_OUTPUTS = "no_outputs"  # none of its outputs is available
    # an output is unavailable
    BAD_URL = "bad_url"
    HOST_REFUSED = "host_refused"
    HTTP_ERROR = "http_error"
    EXPIRED = "expired"
    TOO_LARGE = "too_large"
    NOT_MEDIA = "not_media"
    DAMAGED = "damaged"
    NETWORK = "network"
    STORAGE = "storage"  # the library could not take it


class PauseReason(StrEnum):
    """Why the whole daemon waits, as `status --json` says it in `paused.reason`."""

    KEY_REFUSED = "key_refused"
    CREDITS = "credits"
    DISK_FULL = "disk_full"
    LIBRARY_MISSING = "library_missing"
    LIBRARY_OTHER = "library_other"
    LIBRARY_READ_ONLY = "library_read_only"
    QUEUE_UNAVAILABLE = "queue_unavailable"  # the database that keeps the queue is away


class FloradlError(Exception):
    """The root. `str(error)` is a message for a person."""


class ConfigError(FloradlError):
    """The configuration, the command line or the machine's set-up is wrong; nothing was started (exit 2)."""


class QueueUnreadableError(ConfigError):
    """The database of the queue is away, for a command that reads it; that may pass (exit 5)."""


class ExposedError(ConfigError):
    """Others may write or replace what decides what this process does; the message says who, and the cure."""


class LockedError(FloradlError):
    """Another process works with this state folder; the message says which (exit 5)."""


class QueueDamagedError(FloradlError):
    """The queue's file was damaged, removed or replaced meanwhile: it is to be opened anew (exit 5)."""


class LeaseLostError(FloradlError):
    """Another daemon that shares the queue has this run by now: nothing more is recorded of it here."""


class FreshAnswerNeededError(FloradlError):
    """A fresh URL is needed, and another daemon polls FLORA: the run is handed back to it."""


class JobError(FloradlError):
    """A job file is refused, whole.

    `line` is 1-based where the fault has a place, and `key` names the YAML or JSON key. In a table `row`
    counts from 1 below the heading, and `column` is the heading's text.
    """

    def __init__(
        self,
        message: str,
        *,
        line: int | None = None,
        key: str | None = None,
        row: int | None = None,
        column: str | None = None,
    ) -> None:
        super().__init__(message)
        self.line = line
        self.key = key
        self.row = row
        self.column = column


class TransientError(FloradlError):
    """It may pass by itself: try again, not before `retry_after` (seconds) where the other side named it."""

    usual_code: ClassVar = ErrorCode.NETWORK

    def __init__(
        self, message: str, code: ErrorCode | None = None, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code or self.usual_code
        self.retry_after = retry_after


class ExpiredUrlError(TransientError):
    """The URL is of no use (any more): FLORA gives a fresh one with the run.

    A signed one ran out (GCS answers 400, S3 403, nginx 410), or there was none.
    """

    usual_code = ErrorCode.EXPIRED


class ForeignAnswerError(TransientError):
    """Somebody else answered in FLORA's place (a proxy, a portal, a gateway): nothing is decided by it."""

    usual_code = ErrorCode.BAD_ANSWER


class FolderError(TransientError):
    """One folder of the library cannot be written or made: only what goes there waits."""

    usual_code = ErrorCode.STORAGE


class AttemptsExhaustedError(TransientError):
    """Several attempts at an output failed. `spent` is what they and the waits between took, in seconds."""

    def __init__(self, error: TransientError, spent: float) -> None:
        super().__init__(str(error), error.code, retry_after=error.retry_after)
        self.spent = spent


class ApiUnavailableError(TransientError):
    """FLORA cannot be reached, or wants fewer requests: any other request would fare the same."""


class PermanentError(FloradlError):
    """A run or an output is unavailable, and trying again changes nothing."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message)
        self.code = code


class OverLimitError(PermanentError):
    """An output is over `download.max_file_size`. `size` is its length in bytes, None where it is unknown."""

    def __init__(self, message: str, size: int | None) -> None:
        super().__init__(message, ErrorCode.TOO_LARGE)
        self.size = size


class ServicePausedError(FloradlError):
    """Nothing can go on: the reason concerns every run, and lifts once it is fixed outside.

    `needed` is what the work wants of a full disk, in bytes, beyond what is always to stay free; 0 where
    that is not known.
    """

    def __init__(self, message: str, reason: PauseReason, *, needed: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.needed = needed


class QueueUnavailableError(ServicePausedError):
    """The queue cannot record, or read what it recorded, and waiting did not help (exit 5)."""

    def __init__(self, message: str, reason: PauseReason = PauseReason.DISK_FULL) -> None:
        super().__init__(message, reason)


def innermost(error: BaseException) -> BaseException:
    """Return the first error in a group of groups, or `error` itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
