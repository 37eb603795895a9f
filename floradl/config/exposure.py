"""Who else may read the file that the API key is in."""

from __future__ import annotations

import grp
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from floradl.config.credentials import RUN_SECRETS, conventional
from floradl.disk.mounts import filesystem


def exposure(file: Path, environ: Mapping[str, str]) -> str | None:
    """Say who else may read a key's file, None where nobody may; blocking.

    The mode of a systemd credential, or of a container's secret (one in memory, or below /run/secrets), is
    not its user's. A file of somebody else's that only the group may read is how a service is given its key.
    """
    theirs = [handed.parent for handed in conventional(file.name, environ, RUN_SECRETS)]
    try:
        status = file.stat()
        ways = [above.stat().st_mode for above in file.parents]
    except OSError:
        return None
    if any(file.is_relative_to(each) for each in theirs) or filesystem(file) == "tmpfs":
        return None
    if status.st_mode & stat.S_IROTH and all(mode & stat.S_IXOTH for mode in ways):
        return f"{file} can be read by every user of this machine"
    through = all(mode & (stat.S_IXOTH | stat.S_IXGRP) for mode in ways)
    if status.st_mode & stat.S_IRGRP and through and status.st_uid == os.geteuid():
        return f"{file} can be read by the group {_group_name(status.st_gid)}"
    return None


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
