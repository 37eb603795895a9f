"""What a media host answers to one request: decided here, sent elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

from floradl.simulator.bodies import Body

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)


class StoredObject(Struct, frozen=True):
    """A body as it lies in the store, with the headers that describe it whatever is asked.

    `overrides` are laid over an answer's headers in the end; `None` removes one.
    """

    body: Body
    etag: str
    last_modified: str
    headers: Mapping[str, str]
    overrides: Mapping[str, str | None] = {}


class StoredAnswer(Struct, frozen=True):
    """A status, headers, and which bytes of the body are sent."""

    status: int
    headers: Mapping[str, str]
    body: Body
    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of bytes that are sent."""
        return self.stop - self.start


def answer(stored: StoredObject, request: Mapping[str, str], *, beside: int = 0) -> StoredAnswer:
    """Decide on the answer to a GET with the header fields `request` (names in lower case).

    A fault: a range begins `beside` bytes from where it was asked to, and says so.
    """
    size = stored.body.size
    own = {"Accept-Ranges": "bytes", "ETag": stored.etag, "Last-Modified": stored.last_modified}
    base = laid_over({**own, **stored.headers}, stored.overrides)
    wanted = _RANGE.fullmatch(request.get("range", "").strip())
    if wanted is None or not any(wanted.groups()) or not _unchanged(stored, request.get("if-range")):
        return StoredAnswer(200, base, stored.body, 0, size)
    first, last = wanted.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return StoredAnswer(200, base, stored.body, 0, size)
    else:
        start, stop = max(size - int(last), 0), size
    start = max(start + beside, 0)
    if start >= size or start >= stop:
        return StoredAnswer(416, {**base, "Content-Range": f"bytes */{size}"}, Body(()), 0, 0)
    return StoredAnswer(
        206, {**base, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, stored.body, start, stop
    )


def _unchanged(stored: StoredObject, if_range: str | None) -> bool:
    """Compare as RFC 9110, section 13.1.5 says: strongly."""
    if if_range is None:
        return True
    if if_range.startswith("W/"):
        return False
    return if_range in {stored.etag, stored.last_modified}


def laid_over(headers: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Give `headers` with `changes` laid over them, whatever their case; `None` removes one."""
    changed = {name.lower() for name in changes}
    kept = {name: value for name, value in headers.items() if name.lower() not in changed}
    return kept | {name: value for name, value in changes.items() if value is not None}
