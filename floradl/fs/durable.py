"""Files that survive crashes, power cuts and planted links: written, renamed and flushed.

Every path is walked from an open folder, component by component, and no link is followed, so nothing can
be led out of the library. A file gets its final name only when it is whole and on disk:

    part file → mode and time → fsync → rename that replaces nothing → fsync of the folder

Without the first fsync a power cut loses the bytes, without the last one the name. Several files go through
these steps side by side (`flushed_together`): the first fsync makes a journaling file system put all on disk
that was changed until then, and each later one finds little left to do. An fsync that failed
is never repeated: the kernel has dropped the pages and would report success (the file is thrown away). Nor is
one believed of a file with holes: see `PartFile.has_hole`.
"""

from __future__ import annotations

import errno
import fcntl
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from functools import partial
from types import GeneratorType
from typing import Any, Self, TypeAlias, TypeVar

import msgspec

from floradl.errors import FloradlError
from floradl.fs.folders import CANNOT, FolderFd, exists, open_own, sync_folder, sync_new
from floradl.fs.names import SafeName
from floradl.portability import (
    begin_flush,
    drop_cached,
    flush as flush_file,
    has_hole,
    rename_exclusive,
    reserve,
    umask,
)

CANNOT_LINK = CANNOT | {errno.EXDEV, errno.EMLINK}
"""The same of a hard link: some have room for few, some (mergerfs) cannot between their branches."""

_T = TypeVar("_T")
TakeBack: TypeAlias = Callable[[FolderFd], None]
Flush: TypeAlias = Callable[[FolderFd, TakeBack], None]
"""Puts the new names of a folder on disk, at once or later; the second takes the new one back.

Later the folder may be open under another descriptor, which `TakeBack` is given: the first one may be some
other file's by then.
"""
FLUSH_NOW: Flush = sync_new
Steps: TypeAlias = Generator[None, None, _T]
"""Work that yields before it waits for the disk: what others wrote is on its way there when it goes on."""
_OPENINGS = 50
_WINDOW = 8 << 20  # bytes that are handed to the disk at a time
_BEHIND = 4  # windows that the disk may take its time for
_BLOCK = 512  # bytes, of `st_blocks`
_WORTH_FORGETTING = 512 << 10  # bytes: of smaller files the call costs more than the memory is worth


LOST = "the disk lost what was written, and told no error: look into the system's log, and check the disk"
"""What is wrong with a file that has a hole where bytes were written."""


def rename_noreplace(folder: FolderFd, old: SafeName, new: SafeName, into: FolderFd | None = None) -> bool:
    """Rename within `folder`, or into another; False where `new` exists. Weaker where the file system is.

    `renameat2(RENAME_NOREPLACE)`, else link and unlink, else a look and a rename: the last could replace
    a file that appears between the two, and is only reached on file systems that know neither.
    """
    to = folder if into is None else into
    code = rename_exclusive(folder, old, to, new)
    if code in {0, errno.EEXIST}:
        return code == 0
    if code not in CANNOT:
        raise OSError(code, os.strerror(code), old)
    try:
        os.link(old, new, src_dir_fd=folder, dst_dir_fd=to, follow_symlinks=False)
        os.unlink(old, dir_fd=folder)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in CANNOT_LINK:
            raise
        if exists(to, new):
            return False
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=to)
    return True


def leave(_: FolderFd) -> None:
    """Take nothing back: what is there is no worse than what was."""


class PartBusyError(Exception):
    """Another process is writing the same part file, or was while we looked away."""


