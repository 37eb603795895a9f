"""What a media host's answer offers, or refuses."""

from __future__ import annotations

import hashlib
import time

import httpx
import msgspec

from floradl.errors import ErrorCode, ExpiredUrlError, FloradlError, PassingError, PermanentError
from floradl.media.checksums import promised
from floradl.net.headers import content_length, content_range, retry_after, strong_etag

_PASSING_STATUS = {408, 409, 425, 429}


class Offer(msgspec.Struct, frozen=True):
    """What a 200 or 206 offers. `first` is where its bytes begin, `total` how many there are in all."""

    first: int
    total: int | None
    validator: str
    expected: dict[str, bytes]
    coding: str | None


def offer_of(response: httpx.Response) -> Offer:
    """Read what the answer offers; a 206 whose range makes no sense begins at -1, which fits nothing."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in {"", "identity"}:
        return Offer(0 if response.status_code == 200 else -1, None, "", {}, coding)
    total = content_length(response.headers)
    first = 0
    if response.status_code == 206:
        span = content_range(response.headers)
        first, total = (span.first, span.total) if span and span.total else (-1, None)
        if span and span.total and span.last != span.total - 1:
            first = -1  # less than was asked for: legal, but not worth a loop of small answers
    etag = strong_etag(response.headers)
    validator = ""
    if etag is not None and total is not None:
        validator = hashlib.sha256(f"{etag} {total}".encode()).hexdigest()[:8]
    return Offer(first, total, validator, promised(response.headers), None)


def refusal_of(response: httpx.Response) -> FloradlError:
    """Return what a media host's status other than 200 and 206 means."""
    status = response.status_code
    text = f"the media host {response.url.host} answered {status}"
    if status in _PASSING_STATUS or status >= 500:
        return PassingError(text, retry_after=retry_after(response.headers, time.time()))
    if status in {404, 410}:
        return PassingError(text, ErrorCode.NOT_FOUND)
    if status in {400, 401, 403}:
        return ExpiredUrlError(f"{text}: the URL is not valid (any more)")
    return PermanentError(text, ErrorCode.HTTP_ERROR)
