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

from floradl.fs.folders import FolderFd, open_folder, open_root
from floradl.fs.names import SafeName
from floradl.sources.file_ready import Stamp

_LITTER = (  # all in lower case
    # hidden files (so those of macOS, KDE, rsync, Syncthing, Nextcloud, NFS), and editors'
    *(".*", "*~", "~$*", "#*#", "4913", "*.swp", "*.swo", "*.swx", "*.sb-????????-??????"),
    # transfers under way: of browsers, WinSCP, rclone, aria2, lftp, torrent and sync programs, Google Drive
    *("*.tmp", "*.temp", "*.part", "*.partial", "*.filepart", "*.crdownload", "*.download", "*.opdownload"),
    *("*.!ut", "*.!qb", "*.!bt", "*.!sync", "*.bc!", "*.jc!", "*.aria2", "*.aria2__temp", "*.ytdl"),
    *("*.lftp-pget-status", "*.dtapart", "*.fdmdownload", "*.gstmp", "*.driveupload", "*.drivedownload"),
    # what file managers and file servers strew: Explorer, Finder, Synology's and Samba's streams
    *("thumbs.db", "thumbs.db:encryptable", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"),
    *("*:zone.identifier", "*\uf03azone.identifier", "*\uf022zone.identifier"),  # how Samba and macOS map `:`
    *("*:afp_afpinfo", "*:afp_resource", "*:com.apple.*", "*:com.dropbox.*"),
    *("*@synoeastream", "*@synoresource"),
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
SECOND_NAME = "a file with a second name (a hard link)"
_NO_STAMP = Stamp(0, 0, 0, 0)


class Entry(msgspec.Struct, frozen=True):
    """A name in the folder; `kind` is what is refused ("a link"), `unseen` why it cannot be looked at."""

    name: str
    stamp: Stamp
    kind: str | None
    unseen: str | None = None


def is_ignored(name: str) -> bool:
    """Whether a file of this name is not a job: hidden, a transfer under way, or litter."""
    return _IGNORED.match(name) is not None


def shown(name: str) -> str:
    """`name` for a message: as it is where it is printable, escaped otherwise."""
    return name if name.isprintable() else ascii(name)


def entries(folder: Path) -> list[Entry]:
    """List what may be jobs, the oldest first: a later one may revoke it. Raises `OSError` of the folder."""
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
    """Yield the files in `folder` and since when each lies there (unix seconds). Raises as `open_place`."""
    with open_place(folder) as place, os.scandir(place) as scanned:
        for item in scanned:
            try:
                if item.is_dir(follow_symlinks=False):  # known without a look, even for a mount that hangs
                    continue
                status = item.stat(follow_symlinks=False)
            except OSError:  # just taken away, or not to be looked at: another user's mount, or a dead one
                continue
            if not stat.S_ISDIR(status.st_mode):
                # Putting away touches a file; where it may not (somebody else's), the move shows in ctime.
                yield folder / item.name, max(status.st_mtime, status.st_ctime)


def _entry(item: os.DirEntry[str]) -> Entry | None:
    try:
        if item.is_dir(follow_symlinks=False):
            return None
        status = item.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        return Entry(item.name, _NO_STAMP, None, error.strerror)
    if stat.S_ISDIR(status.st_mode):
        return None
    kind = next((kind for is_kind, kind in _REFUSED if is_kind(status.st_mode)), None)
    if kind is None and status.st_nlink > 1:
        kind = SECOND_NAME
    return Entry(item.name, Stamp.of(status), kind)
