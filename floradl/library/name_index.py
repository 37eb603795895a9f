"""Which names a folder of the library holds, as a case-insensitive file system would see them.

Each folder is listed once, and remembered while it is among the last used; what other programs do to it
meanwhile is caught where it counts, by the rename that replaces nothing.
"""

from __future__ import annotations

import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeAlias

from floradl.fs.folders import FolderFd, open_folder
from floradl.fs.names import SafeName, fold

_REMEMBERED = 64  # folders
_PART = re.compile(r"\..*\.([0-9a-f]{8})-[0-9a-fw][0-9a-f]{7}\.part", re.DOTALL)

FolderAt: TypeAlias = tuple[FolderFd, tuple[SafeName, ...]]
"""An open folder, and its real path below the library."""


class FolderNames:
    """The names of one folder, the part files in it, and who of this process claims which name."""

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
        """Reserve `name`; False where another output has it, or a name that differs in case only stands."""
        key = fold(name)
        if self._owners.get(key, owner) != owner or self._names.get(key, name) != name:
            return False
        self._owners[key] = owner
        self._names[key] = name
        return True

    def standing(self, name: SafeName) -> SafeName:
        """Return the name that stands here for `name`: itself, or one that differs in case only."""
        return SafeName(self._names.setdefault(fold(name), name))

    def parts(self, tag: str) -> tuple[SafeName, ...]:
        """Return the part files whose tag begins with `tag`: mostly one, more where several were begun."""
        return tuple(self._parts.get(tag, ()))

    def add_part(self, tag: str, name: SafeName) -> None:
        """Note a part file of `tag`."""
        self._parts.setdefault(tag, set()).add(name)

    def drop_parts(self, tag: str) -> None:
        """Note that the part files of `tag` became a file, or are gone."""
        self._parts.pop(tag, None)


class FolderIndex:
    """The folders used last. Threads may share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._folders: OrderedDict[tuple[int, int], FolderNames] = OrderedDict()

    @contextmanager
    def of(self, folder: FolderFd) -> Iterator[FolderNames]:
        """Look at one folder's names, alone; to be left quickly."""
        key = folder.key  # another disk mounted here is another folder
        with self._lock:
            names = self._folders.get(key)
            if names is None:
                names = self._folders[key] = FolderNames(os.listdir(folder))
                if len(self._folders) > _REMEMBERED:
                    self._folders.popitem(last=False)
            self._folders.move_to_end(key)
            yield names

    @contextmanager
    def open_below(self, root: FolderFd, parts: tuple[SafeName, ...]) -> Iterator[FolderAt]:
        """Open the folder `parts` below `root`, made where it is missing; yields it and its real `parts`.

        Where one stands that differs in case only it is taken instead, as macOS, Windows and SMB would do.
        Raises as `open_folder`.
        """
        real: list[SafeName] = []
        folder = root
        with ExitStack() as stack:
            for part in parts:
                with self.of(folder) as names:
                    standing = names.standing(part)
                # Both may stand, made by others. Only the listing tells: where case does not count a look
                # finds each under the other's name, and some file systems number them apart even so.
                real.append(part if standing != part and part in os.listdir(folder) else standing)
                folder = stack.enter_context(open_folder(folder, (real[-1],)))
            yield folder, tuple(real)
