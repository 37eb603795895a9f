"""Folders that are walked from an open one, component by component, so that no link leads out of the library.

A name is on disk only when its folder was flushed: without that a power cut loses it.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Self

from floradl.fs.names import SafeName
from floradl.portability import flush


class FolderFd(int):
    """The descriptor of an open folder, valid for as long as whoever opened it keeps it open."""

    @cached_property
    def key(self) -> tuple[int, int]:
        """Device and inode: no other folder has the same."""
        found = os.fstat(self)
        return found.st_dev, found.st_ino

    def dup(self) -> Self:
        """Return another descriptor of the same folder, to be closed by the caller."""
        twin = type(self)(os.dup(self))
        twin.key = self.key
        return twin


CANNOT = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM})
"""How a file system says that it cannot do something at all."""

_NOT_PLAIN = {errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENODEV}  # a link, a socket, a folder, a device
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextmanager
def open_root(path: Path) -> Iterator[FolderFd]:
    """Open the folder that everything else is relative to. Links in `path` itself are the user's will."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield FolderFd(fd)
    finally:
        os.close(fd)


@contextmanager
def open_folder(root: FolderFd, parts: tuple[SafeName, ...], *, create: bool = True) -> Iterator[FolderFd]:
    """Open the folder `parts` below `root`, making what is missing; a new folder is on disk on return.

    Raises `OSError`: `ELOOP` or `ENOTDIR` where a component is a link or a file, `ENOENT` without `create`.
    """
    fd = int(root)
    try:
        for part in parts:
            try:
                below = os.open(part, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                if not create:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                sync_new(FolderFd(fd), partial(_remove_folder, part))
                below = os.open(part, _FOLDER, dir_fd=fd)
            above, fd = fd, below
            if above != root:
                os.close(above)
        yield FolderFd(fd)
    finally:
        if fd != root:
            os.close(fd)


def sync_folder(folder: FolderFd) -> None:
    """Put a folder's names on disk. A file system that cannot (`EINVAL`) is left at that."""
    try:
        flush(folder)
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def _remove_folder(name: SafeName, folder: FolderFd) -> None:
    os.rmdir(name, dir_fd=folder)


def sync_new(folder: FolderFd, take_back: Callable[[FolderFd], None]) -> None:
    """Put a new name on disk, or take it back: only then does the next attempt have a change to flush."""
    try:
        sync_folder(folder)
    except OSError:
        with suppress(OSError):
            take_back(folder)
        raise


def open_regular(folder: FolderFd, name: SafeName) -> io.BufferedReader | None:
    """Open a regular file for reading; None where there is none, or something else: a link, a folder."""
    try:
        fd = open_plain(name, os.O_RDONLY, folder=folder)
    except NotRegularFileError:
        return None
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return None
        raise
    return os.fdopen(fd, "rb")


class NotRegularFileError(Exception):
    """What stands there is no regular file, or has more names than it may: perhaps a trick of somebody's."""


def open_plain(
    path: Path | str, flags: int, *, folder: FolderFd | None = None, follow: bool = False, alone: bool = False
) -> int:
    """Open what stands at `path`, below `folder` where one is given, and return its descriptor.

    It is looked at once it is open, so that nobody can change it in between. Nothing is waited for: not for
    a FIFO's other end, nor for somebody's lease. `follow` goes through a link at the end; with `alone` a
    file that has a second name (a hard link, whose bytes may lie where others may not read or write) is
    refused, too. `flags` are those of open(2) besides; they neither make nor cut a file.

    Raises `NotRegularFileError`, `BlockingIOError` (a lease), `OSError`.
    """
    wanted = flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        fd = os.open(path, wanted, dir_fd=folder)
    except OSError as error:
        if error.errno in _NOT_PLAIN:
            raise NotRegularFileError(path) from error
        raise
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode) and not (alone and found.st_nlink > 1):
        return fd
    os.close(fd)
    raise NotRegularFileError(path)


def exists(folder: FolderFd, name: SafeName) -> bool:
    """Whether anything, a dangling link included, has this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_own(folder: FolderFd, name: SafeName) -> int:
    """Open `name` for writing; a link, a device or a file with a second name is not ours and goes.

    So does a file that we may not open, where we may remove it: it would hold up what is to have its name.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    with suppress(FileExistsError):
        return os.open(name, flags | os.O_EXCL, 0o600, dir_fd=folder)
    for _ in range(3):
        try:
            fd = os.open(name, flags, 0o600, dir_fd=folder)
        except OSError as error:
            if error.errno == errno.EACCES and _removed(folder, name):
                continue
            if error.errno not in {errno.ELOOP, errno.ENXIO}:
                raise
        else:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
                return fd
            os.close(fd)
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
    raise OSError(errno.EEXIST, "something keeps planting a link under this name", name)


def _removed(folder: FolderFd, name: SafeName) -> bool:
    try:
        os.unlink(name, dir_fd=folder)
    except OSError:
        return False
    return True
