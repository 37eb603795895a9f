"""All sidecars of a library in a folder, and all other files of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from floradl.fs.folders import open_folder
from floradl.fs.names import SafeName
from floradl.fs.os_errors import OF_ONE_ENTRY
from floradl.library.base import LibraryEntry
from floradl.library.owners import Found, Opened, Owners
from floradl.library.template import SIDECARS

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}
# What NAS boxes, Windows and macOS keep to themselves; hidden folders and those beginning with `@` besides.
_FOLDERS_OF_SYSTEMS = {
    *("#recycle", "#snapshot", "lost+found", "$recycle.bin", "system volume information"),
    *("network trash folder", "temporary items"),
}


def library_entries(opened: Opened, owners: Owners) -> Iterator[LibraryEntry]:
    """Read all sidecars, by technique. Links are not followed; one that goes meanwhile is left out.

    What ails one file or folder of them (rights, a bad block, another user's mount) costs that one alone: it
    counts as unreadable.

    Raises `ServicePausedError` where the library is not there (any more), and our other errors of its disk.
    """
    for technique in _names(opened, ()) or ():
        with opened() as root:
            keeper = owners.closed_by(root, technique)
        names = _names(opened, (technique,)) if keeper is None else None
        if names is None:
            yield LibraryEntry(f"{SIDECARS}/{technique}", None, keeper)
        for name in names or ():
            if not name.endswith(".json"):
                continue
            with opened() as root:
                try:
                    with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                        found = owners.read(opened, folder, name)
                except OSError as error:
                    if error.errno not in _NOT_THERE | OF_ONE_ENTRY:
                        raise
                    broken = error.errno in OF_ONE_ENTRY
                    found = Found(b"", os.geteuid(), counts=True) if broken else None
            if found is not None:
                path = f"{SIDECARS}/{technique}/{name}"
                yield LibraryEntry(path, found.sidecar, None if found.counts else found.uid)


def _names(opened: Opened, below: tuple[SafeName, ...]) -> list[SafeName] | None:
    """List what is in a folder; None where it alone cannot be looked into."""
    with opened() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS), *below), create=False) as folder:
                return [SafeName(name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        except OSError as error:
            if below and error.errno in OF_ONE_ENTRY:
                return None
            if error.errno not in _NOT_THERE:
                raise
            return []


def library_files(opened: Opened, parts: tuple[SafeName, ...] = ()) -> Iterator[str]:
    """Yield all that is no folder, by folder and name, without the sidecars; nothing stays open in between.

    What is hidden, and what systems keep to themselves (recycle bins), is passed over.
    """
    folders, names = _listed(opened, parts)
    for name in sorted(name for name in names if not name.startswith(".")):
        yield "/".join((*parts, name))
    for name in sorted(folders):
        strewn = name.startswith((".", "@")) or name.lower() in _FOLDERS_OF_SYSTEMS
        if not strewn and (parts or name != SIDECARS):
            yield from library_files(opened, (*parts, SafeName(name)))


def _listed(opened: Opened, parts: tuple[SafeName, ...]) -> tuple[list[str], list[str]]:
    folders: list[str] = []
    names: list[str] = []
    with opened() as root:
        try:
            with open_folder(root, parts, create=False) as folder, os.scandir(folder) as entries:
                for entry in entries:
                    (folders if entry.is_dir(follow_symlinks=False) else names).append(entry.name)
        except OSError:  # it went meanwhile, or this user may not read it: its files are reported one by one
            pass
    return folders, names
