"""All sidecars of a library, one after the other: what it says that it holds.

Nothing stays open between two of them, so a library that is being read can still be unmounted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from msgspec import Struct

from floradl.disk.folders import open_folder, read_regular
from floradl.disk.names import SafeName
from floradl.disk.trouble import OF_ONE_ENTRY
from floradl.library.library import MAX_SIDECAR, Library
from floradl.library.sidecar import Sidecar, read
from floradl.library.template import SIDECARS

_NOT_THERE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}


class Standing(Struct, frozen=True):
    """A file among the sidecars: its path in the library, and what it says; None where it is unreadable."""

    path: str
    sidecar: Sidecar | None


def standing(library: Library) -> Iterator[Standing]:
    """Read all sidecars, by technique. Links are not followed; one that goes meanwhile is left out.

    What ails one file or folder of them (rights, a bad block, another user's mount) costs that one alone: it
    counts as unreadable.

    Raises `PausedError` where the library is not there (any more), and our other errors of its disk.
    """
    for technique in _names(library, ()) or ():
        names = _names(library, (technique,))
        if names is None:
            yield Standing(f"{SIDECARS}/{technique}", None)
        for name in names or ():
            if not name.endswith(".json"):
                continue
            with library.open() as root:
                try:
                    with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                        data = read_regular(folder, name, MAX_SIDECAR)
                except OSError as error:
                    if error.errno not in _NOT_THERE | OF_ONE_ENTRY:
                        raise
                    data = b"" if error.errno in OF_ONE_ENTRY else None
            if data is not None:
                yield Standing(f"{SIDECARS}/{technique}/{name}", _parse(data))


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
