"""Whether a part file may be continued, and what to note where that failed.

Validators prove little: ten of 22 file servers give another content of the same size and time the same strong
ETag (nginx 1.22, Apache 2.4, Caddy 2.6, aiohttp 3.14 …). So the last bytes of the part file are requested
again and compared; with no strong ETag but a time and a size, the first bytes too.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final, Protocol

import httpx
import msgspec

from floradl.download.checksums import ChecksumSet, promised
from floradl.errors import ErrorCode, ExpiredUrlError, FloradlError, PermanentError, TransientError
from floradl.library.base import DownloadTarget, Sink, StreamingSink
from floradl.models import AttemptNotes
from floradl.net.errors import CertificateError
from floradl.net.headers import (
    content_codings,
    content_length,
    content_range,
    last_modified,
    opaque_tag,
    retry_after,
    strong_etag,
)
from floradl.net.http11 import pieces

_TRANSIENT_STATUS = {408, 409, 425, 429}
_NOT_FOR_THE_RANGE = {404, 408, 409, 410, 425, 429, 502, 503, 504}


class Answer(Protocol):
    """An answer before its body, as httpx has it."""

    @property
    def status_code(self) -> int:
        """The status code."""

    @property
    def headers(self) -> Mapping[str, str]:
        """The header fields; names in lower case find them."""

    @property
    def url(self) -> httpx.URL:
        """The URL that was requested."""


class ContentOffer(msgspec.Struct, frozen=True):
    """What a 200 or 206 offers.

    `first` and `last` are the positions of its bytes, of `total` in all: -1 and None for a 206 with a
    malformed range. `validator` names a part file of these bytes, empty where they cannot be continued; one
    that `is_weak` needs more bytes compared. `weak_validator` may name one, too: of a 206 alone, since
    nothing is continued by a 200. `codings` are still to be undone.
    """

    first: int
    last: int | None
    total: int | None
    validator: str
    weak_validator: str
    expected: dict[str, bytes]
    codings: tuple[str, ...]

    def continues(self, validator: str) -> bool:
        """Whether the bytes may belong to the part file of `validator`."""
        return bool(validator) and validator in {self.validator, self.weak_validator}

    def is_from(self, first: int) -> bool:
        """Whether these are the bytes from `first` to the end."""
        return self.first == first and (self.total is None or self.last == self.total - 1)

    def with_promises_of(self, validator: str, notes: AttemptNotes) -> ContentOffer:
        """Return it with the checksums that a whole answer gave for the part file of `validator`."""
        promises = notes.promised if notes.validator == validator else {}
        return msgspec.structs.replace(self, expected={**promises, **self.expected})

    def decoded(self) -> ContentOffer:
        """Return the offer of the decoded bytes, of which nothing else is known."""
        return ContentOffer(self.first, None, None, "", "", {}, ())


def is_weak(validator: str) -> bool:
    """Whether `validator` names a version by its time and length alone."""
    return validator.startswith("w")


def offer_of(response: Answer) -> ContentOffer:
    """Return what the answer offers."""
    headers = response.headers
    codings = content_codings(headers)
    if response.status_code == 206:
        span = content_range(headers)
        several = headers.get("content-type", "").lower().startswith("multipart/byteranges")
        # Some servers encode a range of an identity body: its positions are unknown.
        if span is None or span.total is None or several or codings:
            return ContentOffer(-1, None, None, "", "", {}, codings)
        first: int = span.first
        last: int | None = span.last
        total: int | None = span.total
    else:
        first, total = 0, content_length(headers)
        last = None if total is None else total - 1
    strong = weak = ""
    if total is not None:
        strong = _strong_validator(headers, total)
        if not strong or response.status_code == 206:
            weak = _weak_validator(headers, total)
    expected = promised(headers, response.url.host)
    return ContentOffer(first, last, total, strong or weak, weak, expected, codings)


def _strong_validator(headers: Mapping[str, str], total: int) -> str:
    etag = strong_etag(headers)
    return "" if etag is None else hashlib.sha256(f"{etag} {total}".encode()).hexdigest()[:8]


def _weak_validator(headers: Mapping[str, str], total: int) -> str:
    """Return the validator by time, length and tag, be that strong or weak.

    A server may give a new file a weak ETag, and the same as a strong one a second later (Apache 2.4).
    """
    changed = last_modified(headers)
    if changed is None:
        return ""
    return "w" + hashlib.sha256(f"{opaque_tag(headers)} {changed} {total}".encode()).hexdigest()[:7]


def refuses_range(status: int) -> bool:
    """Whether a status may refuse only the `Range` of the request."""
    return status not in _NOT_FOR_THE_RANGE


def refusal_of(response: Answer) -> FloradlError:
    """Return the error for a media host's status other than 200 and 206."""
    status = response.status_code
    text = f"the media host {response.url.host} answered {status}"
    if status in _TRANSIENT_STATUS or status >= 500 or 200 <= status < 300:  # 202: it is not ready yet
        return TransientError(text, retry_after=retry_after(response.headers, time.time()))
    if status == 404:
        return TransientError(text, ErrorCode.NOT_FOUND)
    if status == 410:  # nginx: the link expired; others: gone for good
        return ExpiredUrlError(text, ErrorCode.NOT_FOUND)
    if status in {400, 401, 403}:
        return ExpiredUrlError(f"{text}: the URL is not valid (any more)")
    return PermanentError(text, ErrorCode.HTTP_ERROR)


