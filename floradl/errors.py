"""Everything that can go wrong, as one tree.

    FloradlError
    ├── ConfigError           the configuration, the command line or the machine's set-up is wrong (exit 2)
    │   └── ExposedError      others may write what decides what this process does
    ├── LockedError           another process holds the state folder (exit 5)
    ├── QueueDamagedError     the journal was damaged or taken away meanwhile: to be opened anew (exit 5)
    ├── JobError              a job file cannot be taken: it is refused whole
    ├── PassingError          trouble that may pass: try again, not before `retry_after`
    │   ├── ExpiredUrlError   the output's URL ran out: ask FLORA for the run again
    │   ├── ForeignAnswerError  somebody else answered in FLORA's place: a proxy, a portal
    │   ├── FolderError       one folder of the library cannot be used: its runs wait, others go on
    │   ├── AttemptsExhaustedError  an output met trouble in several attempts: its run is tried again later
    │   └── StandstillError   FLORA cannot be reached, or wants fewer questions: all fare the same
    ├── PermanentError        this run or output is unavailable; trying again changes nothing
    └── ServicePausedError    nothing can go on until something outside is mended
        └── QueueUnavailableError  the queue cannot record (exit 5)

The one who detects trouble says which of these it is; one layer above, `pipeline`, decides what
follows. Messages are for a person: what happened, where, what to do. None carries a key or a URL query.
"""

from __future__ import annotations

from enum import StrEnum


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
    NO_OUTPUTS = "no_outputs"  # none of its outputs could be had
    # an output could not be had
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
    LIBRARY_READ_ONLY = "library_read_only"


class FloradlError(Exception):
    """The root. `str(error)` is a message for a person."""


class ConfigError(FloradlError):
    """The configuration or the command line is wrong; nothing was started."""


class ExposedError(ConfigError):
    """Others may write or replace what decides what this process does; the message says who, and the mend."""


class LockedError(FloradlError):
    """Another process works with this state folder; the message says which."""


class QueueDamagedError(FloradlError):
    """The journal that this process works with was damaged, removed or replaced: it is to be opened anew."""


class JobError(FloradlError):
    """A job file cannot be taken.

    `line` is 1-based where the fault has a place, and `key` names the YAML or JSON key.
    """

    def __init__(self, message: str, *, line: int | None = None, key: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.key = key


class TransientError(FloradlError):
    """Trouble that may pass by itself. `retry_after` is in seconds, where the other side named a time."""

    def __init__(
        self, message: str, code: ErrorCode = ErrorCode.NETWORK, *, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after


class ExpiredUrlError(TransientError):
    """The URL is of no use (any more): FLORA gives a fresh one for the asking.

    A signed one ran out (GCS answers 400, S3 403, nginx 410), or there was none.
    """

    def __init__(self, message: str, code: ErrorCode = ErrorCode.EXPIRED) -> None:
        super().__init__(message, code)


class ForeignAnswerError(TransientError):
    """Somebody else answered in FLORA's place (a proxy, a portal, a gateway): nothing is decided by it."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, ErrorCode.BAD_ANSWER, retry_after=retry_after)


class FolderError(TransientError):
    """One folder of the library cannot be written or made: only what goes there waits."""

    def __init__(self, message: str) -> None:
        super().__init__(message, ErrorCode.STORAGE)


class AttemptsExhaustedError(TransientError):
    """Several attempts at an output failed. `spent` is what they and the waits between took, in seconds."""

    def __init__(self, error: TransientError, spent: float) -> None:
        super().__init__(str(error), error.code, retry_after=error.retry_after)
        self.spent = spent


class ApiUnavailableError(TransientError):
    """FLORA cannot be reached, or asks for fewer questions: any other question would fare the same."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)


class PermanentError(FloradlError):
    """A run or an output that is unavailable."""

    def __init__(self, message: str, code: ErrorCode) -> None:
        super().__init__(message)
        self.code = code


class ServicePausedError(FloradlError):
    """Nothing can go on: the reason concerns every run, and lifts once it is mended outside.

    `needed` is what the work wants of a full disk, in bytes, beyond what is always to stay free; 0 where
    that is not known.
    """

    def __init__(self, message: str, reason: PauseReason, *, needed: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self.needed = needed


class QueueUnavailableError(ServicePausedError):
    """The queue cannot record, or read what it recorded, and waiting did not help."""

    def __init__(self, message: str) -> None:
        super().__init__(message, PauseReason.DISK_FULL)


def innermost(error: BaseException) -> BaseException:
    """Return the first error in a group of groups, or `error` itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
