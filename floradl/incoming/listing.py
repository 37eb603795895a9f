"""What lies in a watch folder: which names may be jobs, and what kind of thing each is."""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from floradl.disk.folders import FolderFd, open_folder, open_root
from floradl.disk.names import SafeName
from floradl.incoming.settled import Stamp

_LITTER = (  # hidden files, transfers under way, editors' and file managers' litter; all in lower case
    *(".*", "*~", "~$*", "#*#", "4913"),
    *("*.tmp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.opdownload"),
    *("*.swp", "*.swo", "*.swx"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"),
)
_IGNORED = re.compile("|".join(fnmatch.translate(pattern) for pattern in _LITTER), re.IGNORECASE)
PLACES = ("accepted", "rejected")  # where files are put away: never jobs, whatever stands there
_REFUSED = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class Entry(msgspec.Struct, frozen=True):
    """One name in the folder that is no folder itself. `kind` names what is refused ("a link"), else None."""

    name: str
    stamp: Stamp
    kind: str | None


def is_ignored(name: str) -> bool:
    """Whether a file of this name is no job: hidden, a transfer under way, or litter."""
    return _IGNORED.match(name) is not None


def shown(name: str) -> str:
    """`name` for a message: as it is where it is printable, escaped otherwise."""
    return name if name.isprintable() else ascii(name)


def entries(folder: Path) -> list[Entry]:
    """List what may be jobs, the oldest first, for a later file may take back what an earlier one says.

    Raises `OSError` where the folder cannot be read.
    """
    with os.scandir(folder) as scanned:
        found = [
            entry
            for item in scanned
            if item.name not in PLACES and not is_ignored(item.name) and (entry := _entry(item))
        ]
    return sorted(found, key=lambda entry: (entry.stamp.mtime_ns, entry.name))


@contextmanager
def open_place(folder: Path, *, create: bool = False) -> Iterator[FolderFd]:
    """Open a folder where files are put away. Raises `OSError`, `ENOTDIR` where it is a link or a file."""
    with (
        open_root(folder.parent) as above,
        open_folder(above, (SafeName(folder.name),), create=create) as place,
    ):
        yield place


def dates(folder: Path) -> Iterator[tuple[Path, float]]:
    """List the files in `folder` and when each came to lie there, in unix seconds. Raises as `open_place`."""
    with open_place(folder) as place, os.scandir(place) as scanned:
        for item in scanned:
            try:
                status = item.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            if not stat.S_ISDIR(status.st_mode):
                # Putting away touches a file; where it may not (somebody else's), the move shows in ctime.
                yield folder / item.name, max(status.st_mtime, status.st_ctime)


def _entry(item: os.DirEntry[str]) -> Entry | None:
    try:
        status = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        return None
    kind = next((kind for is_kind, kind in _REFUSED if is_kind(status.st_mode)), None)
    return Entry(item.name, Stamp.of(status), kind)
