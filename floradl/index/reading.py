"""Reads sidecars and the heads of their pictures for the index, from a folder or through the library's door.

In a folder no link is followed out of the library. In a store one listing shows what changed, and several
are read at a time, since each waits for an answer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from itertools import repeat
from typing import Final, Protocol

from msgspec import Struct

from floradl.errors import FloradlError
from floradl.fs.folders import FolderFd, open_folder, open_regular
from floradl.fs.names import SafeName, stored_path
from floradl.index.dimensions import Size, read_dimensions
from floradl.index.document import RunDocument, read_document
from floradl.library.base import LibraryStore, StoredFile
from floradl.library.folder import FolderLibrary
from floradl.library.template import SIDECARS

Stamp = tuple[int, int]
"""When a file was last written, in nanoseconds, or a number of its ETag; and its size in bytes.

Another sidecar has another one.
"""

_MEASURED: Final = frozenset({"image", "video"})
_MOST_FOLDERS: Final = 200  # that are held open
_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR}
_AT_ONCE: Final = 16  # requests to a store
_LONGEST: Final = 64 << 20  # bytes of a sidecar
_RACY_NS: Final = 2_000_000_000  # what changed so lately may change again at the same moment


class ReadSidecar(Struct, frozen=True):
    """A sidecar as it was read, and the sizes of its pictures by their number among its outputs.

    `written` is when its file was written, in milliseconds; 0 where that is unknown.
    """

    folder: str
    file: str
    stamp: Stamp
    document: RunDocument
    sizes: dict[int, Size]
    written: int = 0


class SidecarReader(Protocol):
    """Reads sidecars of a technique. Raises as `Library`."""

    def read(self, folder: str, files: Iterable[str]) -> Iterator[ReadSidecar | None]:
        """Read these, in the folder of a technique; None for one that is gone, foreign, or none at all."""


def open_reader(library: LibraryStore, stack: ExitStack, stamps: Mapping[str, Stamp]) -> SidecarReader:
    """Return what reads in `library` until `stack` is closed.

    `stamps` are those of sidecars by their paths, as far as a listing has just shown them.
    """
    if isinstance(library, FolderLibrary):
        return _FolderReader(library, stack)
    return _StoreReader(library, stack, stamps)


class _StoreReader:
    """Reads through the library's door, several at a time."""

    def __init__(self, library: LibraryStore, stack: ExitStack, stamps: Mapping[str, Stamp]) -> None:
        self._library = library
        self._stamps = stamps
        self._threads = stack.enter_context(ThreadPoolExecutor(_AT_ONCE, "index"))

    def read(self, folder: str, files: Iterable[str]) -> Iterator[ReadSidecar | None]:
        return self._threads.map(self._read, repeat(folder), files)

    def _read(self, folder: str, file: str) -> ReadSidecar | None:
        path = f"{SIDECARS}/{folder}/{file}"
        # Before it is read: where it changes in between, the next look finds another stamp.
        stamp = self._stamps.get(path) or _stamp_of(self._library.stat(path))
        if stamp is None or stamp[1] > _LONGEST or (data := self._library.read(path)) is None:
            return None
        document = read_document(data)
        if document is None:
            return None
        sizes: dict[int, Size] = {}
        for nth, output in enumerate(document.outputs):
            if output.kind in _MEASURED and output.path and (size := self._measure(output.path)) is not None:
                sizes[nth] = size
        return ReadSidecar(folder, file, stamp, document, sizes)

    def _measure(self, path: str) -> Size | None:
        with suppress(OSError, FloradlError, ValueError):  # as in a folder
            if (file := self._library.open_file(path)) is not None:
                with file:
                    return read_dimensions(file)
        return None


def _stamp_of(file: StoredFile | None) -> Stamp | None:
    if file is None:
        return None
    return stamp_number(file.stamp), file.size


def stamp_number(stamp: str) -> int:
    """Return the number by which the index tells versions of an object apart, from its ETag."""
    return int.from_bytes(hashlib.blake2b(stamp.encode(), digest_size=8).digest()) >> 1


