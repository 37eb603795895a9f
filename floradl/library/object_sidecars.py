"""The sidecars of a library in a bucket: created last of all of a run, and changed only as they were read."""

from __future__ import annotations

import hashlib
import time
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Final, Protocol

from floradl.errors import ErrorCode, TransientError
from floradl.fs.names import PART_RESERVE, SafeName, safe_name
from floradl.library import sidecar as sidecars
from floradl.library.base import parsed
from floradl.library.object_client import ChangedError, ObjectClient, TakenError
from floradl.library.object_destination import KnownNames
from floradl.library.sidecar import Sidecar, by_key
from floradl.library.template import SIDECARS, UNKNOWN
from floradl.models import Reference, SavedOutput

_TRIES: Final = 8
_FRESH: Final = 60.0  # seconds for which a listing of all sidecars serves, at least
_SHARE: Final = 30  # and this many times what it took
_TYPE: Final = "application/json"


class LibraryBucket(Protocol):
    """The library in a bucket, as far as its sidecars need it."""

    client: ObjectClient
    names: KnownNames
    max_name_bytes: int

    def check(self, within: float = ...) -> None:
        """Raise where it is missing; it was looked for so many seconds ago at most."""

    def existing(self, outputs: Mapping[str, SavedOutput], /) -> dict[str, SavedOutput]:
        """Return those whose files are there."""


class ObjectSidecars:
    """The sidecars in `place`. Raises as the library does."""

    def __init__(self, place: LibraryBucket) -> None:
        self._place = place
        self._client = place.client
        self._index = _Index(place.client)

    def locate(self, reference: Reference) -> tuple[str, Sidecar] | None:
        """See `LibraryStore.locate_sidecar`.

        One under another technique that another machine wrote within the last minute may be missed.
        """
        self._place.check()
        own = self._folder(reference.technique)
        names = self._names(reference.run_id)
        found = self._first_of((f"{own}/{name}" for name in names), reference.run_id)
        if found is None:
            self._place.check(1.0)
            others = (folder for folder in self._index.folders_with(names) if folder != own)
            paths = (f"{folder}/{name}" for folder in others for name in names)
            found = self._first_of(paths, reference.run_id)
        return found

    def write(self, sidecar: Sidecar, replacing: Sidecar | None) -> str:
        """See `LibraryStore.write_sidecar`."""
        self._place.check()
        unnamed = None
        if sidecar.technique is not None:
            unnamed = self._first_of(
                [f"{SIDECARS}/{UNKNOWN}/{self._names(sidecar.run_id)[0]}"], sidecar.run_id
            )
        path = self._put(sidecar, unnamed[1] if unnamed else None, replacing)
        if unnamed is not None and unnamed[1].technique is None:
            self._client.delete(unnamed[0])
        self._index.add(path)
        return path

    def _put(self, sidecar: Sidecar, unnamed: Sidecar | None, replacing: Sidecar | None) -> str:
        data, run_id = sidecars.render(sidecar), sidecar.run_id
        plain, twin = (f"{self._folder(sidecar.technique)}/{name}" for name in self._names(run_id))
        path = plain if self._place.names.claim(plain, run_id) else twin
        for attempt in range(_TRIES):
            if attempt or replacing is not None:
                etag, there = self._version(path)
                if there == data and (replacing is None or attempt):
                    return path  # our own, whose answer was lost; or another's, who knows the same
                if there is not None:
                    found = parsed(there)
                    if found is None and there:
                        self._set_aside(path, there)
                        continue
                    if found is not None and found.run_id != run_id:
                        path = twin
                        continue
                    self._check_successor(found or unnamed, sidecar, replacing)
                    try:
                        self._client.replace(path, data, etag)
                    except ChangedError:
                        continue
                    return path
            self._check_successor(unnamed, sidecar, replacing)
            try:
                self._client.create(path, data, _TYPE)
            except TakenError:
                continue
            return path
        raise TransientError(f"{self._client.place(path)}: others write it all the time", ErrorCode.STORAGE)

    def _check_successor(self, found: Sidecar | None, after: Sidecar, replacing: Sidecar | None) -> None:
        """Raise where `after` was not made from `found`, which stands, or gives up a file that it names."""
        if replacing is not None:
            stale = found != replacing
        elif found is None:
            stale = False
        else:
            paths = {output.path for output in after.outputs}
            lost = {
                key: each
                for key, each in by_key(found.outputs).items()
                if each.path not in paths and each.removed is None
            }
            stale = bool(self._place.existing(lost))
        if stale:
            raise TransientError(
                f"another sidecar of {after.run_id} stands by now: it is read again", ErrorCode.STORAGE
            )

    def _version(self, path: str) -> tuple[str, bytes | None]:
        """Return what stands at a path, and its ETag."""
        for _ in range(_TRIES):
            seen = self._client.stat(path)
            if seen is None:
                return "", None
            try:
                data = self._client.read(path, etag=seen.etag)
            except ChangedError:
                continue
            if data is not None:
                return seen.etag, data
        raise TransientError(f"{self._client.place(path)}: others write it all the time", ErrorCode.STORAGE)

    def _set_aside(self, path: str, data: bytes) -> None:
        """Keep what is no sidecar beside the one that takes its place."""
        for number in range(1, 1000):
            kept = f"{path}.unreadable" + (f"-{number}" if number > 1 else "")
            try:
                self._client.create(kept, data)
            except TakenError:
                if self._client.read(kept) != data:
                    continue
            self._client.delete(path)
            return
        raise TransientError(
            f"{self._client.place(path)}: it is no sidecar, again and again", ErrorCode.STORAGE
        )

    def _first_of(self, paths: Iterator[str] | list[str], run_id: str) -> tuple[str, Sidecar] | None:
        for path in paths:
            data = self._client.read(path)
            found = parsed(data) if data else None
            if found is not None and found.run_id == run_id:
                return path, found
        return None

    def _folder(self, technique: str | None) -> str:
        return f"{SIDECARS}/{safe_name(technique, self._place.max_name_bytes) if technique else UNKNOWN}"

    def _names(self, run_id: str) -> tuple[str, str]:
        """Return the plain name, and that for a run whose id differs from another's in case only."""
        stem = safe_name(run_id, self._place.max_name_bytes - PART_RESERVE)
        mark = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return SafeName(f"{stem}.json"), SafeName(f"{stem}~{mark}.json")


