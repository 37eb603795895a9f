"""What an object store answers -> our errors, each with what a person can do.

The client library's own texts hold upload ids and signed queries: only the store's code and status are taken.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from floradl.errors import ErrorCode, FloradlError, PauseReason, ServicePausedError, TransientError

_CODE = re.compile(r"code: \"([A-Za-z0-9_.]{1,60})\"|x-ms-error-code\": \"([A-Za-z0-9]{1,60})\"")
_STATUS = re.compile(r"Parts \{ status: (\d{3})")
_RETRY_AFTER = re.compile(r"\"retry-after\": \"(\d{1,5})\"")
_WHY = re.compile(r"(?:tcp connect error|dns error|invalid peer certificate|timeout reached)[^\n\"?]{0,120}")
_LONGEST_WAIT: Final = 300.0  # seconds that a store's Retry-After is honoured for
_THROTTLED: Final = 5.0  # seconds, where it does not say

_BUSY = {"SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests", "ServerBusy", "RequestLimitExceeded"}
_FULL = {
    *("QuotaExceeded", "XMinioStorageFull", "InsufficientStorage", "XMinioAdminBucketQuotaExceeded"),
    *("AccountProblem", "BucketQuotaExceeded", "EntityTooLarge", "MaxMessageLengthExceeded"),
}
_NO_BUCKET = {"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted", "InvalidBucketName"}
_EXPIRED = {"ExpiredToken", "TokenRefreshRequired", "RequestExpired", "ExpiredTokenException"}
_UNKNOWN_KEY = {"InvalidAccessKeyId", "InvalidToken", "InvalidClientTokenId", "UnrecognizedClientException"}
_WRONG_KEY = {"SignatureDoesNotMatch", "AuthenticationFailed", "InvalidAuthenticationInfo", "InvalidSecurity"}
_OTHER_REGION = {"AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException"}
_CONFLICT = {"ConditionalRequestConflict", "OperationAborted"}


class BucketRefusedError(ServicePausedError):
    """The bucket, its region or the credentials are wrong: a setting, or a right, is to be corrected."""


class Refusal(Struct, frozen=True):
    """What a store, or the way to it, says: a code, a status (0 for no answer), and seconds to wait."""

    code: str
    status: int
    retry_after: float | None
    why: str
    passes: bool
    """Whether the client library says that it may pass."""

    @classmethod
    def of(cls, error: Exception) -> Refusal:
        """Read the client library's text."""
        text = str(error)
        code, status = _CODE.search(text), _STATUS.search(text)
        wait, why = _RETRY_AFTER.search(text), _WHY.search(text)
        return cls(
            code=(code[1] or code[2]) if code else "",
            status=int(status[1]) if status else 0,
            retry_after=min(float(wait[1]), _LONGEST_WAIT) if wait else None,
            why=why[0].strip() if why else ("no credentials" if "signing credential" in text else ""),
            passes="(temporary)" in text[:200] or "(persistent)" in text[:200],
        )

    @property
    def said(self) -> str:
        """What it says, for a person."""
        return self.code or (f"HTTP {self.status}" if self.status else self.why or "no answer")


def store_error(place: str, error: Exception, *, writing: bool) -> FloradlError:
    """Return our error for what a request for something at `place` (a URL without a secret) met."""
    found = Refusal.of(error)
    code = found.code
    if code in _BUSY or found.status == 429 or (found.status == 503 and code in {"", *_BUSY}):
        return TransientError(
            f"{place}: the store wants fewer requests ({found.said}); floradl waits",
            ErrorCode.STORAGE,
            retry_after=found.retry_after or _THROTTLED,
        )
    if code in _CONFLICT or found.status == 409:
        return TransientError(f"{place}: another program writes it ({found.said})", ErrorCode.STORAGE)
    if code in _FULL or found.status == 507 or (writing and found.status == 500):
        return ServicePausedError(
            f"{place}: the store takes no more ({found.said}): it is full, or a quota is used up. "
            "Make room there, or raise the quota",
            PauseReason.DISK_FULL,
        )
    if (why := _denied(found, writing=writing)) is not None:
        return BucketRefusedError(f"{place}: {why[0]}", why[1])
    if found.status >= 500 or found.passes or not found.status:
        return ServicePausedError(
            f"{place}: the store does not answer ({found.said}). Check `output.endpoint` "
            "(https or http, host, port) and the network",
            PauseReason.LIBRARY_MISSING,
        )
    return TransientError(f"{place}: the store refuses the request ({found.said})", ErrorCode.STORAGE)


def _denied(found: Refusal, *, writing: bool) -> tuple[str, PauseReason] | None:
    """Return why nobody is let in, and what that means."""
    said, missing = found.said, PauseReason.LIBRARY_MISSING
    if found.code in _NO_BUCKET:
        return f"there is no such bucket ({said}). Create it, or correct `output.dir`", missing
    if found.code in _EXPIRED:
        return (
            f"the credentials have expired ({said}). Renew them, and restart where they are variables",
            missing,
        )
    if found.code in _UNKNOWN_KEY:
        return f"the store does not know this key ({said}). Check the access key's id", missing
    if found.code in _WRONG_KEY:
        return f"the credentials are wrong ({said}). Check the secret key", missing
    if found.code == "RequestTimeTooSkewed":
        return f"this machine's clock differs from the store's ({said}). Set it: NTP does", missing
    if found.code in _OTHER_REGION or found.status in {301, 307}:
        return f"the bucket is in another region ({said}). Set `output.region`", missing
    if found.why == "no credentials":
        return (
            "no credentials were found. Set the usual variables, or the usual file: see docs/buckets.md",
            missing,
        )
    if found.status in {401, 403}:
        what = "write to" if writing else "read"
        reason = PauseReason.LIBRARY_READ_ONLY if writing else missing
        return f"these credentials may not {what} it ({said}). Allow it in the bucket's policy", reason
    return None
