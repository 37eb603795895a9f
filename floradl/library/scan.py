"""All sidecars of a library in a folder, whose they are and whether they count, and all other files of it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, suppress
from typing import TypeAlias

from msgspec import Struct

from floradl.fs.folders import FolderFd, exists, open_folder, open_regular
from floradl.fs.names import SafeName
from floradl.fs.os_errors import OF_ONE_ENTRY
from floradl.fs.permissions import may_write, trusted_users
from floradl.library.base import LibraryEntry, StoredFile
from floradl.library.sidecar import Sidecar, read
from floradl.library.template import SIDECARS

Opened: TypeAlias = Callable[[], AbstractContextManager[FolderFd]]
MAX_SIDECAR = 64 * 1024 * 1024
_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
# What NAS boxes, Windows and macOS keep to themselves; hidden folders and those beginning with `@` besides.
_FOLDERS_OF_SYSTEMS = {
    *("#recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information"),
    *("network trash folder", "temporary items"),
}


class Found(Struct, frozen=True):
    """What stands under a sidecar's name: its bytes, whose it is, and whether it counts."""

    data: bytes
    uid: int
    counts: bool

    @property
    def sidecar(self) -> Sidecar | None:
        """What it says; None where it does not count, or is no sidecar that can be read."""
        try:
            return read(self.data) if self.counts else None
        except ValueError:
            return None


class Owners:
    """Decides whose sidecars count. `known` are users besides this one and root, such as the daemon's."""

    def __init__(self, known: Collection[int] = ()) -> None:
        self._trusted = trusted_users() | frozenset(known)
        self._seen_as: int | None = None

    def read(self, opened: Opened, folder: FolderFd, name: SafeName) -> Found | None:
        """Read what has the `name` of a sidecar; None where no regular file has it.

        `opened` opens the library, which only somebody else's needs. Raises `OSError`, and as `opened`.
        """
        try:
            file = open_regular(folder, name)
        except PermissionError:
            uid = os.stat(name, dir_fd=folder, follow_symlinks=False).st_uid
            if uid in self._trusted:
                raise
            return Found(b"", uid, counts=False)  # closed to us, so that it may hold nobody up
        if file is None:
            return None
        with file:
            status = os.fstat(file.fileno())
            # Room for what may be read is made beforehand: for 64 MiB that takes longer than the reading.
            data = file.read(min(max(status.st_size, 1 << 16), MAX_SIDECAR))
            return Found(data, status.st_uid, self._counts(opened, folder, status.st_uid))

    def closed_by(self, root: FolderFd, folder: SafeName) -> int | None:
        """Return who keeps us out of a folder of sidecars that is his; None where nobody does."""
        try:
            with open_folder(root, (SafeName(SIDECARS), folder), create=False):
                return None
        except PermissionError:
            with suppress(OSError):  # a mount of his may show us nothing at all
                uid = os.stat(f"{SIDECARS}/{folder}", dir_fd=root, follow_symlinks=False).st_uid
                return None if uid in self._trusted else uid
        except OSError:
            pass
        return None

    def _counts(self, opened: Opened, folder: FolderFd, uid: int) -> bool:
        if uid in self._trusted:
            return True
        with opened() as root:
            return not self.others_may_write(root, folder) or uid == self._own_number(root)

    def others_may_write(self, root: FolderFd, folder: FolderFd | None = None) -> bool:
        """Whether others may put files into `folder`, or put another in its place."""
        way = [os.fstat(root)]
        with suppress(FileNotFoundError):
            way.append(os.stat(SafeName(SIDECARS), dir_fd=root, follow_symlinks=False))
        if folder is not None:
            way.append(os.fstat(folder))
        return any(may_write(each, self._trusted) for each in way)

    def _own_number(self, root: FolderFd) -> int:
        """Return who owns what this user makes there: a network's server, or a mount's option, may say.

        Where that is another, owners mean nothing there. It is tried out once, and only where it matters.
        """
        if self._seen_as is None:
            self._seen_as = os.geteuid()
            name = SafeName(f".floradl-owner-{os.urandom(4).hex()}.part")
            with suppress(OSError):  # who may not write there has made none of them
                fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=root)
                try:
                    self._seen_as = os.fstat(fd).st_uid
                finally:
                    os.close(fd)
                    os.unlink(name, dir_fd=root)
        return self._seen_as


