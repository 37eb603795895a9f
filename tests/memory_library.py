"""A library in memory, for tests: whole, but for what only a disk does. It is gone with its object.

What another process would see of a folder, an object of this class shows its threads.
"""

from __future__ import annotations

import hashlib
import itertools
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import BinaryIO, Self

from msgspec import Struct

from floradl.errors import ErrorCode, PauseReason, ServicePausedError, TransientError
from floradl.fs.durable import Steps, result_of
from floradl.fs.names import fold, stored_path
from floradl.library import sidecar as sidecars
from floradl.library.base import Destination, LibraryEntry, LibraryStore, ResumePoint, Sink, StoredFile, T
from floradl.library.sidecar import Sidecar, by_key
from floradl.library.template import SIDECARS, UNKNOWN
from floradl.models import AttemptNotes, OutputKind, QueuedRun, Reference, RemoteOutput, SavedOutput


class _File(Struct):
    """Bytes under a final name, the output whose they are, and their time (unix seconds)."""

    data: bytes
    owner: str | None = None
    mtime: float | None = None


class _Part(Struct):
    """What has arrived of one version of an output."""

    data: bytearray
    busy: bool = False


class MemoryLibrary(LibraryStore):
    """Holds up to `capacity` bytes. Its files are `FOLDER/TECHNIQUE/RUN_ID-OUTPUT_ID.EXT`.

    `missing` is a disk that is gone.
    """

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.missing = False
        self._stored: dict[str, _File] = {}
        self._parts: dict[str, dict[str, _Part]] = {}
        self._notes: dict[str, AttemptNotes] = {}
        self._damaged: dict[str, str] = {}
        self._kept_as: dict[str, str] = {}
        self._lock = threading.RLock()

    @contextmanager
    def open(self) -> Iterator[Self]:
        """Use it alone. Raises `ServicePausedError` where it is missing."""
        with self._lock:
            if self.missing:
                raise ServicePausedError("the library is not there", PauseReason.LIBRARY_MISSING)
            yield self

    def free_space(self) -> int:
        """Return how many bytes it takes yet."""
        parts = (len(part.data) for versions in self._parts.values() for part in versions.values())
        return self.capacity - sum(parts) - sum(len(file.data) for file in self._stored.values())

    def need(self, size: int) -> None:
        """Raise `ServicePausedError` where `size` bytes are too many."""
        if size > self.free_space():
            raise ServicePausedError("the library is full", PauseReason.DISK_FULL, needed=size)

    def create(self) -> bool:
        """See `LibraryStore.create`."""
        return False

    def weaknesses(self) -> tuple[str, ...]:
        """See `LibraryStore.weaknesses`."""
        return ()

    def check_room(self, needed: int = 0) -> None:
        """See `LibraryStore.check_room`."""
        with self.open():
            self.need(max(needed, 1))

    def destination(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,  # noqa: ARG002 - its names hold no number
        completed_at: float | None,  # noqa: ARG002 - nor a date
        created_at: float | None = None,  # noqa: ARG002
    ) -> MemoryDestination:
        """See `LibraryStore.destination`."""
        stem = f"{output.kind}/{run.technique or UNKNOWN}/{_plain(run.run_id)}-{_plain(output.output_id)}"
        earlier = self.earlier_path(run, output)
        return MemoryDestination(
            self, output.kind, (earlier, stem), f"{run.run_id}\0{output.key}", output.nth
        )

    def path_of(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,  # noqa: ARG002 - its names hold no number
        times: tuple[float | None, float | None],  # noqa: ARG002 - nor a date
        ext: str,
    ) -> str:
        """See `LibraryStore.path_of`."""
        stem = f"{output.kind}/{run.technique or UNKNOWN}/{_plain(run.run_id)}-{_plain(output.output_id)}"
        return f"{stem}{ext}"

    def parts_of(self, owner: str) -> dict[str, _Part]:
        """Return what has arrived of an output, by version."""
        return self._parts.setdefault(owner, {})

    def notes_of(self, owner: str) -> AttemptNotes:
        """Return what attempts at an output left to know."""
        return self._notes.get(owner, AttemptNotes())

    def note(self, owner: str, notes: AttemptNotes) -> None:
        """Let the next attempt at an output know this."""
        self._notes[owner] = notes

    def take_name(self, path: str, file: _File) -> bool:
        """Store `file` under `path`, or adopt what is there; False where that is another."""
        with self._lock:
            standing = next((name for name in self._stored if fold(name) == fold(path)), None)
            there = self._stored[standing] if standing else None
            if there is None or standing is None:
                self._stored[path] = file
                return True
            if standing != path or there.owner not in {file.owner, None}:
                return False
            if there.data == file.data:
                there.owner = file.owner
                return True
            if self._damaged.get(path) != hashlib.sha256(file.data).hexdigest():
                return False
            self._stored[_free(f"{path}.damaged", self._stored)] = self._stored.pop(path)
            self._kept_as[path] = next(reversed(self._stored))
            self._stored[path] = file
            return True

    def holds(self, path: str, data: bytes) -> bool:
        """Whether these bytes are at `path`."""
        return path in self._stored and self._stored[path].data == data

    def put(self, path: str, data: bytes) -> None:
        """Store a file as somebody else would, over what is there."""
        self._stored[path] = _File(data)

    def existing(self, outputs: Mapping[str, SavedOutput]) -> dict[str, SavedOutput]:
        """See `LibraryStore.existing`."""
        with self.open():
            return {
                key: output
                for key, output in outputs.items()
                if (file := self._stored.get(output.path or "")) and len(file.data) == (output.bytes or 0)
            }

    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        """See `LibraryStore.locate_sidecar`."""
        own = f"{SIDECARS}/{reference.technique or UNKNOWN}/"
        found = {
            entry.path: entry.sidecar
            for entry in self.scan()
            if entry.sidecar and entry.sidecar.run_id == reference.run_id
        }
        path = next((path for path in found if path.startswith(own)), next(iter(found), None))
        return (path, found[path]) if path is not None else None

    def write_sidecar(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None) -> str:
        """See `LibraryStore.write_sidecar`."""
        located = MemoryLibrary.locate_sidecar(self, Reference(sidecar.run_id, sidecar.technique))
        before = located[1] if located else None
        if replacing is not None and before != replacing:
            raise TransientError("another sidecar stands there by now", ErrorCode.STORAGE)
        if replacing is None and before is not None:
            paths = {output.path for output in sidecar.outputs}
            lost = {
                key: each
                for key, each in by_key(before.outputs).items()
                if each.path not in paths and each.removed is None
            }
            if self.existing(lost):
                raise TransientError("it gives up a file", ErrorCode.STORAGE)
        data = sidecars.render(sidecar)
        stem = f"{SIDECARS}/{sidecar.technique or UNKNOWN}/{_plain(sidecar.run_id)}"
        with self.open():
            for name in _names(stem, ".json"):
                standing = next((each for each in self._stored if fold(each) == fold(name)), None)
                there = self._stored[standing].owner if standing else sidecar.run_id
                if there == sidecar.run_id and standing in {None, name}:
                    self.need(len(data))
                    self._stored[name] = _File(data, sidecar.run_id, mtime)
                    if sidecar.technique is not None:
                        self._stored.pop(f"{SIDECARS}/{UNKNOWN}/{_plain(sidecar.run_id)}.json", None)
                    return name
        raise AssertionError("counting ended")

    def write_companion(
        self, path: str, data: bytes, mtime: float | None, replaces: Callable[[bytes], bool]
    ) -> bool:
        """See `LibraryStore.write_companion`."""
        with self.open():
            there = self._stored.get(f"{path}.xmp")
            if path not in self._stored or (there and (there.data == data or not replaces(there.data))):
                return False
            self.need(len(data))
            self._stored[f"{path}.xmp"] = _File(data, None, mtime)
            return True

    def open_file(self, path: str) -> BinaryIO | None:
        """See `LibraryStore.open_file`: a copy, since a descriptor needs a file."""
        stored_path(path)
        with self.open():
            file = self._stored.get(path)
        if file is None:
            return None
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - it is the caller's
        copy.write(file.data)
        copy.seek(0)
        return copy

    def location(self, path: str = "") -> str:
        """See `LibraryStore.location`."""
        return f"memory:{path}"

    def scan(self) -> Iterator[LibraryEntry]:
        """See `LibraryStore.scan`."""
        with self.open():
            found = sorted(path for path in self._stored if path.startswith(f"{SIDECARS}/"))
        for path in found:
            with self.open():
                file = self._stored.get(path)
            if file is not None and path.endswith(".json"):
                yield LibraryEntry(path, _parsed(file.data))

    def files(self) -> Iterator[str]:
        """See `LibraryStore.files`."""
        with self.open():
            return iter(sorted(path for path in self._stored if not path.startswith(f"{SIDECARS}/")))

    def stat(self, path: str) -> StoredFile | None:
        """See `LibraryStore.stat`."""
        with self.open():
            return _seen(path, self._stored[path]) if path in self._stored else None

    def listing(self, folder: str = "") -> Iterator[StoredFile]:
        """See `LibraryStore.listing`."""
        with self.open():
            found = [_seen(path, file) for path, file in self._stored.items()]
        yield from (each for each in found if not folder or each.path.startswith(f"{folder}/"))

    def move(self, path: str, to: str) -> bool:
        """See `LibraryStore.move`."""
        with self.open():
            if path not in self._stored:
                if to in self._stored:
                    return True
                raise TransientError(f"{path} is gone", ErrorCode.STORAGE)
            if any(fold(name) == fold(to) for name in self._stored):
                return False
            self._stored[to] = self._stored.pop(path)
            return True

    def remove(self, path: str) -> bool:
        """See `LibraryStore.remove`."""
        with self.open():
            return self._stored.pop(path, None) is not None

    def expect_damaged(self, path: str, sha256: str) -> None:
        """See `LibraryStore.expect_damaged`."""
        self._damaged[path] = sha256

    def kept_as(self, path: str) -> str | None:
        """See `LibraryStore.kept_as`."""
        return self._kept_as.get(path)

    def together(self, works: Sequence[Callable[[], T | Steps[T]]]) -> list[T | Exception]:
        """See `LibraryStore.together`."""
        outcomes: list[T | Exception] = []
        for work in works:
            try:
                outcomes.append(result_of(work()))
            except Exception as error:  # noqa: BLE001 - handed to whoever waits for it
                outcomes.append(error)
        return outcomes


