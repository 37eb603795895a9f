"""The marker of a library in a bucket: an object that tells an empty library from a bucket that is another.

Where a library was moved away, another object takes its place, and says where to.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Final

from floradl.errors import PauseReason, ServicePausedError
from floradl.library.object_client import ObjectClient, TakenError
from floradl.library.object_errors import BucketRefusedError

MARKER: Final = ".floradl-library"
MOVED: Final = ".floradl-library-moved"
"""Holds the location of the library that took its place, in one that was moved."""

REPLACES: Final = (
    "this store replaces what is there although it is told not to: two machines, or a request that is sent "
    "twice, would overwrite files"
)
HONOURING: Final = "use a store, or a later version of this one, that honours If-None-Match"

_TEXT: Final = b"This bucket's prefix is a library of floradl. Keep this object.\n"


class ObjectMarker:
    """The marker below the prefix of `client`. `monotonic` gives seconds."""

    def __init__(self, client: ObjectClient, monotonic: Callable[[], float]) -> None:
        self._client = client
        self._monotonic = monotonic
        self._seen_at = float("-inf")

    def create(self) -> bool:
        """Make it where it is missing; return whether it was.

        Raises as `ObjectClient`, and `BucketRefusedError` where the store replaces what is to be created: it
        would replace files, too.
        """
        made = self._client.stat(MARKER) is None and self._made()
        if self._made():
            message = f"{self._client.url}: {REPLACES}: {HONOURING}"
            raise BucketRefusedError(message, PauseReason.LIBRARY_READ_ONLY)
        return made

    def _made(self) -> bool:
        try:
            self._client.create(MARKER, _TEXT, "text/plain")
        except TakenError:
            return False
        return True

    def check(self, within: float) -> None:
        """Raise `ServicePausedError` where it is missing, and as `ObjectClient`.

        It was looked for `within` so many seconds before at most; nothing is asked then.
        """
        now = self._monotonic()
        if now - self._seen_at < within:
            return
        found = self._client.stat(MARKER)
        if found is None:
            raise ServicePausedError(self._why_missing(), PauseReason.LIBRARY_MISSING)
        # Where objects are encrypted with a key of the user's, an ETag is no MD5.
        text = hashlib.md5(_TEXT, usedforsecurity=False).hexdigest()
        self._client.sums_etags = self._client.url.scheme == "s3" and found.etag.strip('"') == text
        self._seen_at = now

    def _why_missing(self) -> str:
        successor = (self._client.read(MOVED) or b"").decode("utf-8", "replace").strip()
        if successor:
            return (
                f"{self._client.url} was moved to {successor}: set output.dir to that. To go back to it, "
                f"store an empty object with the name {MARKER} there"
            )
        return (
            f"{self._client.url} does not carry {MARKER}: it is another bucket or prefix, or was emptied. "
            "Correct `output.dir`; if it is to start anew, store an empty object of that name there"
        )

    def retire(self, successor: str) -> None:
        """Put in its place that the library is at the location `successor` now. Raises as `ObjectClient`."""
        self._client.overwrite(MOVED, f"{successor}\n".encode())
        self._client.delete(MARKER)
        self._seen_at = float("-inf")
