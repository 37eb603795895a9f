"""Companions in a folder: small files beside media files, which photo managers write to as well."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress

from floradl.fs.durable import Flush, PartBusyError, PartFile, write_atomic
from floradl.fs.folders import FolderFd, open_regular
from floradl.fs.names import SafeName
from floradl.library.xmp import ENDING, MAX_BYTES

_CANNOT = frozenset({errno.ENAMETOOLONG, errno.EACCES, errno.EPERM})


def write_companion(
    folder: FolderFd,
    name: SafeName,
    content: tuple[bytes, float | None],
    flush: Flush,
    replaces: Callable[[bytes], bool],
) -> bool:
    """Write the companion of `name`, its bytes and time (unix seconds); see `LibraryStore.write_companion`.

    Where this user may write none, or the name would be too long, the file goes without. Raises `OSError`.
    """
    try:
        return _write(folder, name, content, flush, replaces)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise
        return False


def _write(
    folder: FolderFd,
    name: SafeName,
    content: tuple[bytes, float | None],
    flush: Flush,
    replaces: Callable[[bytes], bool],
) -> bool:
    data, mtime = content
    companion = SafeName(f"{name}{ENDING}")

    def may_replace() -> bool:
        there = _read(folder, companion)
        return there is not None and there != data and replaces(there)

    try:
        os.stat(name, dir_fd=folder, follow_symlinks=False)
        os.stat(companion, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError as missing:
        return missing.filename == companion and _create(folder, companion, content, flush)
    if not may_replace():
        return False
    with suppress(PartBusyError):
        write_atomic(folder, companion, data, mtime=mtime, flush=flush, still=may_replace)
        return True
    return False


def _create(folder: FolderFd, companion: SafeName, content: tuple[bytes, float | None], flush: Flush) -> bool:
    data, mtime = content
    with suppress(PartBusyError), PartFile(folder, SafeName(f".{companion}.part")) as part:
        part.truncate(0)
        try:
            part.write(data)
            part.sync(mtime)
        except OSError:
            part.discard()  # a full disk is not filled with halves
            raise
        if part.publish(companion, flush):
            return True
        part.discard()
    return False


def _read(folder: FolderFd, companion: SafeName) -> bytes | None:
    """Return what stands there; None for what is no file of a size that a companion of ours may have."""
    try:
        file = open_regular(folder, companion)
    except OSError:  # somebody else's
        return None
    if file is None:
        return None
    with file:
        data = file.read(MAX_BYTES + 1)
    return data if len(data) <= MAX_BYTES else None
