"""The HTTP fields that decide something, read strictly: what is malformed counts as absent."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.IGNORECASE)
_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]{0,1000}"')  # a longer one is sent back with no request
# https://www.iana.org/assignments/http-parameters, "HTTP Content Coding Registry", without identity.
_CODINGS = frozenset(
    {
        *("aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip"),
        *("x-compress", "x-gzip", "zstd"),
    }
)
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_IMF_DATE = re.compile(
    rf"[A-Z][a-z][a-z], ([0-9]{{2}}) ({'|'.join(_MONTHS)}) ([0-9]{{4}}) "
    r"([0-9]{2}):([0-9]{2}):([0-9]{2}) GMT"
)
_DIGITS = re.compile(r"[0-9]{1,18}")


class ContentRange(msgspec.Struct, frozen=True):
    """Which bytes a 206 carries: `first` to `last`, both included, of `total` (None: not stated)."""

    first: int
    last: int
    total: int | None


def content_range(headers: Mapping[str, str]) -> ContentRange | None:
    """Read `Content-Range` (RFC 9110, 14.4)."""
    match = _CONTENT_RANGE.fullmatch(headers.get("content-range", "").strip())
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return ContentRange(first, last, total)


def content_length(headers: Mapping[str, str]) -> int | None:
    """Read `Content-Length` (RFC 9110, 8.6)."""
    value = headers.get("content-length", "").strip()
    return int(value) if _DIGITS.fullmatch(value) else None


def strong_etag(headers: Mapping[str, str]) -> str | None:
    """Read `ETag` where it is a strong validator (RFC 9110, 8.8.3); a weak one proves no bytes."""
    value = headers.get("etag", "").strip()
    return value if _ETAG.fullmatch(value) else None


def opaque_tag(headers: Mapping[str, str]) -> str:
    """Read the letters of `ETag`, weak or strong (RFC 9110, 8.8.3.2: weak comparison); empty for none."""
    value = headers.get("etag", "").strip().removeprefix("W/")
    return value if _ETAG.fullmatch(value) else ""


def last_modified(headers: Mapping[str, str]) -> str | None:
    """Read `Last-Modified` (RFC 9110, 8.8.2) as it stands, where it is a date."""
    value = headers.get("last-modified", "").strip()
    return value if _unix_seconds(value) is not None else None


def content_codings(headers: Mapping[str, str]) -> tuple[str, ...]:
    """Read the codings of `Content-Encoding` (RFC 9110, 8.4), in the order in which they were applied.

    What changes no byte falls away: nothing at all, `identity`, S3's `aws-chunked` (a framing of uploads,
    which some storages keep), and any word that is no registered coding, like `utf-8` or `none`: storages
    give back whatever an uploader said.
    """
    named = headers.get("content-encoding")
    if not named:
        return ()
    tokens = (token.strip().lower() for token in named.split(","))
    return tuple(token for token in tokens if token in _CODINGS)


def date(headers: Mapping[str, str]) -> float | None:
    """Read `Date` (RFC 9110, 6.6.1) as unix seconds."""
    return _unix_seconds(headers.get("date", ""))


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Read `Retry-After` (RFC 9110, 10.2.3) as seconds from now on, 0 to an hour.

    A date counts from the answer's own `Date`, as either clock may be wrong; from `now` (unix seconds)
    where there is none.
    """
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        moment, sent = _unix_seconds(value), date(headers)
        if moment is None:
            return None
        seconds = moment - (now if sent is None else sent)
    return min(max(seconds, 0.0), 3600.0) if math.isfinite(seconds) else None


def _unix_seconds(value: str) -> float | None:
    """Read an HTTP date (RFC 9110, 5.6.7)."""
    try:
        if (parts := _IMF_DATE.fullmatch(value)) is not None:
            day, month, year, *clock = parts.groups()
            hours, minutes, seconds = map(int, clock)
            there = (int(year), _MONTHS.index(month) + 1, int(day), hours, minutes, seconds)
            return datetime(*there, tzinfo=UTC).timestamp()
        from email.utils import parsedate_to_datetime  # noqa: PLC0415 - much, and for other forms alone

        moment = parsedate_to_datetime(value)
        if moment.tzinfo is None:  # "-0000", or no zone at all: an HTTP date is always UTC
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