def _seen(path: str, file: _File) -> StoredFile:
    return StoredFile(path, len(file.data), hashlib.sha256(file.data).hexdigest())


class MemorySink:
    """Bytes that arrive for `owner` in the version `validator`."""

    def __init__(self, library: MemoryLibrary, owner: str, validator: str) -> None:
        self._library = library
        self._parts = library.parts_of(owner)
        self._part = self._parts.setdefault(validator, _Part(bytearray()))
        if self._part.busy:
            raise TransientError("another attempt is at it", ErrorCode.STORAGE, retry_after=2.0)
        self._part.busy = True
        self._validator = validator
        self.size = len(self._part.data)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._part.busy = False

    def write(self, data: bytes | memoryview) -> None:
        """See `Sink.write`: what fits is kept."""
        with self._library.open() as library:
            room = max(0, library.free_space())
            self._part.data += memoryview(data)[:room]
            self.size = len(self._part.data)
            library.need(max(0, len(data) - room))

    def read(self, size: int, offset: int) -> bytes:
        """See `Sink.read`."""
        return bytes(self._part.data[offset : offset + size])

    def truncate(self, size: int) -> None:
        """See `Sink.truncate`."""
        if size > self.size:
            raise TransientError("it is shorter than it was", ErrorCode.STORAGE)
        del self._part.data[size:]
        self.size = size

    def discard(self) -> None:
        """See `Sink.discard`."""
        if self._parts.get(self._validator) is self._part:
            del self._parts[self._validator]

    def free_space(self) -> int:
        """See `Sink.free_space`."""
        return self._library.free_space()

    def reserve(self, size: int) -> None:
        """See `Sink.reserve`: there is no need to."""

    def fileno(self) -> None:
        """See `Sink.fileno`."""


