"""Renaming that replaces nothing, in the strongest way that the file system has."""

from __future__ import annotations

import ctypes
import errno
import os

from floradl.fs.folders import CANNOT, FolderFd, exists
from floradl.fs.names import SafeName

CANNOT_LINK = CANNOT | {errno.EXDEV, errno.EMLINK}
"""The same of a hard link: some have room for few, some (mergerfs) cannot between their branches."""

_RENAME_NOREPLACE = 1
_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)  # not every C library has it


def rename_noreplace(folder: FolderFd, old: SafeName, new: SafeName, into: FolderFd | None = None) -> bool:
    """Rename within `folder`, or into another; False where `new` exists. Weaker where the file system is.

    `renameat2(RENAME_NOREPLACE)`, else link and unlink, else a look and a rename: the last could replace
    a file that appears between the two, and is only reached on file systems that know neither.
    """
    to = folder if into is None else into
    code = renameat2_noreplace(folder, old, to, new)
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


def renameat2_noreplace(folder: FolderFd, old: SafeName, to: FolderFd, new: SafeName) -> int:
    """Return 0, or the error number that renameat2(2) gives."""
    if _renameat2 is None:
        return errno.ENOSYS
    done = _renameat2(folder, os.fsencode(old), to, os.fsencode(new), _RENAME_NOREPLACE) == 0
    return 0 if done else ctypes.get_errno()
