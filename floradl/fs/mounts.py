"""The file system of a path: its type, what it cannot do, whether other machines write to it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

from msgspec import Struct

from floradl.fs.durable import CANNOT_LINK
from floradl.fs.folders import CANNOT, FolderFd
from floradl.fs.names import SafeName
from floradl.portability import filesystem_by_statfs, flush, rename_exclusive

_PART, _NAME, _LINK = (SafeName(f".floradl-probe.{ext}") for ext in ("part", "tmp", "link"))
_TABLE = Path("/proc/self/mountinfo")
_PLANNED = Path("/etc/fstab")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# Other machines change files there without this kernel: no inotify events come, and no lease means anything.
_SHARED = (
    *("9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs"),
    *("fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"),
    *("nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs"),
    *("vboxsf", "virtiofs", "vmhgfs", "fakeowner", "webdav"),
)
_SHARED_FUSE = (
    *("ceph", "cephfs", "davfs2", "glusterfs", "goofys", "grpcfuse", "juicefs", "moosefs"),
    *("osxfs", "rclone", "s3fs", "seaweedfs", "sshfs", "virtiofs", "vmhgfs-fuse"),
)
# All writes go through this kernel and these very inodes: not so on FUSE (below mergerfs, bindfs or shfs the
# file may be written to), nor, overlay apart, on stacked file systems.
_LEASE_WORKS = frozenset(
    {
        *("bcachefs", "btrfs", "exfat", "ext2", "ext3", "ext4", "f2fs", "hfsplus", "jfs", "msdos", "nilfs2"),
        *("ntfs", "ntfs3", "overlay", "ramfs", "reiserfs", "tmpfs", "udf", "ufs", "vfat", "xfs", "zfs"),
    }
)


class Capabilities(Struct, frozen=True):
    """What `probe` found. `safe_rename`: an atomic rename that replaces nothing."""

    safe_rename: bool
    links: bool
    folder_sync: bool

    def weaknesses(self) -> tuple[str, ...]:
        """Return, for a person, what is weaker here than elsewhere; empty where nothing is."""
        found = []
        if not self.safe_rename and self.links:
            found.append(
                "its file system cannot rename without replacing: files get their names by link and unlink"
            )
        if not self.safe_rename and not self.links:
            found.append(
                "its file system can neither rename without replacing nor make hard links: a file that "
                "another program makes under the same name in the very moment when ours gets it is replaced"
            )
        if not self.folder_sync:
            found.append(
                "its file system cannot flush a folder: a power cut may take back the files of the last "
                "seconds (floradl verify --repair --missing fetches them again)"
            )
        return tuple(found)


def probe(folder: FolderFd) -> Capabilities:
    """Test `folder` with an empty file; remove it, and what a killed test left.

    Raises `OSError`, also while another process tests it.
    """
    _clear(folder)
    try:
        os.close(os.open(_PART, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))
        code = rename_exclusive(folder, _PART, folder, _NAME)
        if code not in {0, *CANNOT}:
            raise OSError(code, os.strerror(code), _PART)
        link = partial(os.link, _PART if code else _NAME, _LINK, follow_symlinks=False)
        links = _can(partial(link, src_dir_fd=folder, dst_dir_fd=folder), CANNOT_LINK)
        return Capabilities(code == 0, links, _can(partial(flush, folder), CANNOT))
    finally:
        _clear(folder)


def _clear(folder: FolderFd) -> None:
    for name in (_PART, _NAME, _LINK):
        with suppress(OSError):
            os.unlink(name, dir_fd=folder)


def _can(work: Callable[[], object], cannot: Collection[int]) -> bool:
    try:
        work()
    except OSError as error:
        if error.errno not in cannot:
            raise
        return False
    return True


def tells_writers(path: Path) -> bool:
    """Whether a lease on a file at `path` proves that nobody writes to it; False where that is unknown.

    Over FUSE a lease is granted though the file below is being written (Linux 6.12, bindfs 1.14).
    """
    return filesystem(path) in _LEASE_WORKS


def is_shared(path: Path) -> bool:
    """Whether `path` (or where it would be made) is on a mount shared with other systems, as by NFS."""
    name = filesystem(path) or ""
    return name in _SHARED or name.removeprefix("fuse.") in _SHARED_FUSE


def filesystem(path: Path) -> str | None:
    """Return the type of the file system of `path` (`ext4`, `nfs4`), None where it is unknown."""
    try:
        path = path.resolve()
        table = _lines(_TABLE)
    except RuntimeError:  # links in a circle
        return None
    except OSError:  # no /proc
        there = next((each for each in (path, *path.parents) if each.exists()), None)
        return filesystem_by_statfs(there) if there else None
    return find_filesystem(table, path)


def find_filesystem(table: Iterable[str], path: Path) -> str | None:
    """Return the type in the line of a mountinfo `table` (proc(5)) that covers the absolute `path`.

    The last line of the deepest mount point counts: it hides earlier ones.
    """
    best: tuple[int, str] | None = None
    for line in table:
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5:
            continue
        point = _point(fields[4])
        depth = len(point.parts)
        if path.is_relative_to(point) and (best is None or depth >= best[0]):
            best = (depth, types[0])
    return best[1] if best else None


def unmounted(path: Path) -> Path | None:
    """Return the mount point above `path` that fstab(5) names and where nothing is mounted now."""
    try:
        return find_unmounted(_lines(_PLANNED), _lines(_TABLE), path.resolve())
    except (OSError, RuntimeError):
        return None


def find_unmounted(planned: Iterable[str], table: Iterable[str], path: Path) -> Path | None:
    """As `unmounted`, with the lines of an fstab and a mountinfo table, for the absolute `path`."""
    mounted = {_point(fields[4]) for line in table if len(fields := line.split(" ")) > 4}
    entries = [line.split() for line in planned if not line.lstrip().startswith("#")]
    points = [_point(entry[1]) for entry in entries if len(entry) >= 2 and entry[1].startswith("/")]
    return next((each for each in points if path.is_relative_to(each) and each not in mounted), None)


def _lines(path: Path) -> list[str]:
    return path.read_bytes().decode(errors="surrogateescape").splitlines()


def _point(escaped: str) -> Path:
    return Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), escaped))
