"""The state folder: the queue's files in it, its lock, and that nobody else can write or replace any of it.

What stands in it decides what is done and what is forgotten. So it is this user's or root's, and so is each
folder above it, and each of our files in it: a sticky volume may let others put some there.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from floradl.errors import ConfigError, ExposedError, LockedError, QueueDamagedError
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.permissions import exposure, make_above, trusted_users, user_name
from floradl.queue import heartbeat

FILE_NAME: Final = "journal.sqlite3"
RECALL: Final = "recall"
"""The file in the state folder that says that the queue is to be filled."""

OPEN_MARK: Final = "journal-open"
"""The file there that stands while the queue is open."""

LOCK_NAME: Final = "lock"
SEEN: Final = "library-seen"
"""The file that says which libraries a start has seen."""

MEMBER: Final = "member.json"
"""The file that says who this daemon is among those that share a queue."""

MOVED: Final = "journal-moved"
"""The file that says into which database the queue was moved."""

EVENT_FILES: Final = ("events.ndjson", *(f"events.{number}.ndjson" for number in range(1, 4)))
"""The files of the event log, the newest first."""

NOTIFY_FILE: Final = "notify.json"
"""The file of what people were told, and are still to be told."""

_OWN = (
    *(LOCK_NAME, heartbeat.FILE_NAME, f".{heartbeat.FILE_NAME}.part", SEEN, RECALL, MEMBER, *EVENT_FILES),
    *(MOVED, NOTIFY_FILE, f".{NOTIFY_FILE}.part"),
)
_OF_THE_DISK = "lost+found"  # at the top of a file system
_LOOK_EVERY = 5.0  # seconds between looks at the files of an open queue
_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_LOOKS = 2000  # of others that a start waits for, a millisecond each


def is_to_be_filled(state_dir: Path) -> bool:
    """Whether a start noted that the queue is new, or is to be filled up. Raises `OSError`."""
    return (state_dir / RECALL).exists()


def note_to_be_filled(state_dir: Path) -> None:
    """Note that the queue is to be filled; that outlives a crash in the middle of it. Raises `OSError`."""
    (state_dir / RECALL).touch(0o644)
    with open_root(state_dir) as folder:
        sync_folder(folder)


def note_filled(state_dir: Path) -> None:
    """Note that the queue is filled. Raises `OSError`."""
    (state_dir / RECALL).unlink()


def note_moved(state_dir: Path, place: str) -> None:
    """Note that the queue is in the database `place` from now on. Raises `OSError`."""
    mark = state_dir / MOVED
    mark.touch(0o644)  # for this user alone to write, whatever the umask gives
    mark.write_text(f"{place}\n", encoding="utf-8")


def refuse_moved(state_dir: Path) -> None:
    """Raise `ConfigError` where the queue was moved into a database, and none is here since. `OSError`."""
    mark = state_dir / MOVED
    if not mark.exists() or (state_dir / FILE_NAME).exists():
        return
    place = mark.read_text(encoding="utf-8").strip()
    raise ConfigError(
        f"queue.engine: the queue of {state_dir} was moved to {place}: let queue.engine name that (and then "
        f"'floradl migrate --to sqlite' moves it back). To begin with a new one, remove {mark}"
    )


@contextmanager
def marked_open(state_dir: Path) -> Iterator[None]:
    """Leave a mark while the queue is open, by which the next start knows that its log has to be there.

    A full disk only costs the mark.
    """
    mark = state_dir / OPEN_MARK
    with suppress(OSError):
        mark.touch(0o644)  # for this user alone to write, whatever the umask gives
    try:
        yield
    finally:
        # Before the queue is closed: SQLite removes the log then.
        with suppress(OSError):
            mark.unlink(missing_ok=True)


def set_aside(state_dir: Path, now: float, endings: Sequence[str] = ("", "-wal", "-shm")) -> Path | None:
    """Rename the queue's file and its log, and say to what; None where there was none. `now` is unix seconds.

    `endings` says which of its files. Raises `OSError`.
    """
    path = state_dir / FILE_NAME
    stamp = time.strftime("%Y%m%dT%H%M%S", time.localtime(now))
    aside = path.with_name(f"{FILE_NAME}.damaged-{stamp}")
    number = 1
    while os.path.lexists(aside):
        number += 1
        aside = path.with_name(f"{FILE_NAME}.damaged-{stamp}-{number}")
    moved = False
    # The log last: a queue without it would look well. One that is left behind by a crash is of no use.
    for ending in endings:
        old = path.with_name(FILE_NAME + ending)
        if os.path.lexists(old):
            os.rename(old, aside.with_name(aside.name + ending))  # noqa: PTH104 - a link is moved, not followed
            moved = True
    with open_root(state_dir) as folder:
        sync_folder(folder)
    return aside if moved else None


class QueueFiles:
    """The files of an open queue as they were when it was opened: whether they still are those."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._files = {ending: self._identity(ending) for ending in ("", "-wal", "-shm")}
        self._lock = _identity(state_dir / LOCK_NAME)

    def lost(self) -> str | None:
        """Say which of them was removed or replaced, None where all stand; blocking.

        Who may not look does not know: then all counts as standing.
        """
        with suppress(PermissionError):
            known = {self._path(ending): found for ending, found in self._files.items()}
            known[self._state_dir / LOCK_NAME] = self._lock
            for path, before in known.items():
                found = _identity(path)
                if before is None or found == before:
                    continue
                if found is not None:
                    return f"{path} was replaced while floradl worked with it"
                there = path if self._state_dir.is_dir() else self._state_dir
                return f"{there} was removed while floradl worked with it"
            if self._path("").stat().st_size == 0:
                return f"{self._path('')} was emptied while floradl worked with it"
        return None

    async def watch(self) -> None:
        """Raise `QueueDamagedError` once they are not: SQLite would go on with what nobody else can see."""
        from anyio import to_thread  # noqa: PLC0415 - `status` starts without it

        from floradl.wakeups import next_tick  # noqa: PLC0415 - as above

        while True:
            await next_tick(_LOOK_EVERY)
            if (why := await to_thread.run_sync(self.lost)) is not None:
                raise QueueDamagedError(why)

    @property
    def gone(self) -> bool:
        """Whether there is no queue's file any more."""
        return self._identity("") is None

    @property
    def stands(self) -> bool:
        """Whether the queue's own file is the one that was opened."""
        return self._identity("") == self._files[""]

    @property
    def locked(self) -> bool:
        """Whether the lock is the one that was taken."""
        return _identity(self._state_dir / LOCK_NAME) == self._lock

    @property
    def disk_is_there(self) -> bool:
        """Whether the way to the folder still leads to the disk that the queue is on."""
        there = next(path for path in (self._state_dir, *self._state_dir.parents) if path.exists())
        opened = self._files[""]
        return opened is None or there.stat().st_dev == opened[0]

    def own_logs(self) -> list[str]:
        """Return the endings of the log's files that are still those which were opened."""
        return [
            end for end in ("-wal", "-shm") if (known := self._files[end]) and self._identity(end) == known
        ]

    def _path(self, ending: str) -> Path:
        return self._state_dir / (FILE_NAME + ending)

    def _identity(self, ending: str) -> tuple[int, int] | None:
        return _identity(self._path(ending))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