class _Index:
    """In which folders sidecars of which names are: ten bytes each, read by listing them all.

    For runs that stand under another technique than the one that a reference names.
    """

    def __init__(self, client: ObjectClient, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._client = client
        self._monotonic = monotonic
        self._lock = Lock()
        self._until = float("-inf")
        self._folders: list[str] = []
        self._keys = array("Q")  # sorted: 48 bits of a name's hash, 16 of its folder's number
        self._added: dict[str, set[str]] = {}

    def add(self, path: str) -> None:
        """Note one that was just written."""
        folder, _, name = path.rpartition("/")
        with self._lock:
            self._added.setdefault(name, set()).add(folder)

    def folders_with(self, names: tuple[str, ...]) -> list[str]:
        """Return the folders that may hold one of `names`."""
        with self._lock:
            began = self._monotonic()
            if began >= self._until:
                self._load()
                took = self._monotonic() - began
                self._until = self._monotonic() + max(_FRESH, _SHARE * took)
            found: set[str] = set()
            for name in names:
                found |= self._added.get(name, set())
                at = bisect_left(self._keys, first := _hash(name))
                while at < len(self._keys) and self._keys[at] >> 16 == first >> 16:
                    found.add(self._folders[self._keys[at] & 0xFFFF])
                    at += 1
            return sorted(found)

    def _load(self) -> None:
        numbers: dict[str, int] = {}
        keys = []
        for each in self._client.list(f"{SIDECARS}/"):
            folder, _, name = each.key.rpartition("/")
            if name.endswith(".json") and len(numbers) < 0xFFFF:
                keys.append(_hash(name) | numbers.setdefault(folder, len(numbers)))
        keys.sort()
        self._keys, self._folders, self._added = array("Q", keys), list(numbers), {}


def _hash(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()[:6], "big") << 16
