"""What a file system cannot do that files are published with, and what that means: tried out, not guessed.

Nothing is decided by it: `durable` takes the weaker way wherever the better one fails. It is for people to
know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial

from msgspec import Struct

from floradl.fs.durable import CANNOT_LINK, renameat2_noreplace
from floradl.fs.folders import CANNOT, FolderFd
from floradl.fs.names import SafeName

_PART, _NAME, _LINK = (SafeName(f".floradl-probe.{ext}") for ext in ("part", "tmp", "link"))


class Capabilities(Struct, frozen=True):
    """What was tried out. `safe_rename`: a rename that replaces nothing, in one step."""

    safe_rename: bool
    links: bool
    folder_sync: bool

    def weaknesses(self) -> tuple[str, ...]:
        """Say, for a person, what is weaker here than elsewhere; nothing where all is as it should be."""
        found = []
        if not self.safe_rename and self.links:
            found.append(
                "its file system cannot rename without replacing: files get their names by link and unlink"
            )
        if not self.safe_rename and not self.links:
            found.append(
                "its file system can neither rename without replacing nor make hard links: a file that "
                "another program makes under the same name in the very moment when ours gets it is replaced"
            )
        if not self.folder_sync:
            found.append(
                "its file system cannot flush a folder: a power cut may take back the files of the last "
                "seconds (floradl verify --repair --missing fetches them again)"
            )
        return tuple(found)


def probe(folder: FolderFd) -> Capabilities:
    """Try it all out in `folder` with an empty file, which is removed again; a leftover of a kill is, too.

    Raises `OSError`, also where another process tries it out at this moment.
    """
    _clear(folder)
    try:
        os.close(os.open(_PART, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
        code = renameat2_noreplace(folder, _PART, folder, _NAME)
        if code not in {0, *CANNOT}:
            raise OSError(code, os.strerror(code), _PART)
        link = partial(os.link, _PART if code else _NAME, _LINK, follow_symlinks=False)
        links = _can(partial(link, src_dir_fd=folder, dst_dir_fd=folder), CANNOT_LINK)
        return Capabilities(code == 0, links, _can(partial(os.fsync, folder), CANNOT))
    finally:
        _clear(folder)


def _clear(folder: FolderFd) -> None:
    for name in (_PART, _NAME, _LINK):
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)


def _can(work: Callable[[], object], cannot: Collection[int]) -> bool:
    try:
        work()
    except OSError as error:
        if error.errno not in cannot:
            raise
        return False
    return True