class AppendedFile(ABC):
    """An open file that is only ever appended to, so that its size says how far it got.

    `fd` is closed with it; `name` is what errors call it.
    """

    def __init__(self, fd: int, name: str, found: os.stat_result | None = None) -> None:
        found = os.fstat(fd) if found is None else found
        self.fd = fd
        self.name = name
        self.size = found.st_size
        self._has_blocks = found.st_blocks > 0  # also an empty one may: reserved before a power cut
        self._reserved = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        # Closing twice would close whatever another thread has opened under the same number since.
        fd, self.fd = self.fd, -1
        if fd >= 0:
            if self._reserved > self.size:
                with suppress(OSError):
                    os.ftruncate(fd, self.size)  # which gives back what lies behind it
            os.close(fd)

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`, all of it."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, self.size)
            if (self.size + written) // _WINDOW > self.size // _WINDOW:
                self._hand_over((self.size + written) // _WINDOW)
            self.size += written
            view = view[written:]

    def _hand_over(self, windows: int) -> None:
        """Have the disk begin with what was written last, and forget what it has by now.

        A large file would fill the memory with pages that nobody reads, and push out those that somebody
        does; and its flush would have to write all of it at the end.
        """
        try:  # `drop_cached` hides errors
            _if_possible(begin_flush, self.fd, (windows - 1) * _WINDOW, _WINDOW)
        except OSError:
            self.discard()
            raise
        for window in (windows - 1, windows - 1 - _BEHIND):
            if window >= 0:
                drop_cached(self.fd, window * _WINDOW, _WINDOW)

    def read(self, size: int, offset: int) -> bytes:
        """Read up to `size` bytes at `offset`."""
        return os.pread(self.fd, size, offset)

    def free_space(self) -> int:
        """Return how many bytes its disk has left for this user, those reserved for it among them."""
        found = os.fstatvfs(self.fd)
        # An empty file has none of its own; this look is one of those that each small file pays for.
        own = os.fstat(self.fd).st_blocks * _BLOCK if self.size or self._reserved or self._has_blocks else 0
        return found.f_bavail * found.f_frsize + max(own - self.size, 0)

    def reserve(self, size: int) -> None:
        """Have the disk keep room for `size` bytes until it is closed, where the file system can.

        A large file is written with less work for the kernel then, and in one piece.
        """
        if reserve(self.fd, size):
            self._reserved = size

    def fileno(self) -> int:
        """Return its descriptor."""
        return self.fd

    def truncate(self, size: int) -> None:
        """Drop what follows `size`.

        Raises `PartBusyError` where there is less: the bytes that were to be continued were published or
        dropped by another process meanwhile, and a hole must not take their place.
        """
        if size > self.size:
            raise PartBusyError(self.name)
        os.ftruncate(self.fd, size)
        self.size = size

    @abstractmethod
    def discard(self) -> None:
        """Remove it: its bytes are not to be trusted."""


class PartFile(AppendedFile):
    """A file in the making, in its folder. Locked while open."""

    name: SafeName

    def __init__(self, folder: FolderFd, name: SafeName) -> None:
        """Open or create it. Raises `PartBusyError` where another process has it, and `OSError`."""
        self._folder = folder.dup()
        try:
            fd, self._found = _open_locked(self._folder, name)
            super().__init__(fd, name, self._found)
        except BaseException:
            os.close(self._folder)
            raise
        self._prepared: int | None = None  # its size then
        self.has_hole = False
        """Whether, once synced, some of it has no blocks: zeros on some file systems, or the disk lost it.

        What ext4 finds no blocks for when the kernel writes by itself is dropped, and no flush tells of it.
        """

    def __exit__(self, *exc_info: object) -> None:
        super().__exit__()
        folder, self._folder = self._folder, FolderFd(-1)
        if folder >= 0:
            os.close(folder)

    def lies_in(self, folder: FolderFd) -> bool:
        """Whether `folder` is where it was opened: it may have been moved, and another made in its place."""
        return self._folder.key == folder.key

    def discard(self) -> None:
        """Remove it: its bytes are not to be trusted."""
        with suppress(FileNotFoundError):
            os.unlink(self.name, dir_fd=self._folder)

    def begin_sync(self, mtime: float | None, mode: int = 0o666) -> None:
        """Begin what `sync` completes, which is given the same. Raises as that."""
        try:
            self._prepare(mtime, mode)
            _if_possible(begin_flush, self.fd)
        except OSError:
            self.discard()
            raise

    def sync(self, mtime: float | None, mode: int = 0o666) -> None:
        """Put the bytes on disk, with what the umask leaves of `mode` and the time wanted (unix seconds).

        Mode and time are left as they are where the file system cannot have them. Raises `OSError`, after
        removing the file: what the kernel could not write once is lost.
        """
        try:
            if self._prepared != self.size:
                self._prepare(mtime, mode)
            flush_file(self.fd)
        except OSError:
            self.discard()
            raise
        self.has_hole = has_hole(self.fd, self.size)
        if self.size >= _WORTH_FORGETTING:
            drop_cached(self.fd)

    def _prepare(self, mtime: float | None, mode: int) -> None:
        # Before the flush: a change that followed it would take another one to get to disk.
        _if_possible(os.fchmod, self.fd, mode & ~umask())
        if mtime is not None:
            _if_possible(os.utime, self.fd, (mtime, mtime))
        self._prepared = self.size

    def require_name(self) -> None:
        """Raise `PartBusyError` where another user's process put a file of its own in its place."""
        with suppress(FileNotFoundError):
            named = os.stat(self.name, dir_fd=self._folder, follow_symlinks=False)
            if os.path.samestat(named, self._found):
                return
        raise PartBusyError(self.name)

    def publish(self, name: SafeName, flush: Flush = FLUSH_NOW) -> bool:
        """Give the synced file its final name. False where that name is taken: nothing was changed then."""
        self.require_name()
        if not rename_noreplace(self._folder, self.name, name):
            return False
        flush(self._folder, lambda folder: os.unlink(name, dir_fd=folder))
        return True


def _if_possible(do: Callable[..., None], *arguments: object) -> None:
    try:
        do(*arguments)
    except OverflowError:  # a time that no clock shows
        pass
    except OSError as error:
        if error.errno not in CANNOT:
            raise


def _open_locked(folder: FolderFd, name: SafeName) -> tuple[int, os.stat_result]:
    """Open a part file, and lock it; return its descriptor and what it was."""
    for _ in range(_OPENINGS):
        fd = open_own(folder, name)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = os.fstat(fd)
            with suppress(FileNotFoundError):
                named = os.stat(name, dir_fd=folder, follow_symlinks=False)
                if os.path.samestat(named, held):
                    return fd, held
        except BlockingIOError as error:
            os.close(fd)
            raise PartBusyError(name) from error
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)  # it was published or removed between open and lock
    raise PartBusyError(name)


def write_atomic(
    folder: FolderFd,
    name: SafeName,
    data: bytes,
    *,
    mtime: float | None = None,
    flush: Flush = FLUSH_NOW,
    still: Callable[[], bool] = lambda: True,
) -> None:
    """Write a small file durably: readers see the old one or the new one, never half. Safe to repeat.

    `name` leaves room for the 6 bytes of a temporary name; only this user may write the file, whatever
    the umask. `still` says at the last moment, while no other can write it, whether it is to be written.
    Raises `PartBusyError` where another process writes the same file at this moment, or where it is not to be
    written any more, and `OSError`.
    """
    for _ in atomic_write(folder, name, data, mtime=mtime, flush=flush, still=still):
        pass


def atomic_write(
    folder: FolderFd,
    name: SafeName,
    data: bytes,
    *,
    mtime: float | None,
    flush: Flush,
    still: Callable[[], bool],
) -> Generator[None]:
    """Do what `write_atomic` does; yields once, before it waits for the disk."""
    temporary = SafeName(f".{name}.part")
    with suppress(OSError):
        # What is written into another user's file stays his to change, under its new name too.
        if os.stat(temporary, dir_fd=folder, follow_symlinks=False).st_uid != os.geteuid():
            os.unlink(temporary, dir_fd=folder)
    with PartFile(folder, temporary) as part:
        part.truncate(0)
        try:
            part.write(data)
        except OSError:
            part.discard()  # a full disk is not filled with halves
            raise
        part.begin_sync(mtime, 0o644)
        yield
        part.sync(mtime, 0o644)
        if part.has_hole and part.read(len(data), 0) != data:
            part.discard()
            raise OSError(errno.EIO, LOST, name)
        if not still():
            part.discard()
            raise PartBusyError(name)
        part.require_name()
        os.rename(part.name, name, src_dir_fd=folder, dst_dir_fd=folder)
    flush(folder, leave)


def flushed_together(works: Sequence[Callable[[Flush], Any]]) -> list[Any]:
    """Do all `works`, then flush each folder that they changed once; returns what each gave, or its error.

    A work hands its folder to the `Flush` that it is given, instead of flushing. One in `Steps` goes on from
    where it yields once all have come as far. Blocking; what its error leaves behind is the work's own
    business, as it is where it flushes at once.
    """
    changes, outcomes = _Changes(), list[Any]()
    try:
        for nth, work in enumerate(works):
            changes.nth = nth
            outcomes.append(or_error(partial(_begun, work, changes.note)))
        for nth, outcome in enumerate(outcomes):
            if isinstance(outcome, GeneratorType):
                changes.nth = nth
                outcomes[nth] = or_error(partial(completed, outcome))
        changes.flush(outcomes)
    finally:
        for outcome in outcomes:
            if isinstance(outcome, GeneratorType):  # an error ended it all
                with suppress(Exception):
                    outcome.close()
        changes.close()
    return outcomes


class _Changed(msgspec.Struct):
    """A folder with new names, and for each which work brought it and what takes it back."""

    folder: FolderFd
    names: list[tuple[int, TakeBack]]


class _Changes:
    """The folders that a batch changed. `nth` is the work that is at it."""

    def __init__(self) -> None:
        self.nth = 0
        self._folders: dict[tuple[int, int], _Changed] = {}

    def note(self, folder: FolderFd, take_back: TakeBack) -> None:
        """Have `folder` flushed at the end: a `Flush`."""
        if folder.key not in self._folders:
            self._folders[folder.key] = _Changed(folder.dup(), [])
        self._folders[folder.key].names.append((self.nth, take_back))

    def flush(self, outcomes: list[Any]) -> None:
        """Flush all; where that fails, take the new names back, and make the error their works' outcome."""
        for each in self._folders.values():
            try:
                sync_folder(each.folder)
            except OSError as error:
                for nth, take_back in each.names:
                    with suppress(OSError):
                        take_back(each.folder)
                    outcomes[nth] = error.with_traceback(None)

    def close(self) -> None:
        for each in self._folders.values():
            os.close(each.folder)


def _begun(work: Callable[[Flush], Any], flush: Flush) -> Any:
    """Return what `work` gave; one in steps that yields comes back itself."""
    outcome = work(flush)
    if isinstance(outcome, GeneratorType):
        try:
            next(outcome)
        except StopIteration as end:
            return end.value
    return outcome


def completed(steps: Steps[_T]) -> _T:
    """Take `steps` to their end; return what they gave."""
    try:
        while True:
            next(steps)
    except StopIteration as end:
        result: _T = end.value
        return result


def result_of(outcome: Any) -> Any:
    """Return what a work gave, which may be in `Steps`."""
    return completed(outcome) if isinstance(outcome, GeneratorType) else outcome


def or_error(
    do: Callable[[], Any], expected: tuple[type[Exception], ...] = (FloradlError, OSError, PartBusyError)
) -> Any:
    """Return what `do` returned or raised.

    An error that is `expected`, and so no bug, comes without its traceback: it is kept until the next try,
    and what led to it holds the files of a whole batch.
    """
    try:
        return do()
    except Exception as error:  # noqa: BLE001 - it is one work's, and handed to whoever waits for it
        cause: BaseException | None = error
        while isinstance(cause, expected) and cause.__traceback__ is not None:
            cause.__traceback__ = None
            cause = cause.__cause__ or cause.__context__
        return error
