"""Whether an index is as new as its library, without reading the library: for commands that answer at once.

A folder whose time stands has the sidecars that it had. One that was written to in place, by an editor, shows
in its own time alone: that is looked at now and then, and for what is shown.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Final

from floradl.index.finder import KnownRun
from floradl.index.tables import IndexFile
from floradl.library.template import SIDECARS

_LOOKED: Final = "looked"
_TOLD: Final = "told"
_TOOK: Final = "took"
_COMPARED: Final = "compared"


def is_current(file: IndexFile, root: Path) -> bool:
    """Whether the folders of sidecars below `root` are those that were read last. Raises as `reading`."""
    with file.reading() as db:
        known: dict[str, int] = dict(db.execute("SELECT name, mtime_ns FROM folders"))
    there: dict[str, int] = {}
    try:
        with os.scandir(root / SIDECARS) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False):
                    there[entry.name] = entry.stat(follow_symlinks=False).st_mtime_ns
    except OSError:
        return False
    return bool(there) and there == known


def are_current(runs: Iterable[KnownRun], root: Path) -> bool:
    """Whether the sidecars of these runs are those that were read."""
    for run in runs:
        try:
            status = os.lstat(f"{root}/{SIDECARS}/{run.folder}/{run.file}")
        except OSError:
            return False
        if (status.st_mtime_ns, status.st_size) != (run.mtime_ns, run.size):
            return False
    return True


def looked_at(file: IndexFile) -> float:
    """Return when each sidecar was looked at last, in unix seconds; 0 for never. Raises as `reading`."""
    return _noted(file, _LOOKED)


def told_at(file: IndexFile) -> float:
    """Return until when all is in that this machine's event log tells of, as `looked_at`."""
    return _noted(file, _TOLD)


def note_told(file: IndexFile, now: float) -> None:
    """Record that what the event log told of is in, `now` (unix seconds). Raises as `IndexFile.writing`."""
    _note(file, _TOLD, now)


def _noted(file: IndexFile, key: str) -> float:
    with file.reading() as db:
        found = db.execute("SELECT value FROM about WHERE key = ?", (key,)).fetchone()
    with suppress(ValueError, TypeError):
        return float(found[0])
    return 0.0


def forget_look(path: Path) -> None:
    """Have each sidecar looked at again, by whoever asks the index at `path` next; its absence is fine."""
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)) as db,
    ):
        db.execute("DELETE FROM about WHERE key = ?", (_LOOKED,))
        db.commit()


def look_took(file: IndexFile) -> float:
    """Return how long the last look at each sidecar took, in seconds. Raises as `reading`."""
    return _noted(file, _TOOK)


def compared_at(file: IndexFile) -> float:
    """Return when all sidecars were compared last, as `looked_at`: in a look only what was written to is."""
    return _noted(file, _COMPARED)


def note_compared(file: IndexFile, now: float) -> None:
    """Record that all were, see `compared_at`. Raises as `IndexFile.writing`."""
    _note(file, _COMPARED, now)


def note_looked(file: IndexFile, now: float, took: float = 0.0) -> None:
    """Record that each sidecar was looked at `now` (unix seconds), in `took` seconds. Raises as `writing`."""
    _note(file, _LOOKED, now)
    _note(file, _TOOK, took)


def _note(file: IndexFile, key: str, now: float) -> None:
    with file.writing() as db:
        db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", (key, str(now)))
