"""Which file system a path lies on, and whether other machines may write to it unseen.

Source: proc_pid_mountinfo(5) for the table's fields and its octal escapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_TABLE = Path("/proc/self/mountinfo")
_ESCAPE = re.compile(r"\\([0-7]{3})")
# File systems whose files change without this kernel being told: no events come, and no lease means anything.
_SHARED = (
    *("9p", "afs", "afpfs", "beegfs", "ceph", "cifs", "coda", "davfs"),
    *("fhgfs", "gfs", "gfs2", "glusterfs", "gpfs", "lustre", "ncpfs", "nfs"),
    *("nfs4", "ocfs2", "orangefs", "prl_fs", "pvfs2", "smb2", "smb3", "smbfs"),
    *("vboxsf", "virtiofs", "vmhgfs", "fakeowner"),
)
_SHARED_FUSE = (
    *("ceph", "cephfs", "davfs2", "glusterfs", "goofys", "grpcfuse", "juicefs", "moosefs"),
    *("osxfs", "rclone", "s3fs", "seaweedfs", "sshfs", "virtiofs", "vmhgfs-fuse"),
)


def is_shared(path: Path) -> bool:
    """Whether `path` (or where it would be made) is on a network mount or one shared with another system."""
    name = filesystem(path) or ""
    return name in _SHARED or name.removeprefix("fuse.") in _SHARED_FUSE


def filesystem(path: Path) -> str | None:
    """Name the type of the file system that `path` is on (`ext4`, `nfs4`), or None where that is not told."""
    try:
        table = _TABLE.read_bytes().decode(errors="surrogateescape").splitlines()
        resolved = path.resolve()
    except (OSError, RuntimeError):  # no /proc, or links in a circle
        return None
    return find_filesystem(table, resolved)


def find_filesystem(table: Iterable[str], path: Path) -> str | None:
    """Name the type in the line of a mountinfo `table` that covers the absolute `path`.

    The last line of the deepest mount point counts, for it hides what was mounted there before.
    """
    best: tuple[int, str] | None = None
    for line in table:
        left, _, right = line.partition(" - ")
        fields, types = left.split(" "), right.split(" ")
        if len(fields) < 5:
            continue
        point = Path(_ESCAPE.sub(lambda match: chr(int(match[1], 8)), fields[4]))
        depth = len(point.parts)
        if path.is_relative_to(point) and (best is None or depth >= best[0]):
            best = (depth, types[0])
    return best[1] if best else None
