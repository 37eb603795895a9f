"""Opens the SQLite queue whatever became of its file, and leaves it so that the next start finds all well."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, nullcontext
from pathlib import Path

import msgspec
from anyio import to_thread

from floradl import __version__
from floradl.errors import ConfigError, ErrorCode, QueueDamagedError, TransientError
from floradl.fs.os_errors import is_full
from floradl.log import get_logger
from floradl.queue import folder
from floradl.queue.folder import (
    FILE_NAME,
    OPEN_MARK,
    QueueFiles,
    is_to_be_filled,
    marked_open,
    note_to_be_filled,
    refuse_moved,
    set_aside,
)
from floradl.queue.migrations import LOST, find_damage, is_damage
from floradl.queue.sqlite import SqliteQueue

_log = get_logger()


def open_queue(state_dir: Path) -> SqliteQueue:
    """Open the queue of a state folder; the caller holds its lock. Blocking.

    A file that cannot be worked with is set aside. Where it is new, or what it held is lost, a mark says that
    it is to be filled. Raises `ConfigError` (also where it was moved into a database), `OSError`, and
    `TransientError` where its disk is full.
    """
    try:
        refuse_moved(state_dir)
        new = is_to_be_filled(state_dir)
        recovered = recover(state_dir, time.time(), new=new)
        if recovered is not None:
            what = f"is set aside as {recovered.aside.name}" if recovered.aside else "is filled up"
            message = f"the journal {state_dir / FILE_NAME} {what}: {recovered.why}; {LOST}"
            _log.error("journal_damaged", message=message)
        if not (state_dir / FILE_NAME).exists():
            note_to_be_filled(state_dir)
        return SqliteQueue.open(state_dir)
    except (OSError, sqlite3.DatabaseError) as error:
        if is_full(error, state_dir):
            message = f"the journal in {state_dir} cannot be opened ({error}): make room on its disk"
            raise TransientError(message, ErrorCode.STORAGE) from error
        if isinstance(error, OSError):
            raise
        raise _unusable(state_dir, error) from error


@asynccontextmanager
async def kept_open(
    queue: SqliteQueue, state_dir: Path, library_is_there: Callable[[], bool]
) -> AsyncIterator[None]:
    """Mark the queue as open for as long as it is at work inside, and disconnect it at the end.

    Where it turns out to be damaged or gone, the next who opens it finds it in order. Raises
    `QueueDamagedError` then, and `ConfigError` where a person has to act first.
    """
    files = queue.files
    with _translating(state_dir):
        try:
            with marked_open(state_dir):
                yield
        except BaseExceptionGroup as error:
            if files is None or error.subgroup(QueueDamagedError) is None:
                raise
            # Before it is closed, which would write into what is to stay as it is.
            what = await to_thread.run_sync(_leave, queue, files, state_dir, library_is_there)
            raise QueueDamagedError(what) from error
        finally:
            queue.disconnect()


@contextmanager
def _translating(state_dir: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise _unusable(state_dir, error) from error


def _unusable(state_dir: Path, error: sqlite3.DatabaseError) -> ConfigError:
    return ConfigError(f"the state folder {state_dir} cannot be used: {error}")


class RecoveredQueue(msgspec.Struct, frozen=True):
    """What was found at a start: `why`, and under which name the old file lies, None where it stays."""

    why: str
    aside: Path | None


def recover(state_dir: Path, now: float, *, new: bool) -> RecoveredQueue | None:
    """Look whether the queue can be worked with, and set it aside where it cannot; None where all is well.

    The caller holds the lock. That it is to be filled anew is noted before anything is changed. `new` says
    that a start had begun to make it: then it may be empty. `now` is unix seconds. Raises `OSError`, and
    `sqlite3.Error` for what is no damage.
    """
    path = state_dir / FILE_NAME
    mark = state_dir / OPEN_MARK
    if not path.exists():
        return None
    if path.stat().st_size == 0:
        return None if new else _put_away(state_dir, now, "it is empty (0 bytes)")
    log_lost = mark.exists() and not path.with_name(f"{FILE_NAME}-wal").exists()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        why = _look(db, path, state_dir)
        if why is not None:
            # Before it is closed, which would merge the log into it: so both stay as they were found.
            return _put_away(state_dir, now, why)
        empty = not new and db.execute("PRAGMA user_version").fetchone()[0] == 0
        if log_lost or empty:
            note_to_be_filled(state_dir)
        mark.unlink(missing_ok=True)  # it is closed in good form now
    if log_lost or empty:
        lost = f"its log, {FILE_NAME}-wal, is gone, and with it what was recorded last"
        return RecoveredQueue("it holds nothing: its content, or its log, is gone" if empty else lost, None)
    return None


def _put_away(state_dir: Path, now: float, why: str) -> RecoveredQueue:
    note_to_be_filled(state_dir)
    return RecoveredQueue(why, set_aside(state_dir, now))


def _look(db: sqlite3.Connection, path: Path, state_dir: Path) -> str | None:
    try:
        return find_damage(db, path)
    except sqlite3.DatabaseError as error:
        if is_damage(error) and not is_full(error, state_dir):
            return str(error)
        raise


def _leave(
    queue: SqliteQueue, files: QueueFiles, state_dir: Path, library_is_there: Callable[[], bool]
) -> str:
    """Leave a queue that cannot be worked with any more so that the next start finds all well; says how.

    Raises `ConfigError` where a person has to act first.
    """
    why = files.lost()
    if why is None or files.stands:
        aside = _put_away(state_dir, time.time(), "").aside if why is None or "emptied" in why else None
        why = why or "the journal is damaged"
        if aside is None:  # its log or the lock alone: closing it puts all into the file
            return f"{why}: it is opened anew"
        return f"{why}: it is set aside as {aside.name}; {LOST}"
    if not files.disk_is_there or (files.gone and not library_is_there()):
        raise ConfigError(
            f"{why}, and its disk or the library with it: mount the disk, then start floradl again"
        )
    endings = files.own_logs()
    if endings:  # they would be taken for those of whatever comes in its place
        set_aside(state_dir, time.time(), endings)
    if files.gone:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        held = files.locked  # by this process, unless the lock went too
        with nullcontext() if held else folder.hold(state_dir, "run", __version__, time.time()):
            queue.copy_to(state_dir / FILE_NAME)
        return f"{why}: it is written anew, with all that it held"
    note_to_be_filled(state_dir)
    return f"{why}: work goes on with the new one, which is filled up from library and inbox/accepted/"
