"""How things stand: the lock, the daemon's last snapshot and the journal, read beside whoever works there.

Whatever is in the way of reading becomes a `ConfigError` in words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import msgspec
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.models import LeftFile, QueuedRun, RunState
from floradl.queue import heartbeat, lock
from floradl.queue.heartbeat import LiveRun, Snapshot
from floradl.queue.lock import Holder
from floradl.queue.recovery import LOST, is_damage, is_to_be_filled, look_inside
from floradl.queue.sqlite import FILE_NAME, SqliteQueue, opened_to_read
from floradl.units import format_duration

_MOST = 1000
_FAILED_AT_LEAST = 100  # however many wait, so many of the failed are told
_SAME_START = 60.0
_PAGE = 1000


class DaemonInfo(Struct, frozen=True):
    """Who works with the state folder, and what it last wrote down. `snapshot` is never a dead one's."""

    holder: Holder | None
    snapshot: Snapshot | None

    @property
    def alive(self) -> bool:
        """Whether that is a daemon: `once` holds the lock too, and ends by itself."""
        return self.holder is not None and self.holder.command == "run"

    @property
    def silent_until(self) -> float | None:
        """Until when FLORA asked to be left alone (unix seconds), None where it did not."""
        return self.snapshot.silent_until if self.snapshot is not None and self.alive else None

    def trouble(self, now: float) -> str | None:
        """Say why it does not count as healthy, None where it does. `now` is unix seconds."""
        if self.holder is None:
            return "no daemon is running: start it with 'floradl run'"
        if not self.alive:
            return f"{self.holder} is at work, but no daemon: start it with 'floradl run' afterwards"
        heard = self.snapshot.progress_at if self.snapshot else self.holder.since
        # Either way: a clock that was put back must not make a daemon that hangs look well for ever.
        if abs(now - heard) <= heartbeat.STUCK_AFTER or not heard:
            return None
        return (
            f"{self.holder} made no progress for {coarse(now - heard)}: see its log (and whether the disk of "
            "the state folder is full), then restart it"
        )


class DaemonState(Struct, frozen=True):
    """The whole picture. `counts` is None where there is no journal yet; the lists hold the most telling.

    `left` are job files that are done with though they may still lie in the watch folder, by name.
    """

    daemon: DaemonInfo
    counts: Mapping[RunState, int] | None = None
    unfinished: tuple[QueuedRun, ...] = ()
    failed: tuple[QueuedRun, ...] = ()
    left: Mapping[str, LeftFile] = MappingProxyType({})


def read_daemon_state(state_dir: Path) -> DaemonState:
    """Read it all: runs that are not finished and the last that failed, a thousand in all.

    Raises `ConfigError` where this user may not, or the journal is damaged or a newer floradl's.
    """
    daemon = read_daemon(state_dir)
    with _journal(state_dir) as store:
        if store is None:
            return DaemonState(daemon)
        failed = store.finished((RunState.FAILED, RunState.PARTIAL), _MOST)
        unfinished = store.unfinished(_MOST - min(len(failed), _FAILED_AT_LEAST))
        failed = failed[: _MOST - len(unfinished)]
        return DaemonState(daemon, store.counts(), tuple(unfinished), tuple(failed), store.left_files())


def read_daemon(state_dir: Path) -> DaemonInfo:
    """Read who works with the state folder. Raises `ConfigError` where this user may not."""
    with _in_words(state_dir):
        holder = lock.holder(state_dir)
        snapshot = heartbeat.read(state_dir) if holder is not None else None
    if holder is None or snapshot is None or not _wrote(holder, snapshot):
        return DaemonInfo(holder, None)
    return DaemonInfo(holder, snapshot)


def read_counts(state_dir: Path) -> Mapping[RunState, int] | None:
    """Read how many runs stand where, None where there is no journal. Raises as `read_daemon_state` does."""
    with _journal(state_dir) as store:
        return None if store is None else store.counts()


def look_at_journal(state_dir: Path) -> None:
    """Read all of the journal. Raises as `read_daemon_state` does, above all where it is damaged."""
    path = state_dir / FILE_NAME
    with _in_words(state_dir), opened_to_read(state_dir) as db:
        if db is not None and (why := look_inside(db, path, thorough=True)) is not None:
            raise ConfigError(_damaged(path, why))


def read_failed(state_dir: Path) -> list[QueuedRun]:
    """Read all runs that failed, in whole or in part, newest first. Raises as `read_daemon_state` does."""
    with _journal(state_dir) as store:
        return store.finished((RunState.FAILED, RunState.PARTIAL), -1) if store is not None else []


def read_forgotten(state_dir: Path) -> frozenset[str]:
    """Read which runs are not wanted any more. Raises as `read_daemon_state` does."""
    with _journal(state_dir) as store:
        rows = store.finished((RunState.FORGOTTEN,), -1) if store is not None else []
        return frozenset(run.run_id for run in rows)


def read_under_way(state_dir: Path) -> list[str]:
    """Read which files are on disk although their runs go on. Raises as `read_daemon_state` does."""
    with _journal(state_dir) as store:
        return store.saved_paths() if store is not None else []


def all_runs(state_dir: Path) -> Iterator[QueuedRun]:
    """Read every run, page by page: a slow reader is in nobody's way. Raises as `read_daemon_state`."""
    after = ""
    while True:
        with _journal(state_dir) as store:
            page = store.page(after, _PAGE) if store is not None else []
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].run_id


def next_look(run: QueuedRun, live: LiveRun | None, silent_until: float | None) -> float | None:
    """Return when an open run is looked at next (unix seconds); None where it is at work, or nobody knows.

    `silent_until` is until when FLORA is not asked.
    """
    due = live.next_at if live is not None else None
    if not run.state.open or silent_until is None or run.state is RunState.DOWNLOADING:
        return due if run.state.open else None
    return max(silent_until, due or 0.0)


def coarse(seconds: float) -> str:
    """Write a duration for a person, in at most two units: `12s`, `3h12m`, `2d4h`."""
    seconds = abs(seconds)
    unit = next((small for large, small in ((86_400, 3600), (3600, 60)) if seconds >= large), 1)
    return format_duration(seconds // unit * unit) if seconds >= 1 else "0s"


def _wrote(holder: Holder, snapshot: Snapshot) -> bool:
    # In containers each daemon has the same process id, so a snapshot left behind is told by its start.
    return holder.pid == snapshot.pid and abs(holder.since - snapshot.since) <= _SAME_START


@contextmanager
def _journal(state_dir: Path) -> Iterator[SqliteQueue | None]:
    with _in_words(state_dir):
        try:
            (state_dir / FILE_NAME).stat()
        except FileNotFoundError:
            yield None
            return
        with SqliteQueue.reading(state_dir) as store:
            if store is None and not is_to_be_filled(state_dir):
                raise ConfigError(_damaged(state_dir / FILE_NAME, "it holds nothing"))
            yield store


@contextmanager
def _in_words(state_dir: Path) -> Iterator[None]:
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