class Holder(msgspec.Struct, frozen=True):
    """Who holds the lock, as written into it. `since` is unix seconds."""

    pid: int
    host: str
    command: str
    version: str
    since: float

    def __str__(self) -> str:
        return f"floradl {self.command} (process {self.pid} on {self.host})"


@contextmanager
def hold(state_dir: Path, command: str, version: str, now: float) -> Iterator[None]:
    """Hold the state folder's lock. Raises `LockedError`, which names the holder, and `ExposedError`.

    The kernel drops the lock with the process, however it ends; the file stays.
    """
    fd = os.open(state_dir / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        if (owner := os.fstat(fd).st_uid) not in trusted_users():  # who could keep us out for ever
            raise ExposedError(f"{state_dir / LOCK_NAME} belongs to {user_name(owner)}: move it away")
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
        os.pwrite(fd, text, 0)  # over the last one's, for which there was room
        os.ftruncate(fd, len(text))
    except OSError:
        with suppress(OSError):
            os.ftruncate(fd, 0)


def _take(fd: int) -> bool:
    """Take the exclusive lock; False where somebody holds it.

    `holder` shares the lock for a moment, which must not keep a daemon from starting. While only such
    looks are in the way the shared lock can be taken: then it is tried again.
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
        fd = os.open(state_dir / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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


def is_ours(state_dir: Path) -> bool:
    """Whether the folder is this user's: its own, or a volume that root made, with nothing of others in it.

    A new volume of a container is root's, and sticky, so that any user can have it. Raises `OSError` where
    that is not known.
    """
    if exposure(state_dir) is not None:
        return False
    status, me = state_dir.stat(), os.geteuid()
    if status.st_uid == me:
        return True
    if not status.st_mode & stat.S_ISVTX or not os.access(state_dir, os.W_OK | os.X_OK):
        return False
    return all(path.lstat().st_uid == me for path in state_dir.iterdir() if path.name != _OF_THE_DISK)


def fault(state_dir: Path, trusted: Collection[int]) -> str | None:
    """Say why what stands there may not be of the `trusted` users, and what to do; None where it is.

    Raises `OSError` where that is not known.
    """
    found = exposure(state_dir, trusted)
    if found is not None:
        unit = " (in a systemd unit: StateDirectoryMode=2750)" if "chmod" in found.remedy else ""
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
    if stat.S_ISLNK(status.st_mode):
        found = exposure(file, trusted)
        return None if found is None else f"{file} is a link, and others could replace what is there: {found}"
    if status.st_uid in trusted and (not status.st_mode & _OTHERS or status.st_uid == os.geteuid()):
        return None
    from shlex import quote  # noqa: PLC0415 - where something is wrong

    place = quote(str(file))
    if status.st_uid not in trusted:
        return (
            f"{file} belongs to {user_name(status.st_uid)}, and may say what he likes: if it is as it should "
            f"be, as root: chown --reference={quote(str(file.parent))} {place}; if not, move it away"
        )
    return f"{file} can be written by others: as root: chmod go-w {place}"
