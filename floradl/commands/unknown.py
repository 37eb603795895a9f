"""Files of the library that no sidecar names: a person's own, or what was orphaned.

What is hidden, still on its way, or what systems strew does not count; nor does what floradl itself keeps
beside a file that a sidecar names (`NAME.damaged`).
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator

from floradl.disk.folders import open_folder
from floradl.disk.names import SafeName
from floradl.incoming.listing import is_ignored
from floradl.library.inventory import standing
from floradl.library.library import Library
from floradl.library.template import SIDECARS

# What NAS boxes, Windows and macOS keep to themselves; hidden folders and those beginning with `@` besides.
_FOLDERS_OF_SYSTEMS = {
    *("#recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information"),
    *("network trash folder", "temporary items"),
}
_BESIDE = re.compile(r"(.+)\.(?:damaged(?:-[0-9]+)?|xmp)", re.DOTALL)


class Known:
    """Paths that sidecars name. Only their hashes are kept: a library may have millions."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Note that `paths` are named."""
        self._hashes.update(_hash(path) for path in paths)

    def __contains__(self, path: str) -> bool:
        return _hash(path) in self._hashes


def unknown_files(library: Library, known: Known, under_way: Callable[[], Iterable[str]]) -> list[str]:
    """Return the paths of files that are not `known`; `under_way` names those whose run still goes on.

    Raises `PausedError` where the library is gone.
    """
    found = [path for path in _files(library, ()) if path not in known and not _is_beside(path, known)]
    if not found:
        return []
    since = Known()  # runs that ended while all that was looked at
    since.add(under_way())  # asked now, when all files that were found were there
    for each in standing(library):
        if each.sidecar is not None:
            since.add(output.path for output in each.sidecar.outputs if output.path is not None)
    return [path for path in found if path not in since]


def _files(library: Library, parts: tuple[SafeName, ...]) -> Iterator[str]:
    """Yield all that is no folder, by folder and name; nothing stays open in between."""
    folders, names = _listed(library, parts)
    for name in sorted(names):
        if not is_ignored(name):
            yield "/".join((*parts, name))
    for name in sorted(folders):
        strewn = name.startswith((".", "@")) or name.lower() in _FOLDERS_OF_SYSTEMS
        if not strewn and (parts or name != SIDECARS):
            yield from _files(library, (*parts, SafeName(name)))


def _listed(library: Library, parts: tuple[SafeName, ...]) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    names: list[str] = []
    with library.open() as root:
        try:
            with open_folder(root, parts, create=False) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
        except OSError:  # it went meanwhile, or this user may not read it: its files are told of one by one
            pass
    return folders, names


def _is_beside(path: str, known: Known) -> bool:
    found = _BESIDE.fullmatch(path)
    return found is not None and found[1] in known


def _hash(path: str) -> int:
    return hash(unicodedata.normalize("NFC", path))  # some file systems give names back in another form
