"""Folders of the library that are in use now: each is open once, whoever uses it meanwhile.

In a burst of small files the same few folders are wanted hundreds of times a second, and each opening is a
dozen system calls on the way down. Whoever joins one that is open pays a few: a look at the library's marker,
and one at each folder of the path, which must lead to this very one, and over no link. Nothing is kept open
beyond its last user, so that a disk can be unmounted.
"""

from __future__ import annotations

import itertools
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Lock

from msgspec import Struct

from floradl.fs.folders import FolderFd
from floradl.fs.names import SafeName
from floradl.library.name_index import FolderAt, FolderIndex


class _InUse(Struct):
    """An open folder, where it is, the way to it from the library on, and how many use it."""

    folder: FolderFd
    parts: tuple[SafeName, ...]
    way: tuple[Path, ...]
    users: int


class OpenFolders:
    """The folders in use of the library at `root`, which carries `marker`. Threads may share it.

    `opened` opens the library, and raises where it is not there.
    """

    def __init__(
        self,
        root: Path,
        marker: SafeName,
        opened: Callable[[], AbstractContextManager[FolderFd]],
        index: FolderIndex,
    ) -> None:
        self._root = root
        self._marker = root / marker
        self._opened = opened
        self._index = index
        self._lock = Lock()
        self._folders: dict[tuple[SafeName, ...], _InUse] = {}

    @contextmanager
    def at(self, parts: tuple[SafeName, ...]) -> Iterator[FolderAt]:
        """Use the folder `parts`, made where it is missing, see `FolderIndex.open_below`.

        Raises as that and `opened` do.
        """
        used = self._join(parts) or self._open(parts)
        try:
            yield used.folder, used.parts
        finally:
            self._leave(parts, used)

    def _join(self, parts: tuple[SafeName, ...]) -> _InUse | None:
        with self._lock:
            used = self._folders.get(parts)
            if used is None:
                return None
            used.users += 1
        if self._stands(used):
            return used
        self._leave(parts, used)
        return None

    def _stands(self, used: _InUse) -> bool:
        """Whether the library is there, and the way leads to this very folder."""
        try:
            self._marker.lstat()
            *above, last = [folder.lstat() for folder in used.way]
        except OSError:  # to be opened anew: that tells what is wrong
            return False
        over_no_link = all(stat.S_ISDIR(folder.st_mode) for folder in above)
        return over_no_link and (last.st_dev, last.st_ino) == used.folder.key

    def _open(self, parts: tuple[SafeName, ...]) -> _InUse:
        with self._opened() as root, self._index.open_below(root, parts) as (folder, real):
            way = tuple(itertools.accumulate(real, Path.joinpath, initial=self._root))[1:]
            used = _InUse(folder.dup(), real, way, 1)
        with self._lock:
            # The library's own folder costs little to open, and the way to it may lead over links.
            if way:
                self._folders[parts] = used  # the latest: the way does not lead to another any more
        return used

    def _leave(self, parts: tuple[SafeName, ...], used: _InUse) -> None:
        with self._lock:
            used.users -= 1
            over = used.users == 0
            if over and self._folders.get(parts) is used:
                del self._folders[parts]
        if over:
            os.close(used.folder)
