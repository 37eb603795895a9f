"""What the errors of the library's disk mean for the work."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from floradl.errors import (
    ErrorCode,
    FolderError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.durable import PartBusyError

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_GONE = {errno.ENOTCONN, errno.ESTALE, errno.ENODEV, errno.EHOSTDOWN, errno.ESHUTDOWN}
_IN_THE_WAY = {errno.ELOOP, errno.ENOTDIR, errno.EISDIR}
OF_ONE_ENTRY = frozenset({errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTCONN, errno.ESTALE})
"""What may be wrong with a single name though its disk is well: its rights, its block, a mount upon it."""

_LITTLE = 1 << 20  # bytes
_SHORT_OF = {errno.EMFILE, errno.ENFILE, errno.ENOMEM}  # this process or machine is, not the disk


def is_full(error: Exception, folder: Path) -> bool:
    """Whether `error` came of a full disk, or may have: those who hide the cause find no room in `folder`."""
    if isinstance(error, OSError):
        return error.errno in _FULL
    try:
        left = os.statvfs(folder)
    except OSError:
        return False
    return left.f_bavail * left.f_frsize < _LITTLE or (left.f_files > 0 and left.f_favail == 0)


def translated(
    root: Path, folder: Path | None = None, vital: Sequence[Path] = ()
) -> AbstractContextManager[None]:
    """Turn each `OSError` of work in the library at `root`, and `PartBusyError`, into one of our errors.

    Where the `folder` is known, in which or on the way to which it came up, an error of that folder alone is
    a `FolderError`; one of the library also hits those that are `vital`, which every run needs.
    """
    return _Translated(root, folder, vital)


class _Translated(AbstractContextManager[None]):
    """As `translated`; each file passes several, and a generator costs four times as much."""

    __slots__ = ("_folder", "_root", "_vital")

    def __init__(self, root: Path, folder: Path | None, vital: Sequence[Path]) -> None:
        self._root = root
        self._folder = folder
        self._vital = vital

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, PartBusyError | OSError):
            return
        own = None
        if self._folder and isinstance(error, OSError):
            own = _of_folder(error, self._root, self._folder, self._vital)
        raise own or library_error(error, self._root) from error


def _of_folder(error: OSError, root: Path, folder: Path, vital: Sequence[Path]) -> FolderError | None:
    """Return what `error` means where `folder` alone, below `root`, is the cause; None where all are hit."""
    if error.errno in _READ_ONLY and all(_is_writable(path) for path in vital):
        stands = next(path for path in (folder, *folder.parents) if path.exists())
        return FolderError(
            f"{stands}: {error.strerror}: this folder cannot be written, and what goes there waits; fix its "
            "permissions or mount options"
        )
    if error.errno == errno.ENOTDIR:
        below = folder.relative_to(root).parts
        for path in itertools.accumulate(below, Path.joinpath, initial=root):
            if path.is_symlink():
                return None
            if path.exists() and not path.is_dir():
                return FolderError(
                    f"{path}: a file stands where a folder of the library should be, and what goes there "
                    "waits; move it away"
                )
    return None


def _is_writable(folder: Path) -> bool:
    return not folder.exists() or os.access(folder, os.W_OK | os.X_OK, effective_ids=True)


_UNWRITABLE = (
    "the library cannot be written; fix its permissions or mount options (of a systemd unit: ReadWritePaths=)"
)
_PAUSES = (
    (_FULL, PauseReason.DISK_FULL, "make room on the library's disk"),
    (_READ_ONLY, PauseReason.LIBRARY_READ_ONLY, _UNWRITABLE),
    (_GONE, PauseReason.LIBRARY_MISSING, "the library's disk is gone"),
)
_FAILURES = (
    (
        _IN_THE_WAY,
        ErrorCode.STORAGE,
        "something stands where a folder or file of the library should be, maybe a link; remove it and retry",
    ),
    (
        {errno.ENAMETOOLONG},
        ErrorCode.STORAGE,
        "lower output.max_name_bytes to what this file system takes, and retry",
    ),
    ({errno.EFBIG}, ErrorCode.TOO_LARGE, "the library's file system takes no file of this size"),
)


def library_error(
    error: OSError | PartBusyError, root: Path
) -> ServicePausedError | TransientError | PermanentError:
    """Return what an error of something inside the library at `root` means."""
    if isinstance(error, PartBusyError):
        what = "another floradl writes the same file at this moment"
        return TransientError(what, ErrorCode.STORAGE, retry_after=2.0)
    # Of a renaming that failed it is the new name that is taken: the old one is ours, and hidden.
    place = error.filename if error.filename2 is None else error.filename2
    name = f" ({place!a})" if isinstance(place, str) else ""
    what = f"{root}: {error.strerror or error}{name}"
    for errnos, reason, remedy in _PAUSES:
        if error.errno in errnos:
            return ServicePausedError(f"{what}: {remedy}", reason)
    for errnos, code, remedy in _FAILURES:
        if error.errno in errnos:
            return PermanentError(f"{what}: {remedy}", code)
    return TransientError(what, ErrorCode.STORAGE)


def unopened(error: OSError, root: Path) -> ServicePausedError | TransientError:
    """Return what it means that the library's folder itself cannot be opened or made."""
    if error.errno in _FULL | _READ_ONLY | _SHORT_OF:
        found = library_error(error, root)
        if not isinstance(found, PermanentError):
            return found
    return ServicePausedError(
        f"{root}: {error.strerror or error}: the library's folder is not there; mount its disk, "
        "or fix output.dir",
        PauseReason.LIBRARY_MISSING,
    )
