"""Reads sidecars and the heads of their pictures for the index: no link is followed out of the library."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack, suppress
from typing import Final

from msgspec import Struct

from floradl.fs.folders import FolderFd, open_folder, open_regular
from floradl.fs.names import SafeName, stored_path
from floradl.index.dimensions import Size, read_dimensions
from floradl.index.document import RunDocument, read_document
from floradl.library.folder import FolderLibrary
from floradl.library.template import SIDECARS

Stamp = tuple[int, int]
"""When a file was last written, in nanoseconds, and its size in bytes: another sidecar has another one."""

_MEASURED: Final = frozenset({"image", "video"})
_MOST_FOLDERS: Final = 200  # that are held open
_NOT_THERE: Final = {errno.ENOENT, errno.ENOTDIR}


class ReadSidecar(Struct, frozen=True):
    """A sidecar as it was read, and the sizes of its pictures by their number among its outputs."""

    folder: str
    file: str
    stamp: Stamp
    document: RunDocument
    sizes: dict[int, Size]


class SidecarReader:
    """Reads in `library`, through folders that stay open for `stack`. Raises as `Library`."""

    def __init__(self, library: FolderLibrary, stack: ExitStack) -> None:
        self._library = library
        self._stack = stack
        self._root = stack.enter_context(library.open())
        self._folders: dict[tuple[SafeName, ...], FolderFd | None] = {}

    def read(self, folder: str, file: str) -> ReadSidecar | None:
        """Read one, in the folder of a technique; None where it is gone, somebody else's, or none at all."""
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
        return ReadSidecar(folder, file, (status.st_mtime_ns, status.st_size), document, sizes)

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
    """A technique's folder as it was listed: when it last changed, and its sidecars."""

    mtime_ns: int
    stamps: dict[str, Stamp]


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
    below = (SafeName(SIDECARS), SafeName(folder))
    with library.open() as root:
        try:
            with open_folder(root, below, create=False) as fd:
                mtime_ns = os.fstat(fd).st_mtime_ns
                if mtime_ns == seen_ns:
                    return None
                with os.scandir(fd) as entries:
                    stamps = {entry.name: _stamp(entry) for entry in entries if is_sidecar(entry.name)}
        except OSError:
            return None
    return SidecarFolder(mtime_ns, stamps)


def _stamp(entry: os.DirEntry[str]) -> Stamp:
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:  # it went meanwhile
        return 0, 0
    return status.st_mtime_ns, status.st_size
