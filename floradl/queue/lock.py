"""One daemon per state folder."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from floradl.errors import ExposedError, LockedError
from floradl.fs.permissions import trusted_users, user_name

FILE_NAME = "lock"
_LOOKS = 2000  # of others that a start waits for, a millisecond each


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lock, as written into it. `since` is unix seconds."""

    pid: int
    host: str
    command: str
    version: str
    since: float

    def __str__(self) -> str:
        return f"floradl {self.command} (process {self.pid} on {self.host})"


def _path(state_dir: Path) -> Path:
    return state_dir / FILE_NAME


@contextmanager
def hold(state_dir: Path, command: str, version: str, now: float) -> Iterator[None]:
    """Hold the state folder's lock. Raises `LockedError`, which names the holder, and `ExposedError`.

    The kernel drops the lock with the process, however it ends; the file stays.
    """
    fd = os.open(_path(state_dir), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if (owner := os.fstat(fd).st_uid) not in trusted_users():  # who could keep us out for ever
            raise ExposedError(f"{_path(state_dir)} belongs to {user_name(owner)}: move it away")
        if not _take(fd):
            raise LockedError(
                f"{_read(fd) or 'another process'} already works with {state_dir}: stop it first, "
                "or give this one a state folder of its own (--home or state_dir)"
            )
        _sign(fd, Holder(os.getpid(), os.uname().nodename, command, version, now))
        yield
    finally:
        os.close(fd)


def _sign(fd: int, holder: Holder) -> None:
    """Write down who holds it. Where a full disk does not let us, the lock is held all the same."""
    text = msgspec.json.encode(holder)
    try:
        os.pwrite(fd, text, 0)  # over the last one's words, for which there was room
        os.ftruncate(fd, len(text))
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, 0)


def _take(fd: int) -> bool:
    """Take the exclusive lock; False where somebody holds it.

    `holder` shares the lock for a moment, which must not keep a daemon from starting. While only such
    looks are in the way the shared lock is to be had: then it is tried again.
    """
    for _ in range(_LOOKS):
        if _flock(fd, fcntl.LOCK_EX):
            return True
        if not _flock(fd, fcntl.LOCK_SH):
            return False
        fcntl.flock(fd, fcntl.LOCK_UN)  # two that start at once would hold each other up
        time.sleep(0.001)
    return False


def _flock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def holder(state_dir: Path) -> Holder | None:
    """Who holds the lock now, or None. Takes nothing that would be in a daemon's way.

    Raises `PermissionError` where this user may not look.
    """
    try:
        fd = os.open(_path(state_dir), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        # A shared lock is refused exactly while somebody holds the exclusive one.
        if _flock(fd, fcntl.LOCK_SH):
            return None
        return _read(fd) or Holder(0, "", "run", "", 0)
    finally:
        os.close(fd)


def _read(fd: int) -> Holder | None:
    try:
        return msgspec.json.decode(os.pread(fd, 4096, 0), type=Holder)
    except ValueError:  # caught in the moment between taking the lock and writing it
        return None
