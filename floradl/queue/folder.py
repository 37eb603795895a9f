"""The state folder: whose it is, and that nobody else can write it, or put another in its place.

What stands in it decides what is done, what is forgotten and what is told. So it is this user's or root's,
and so is each folder above it, and each of our files in it: a sticky volume may let others put some there.
"""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from floradl.errors import ExposedError
from floradl.fs.permissions import exposure, make_above, trusted_users, user_name
from floradl.queue import heartbeat, lock
from floradl.queue.files import FILE_NAME, RECALL

SEEN = "library-seen"
"""The file that says which libraries a start has seen."""

_OWN = (lock.FILE_NAME, heartbeat.FILE_NAME, f".{heartbeat.FILE_NAME}.part", SEEN, RECALL)
_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def make(state_dir: Path) -> None:
    """Make the folder where it is missing, and see that this user alone may write it and what is ours in it.

    What a umask let others write of this user's files is taken back. Raises `ExposedError` where somebody
    else could have put there what stands there, and `OSError`.
    """
    _refuse(state_dir)
    # Others may be let read it, whatever the umask gives; but this process alone writes there.
    make_above(state_dir)
    state_dir.mkdir(mode=0o755, exist_ok=True)
    _refuse(state_dir)
    for file in _files(state_dir):
        with suppress(FileNotFoundError):  # a daemon at work replaces some
            status = file.stat()
            if status.st_mode & _OTHERS and status.st_uid == os.geteuid():
                file.chmod(stat.S_IMODE(status.st_mode) & ~_OTHERS)


def fault(state_dir: Path, trusted: Collection[int]) -> str | None:
    """Say why what stands there may not be of the `trusted` users, and the mend; None where it is.

    Raises `OSError` where that cannot be told.
    """
    found = exposure(state_dir, trusted)
    if found is not None:
        unit = " (in a systemd unit: StateDirectoryMode=2750)" if "chmod" in found.mend else ""
        return (
            f"the state folder {state_dir} is not safe, others could replace it: {found}{unit}; "
            "docs/service.md shows how a service moves"
        )
    faults = (_fault(file, trusted) for file in _files(state_dir))
    return next((each for each in faults if each is not None), None)


def _refuse(state_dir: Path) -> None:
    if (why := fault(state_dir, trusted_users())) is not None:
        raise ExposedError(why)


def _files(state_dir: Path) -> list[Path]:
    """Return the files there that are ours by their names."""
    if not state_dir.exists():
        return []
    return [path for path in state_dir.iterdir() if path.name in _OWN or path.name.startswith(FILE_NAME)]


def _fault(file: Path, trusted: Collection[int]) -> str | None:
    try:
        status = file.lstat()
    except FileNotFoundError:  # a daemon at work replaces some
        return None
    place = shlex.quote(str(file))
    if stat.S_ISLNK(status.st_mode):
        found = exposure(file, trusted)
        return None if found is None else f"{file} is a link, and others could replace what is there: {found}"
    if status.st_uid not in trusted:
        return (
            f"{file} belongs to {user_name(status.st_uid)}, and may say what he likes: if it is as it should "
            f"be, as root: chown --reference={shlex.quote(str(file.parent))} {place}; if not, move it away"
        )
    if status.st_mode & _OTHERS and status.st_uid != os.geteuid():
        return f"{file} can be written by others: as root: chmod go-w {place}"
    return None
