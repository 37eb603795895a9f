"""Whose a folder is, and who this process is: what a refused permission is mended by."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def refusal(path: Path) -> str:
    """Say in numbers who may not use `path`, or make it, and whose it is, or what it would be made in.

    Numbers, because they are what a container and the machine around it have in common.
    """
    user = f"this user ({os.geteuid()}:{os.getegid()})"
    for place in (path, *path.parents):
        with suppress(OSError):
            found = place.stat()
            owner = f"{found.st_uid}:{found.st_gid}, mode {found.st_mode & 0o7777:o}"
            return (
                f"{place} ({owner}) is not open to {user}: give this user the right to it (chown), "
                "or run floradl as its owner"
            )
    return f"{path} is not open to {user}"
