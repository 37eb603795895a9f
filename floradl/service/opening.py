"""Opens the state folder: takes its lock, and opens the journal as soon as there is room for it."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import anyio
import structlog
from anyio import to_thread

from floradl import __version__
from floradl.config.settings import Config
from floradl.disk.mounts import is_shared
from floradl.disk.rights import refusal
from floradl.disk.trouble import is_full
from floradl.errors import ConfigError, ErrorCode, JournalDamagedError, PassingError, PauseReason
from floradl.library.library import MARKER
from floradl.service.starting import note_new_journal, note_recall
from floradl.service.supervision import Supervision, View, describe
from floradl.state import folder as state_folder, live, lock
from floradl.state.damage import LOST, is_to_be_filled
from floradl.state.live import LivePause, Snapshot
from floradl.state.mending import Presence, marked_open, mend, set_aside
from floradl.state.store import FILE_NAME, Store

_ROOM_AGAIN = 5.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class StoppedError(Exception):
    """Told to stop before anything had begun."""


@asynccontextmanager
async def opened(
    config: Config, command: str, supervision: Supervision | None = None
) -> AsyncIterator[Store]:
    """Hold the state folder and its journal.

    Where the disk is full those with a `supervision` wait for room, and others give up. A journal that cannot
    be worked with is set aside, and a new one is to be filled; where that shows later, `JournalDamagedError`
    comes through here, and the next who opens it finds it mended. Raises that, `LockedError`, `ConfigError`
    (also where others could have put there what stands there), `PassingError` (no room), `StoppedError`.
    """
    try:
        if is_shared(config.state_dir):
            raise ConfigError(
                f"state_dir: {config.state_dir} is on a network file system, where no journal "
                "is safe: put it on a local disk"
            )
        state_folder.make(config.state_dir)
        since = time.time()
        with lock.hold(config.state_dir, command, __version__, since):
            store = await _store(config.state_dir, since, supervision)
            presence = Presence(config.state_dir)
            try:
                with marked_open(config.state_dir):
                    yield store
            except BaseExceptionGroup as error:
                if error.subgroup(JournalDamagedError) is None:
                    raise
                # Before it is closed, which would write into what is to stay as it is.
                what = await to_thread.run_sync(_leave, config, store, presence)
                raise JournalDamagedError(what) from error
            finally:
                store.close()
    except PermissionError as error:
        whose = refusal(Path(os.fsdecode(error.filename or config.state_dir)))
        raise ConfigError(f"the state folder {config.state_dir} cannot be used: {whose}") from error
    except (OSError, sqlite3.DatabaseError) as error:
        raise ConfigError(f"the state folder {config.state_dir} cannot be used: {error}") from error


async def _store(state_dir: Path, since: float, supervision: Supervision | None) -> Store:
    """Open the journal, as soon as there is room for it."""
    try:
        return _open(state_dir)
    except PassingError as error:
        if supervision is None:
            raise
        paused = LivePause(PauseReason.DISK_FULL, str(error), time.time())
    _log.error("paused", reason=paused.reason, message=paused.message)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        while True:
            live.write(state_dir, Snapshot(os.getpid(), __version__, since, time.time(), paused))
            supervision.beat(describe(View(paused=paused, starting=True)), well=True)
            with anyio.move_on_after(_ROOM_AGAIN):
                await anext(signals)
                raise StoppedError
            with suppress(PassingError):
                store = _open(state_dir)
                _log.info("resumed", reason=paused.reason)
                return store


def _open(state_dir: Path) -> Store:
    try:
        new = is_to_be_filled(state_dir)
        mended = mend(state_dir, time.time(), partial(note_recall, state_dir), new=new)
        if mended is not None:
            what = f"is set aside as {mended.aside.name}" if mended.aside else "is filled up"
            message = f"the journal {state_dir / FILE_NAME} {what}: {mended.why}; {LOST}"
            _log.error("journal_damaged", message=message)
        note_new_journal(state_dir)
        return Store.open(state_dir)
    except (OSError, sqlite3.DatabaseError) as error:
        if not is_full(error, state_dir):
            raise
        message = f"the journal in {state_dir} cannot be opened ({error}): make room on its disk"
        raise PassingError(message, ErrorCode.STORAGE) from error


def _leave(config: Config, store: Store, presence: Presence) -> str:
    """Leave a journal that cannot be worked with any more so that the next start finds all well; says how.

    Raises `ConfigError` where a person has to see to it first.
    """
    state_dir, why = config.state_dir, presence.lost()
    if why is None or presence.stands:
        aside = _set_aside(state_dir) if why is None or "emptied" in why else None
        why = why or "the journal is damaged"
        if aside is None:  # its log or the lock alone: closing it puts all into the journal
            return f"{why}: it is opened anew"
        return f"{why}: it is set aside as {aside.name}; {LOST}"
    if not presence.disk_is_there or (presence.gone and not (config.output.dir / MARKER).exists()):
        raise ConfigError(
            f"{why}, and its disk or the library with it: mount the disk, then start floradl again"
        )
    endings = presence.own_logs()
    if endings:  # they would be taken for those of whatever comes in its place
        set_aside(state_dir, time.time(), endings)
    if presence.gone:
        state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        held = presence.locked  # by this process, unless the lock went too
        with nullcontext() if held else lock.hold(state_dir, "run", __version__, time.time()):
            store.copy_to(state_dir / FILE_NAME)
        return f"{why}: it is written anew, with all that it held"
    note_recall(state_dir)
    return f"{why}: work goes on with the new one, which is filled up from library and inbox/accepted/"


def _set_aside(state_dir: Path) -> Path | None:
    note_recall(state_dir)
    return set_aside(state_dir, time.time())
