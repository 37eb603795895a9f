"""Files that survive crashes, power cuts and planted links.

Every path is walked from an open folder, component by component, and no link is followed, so nothing can
be led out of the library. A file gets its final name only when it is whole and on disk:

    part file → fsync → mode → rename that replaces nothing → fsync of the folder

Without the first fsync a power cut loses the bytes, without the last one the name. An fsync that failed
is never repeated: the kernel has dropped the pages and would report success (the file is thrown away).
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NewType, Self

from floradl.names import SafeName

FolderFd = NewType("FolderFd", int)

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_RENAME_NOREPLACE = 1
_CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}
_libc = ctypes.CDLL(None, use_errno=True)


class PartBusyError(Exception):
    """Another process is writing the same part file."""


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
    fd = os.dup(root)
    try:
        for part in parts:
            try:
                below = os.open(part, _FOLDER, dir_fd=fd)
            except FileNotFoundError:
                if not create:
                    raise
                with suppress(FileExistsError):
                    os.mkdir(part, dir_fd=fd)
                sync_folder(FolderFd(fd))
                below = os.open(part, _FOLDER, dir_fd=fd)
            os.close(fd)
            fd = below
        yield FolderFd(fd)
    finally:
        os.close(fd)


def sync_folder(folder: FolderFd) -> None:
    """Put a folder's names on disk. A file system that cannot (`EINVAL`) is left at that."""
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


class PartFile:
    """A file in the making: only ever appended to, so its size says how far it got. Locked while open."""

    def __init__(self, folder: FolderFd, name: SafeName) -> None:
        """Open or create it. Raises `PartBusyError` where another process has it, and `OSError`."""
        self.name = name
        self._folder = FolderFd(os.dup(folder))
        try:
            self.fd = _open_locked(self._folder, name)
        except BaseException:
            os.close(self._folder)
            raise
        self.size = os.fstat(self.fd).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        os.close(self.fd)
        os.close(self._folder)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, all of it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, self.size)
            self.size += written
            view = view[written:]

    def read(self, size: int, offset: int) -> bytes:
        """Read up to `size` bytes at `offset`."""
        return os.pread(self.fd, size, offset)

    def truncate(self, size: int) -> None:
        """Drop what follows `size`."""
        os.ftruncate(self.fd, size)
        self.size = size

    def discard(self) -> None:
        """Remove it: its bytes are not to be trusted."""
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._folder)

    def sync(self, mtime: float | None) -> None:
        """Put the bytes on disk, with the mode that the umask gives and the time wanted (unix seconds).

        Raises `OSError`, after removing the file: what the kernel could not write once is lost.
        """
        try:
            os.fchmod(self.fd, 0o666 & ~_umask())
            if mtime is not None:
                os.utime(self.fd, (mtime, mtime))
            os.fsync(self.fd)
        except OSError:
            self.discard()
            raise

    def publish(self, name: SafeName) -> bool:
        """Give the synced file its final name. False where that name is taken: nothing was changed then."""
        if not rename_noreplace(self._folder, self.name, name):
            return False
        sync_folder(self._folder)
        return True


def _open_locked(folder: FolderFd, name: SafeName) -> int:
    while True:
        fd = _open_regular(folder, name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(fd)
            with suppress(FileNotFoundError):
                named = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino):
                    return fd
        except BlockingIOError as error:
            os.close(fd)
            raise PartBusyError(name) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was published or removed between open and lock


def _open_regular(folder: FolderFd, name: SafeName) -> int:
    """Open `name` for writing; a link, a device or a file with a second name is not ours and goes."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    for _ in range(3):
        try:
            fd = os.open(name, flags, 0o600, dir_fd=folder)
        except OSError as error:
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


def rename_noreplace(folder: FolderFd, old: SafeName, new: SafeName) -> bool:
    """Rename within `folder`; False where `new` exists. Weaker by one step where the file system is.

    `renameat2(RENAME_NOREPLACE)`, else link and unlink, else a look and a rename: the last could replace
    a file that appears between the two, and is only reached on file systems that know neither.
    """
    if _libc.renameat2(folder, os.fsencode(old), folder, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return True
    code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code not in _CANNOT:
        raise OSError(code, os.strerror(code), old)
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        os.unlink(old, dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        if exists(folder, new):
            return False
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)
    return True


def write_atomic(folder: FolderFd, name: SafeName, data: bytes, *, mtime: float | None = None) -> None:
    """Write a small file durably: readers see the old one or the new one, never half. Safe to repeat.

    `name` leaves room for the 6 bytes of a temporary name. Raises `PartBusyError` where another process
    writes the same file at this moment, and `OSError`.
    """
    with PartFile(folder, SafeName(f".{name}.part")) as part:
        part.truncate(0)
        part.write(data)
        part.sync(mtime)
        os.rename(part.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    sync_folder(folder)


def read_regular(folder: FolderFd, name: SafeName, limit: int) -> bytes | None:
    """Read a regular file of up to `limit` bytes; None where there is none (a link counts as none)."""
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            return None
        raise
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return None
        return file.read(limit)


def exists(folder: FolderFd, name: SafeName) -> bool:
    """Whether anything, a dangling link included, has this name."""
    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _umask() -> int:
    """Return the process's umask, read without setting it (setting would race with other threads)."""
    with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