class MemoryDestination(Destination):
    """One output's place: its earlier path, and names from the stem on, counted from `nth`."""

    has_descriptors = False
    stored_etag = None

    def __init__(
        self, library: MemoryLibrary, kind: OutputKind, stems: tuple[str | None, str], owner: str, nth: int
    ) -> None:
        self.kind = kind
        self._library = library
        self._earlier, self._stem = stems
        self._owner = owner
        self._first = nth

    @property
    def notes(self) -> AttemptNotes:
        """See `DownloadTarget.notes`."""
        return self._library.notes_of(self._owner)

    def note(self, notes: AttemptNotes) -> None:
        """See `DownloadTarget.note`."""
        self._library.note(self._owner, notes)

    @contextmanager
    def held(self) -> Iterator[None]:
        """See `DownloadTarget.held`."""
        with self._library.open():
            pass
        yield

    def resume_point(self) -> ResumePoint | None:
        """See `DownloadTarget.resume_point`."""
        with self._library.open() as library:
            found = [
                ResumePoint(name, len(part.data)) for name, part in library.parts_of(self._owner).items()
            ]
        return max(found, key=lambda each: (bool(each.validator), each.size), default=None)

    def open(self, validator: str) -> MemorySink:
        """See `DownloadTarget.open`."""
        with self._library.open() as library:
            parts = library.parts_of(self._owner)
            if any(part.busy for part in parts.values()):
                raise TransientError("another attempt is at it", ErrorCode.STORAGE, retry_after=2.0)
            for other in parts.keys() - {validator}:
                del parts[other]
            return MemorySink(library, self._owner, validator)

    def publish(self, sink: Sink, ext: str, sha256: str, mtime: float | None) -> str:  # noqa: ARG002 - hashed here
        """See `Destination.publish`."""
        with self._library.open() as library:
            data = sink.read(sink.size, 0)
            sink.discard()
            self.note(AttemptNotes())
            names = _names(self._stem, ext, self._first)
            file = _File(data, self._owner, mtime)
            if library.holds(self._earlier or "", data):
                return self._earlier or ""
            return next(name for name in names if library.take_name(name, file))


def _plain(text: str) -> str:
    return text.replace("/", "_")


def _names(stem: str, ext: str, first: int = 1) -> Iterator[str]:
    return (f"{stem}{f'-{number}' if number > 1 else ''}{ext}" for number in itertools.count(first))


def _free(name: str, taken: Mapping[str, object]) -> str:
    return next(each for each in _names(name, "") if each not in taken)


def _parsed(data: bytes) -> Sidecar | None:
    try:
        return sidecars.read(data)
    except ValueError:
        return None
