"""Sets aside a journal that cannot be worked with, and sees whether the one at work is still there.

Nothing is deleted: the file keeps its content under another name, with its log beside it, as SQLite wants it.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from floradl.fs.folders import open_root, sync_folder
from floradl.fs.os_errors import is_full
from floradl.queue import lock
from floradl.queue.migrations import MIGRATIONS
from floradl.queue.sqlite import COLUMNS, FILE_NAME

LOST: Final = (
    "a new one is filled from the library's sidecars and the job files in inbox/accepted/; not known any "
    "more are unfinished runs that came by webhook, by sync or longer than queue.keep ago (queue them anew), "
    "what was forgotten longer than queue.keep ago, and how long runs take"
)
RECALL: Final = "recall"
"""The file in the state folder that says that the journal is to be filled."""

_THOROUGH: Final = 64 << 20  # bytes; up to there each row is held against its indexes: a second or two
_CODES: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_FORMAT")


def is_damage(error: BaseException | None) -> bool:
    """Whether `error` tells of the journal's content, not of its disk or of a call that is wrong."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(_CODES):
        return True
    if name == "SQLITE_ERROR":  # all our SQL is tried, so that the file must be another one
        return str(error).startswith(("no such table", "no such column"))
    # Python's own, for text that is no UTF-8, and that of `run_of`.
    return not name and type(error) in {sqlite3.OperationalError, sqlite3.DatabaseError}


def look_inside(db: sqlite3.Connection, path: Path, *, thorough: bool = False) -> str | None:
    """Say what is wrong with the journal that is open as `db`, None where nothing is. Blocking; reads it all.

    With `thorough`, or where it is small, each row is held against its indexes. A newer floradl's schema is
    no damage. Raises `sqlite3.Error`.
    """
    how = "integrity_check" if thorough or path.stat().st_size <= _THOROUGH else "quick_check"
    found = [str(row[0]) for row in db.execute(f"PRAGMA {how}(1)")]
    if found != ["ok"]:
        return " ".join(found[0].split()) if found else "it cannot be checked"
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return "it is another program's database" if tables else None
    if version <= len(MIGRATIONS):
        db.execute(f"SELECT {COLUMNS}, changed_at FROM runs LIMIT 0")  # noqa: S608 - names only
    return None


def is_to_be_filled(state_dir: Path) -> bool:
    """Whether a start noted that the journal is new, or is to be filled up. Raises `OSError`."""
    return (state_dir / RECALL).exists()


_MARK: Final = "journal-open"


class RecoveredQueue(msgspec.Struct, frozen=True):
    """What was found at a start: `why`, and under which name the old journal lies, None where it stays."""

    why: str
    aside: Path | None


def mend(state_dir: Path, now: float, note: Callable[[], None], *, new: bool) -> RecoveredQueue | None:
    """Look whether the journal can be worked with, and set it aside where it cannot; None where all is well.

    The caller holds the lock. `note` is called before anything is changed: it notes that the journal is to be
    filled anew. `new` says that a start had begun to make it: then it may be empty. `now` is unix seconds.
    Raises `OSError`, and `sqlite3.Error` for what is no damage.
    """
    path = state_dir / FILE_NAME
    mark = state_dir / _MARK
    if not path.exists():
        return None
    if path.stat().st_size == 0:
        return None if new else _put_away(state_dir, now, note, "it is empty (0 bytes)")
    log_lost = mark.exists() and not path.with_name(f"{FILE_NAME}-wal").exists()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        why = _look(db, path, state_dir)
        if why is not None:
            # Before it is closed, which would merge the log into it: so both stay as they were found.
            return _put_away(state_dir, now, note, why)
        empty = not new and _is_empty(db)
        if log_lost or empty:
            note()
        mark.unlink(missing_ok=True)  # it is closed in good form now
    if log_lost or empty:
        lost = f"its log, {FILE_NAME}-wal, is gone, and with it what was recorded last"
        return RecoveredQueue("it holds nothing: its content, or its log, is gone" if empty else lost, None)
    return None


def _put_away(state_dir: Path, now: float, note: Callable[[], None], why: str) -> RecoveredQueue:
    note()
    return RecoveredQueue(why, set_aside(state_dir, now))


def _look(db: sqlite3.Connection, path: Path, state_dir: Path) -> str | None:
    try:
        return look_inside(db, path)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not is_full(error, state_dir):
            return str(error)
        raise


def _is_empty(db: sqlite3.Connection) -> bool:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    return version == 0


def set_aside(state_dir: Path, now: float, endings: Sequence[str] = ("", "-wal", "-shm")) -> Path | None:
    """Rename the journal and its log, and say to what; None where there was none. `now` is unix seconds.

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
    # The log last: a journal without it would look well. One that is left behind by a crash is of no use.
    for ending in endings:
        old = path.with_name(FILE_NAME + ending)
        if os.path.lexists(old):
            os.rename(old, aside.with_name(aside.name + ending))  # noqa: PTH104 - a link is moved, not followed
            moved = True
    with open_root(state_dir) as folder:
        sync_folder(folder)
    return aside if moved else None


@contextmanager
def marked_open(state_dir: Path) -> Iterator[None]:
    """Leave a mark while the journal is open, which tells the next start that its log has to be there.

    A full disk only costs the mark.
    """
    mark = state_dir / _MARK
    with suppress(OSError):
        mark.touch(0o644)  # for this user alone to write, whatever the umask gives
    try:
        yield
    finally:
        # Before the journal is closed: SQLite removes the log then.
        with suppress(OSError):
            mark.unlink(missing_ok=True)


class QueueFiles:
    """The files of an open journal as they were when it was opened: whether they still are those."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._files = {ending: self._identity(ending) for ending in ("", "-wal", "-shm")}
        self._lock = _identity(state_dir / lock.FILE_NAME)

    def lost(self) -> str | None:
        """Say which of them was removed or replaced, None where all stand; blocking.

        Who may not look cannot tell: then all counts as standing.
        """
        with suppress(PermissionError):
            known = {self._path(ending): found for ending, found in self._files.items()}
            known[self._state_dir / lock.FILE_NAME] = self._lock
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

    @property
    def gone(self) -> bool:
        """Whether there is no journal any more."""
        return self._identity("") is None

    @property
    def stands(self) -> bool:
        """Whether the journal itself is the one that was opened."""
        return self._identity("") == self._files[""]

    @property
    def locked(self) -> bool:
        """Whether the lock is the one that was taken."""
        return _identity(self._state_dir / lock.FILE_NAME) == self._lock

    @property
    def disk_is_there(self) -> bool:
        """Whether the way to the folder still leads to the disk that the journal is on."""
        there = next(path for path in (self._state_dir, *self._state_dir.parents) if path.exists())
        journal = self._files[""]
        return journal is None or there.stat().st_dev == journal[0]

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