class _FolderReader:
    """Reads in `library`, through folders that stay open for `stack`."""

    def __init__(self, library: FolderLibrary, stack: ExitStack) -> None:
        self._library = library
        self._stack = stack
        self._root = stack.enter_context(library.open())
        self._folders: dict[tuple[SafeName, ...], FolderFd | None] = {}

    def read(self, folder: str, files: Iterable[str]) -> Iterator[ReadSidecar | None]:
        return (self._read(folder, file) for file in files)

    def _read(self, folder: str, file: str) -> ReadSidecar | None:
        below = self._folder((SafeName(SIDECARS), SafeName(folder)))
        if below is None:
            return None
        try:
            status = os.stat(file, dir_fd=below, follow_symlinks=False)
            found = self._library.owners.read(self._library.open, below, SafeName(file))
        except OSError:
            return None
        document = read_document(found.data) if found is not None and found.counts else None
        if document is None:
            return None
        sizes: dict[int, Size] = {}
        for nth, output in enumerate(document.outputs):
            if output.kind in _MEASURED and output.path and (size := self._measure(output.path)) is not None:
                sizes[nth] = size
        stamp = status.st_mtime_ns, status.st_size
        return ReadSidecar(folder, file, stamp, document, sizes, status.st_mtime_ns // 1_000_000)

    def _measure(self, path: str) -> Size | None:
        *parts, name = stored_path(path)
        if (folder := self._folder(tuple(parts))) is None:
            return None
        try:
            if (file := open_regular(folder, name)) is None:
                return None
            with file:
                return read_dimensions(file)
        except OSError:  # one file that cannot be read costs its own size alone
            return None

    def _folder(self, parts: tuple[SafeName, ...]) -> FolderFd | None:
        if parts not in self._folders:
            if len(self._folders) >= _MOST_FOLDERS:
                self._stack.close()
                self._folders.clear()
                self._root = self._stack.enter_context(self._library.open())
            found: FolderFd | None = None
            with suppress(OSError):
                found = self._stack.enter_context(open_folder(self._root, parts, create=False))
            self._folders[parts] = found
        return self._folders[parts]


class SidecarFolder(Struct, frozen=True):
    """A technique's folder as it was listed: when it last changed, and its sidecars.

    One that is written to afterwards gets a time (ctime, which nobody can set) from `sure_ns` on.
    """

    mtime_ns: int
    stamps: dict[str, Stamp]
    sure_ns: int


def is_sidecar(name: str) -> bool:
    """Whether a file of that name may be a sidecar."""
    return name.endswith(".json") and not name.startswith(".")


def list_techniques(library: FolderLibrary) -> list[str]:
    """Return the names of the folders that hold sidecars. Raises as `Library`."""
    with library.open() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS),), create=False) as folder:
                return sorted(name for name in os.listdir(folder) if not name.startswith("."))
        except OSError as error:
            if error.errno not in _NOT_THERE:
                raise
            return []


def list_sidecars(library: FolderLibrary, folder: str, seen_ns: int | None) -> SidecarFolder | None:
    """List a technique's folder; None where nothing changed since `seen_ns`, or it cannot be read.

    Raises as `Library`.
    """
    with library.open() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS), SafeName(folder)), create=False) as fd:
                mtime_ns = os.fstat(fd).st_mtime_ns
                return None if mtime_ns == seen_ns else _listed(fd, mtime_ns, 0)
        except OSError:
            return None


def list_written(library: FolderLibrary, folder: str, seen_ns: int, sure_ns: int) -> SidecarFolder | None:
    """List the sidecars of a folder that were written to in place since it had the times of its last listing.

    None where others came or went since, or it cannot be read. Raises as `Library`.
    """
    with library.open() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS), SafeName(folder)), create=False) as fd:
                mtime_ns = os.fstat(fd).st_mtime_ns
                return _listed(fd, mtime_ns, sure_ns) if mtime_ns == seen_ns else None
        except OSError:
            return None


def _listed(folder: FolderFd, mtime_ns: int, since_ns: int) -> SidecarFolder:
    """List those whose state changed at `since_ns` or later. Raises `OSError`."""
    began, last, stamps = time.time_ns(), 0, {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_sidecar(entry.name):
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:  # it went meanwhile
                stamps[entry.name] = 0, 0
                continue
            changed_ns = status.st_ctime_ns
            if changed_ns >= since_ns:
                stamps[entry.name] = status.st_mtime_ns, status.st_size
                last = max(last, changed_ns)
    # By the clock of the disk's machine, which may be another's; before what changed once it was looked at.
    return SidecarFolder(mtime_ns, stamps, min(last or since_ns, began - _RACY_NS))


def list_store(library: LibraryStore) -> dict[str, dict[str, Stamp]]:
    """Return all sidecars of a store, by technique and name, from one listing. Raises as `Library`."""
    found: dict[str, dict[str, Stamp]] = {}
    for file in library.listing(SIDECARS):
        match file.path.split("/"):
            case [_, technique, name] if is_sidecar(name) and (stamp := _stamp_of(file)) is not None:
                found.setdefault(technique, {})[name] = stamp
    return found
