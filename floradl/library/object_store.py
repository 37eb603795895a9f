"""The library in a bucket of an object store (S3 and what speaks its language, GCS, Azure).

The keys below the prefix are the paths of a folder's library, sidecars too. Nothing is ever replaced but a
sidecar, and that only as it was read: of two machines that write at once the store lets one through. An
object with the marker's name tells an empty library from a bucket that is another, or gone.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock, local
from typing import Any, BinaryIO, Final, TypeVar

from floradl.errors import (
    ErrorCode,
    FloradlError,
    PauseReason,
    ServicePausedError,
    TransientError,
)
from floradl.fs.durable import Steps, or_error, result_of
from floradl.fs.names import fold, stored_path
from floradl.library.base import LibraryEntry, LibraryStore, StoredFile, T, parsed
from floradl.library.destination import AttemptMemory
from floradl.library.object_access import StoreAccess
from floradl.library.object_arrivals import MOST_LARGE, Arrivals
from floradl.library.object_client import (
    PART,
    ChangedError,
    ObjectClient,
    StoredObject,
    TakenError,
)
from floradl.library.object_destination import KnownNames, ObjectDestination, ObjectPlace, content_type_of
from floradl.library.object_marker import MARKER, ObjectMarker
from floradl.library.object_sidecars import ObjectSidecars
from floradl.library.path_plan import PathPlan, UnnamedOutput
from floradl.library.sidecar import Sidecar
from floradl.library.template import SIDECARS
from floradl.models import QueuedRun, Reference, RemoteOutput, SavedOutput
from floradl.urls import BucketUrl

_TRIAL: Final = ".floradl-trial"
_LOOKED: Final = 10.0  # seconds after which the marker is looked for anew
_THREADS: Final = 16  # requests at once, of those that are made together
_LARGEST: Final = 5 << 40  # bytes of an object of S3's
_MAX_SIDECAR: Final = 64 << 20
_AHEAD: Final = 64  # sidecars that a scan asks for ahead
_LISTING: Final = 60.0  # seconds for which the names of a folder are remembered
_FOLDERS: Final = 16  # whose names are

_A = TypeVar("_A")


def open_object_library(url: BucketUrl, paths: PathPlan, access: StoreAccess) -> ObjectLibrary:
    """Return the library in the bucket of `url`; nothing is asked of the store yet.

    Raises `ConfigError` where a setting or the extra `cloud` is missing.
    """
    return ObjectLibrary(ObjectClient(url, access), paths)


class ObjectLibrary(LibraryStore):
    """The library of `client`. `monotonic` gives seconds."""

    most_large = MOST_LARGE

    def __init__(
        self, client: ObjectClient, paths: PathPlan, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self.client = client
        self.paths = paths
        self.max_name_bytes = paths.max_name_bytes
        self.names = KnownNames()
        self._monotonic = monotonic
        self._marker = ObjectMarker(client, monotonic)
        self._arrivals = Arrivals()
        self._memory = AttemptMemory()
        self._damaged: dict[str, str] = {}
        self._kept_as: dict[str, str] = {}
        self._listed: dict[str, tuple[float, dict[str, str]]] = {}
        self._sidecars = ObjectSidecars(self)
        self._named = self.named_files(paths.template)
        self._threads: ThreadPoolExecutor | None = None
        self._lock = Lock()
        self._thread = local()

    def create(self) -> bool:
        """Make the marker where it is missing; the bucket is the user's to make.

        Raises `ServicePausedError`, and `TransientError` where the store wants fewer requests.
        """
        return self._marker.create()

    def check(self, within: float = _LOOKED) -> None:
        """Raise `ServicePausedError` where the marker is missing, see `ObjectMarker.check`."""
        self._marker.check(within)

    def require(self) -> None:
        """As `check`, by a request whose refusal says why."""
        self.client.read(MARKER)
        self.check(0.0)

    def weaknesses(self) -> tuple[str, ...]:
        found = []
        if not self.client.replaces_matching:
            found.append(
                "this store replaces an object without comparing it: of two machines that complete one "
                "sidecar at the same moment, what one of them added may be lost"
            )
        if self.client.is_readable_on_the_way:
            found.append("output.endpoint is http: whoever is on the way can read and change what is stored")
        return tuple(found)

    def check_room(self, needed: int = 0) -> None:
        """See `LibraryStore.check_room`: a store says nothing of its room before it refuses to take more."""
        self.check(0.0)
        if needed > _LARGEST:
            raise ServicePausedError(
                f"{self.client.url}: no object can be so large", PauseReason.DISK_FULL, needed=needed
            )
        self.client.overwrite(_TRIAL, bytes(1 << 16))
        self.client.delete(_TRIAL)

    def destination(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,
        completed_at: float | None,
        created_at: float | None = None,
    ) -> ObjectDestination:
        fields = self.paths.fields(UnnamedOutput(run, output, index, (completed_at, created_at)))
        identity = hashlib.sha256(f"{run.run_id}\0{output.key}".encode("utf-8", "surrogatepass"))
        place = ObjectPlace(
            client=self.client,
            check=self.check,
            render=self.paths.candidates(fields),
            names=self.names,
            arrivals=self._arrivals,
            memory=self._memory,
            damaged=self._damaged,
            set_aside=self._set_aside,
            is_anothers=partial(self._is_anothers, run, output),
            earlier=partial(self.earlier_path, run, output),
        )
        return ObjectDestination(place, output.kind, identity.hexdigest()[:16], output.nth)

    def existing(self, outputs: Mapping[str, SavedOutput]) -> dict[str, SavedOutput]:
        self.check()
        named = [(key, output) for key, output in outputs.items() if output.path]

        def holds(output: SavedOutput) -> bool:
            found = self._stat(output.path or "")
            return found is not None and found.size == (output.bytes or 0)

        held = self._each([partial(holds, output) for _, output in named])
        if not all(held):
            self.check(1.0)
        return {key: output for (key, output), is_held in zip(named, held, strict=True) if is_held}

    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        return self._sidecars.locate(reference)

    def write_companion(
        self,
        path: str,
        data: bytes,
        mtime: float | None,  # noqa: ARG002 - a store has its own times
        replaces: Callable[[bytes], bool],
    ) -> bool:
        if self.stat(path) is None:
            return False
        name = f"{path}.xmp"
        try:
            self.client.create(name, data, "application/rdf+xml")
        except TakenError:
            there = self.client.stat(name)
            before = self.client.read(name, etag=there.etag) if there else None
            if there is None or before is None or before == data or not replaces(before):
                return False
            try:
                self.client.replace(name, data, there.etag)
            except ChangedError:  # somebody else's, by now
                return False
        return True

    def write_sidecar(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None) -> str:
        if self.companions:
            self.write_companions(sidecar, mtime)
        if self._named is not None:
            self._named.note(sidecar)
        return self._sidecars.write(sidecar, replacing)

    def open_file(self, path: str) -> BinaryIO | None:
        self.check()
        found = self._stat(path)
        if found is None:
            self.check(1.0)
            return None
        return self.client.open(found)

    def location(self, path: str = "") -> str:
        return self.client.place(path)

    def scan(self) -> Iterator[LibraryEntry]:
        too_large: list[str] = []

        def paths() -> Iterator[str]:
            for found in self.listing(SIDECARS):
                if found.path.endswith(".json"):
                    if found.size <= _MAX_SIDECAR:
                        yield found.path
                    else:
                        too_large.append(found.path)

        yield from self.entries(paths())
        yield from (LibraryEntry(path, None) for path in too_large)

    def read(self, path: str) -> bytes | None:
        self.check()
        data = self.client.read("/".join(stored_path(path)))
        if data is None:
            self.check(1.0)
        return data

    def entries(self, paths: Iterable[str]) -> Iterator[LibraryEntry]:
        waiting: deque[tuple[str, Future[bytes | None]]] = deque()
        for path in paths:
            waiting.append((path, self._pool().submit(self.client.read, path)))
            if len(waiting) > _AHEAD:
                yield from _entry(*waiting.popleft())
        for each in waiting:
            yield from _entry(*each)

    def files(self) -> Iterator[str]:
        self.check(0.0)
        for found in self.client.list():
            if not found.key.startswith(f"{SIDECARS}/") and not _is_hidden(found.key):
                yield found.key

    def stat(self, path: str) -> StoredFile | None:
        self.check()
        found = self._stat(path)
        return _stored_file(found) if found else None

    def listing(self, folder: str = "") -> Iterator[StoredFile]:
        self.check(0.0)
        below = f"{'/'.join(stored_path(folder))}/" if folder else ""
        for found in self.client.list(below):
            if not _is_hidden(found.key):
                yield _stored_file(found)

    def move(self, path: str, to: str) -> bool:
        """See `LibraryStore.move`: the bytes pass through this machine, since few stores copy create-only."""
        self.check(1.0)
        source, target = self._stat(path), "/".join(stored_path(to))
        if source is None:
            if self._stat(to) is not None:
                return True
            raise TransientError(f"{self.client.place(path)} is gone", ErrorCode.STORAGE)
        folder = target.rpartition("/")[0]
        names = self._names_in(folder)
        if names.get(fold(target), target) != target or not self._copy(source, target):
            return False
        names[fold(target)] = target
        self.client.delete(path)
        self.names.drop(path)
        return True

    def _copy(self, source: StoredObject, to: str) -> bool:
        """Copy an object create-only; True where its bytes stand there already."""
        ext = f".{to.rpartition('.')[2]}"
        try:
            if source.size <= PART:
                with self.client.open(source) as file:
                    self.client.create(to, file.read(), content_type_of(ext))
            else:
                upload = self.client.upload(to, source.size, content_type_of(ext))
                with self.client.open(source) as file:
                    while data := file.read(1 << 20):
                        upload.write(data)
                upload.close()
        except TakenError:
            there = self.client.stat(to)
            return there is not None and there.size == source.size and self._hash(there) == self._hash(source)
        return True

    def _hash(self, found: StoredObject) -> str:
        with self.client.open(found) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _names_in(self, folder: str) -> dict[str, str]:
        """Return the paths in a folder by what they are where case does not count; a minute old at most."""
        now = self._monotonic()
        with self._lock:
            known = self._listed.get(folder)
            if known is None or now - known[0] > _LISTING:
                found = self.client.list(f"{folder}/" if folder else "", recursive=False)
                known = now, {fold(each.key): each.key for each in found}
                self._listed.pop(folder, None)
                self._listed[folder] = known
                while len(self._listed) > _FOLDERS:
                    del self._listed[next(iter(self._listed))]
            return known[1]

    def remove(self, path: str) -> bool:
        self.check()
        if self._stat(path) is None:
            return False
        self.client.delete(path)
        self.names.drop(path)
        return True

    def retire(self, successor: str) -> None:
        self._marker.retire(successor)

    def expect_damaged(self, path: str, sha256: str) -> None:
        self._damaged[path] = sha256

    def kept_as(self, path: str) -> str | None:
        return self._kept_as.get(path)

    def _set_aside(self, path: str) -> None:
        for number in itertools.count(1):
            kept = f"{path}.damaged" + (f"-{number}" if number > 1 else "")
            if self.move(path, kept):
                self._kept_as[path] = kept
                self._damaged.pop(path, None)
                return

    def together(self, works: Sequence[Callable[[], T | Steps[T]]]) -> list[T | Exception]:
        def outcome(work: Callable[[], T | Steps[T]]) -> Any:
            return result_of(work())

        self._arrivals.never_wait()  # who has a slot may wait for this very thread
        return self._each([partial(or_error, partial(outcome, work), (FloradlError,)) for work in works])

    def _each(self, works: Sequence[Callable[[], _A]]) -> list[_A]:
        """Call several at once; in a thread that is one of those itself, one after the other."""
        if len(works) < 2 or getattr(self._thread, "is_one", False):
            return [work() for work in works]
        return [future.result() for future in [self._pool().submit(work) for work in works]]

    def _pool(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(_THREADS, "floradl-store", self._begin_thread)
            return self._threads

    def _begin_thread(self) -> None:
        self._thread.is_one = True
        self._arrivals.never_wait()

    def _stat(self, path: str) -> StoredObject | None:
        try:
            return self.client.stat("/".join(stored_path(path)))
        except ValueError:
            return None


def _entry(path: str, reading: Future[bytes | None]) -> Iterator[LibraryEntry]:
    if (data := reading.result()) is not None:
        yield LibraryEntry(path, parsed(data))


def _stored_file(found: StoredObject) -> StoredFile:
    return StoredFile(found.key, found.size, found.etag, found.etag or None)


def _is_hidden(key: str) -> bool:
    return key.endswith("/") or any(part.startswith(".") for part in key.split("/"))