def library_entries(opened: Opened, owners: Owners) -> Iterator[LibraryEntry]:
    """Read all sidecars, by technique. Links are not followed; one that goes meanwhile is left out.

    What ails one file or folder of them (rights, a bad block, another user's mount, a folder or FIFO in its
    place) costs that one alone: it counts as unreadable.

    Raises `ServicePausedError` where the library is not there (any more), and our other errors of its disk.
    """
    for technique in _names(opened, ()) or ():
        with opened() as root:
            keeper = owners.closed_by(root, technique)
        names = _names(opened, (technique,)) if keeper is None else None
        if names is None:
            yield LibraryEntry(f"{SIDECARS}/{technique}", None, keeper)
        for name in names or ():
            if not name.endswith(".json"):
                continue
            with opened() as root:
                try:
                    with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                        found = owners.read(opened, folder, name)
                        if found is None and exists(folder, name):  # a folder, a link, a FIFO
                            found = Found(b"", os.geteuid(), counts=True)
                except OSError as error:
                    if error.errno not in _NOT_THERE | OF_ONE_ENTRY:
                        raise
                    broken = error.errno in OF_ONE_ENTRY
                    found = Found(b"", os.geteuid(), counts=True) if broken else None
            if found is not None:
                path = f"{SIDECARS}/{technique}/{name}"
                yield LibraryEntry(path, found.sidecar, None if found.counts else found.uid)


def _names(opened: Opened, below: tuple[SafeName, ...]) -> list[SafeName] | None:
    """List what is in a folder; None where it alone cannot be looked into."""
    with opened() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS), *below), create=False) as folder:
                return [SafeName(name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        except OSError as error:
            if below and error.errno in OF_ONE_ENTRY:
                return None
            if error.errno not in _NOT_THERE:
                raise
            return []


def library_files(opened: Opened, parts: tuple[SafeName, ...] = ()) -> Iterator[str]:
    """Yield all that is no folder, by folder and name, without the sidecars; nothing stays open in between.

    What is hidden, and what systems keep to themselves (recycle bins), is passed over.
    """
    folders, names = _listed(opened, parts)
    for name in sorted(name for name in names if not name.startswith(".")):
        yield "/".join((*parts, name))
    for name in sorted(folders):
        if not _is_strewn(name) and (parts or name != SIDECARS):
            yield from library_files(opened, (*parts, SafeName(name)))


def listed_files(opened: Opened, parts: tuple[SafeName, ...]) -> Iterator[StoredFile]:
    """Yield all regular files below a folder, sidecars too; see `LibraryStore.listing`."""
    folders: list[SafeName] = []
    found: list[StoredFile] = []
    with (
        opened() as root,
        suppress(FileNotFoundError, NotADirectoryError),
        open_folder(root, parts, create=False) as folder,
        os.scandir(folder) as entries,
    ):
        for entry in entries:
            name = SafeName(entry.name)
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISDIR(status.st_mode):
                    folders.append(name)
                elif not name.startswith(".") and (file := stored_file("/".join((*parts, name)), status)):
                    found.append(file)
    yield from found
    for name in folders:
        if not _is_strewn(name):
            yield from listed_files(opened, (*parts, name))


def stored_file(path: str, status: os.stat_result) -> StoredFile | None:
    """Return what `status` shows of a file; None where it is no regular one."""
    if not stat.S_ISREG(status.st_mode):
        return None
    return StoredFile(path, status.st_size, str(status.st_mtime_ns))


def _is_strewn(name: str) -> bool:
    return name.startswith((".", "@")) or name.lower() in _FOLDERS_OF_SYSTEMS


def _listed(opened: Opened, parts: tuple[SafeName, ...]) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    names: list[str] = []
    with opened() as root:
        try:
            with open_folder(root, parts, create=False) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
        except OSError:  # it went meanwhile, or this user may not read it: its files are reported one by one
            pass
    return folders, names
