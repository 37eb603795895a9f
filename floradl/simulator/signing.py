"""Signed URLs that run out, in the manner of Google Cloud Storage and Amazon S3."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from urllib.parse import urlencode
from xml.sax.saxutils import escape

from msgspec import Struct


class MediaStyle(StrEnum):
    """Which object store the media host behaves like."""

    GCS = "gcs"
    S3 = "s3"


class UrlVerdict(StrEnum):
    """What a signature is worth."""

    GOOD = "good"
    EXPIRED = "expired"
    FORGED = "forged"


class Signer(Struct, frozen=True):
    """Signs paths of the media host, and checks them again."""

    secret: bytes

    def sign(self, path: str, serial: int, expires: float) -> str:
        """Return the query string that opens `path` until `expires` (unix seconds)."""
        until = f"{expires:.3f}".rstrip("0").rstrip(".")
        account = f"sim-{serial}"
        signature = self._signature(path, account, until)
        return urlencode({"GoogleAccessId": account, "Expires": until, "Signature": signature})

    def check(self, path: str, query: Mapping[str, str], now: float, *, revoked_to: int = -1) -> UrlVerdict:
        """Judge a request; serials up to `revoked_to` count as expired whatever their time."""
        account, until = query.get("GoogleAccessId", ""), query.get("Expires", "")
        expected = self._signature(path, account, until)
        if not hmac.compare_digest(expected.encode(), query.get("Signature", "").encode()):
            return UrlVerdict.FORGED
        if now > float(until) or int(account.removeprefix("sim-")) <= revoked_to:
            return UrlVerdict.EXPIRED
        return UrlVerdict.GOOD

    def _signature(self, path: str, account: str, until: str) -> str:
        return hmac.new(self.secret, f"{path}\n{account}\n{until}".encode(), hashlib.sha256).hexdigest()


def refusal(style: MediaStyle, verdict: UrlVerdict, expires: str) -> tuple[int, str]:
    """Return the status and XML that the store answers to a URL that does not open anything (any more)."""
    if verdict is UrlVerdict.FORGED:
        return 403, _xml("SignatureDoesNotMatch", "The signature does not match the one we computed.")
    try:
        moment = datetime.fromtimestamp(float(expires), UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        moment = "unknown"
    if style is MediaStyle.S3:
        return 403, _xml("AccessDenied", "Request has expired", f"<Expires>{moment}</Expires>")
    details = f"<Details>Request signature expired at: {moment}</Details>"
    return 400, _xml("ExpiredToken", "The provided token has expired.", details)


def missing() -> tuple[int, str]:
    """Return the answer to an object that is not there."""
    return 404, _xml("NoSuchKey", "The specified key does not exist.")


def _xml(code: str, message: str, details: str = "") -> str:
    body = f"<Code>{code}</Code><Message>{escape(message)}</Message>{details}"
    return f"<?xml version='1.0' encoding='UTF-8'?><Error>{body}</Error>"