@contextmanager
def wire_errors() -> Iterator[None]:
    """Translate httpx's errors: to their kind alone, except where a person has to change a setting."""
    try:
        yield
    except (httpx.ProxyError, CertificateError) as error:
        raise TransientError(f"the media host cannot be reached: {error}") from error
    except httpx.TimeoutException as error:
        raise TransientError(f"the media host does not answer in time ({type(error).__name__})") from error
    except httpx.RequestError as error:
        raise TransientError(f"the transfer broke ({type(error).__name__})") from error


OVERLAP: Final = 64 << 10
"""Bytes that are requested again, and compared."""

_RANGED_TRIES: Final = 2  # in a row without progress, before a request for the whole
# The host was reached, and did not answer, or not to the end.
_NO_ANSWER: Final = (httpx.ReadError, httpx.ReadTimeout, httpx.WriteError, httpx.RemoteProtocolError)


class StartOverError(Exception):
    """The part file cannot be continued; it may still be the beginning of the whole."""


class BytesDifferError(StartOverError):
    """The part file is of another version."""


class RangeRefusedError(Exception):
    """The host answered a request for a range with `status`, which means `error` for a whole one."""

    def __init__(self, status: int, error: FloradlError) -> None:
        super().__init__(status)
        self.status = status
        self.error = error


def takes_ranges(target: DownloadTarget) -> bool:
    """Whether to request a range: skipped once where the last ones made no progress."""
    notes = target.notes
    if notes.ranges_refused < _RANGED_TRIES:
        return True
    target.note(msgspec.structs.replace(notes, ranges_refused=0))
    return False


@contextmanager
def resuming(sink: Sink, target: DownloadTarget) -> Iterator[None]:
    """Continue `sink` within; an error closes it, and is noted if the range may be the cause.

    Raises `StartOverError` where the whole should be requested at once, else the error; a refusal as a
    `TransientError`.
    """
    size = sink.size
    try:
        yield
    except BaseException as error:
        if isinstance(error, BytesDifferError):
            sink.truncate(0)
        gained = sink.size > size
        sink.__exit__()
        if gained and target.notes.ranges_refused:
            target.note(msgspec.structs.replace(target.notes, ranges_refused=0))
        if isinstance(error, RangeRefusedError):
            if error.status == 416:  # it is shorter now, or the host has no ranges
                raise StartOverError from None
            _note_refusal(target)
            raise _as_transient(error.error) from None
        if isinstance(error, TransientError) and isinstance(error.__cause__, _NO_ANSWER) and not gained:
            _note_refusal(target)
        raise


def compare_head(response: httpx.Response, validator: str, sink: Sink) -> None:
    """Compare the first bytes of `response` with those of `sink`, the part file of `validator`.

    Raises `StartOverError` where they cannot be compared, `BytesDifferError` where they differ.
    """
    offer = offer_of(response)
    if offer.first != 0 or offer.last != OVERLAP - 1 or not offer.continues(validator):
        raise StartOverError
    came = bytearray()
    for piece in pieces(response):
        came += piece
        if len(came) >= OVERLAP:
            break
    if came != sink.read(OVERLAP, 0):
        raise BytesDifferError


def digests_of(sink: Sink, offer: ContentOffer) -> ChecksumSet:
    """Return the checksums of what `sink` holds before the first byte of `offer`.

    Those of a sink that has sent on its bytes are taken over, and of all that it holds. Raises
    `BytesDifferError` where it has none.
    """
    if isinstance(sink, StreamingSink) and sink.is_sent:
        if isinstance(sink.digests, ChecksumSet) and sink.digests.taken == sink.size:
            return sink.digests
        raise BytesDifferError
    digests = ChecksumSet(offer.expected, offer.total)
    rehash(sink, digests, offer.first)
    return digests


def rehash(sink: Sink, digests: ChecksumSet, size: int) -> None:
    """Update `digests` with the first `size` bytes of `sink`. `TransientError` if there are fewer."""
    offset = 0
    while offset < size:
        chunk = sink.read(min(1 << 20, size - offset), offset)
        if not chunk:
            raise TransientError("the part file is shorter than it was", ErrorCode.DAMAGED)
        digests.update(chunk)
        offset += len(chunk)


def append(sink: Sink, at: int, chunk: bytes | memoryview, *, may_differ: bool) -> None:
    """Put `chunk` at `at`: compare it with the bytes held there, append the rest.

    Where they differ, replace all from `at` on if they `may_differ`; else raise `BytesDifferError`.
    """
    wanted = min(len(chunk), sink.size - at)
    if wanted > 0:
        held = sink.read(wanted, at)
        if len(held) == wanted and chunk[:wanted] == held:
            chunk = chunk[wanted:]
        elif may_differ:
            sink.truncate(at)
        else:
            raise BytesDifferError
    if len(chunk):
        sink.write(chunk)


def _note_refusal(target: DownloadTarget) -> None:
    notes = target.notes
    target.note(msgspec.structs.replace(notes, ranges_refused=notes.ranges_refused + 1))


def _as_transient(error: FloradlError) -> FloradlError:
    if isinstance(error, PermanentError):
        return TransientError(f"{error} to a request for a part of it")
    return error


def discard_parts(target: DownloadTarget, validator: str) -> None:
    """Remove what earlier attempts left of an output that is not wanted; it is of the version `validator`."""
    if target.resume_point() is not None:
        with target.open(validator) as sink:
            sink.discard()
