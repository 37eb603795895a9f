"""All sidecars of a library, one after the other: what it says that it holds."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from msgspec import Struct

from floradl.fs.folders import open_folder
from floradl.fs.names import SafeName
from floradl.fs.os_errors import OF_ONE_ENTRY
from floradl.library.folder import Library
from floradl.library.owners import Found
from floradl.library.sidecar import Sidecar, read
from floradl.library.template import SIDECARS

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class LibraryEntry(Struct, frozen=True):
    """A file among the sidecars: its path in the library, and what it says; None where it is unreadable.

    `foreign` is the user whose it is where that makes it count for nothing, see `ownership`.
    """

    path: str
    sidecar: Sidecar | None
    foreign: int | None = None


def library_entries(library: Library) -> Iterator[LibraryEntry]:
    """Read all sidecars, by technique. Links are not followed; one that goes meanwhile is left out.

    What ails one file or folder of them (rights, a bad block, another user's mount) costs that one alone: it
    counts as unreadable.

    Raises `ServicePausedError` where the library is not there (any more), and our other errors of its disk.
    """
    for technique in _names(library, ()) or ():
        with library.open() as root:
            keeper = library.owners.closed_by(root, technique)
        names = _names(library, (technique,)) if keeper is None else None
        if names is None:
            yield LibraryEntry(f"{SIDECARS}/{technique}", None, keeper)
        for name in names or ():
            if not name.endswith(".json"):
                continue
            with library.open() as root:
                try:
                    with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                        found = library.owners.read(library.open, folder, name)
                except OSError as error:
                    if error.errno not in _NOT_THERE | OF_ONE_ENTRY:
                        raise
                    broken = error.errno in OF_ONE_ENTRY
                    found = Found(b"", os.geteuid(), counts=True) if broken else None
            if found is not None:
                path = f"{SIDECARS}/{technique}/{name}"
                yield (
                    LibraryEntry(path, _parse(found.data))
                    if found.counts
                    else LibraryEntry(path, None, found.uid)
                )


def foreign_sidecars(library: Library) -> Iterator[str]:
    """Give the paths of those that count for nothing, for they are somebody else's. Raises as `standing`."""
    return (found.path for found in library_entries(library) if found.foreign is not None)


def _names(library: Library, below: tuple[SafeName, ...]) -> list[SafeName] | None:
    """List what is in a folder; None where it alone cannot be looked into."""
    with library.open() as root:
        try:
            with open_folder(root, (SafeName(SIDECARS), *below), create=False) as folder:
                return [SafeName(name) for name in sorted(os.listdir(folder)) if not name.startswith(".")]
        except OSError as error:
            if below and error.errno in OF_ONE_ENTRY:
                return None
            if error.errno not in _NOT_THERE:
                raise
            return []


def _parse(data: bytes) -> Sidecar | None:
    try:
        return read(data)
    except ValueError:
        return None
