"""Which names a folder of the library holds, as a case-insensitive file system would see them.

Each folder is listed once, and remembered while it is among the last used; what other programs do to it
meanwhile is caught where it counts, by the rename that replaces nothing.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from floradl.files import FolderFd
from floradl.names import SafeName, fold

_REMEMBERED = 64  # folders
_TAG_LENGTH = 17
_PART = ".part"


class FolderNames:
    """The names of one folder, the part files in it, and who of this process claims which name."""

    def __init__(self, names: list[str]) -> None:
        self._names: dict[str, str] = {}
        self._owners: dict[str, str] = {}
        self._parts: dict[str, SafeName] = {}
        for name in names:
            if name.startswith(".") and name.endswith(_PART):
                tag = name.removesuffix(_PART)[-_TAG_LENGTH:]
                self._parts[tag[:8]] = SafeName(name)
            else:
                self._names[fold(name)] = name

    def claim(self, name: SafeName, owner: str) -> bool:
        """Reserve `name`; False where another output has it, or a name that differs in case only stands."""
        key = fold(name)
        if self._owners.get(key, owner) != owner or self._names.get(key, name) != name:
            return False
        self._owners[key] = owner
        self._names[key] = name
        return True

    def part(self, tag: str) -> SafeName | None:
        """Return the part file whose tag begins with `tag`."""
        return self._parts.get(tag)

    def add_part(self, tag: str, name: SafeName) -> None:
        """Note the part file of `tag`."""
        self._parts[tag] = name

    def drop_part(self, tag: str) -> None:
        """Note that the part file of `tag` became a file, or is gone."""
        self._parts.pop(tag, None)


class FolderIndex:
    """The folders used last. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: OrderedDict[tuple[int, int], FolderNames] = OrderedDict()

    @contextmanager
    def of(self, folder: FolderFd) -> Iterator[FolderNames]:
        """Look at one folder's names, alone; to be left quickly."""
        found = os.fstat(folder)
        key = (found.st_dev, found.st_ino)  # another disk mounted here is another folder
        with self._lock:
            names = self._folders.get(key)
            if names is None:
                names = self._folders[key] = FolderNames(os.listdir(folder))
                if len(self._folders) > _REMEMBERED:
                    self._folders.popitem(last=False)
            self._folders.move_to_end(key)
            yield names
