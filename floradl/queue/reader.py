"""Reads the queue's file beside whoever works with it, or with nobody there; changes nothing.

Whatever keeps one from reading becomes a `ConfigError`.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import msgspec

from floradl.errors import ConfigError
from floradl.models import LeftFile, QueuedRun, RunState
from floradl.queue.folder import FILE_NAME, is_to_be_filled, refuse_moved
from floradl.queue.migrations import (
    LOST,
    check_readable,
    count_states,
    find_damage,
    is_damage,
    select_left_files,
    select_runs,
    select_saved,
)
from floradl.queue.sharing import DaemonState

_AT_ONCE = 500  # ids in one query


class HookTrouble(msgspec.Struct, frozen=True):
    """For how many runs the hook failed: those it is `retried` for, and those given up, with one of them."""

    retried: int = 0
    given_up: int = 0
    example: str | None = None


class QueueReader:
    """What can be read of the queue, each time as it is then; `read_queue` gives one. Blocking."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def counts(self) -> Mapping[RunState, int]:
        """Count the runs by state."""
        return count_states(self._db)

    def ended(self, states: Sequence[RunState], limit: int) -> list[QueuedRun]:
        """Read up to `limit` runs in `states`, the last that changed first; -1 is no limit."""
        marks = ",".join("?" * len(states))
        where = f"WHERE state IN ({marks}) ORDER BY changed_at DESC LIMIT ?"
        return list(select_runs(self._db, where, (*states, limit)))

    def unfinished(self, limit: int) -> list[QueuedRun]:
        """Read up to `limit` runs that are not finished: those furthest on first, of each the oldest."""
        found: list[QueuedRun] = []
        for state in (RunState.DOWNLOADING, RunState.RUNNING, RunState.WAITING):
            where = "WHERE state = ? ORDER BY changed_at LIMIT ?"  # from the index, unsorted
            found += select_runs(self._db, where, (state.value, limit - len(found)))
        return found

    def page(self, after: str, limit: int) -> list[QueuedRun]:
        """Read up to `limit` runs whose ids follow `after`, by id: all of them, without one long reading.

        (A reading that lasts keeps the writer's log from being merged.)
        """
        return list(select_runs(self._db, "WHERE run_id > ? ORDER BY run_id LIMIT ?", (after, limit)))

    def saved_files(self) -> dict[str, tuple[str, str]]:
        """Return all outputs that are saved though their runs go on: by library path run id and key."""
        rows = self._db.execute("SELECT DISTINCT run_id FROM saved").fetchall()
        return {
            output.path: (run_id, key)
            for (run_id,) in rows
            for key, output in select_saved(self._db, run_id).items()
            if output.path is not None
        }

    def runs(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        """Read runs by id; unknown ones are left out."""
        found: dict[str, QueuedRun] = {}
        for start in range(0, len(run_ids), _AT_ONCE):
            some = run_ids[start : start + _AT_ONCE]
            where = f"WHERE run_id IN ({','.join('?' * len(some))})"
            found |= {run.run_id: run for run in select_runs(self._db, where, tuple(some))}
        return found

    def hook_trouble(self) -> HookTrouble:
        """Return which finished runs the hook failed for."""
        query = "SELECT tries < 0, count(*), max(run_id) FROM announcements WHERE tries <> 0 GROUP BY 1"
        rows = {bool(given_up): (count, run_id) for given_up, count, run_id in self._db.execute(query)}
        retried, _ = rows.get(False, (0, None))
        given_up, example = rows.get(True, (0, None))
        return HookTrouble(retried, given_up, example)

    def daemons(self) -> list[DaemonState]:
        """Return the daemons that share the queue: none, as one has this file alone."""
        return []

    def left_files(self) -> dict[str, LeftFile]:
        """Return the job files that are done with and may still lie in the watch folder, by name."""
        return select_left_files(self._db)


_shared: dict[Path, Callable[[], AbstractContextManager[QueueReader | None]]] = {}


def share(state_dir: Path, opens: Callable[[], AbstractContextManager[QueueReader | None]]) -> None:
    """Have this process read the queue of a state folder by what `opens` gives: it is in a database."""
    _shared[state_dir] = opens


@contextmanager
def read_queue(state_dir: Path) -> Iterator[QueueReader | None]:
    """Open the queue to look; None where there is none yet. One that is shared is read in its database.

    Raises `ConfigError` where this user may not, or it is damaged, away or moved, or another version's.
    """
    if (shared := _shared.get(state_dir)) is not None:
        with shared() as reader:
            yield reader
        return
    with readable(state_dir), _opened(state_dir) as db:
        if db is None:
            refuse_moved(state_dir)
            yield None
        elif check_readable(db, state_dir / FILE_NAME):
            yield QueueReader(db)
        elif is_to_be_filled(state_dir):
            yield None
        else:
            raise ConfigError(_damaged(state_dir / FILE_NAME, "it holds nothing"))


def check_queue(state_dir: Path) -> None:
    """Read all of the queue. Raises `ConfigError` as `read_queue` does, above all where it is damaged."""
    if state_dir in _shared:
        with read_queue(state_dir):
            return
    path = state_dir / FILE_NAME
    with readable(state_dir), _opened(state_dir) as db:
        if db is None:
            refuse_moved(state_dir)
        elif (why := find_damage(db, path, thorough=True)) is not None:
            raise ConfigError(_damaged(path, why))


@contextmanager
def _opened(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """Open the file to look; None where there is none."""
    path = state_dir / FILE_NAME
    try:
        path.open("rb").close()  # SQLite's own word for "may not read" is "unable to open database file"
    except FileNotFoundError:
        yield None
        return
    # Without a log there is nothing to merge, and `immutable` leaves no -shm behind: it needs no room.
    mode = "mode=ro" if _has_content(path.with_name(FILE_NAME + "-wal")) else "immutable=1"
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?{mode}", uri=True, isolation_level=None)) as db:
        yield db


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


@contextmanager
def readable(state_dir: Path) -> Iterator[None]:
    """Turn whatever keeps one from reading something of the state folder into a `ConfigError`."""
    path = state_dir / FILE_NAME
    try:
        yield
    except PermissionError as error:
        raise ConfigError(_may_not(error.filename or state_dir)) from error
    except OSError as error:
        raise ConfigError(f"{error.filename or state_dir}: cannot be read: {error.strerror}") from error
    except sqlite3.DatabaseError as error:
        name = getattr(error, "sqlite_errorname", "")
        if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
            raise ConfigError(_may_not(path)) from error
        if is_damage(error):
            raise ConfigError(_damaged(path, str(error))) from error
        raise ConfigError(f"{path}: the journal cannot be read just now ({error}): try again") from error
    except (ValueError, msgspec.MsgspecError) as error:
        raise ConfigError(_damaged(path, str(error))) from error


def _may_not(path: object) -> str:
    return (
        f"{path}: this user may not read floradl's state: ask as the user that floradl runs as, or give this "
        "one the right to read that folder and what is in it"
    )


def _damaged(path: Path, what: str) -> str:
    return (
        f"{path}: the journal is damaged ({what}): stop floradl if it runs, and start it again; it sets "
        f"this file aside under another name, and {LOST}"
    )
