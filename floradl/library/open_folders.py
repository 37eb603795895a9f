"""Folders of the library in use, each open once, and the names in recently used ones.

A burst of small files uses the same few folders hundreds of times a second, and opening one costs a dozen
system calls. Sharing an open one costs a few: a check of the library's marker, and of each folder of the
path, which must lead to this folder without links. The last user closes it, so that disks can be unmounted.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TypeAlias

from msgspec import Struct

from floradl.fs.folders import FolderFd, open_folder
from floradl.fs.names import SafeName, fold

_REMEMBERED = 64  # folders
_KEPT = 16  # folders a thread
_PART = re.compile(r"\..*\.([0-9a-f]{8})-[0-9a-fw][0-9a-f]{7}\.part", re.DOTALL)

FolderAt: TypeAlias = tuple[FolderFd, tuple[SafeName, ...]]
"""An open folder, and its real path below the library."""


class FolderNames:
    """The names in one folder, its part files, and which output of this process claims which name."""

    def __init__(self, names: list[str]) -> None:
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._parts: dict[str, set[SafeName]] = {}
        for name in names:
            found = _PART.fullmatch(name)
            if found:
                self.add_part(found[1], SafeName(name))
            else:
                self._names[fold(name)] = name

    def claim(self, name: SafeName, owner: str) -> bool:
        """Reserve `name`; False if another output has it, or a name that differs in case only exists."""
        key = fold(name)
        if self._owners.get(key, owner) != owner or self._names.get(key, name) != name:
            return False
        self._owners[key] = owner
        self._names[key] = name
        return True

    def release(self, name: SafeName) -> None:
        """Have `name` claimed by nobody: it is the name of a file that belongs to none who claims it."""
        self._owners.pop(fold(name), None)

    def existing(self, name: SafeName) -> SafeName:
        """Return `name`, or the existing name that differs in case only."""
        return SafeName(self._names.setdefault(fold(name), name))

    def drop(self, name: SafeName) -> None:
        """Record that nothing has `name` any more."""
        for known in (self._names, self._owners):
            known.pop(fold(name), None)

    def parts(self, tag: str) -> tuple[SafeName, ...]:
        """Return the part files whose tag begins with `tag`: mostly one."""
        return tuple(self._parts.get(tag, ()))

    def add_part(self, tag: str, name: SafeName) -> None:
        """Add a part file of `tag`."""
        self._parts.setdefault(tag, set()).add(name)

    def drop_parts(self, tag: str) -> None:
        """Drop the part files of `tag`: published, or removed."""
        self._parts.pop(tag, None)


class _Locked(AbstractContextManager[FolderNames]):
    """What `read` returns, under a lock; each file passes several, and a generator costs twice as much."""

    __slots__ = ("_lock", "_read")

    def __init__(self, lock: Lock, read: Callable[[], FolderNames]) -> None:
        self._lock = lock
        self._read = read

    def __enter__(self) -> FolderNames:
        self._lock.acquire()
        try:
            return self._read()
        except BaseException:
            self._lock.release()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self._lock.release()


class FolderIndex:
    """The names in recently used folders. Thread-safe."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._folders: OrderedDict[tuple[int, int], FolderNames] = OrderedDict()

    def of(self, folder: FolderFd) -> AbstractContextManager[FolderNames]:
        """Give the names of one folder, under a lock: be quick."""
        return _Locked(self._lock, partial(self._names, folder))

    def _names(self, folder: FolderFd) -> FolderNames:
        key = folder.key  # another disk mounted here is another folder
        names = self._folders.get(key)
        if names is None:
            names = self._folders[key] = FolderNames(os.listdir(folder))
            if len(self._folders) > _REMEMBERED:
                self._folders.popitem(last=False)
        self._folders.move_to_end(key)
        return names

    @contextmanager
    def open_below(self, root: FolderFd, parts: tuple[SafeName, ...]) -> Iterator[FolderAt]:
        """Open the folder `parts` below `root`, made where it is missing; yields it and its real `parts`.

        An existing one that differs in case only is used instead, as macOS, Windows and SMB would do.
        Raises as `open_folder`.
        """
        real: list[SafeName] = []
        folder = root
        with ExitStack() as stack:
            for part in parts:
                with self.of(folder) as names:
                    existing = names.existing(part)
                # Both may exist. Only a listing shows it: a case-insensitive file system finds each under
                # the other's name, some of them with different inode numbers.
                real.append(part if existing != part and part in os.listdir(folder) else existing)
                folder = stack.enter_context(open_folder(folder, (real[-1],)))
            yield folder, tuple(real)


class _InUse(Struct):
    """An open folder, its parts, the paths from the library to it, and its number of users."""

    folder: FolderFd
    parts: tuple[SafeName, ...]
    path: tuple[Path, ...]
    users: int


class OpenFolders:
    """The folders in use of the library at `root`, which carries `marker`. Thread-safe.

    `opened` opens the library, and raises where it is missing.
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
        """Open or share the folder `parts`, see `FolderIndex.open_below`.

        Raises as that and `opened`.
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
        if self._is_current(used):
            return used
        self._leave(parts, used)
        return None

    def _is_current(self, used: _InUse) -> bool:
        """Whether the library exists, and the path leads to this folder."""
        try:
            self._marker.lstat()
            *above, last = [folder.lstat() for folder in used.path]
        except OSError:  # opening it anew shows what is wrong
            return False
        over_no_link = all(stat.S_ISDIR(folder.st_mode) for folder in above)
        return over_no_link and (last.st_dev, last.st_ino) == used.folder.key

    def _open(self, parts: tuple[SafeName, ...]) -> _InUse:
        with self._opened() as root, self._index.open_below(root, parts) as (folder, real):
            path = tuple(itertools.accumulate(real, Path.joinpath, initial=self._root))[1:]
            used = _InUse(folder.dup(), real, path, 1)
        with self._lock:
            # The library's own folder costs little to open, and the path to it may have links.
            if path:
                self._folders[parts] = used  # the latest one at this path
        return used

    def _leave(self, parts: tuple[SafeName, ...], used: _InUse) -> None:
        with self._lock:
            used.users -= 1
            over = used.users == 0
            if over and self._folders.get(parts) is used:
                del self._folders[parts]
        if over:
            os.close(used.folder)


class KeptFolders:
    """Folders that one thread keeps open from one batch of work to the next, which looks at each anew.

    They are closed with `stack`.
    """

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._folders: dict[tuple[SafeName, ...], FolderFd] = {}

    def keep(self, parts: tuple[SafeName, ...], folder: FolderFd, shared: OpenFolders) -> None:
        """Keep the folder that is open now; where there are many, let go of the others."""
        if self._folders.get(parts) is folder:
            return
        if parts in self._folders or len(self._folders) == _KEPT:
            self._stack.close()
            self._folders.clear()
        self._stack.enter_context(shared.at(parts))
        self._folders[parts] = folder
