"""Whether a file is finished, and its bytes: a file that somebody still writes is never acted on.

A read lease shows it: the kernel refuses one while any process has the file open for writing, and holds a
writer back while we read. Where it cannot tell (a network mount, a file of somebody else's), a file counts as
finished when it was quiet for a while.

Source: fcntl(2), F_SETLEASE and F_SETSIG.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from floradl.fs.folders import open_plain
from floradl.portability import take_read_lease

QUIET_SECONDS = 2.0
MAX_BYTES = 1 << 20
_BUSY_MIN, _BUSY_MAX = 0.1, 2.0  # how soon a file that is being written is looked at again, in seconds


class Stamp(NamedTuple):
    """What changes when a file is written or replaced."""

    dev: int
    ino: int
    mtime_ns: int
    size: int
    ctime_ns: int = 0

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """Return the stamp of a stat result."""
        return cls(status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_ctime_ns)

    def moved(self) -> Stamp:
        """Return it without the change time, which a rename sets."""
        return self._replace(ctime_ns=0)


class FileState(Enum):
    """What is known about a file's writers."""

    FREE = "free"  # nobody has it open for writing
    WRITING = "writing"
    UNKNOWN = "unknown"  # the system cannot tell


class Reading(NamedTuple):
    """One look at a file. `data` is None where it is larger than `MAX_BYTES`, or was not read."""

    state: FileState
    stamp: Stamp
    data: bytes | None


def read(path: Path, *, follow: bool, leases: bool) -> Reading:
    """Read a regular file, and find out whether anybody may still be writing it. Never waits.

    `follow` goes through a symbolic link at the end of `path`. `leases` is False on file systems where a
    lease shows nothing.

    Raises `NotRegularFileError` (without `follow`, also for a file that has a second name), `BlockingIOError`
    where somebody else holds a lease that is called back first, and `OSError`.
    """
    fd = open_plain(path, os.O_RDONLY, follow=follow, alone=not follow)
    try:
        state = _lease(fd) if leases else FileState.UNKNOWN
        stamp = Stamp.of(os.fstat(fd))
        if state is FileState.WRITING or stamp.size > MAX_BYTES:
            return Reading(state, stamp, None)
        with os.fdopen(fd, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
        if Stamp.of(os.fstat(fd)) != stamp or len(data) != stamp.size:
            return Reading(FileState.WRITING, stamp, None)
        return Reading(state, stamp, data)
    finally:
        os.close(fd)  # gives the lease back too


def _lease(fd: int) -> FileState:
    free = take_read_lease(fd)
    if free is None:
        return FileState.UNKNOWN
    return FileState.FREE if free else FileState.WRITING


class _Watched(NamedTuple):
    stamp: Stamp
    since: float  # when this stamp was first seen
    first: float  # when the file was first found unfinished


class SettleTimes:
    """Remembers since when files have been quiet, by the monotonic clock, in seconds."""

    def __init__(self) -> None:
        self._files: dict[str, _Watched] = {}

    def wait(self, name: str, stamp: Stamp, state: FileState, now: float) -> float:
        """Return after how many seconds to look at a file again; 0 when it can be taken now."""
        # Nothing shows that an empty file is complete: its writer may open it a moment later (a shell's `>`).
        if state is FileState.FREE and stamp.size > 0:
            return 0.0
        if (known := self._files.get(name)) is None:
            known = _Watched(stamp, now, now)
        elif known.stamp != stamp:
            known = known._replace(stamp=stamp, since=now)
        self._files[name] = known
        if state is FileState.WRITING:
            self._files[name] = known._replace(since=now)
            # No event reports that a file was closed, so it is looked at: often at first, then less often the
            # longer the writing takes.
            return min(_BUSY_MAX, max(_BUSY_MIN, (now - known.first) / 4))
        return max(0.0, known.since + QUIET_SECONDS - now)

    def keep(self, names: AbstractSet[str]) -> None:
        """Forget all files but `names`: those that are still there."""
        self._files = {name: self._files[name] for name in self._files.keys() & names}
