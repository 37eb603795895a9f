"""The files of the SQLite queue: their names, the marks beside them, and whether they are still those opened.

Nothing is deleted: a file that is set aside keeps its content under another name, with its log beside it, as
SQLite wants it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from floradl.fs.folders import open_root, sync_folder
from floradl.queue import lock

FILE_NAME: Final = "journal.sqlite3"
RECALL: Final = "recall"
"""The file in the state folder that says that the journal is to be filled."""

OPEN_MARK: Final = "journal-open"
"""The file there that stands while the journal is open."""


def is_to_be_filled(state_dir: Path) -> bool:
    """Whether a start noted that the journal is new, or is to be filled up. Raises `OSError`."""
    return (state_dir / RECALL).exists()


def note_to_be_filled(state_dir: Path) -> None:
    """Note that the journal is to be filled; that outlives a crash in the middle of it. Raises `OSError`."""
    (state_dir / RECALL).touch(0o644)
    with open_root(state_dir) as folder:
        sync_folder(folder)


def note_filled(state_dir: Path) -> None:
    """Note that the journal is filled. Raises `OSError`."""
    (state_dir / RECALL).unlink()


@contextmanager
def marked_open(state_dir: Path) -> Iterator[None]:
    """Leave a mark while the journal is open, which tells the next start that its log has to be there.

    A full disk only costs the mark.
    """
    mark = state_dir / OPEN_MARK
    with suppress(OSError):
        mark.touch(0o644)  # for this user alone to write, whatever the umask gives
    try:
        yield
    finally:
        # Before the journal is closed: SQLite removes the log then.
        with suppress(OSError):
            mark.unlink(missing_ok=True)


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
