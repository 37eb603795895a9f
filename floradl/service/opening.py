"""Opens the state folder: takes its lock, and opens the journal as soon as there is room for it."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
import structlog

from floradl import __version__
from floradl.config.settings import Config
from floradl.disk.mounts import is_shared
from floradl.disk.rights import refusal
from floradl.disk.trouble import is_full
from floradl.errors import ConfigError, ErrorCode, PassingError, PauseReason
from floradl.service.starting import note_new_journal
from floradl.service.supervision import Supervision, View, describe
from floradl.state import live, lock
from floradl.state.live import LivePause, Snapshot
from floradl.state.store import Store

_ROOM_AGAIN = 5.0
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class StoppedError(Exception):
    """Told to stop before anything had begun."""


@asynccontextmanager
async def opened(
    config: Config, command: str, supervision: Supervision | None = None
) -> AsyncIterator[Store]:
    """Hold the state folder and its journal.

    Where the disk is full those with a `supervision` wait for room, and others give up. Raises
    `LockedError`, `ConfigError`, `PassingError` (no room), `StoppedError`.
    """
    try:
        # Others may be let read it, whatever the umask gives; but this process alone writes there.
        config.state_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
        if is_shared(config.state_dir):
            raise ConfigError(
                f"state_dir: {config.state_dir} is on a network file system, where no journal "
                "is safe: put it on a local disk"
            )
        since = time.time()
        with lock.hold(config.state_dir, command, __version__, since):
            store = await _store(config.state_dir, since, supervision)
            try:
                yield store
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
        note_new_journal(state_dir)
        return Store.open(state_dir)
    except (OSError, sqlite3.DatabaseError) as error:
        if not is_full(error, state_dir):
            raise
        message = f"the journal in {state_dir} cannot be opened ({error}): make room on its disk"
        raise PassingError(message, ErrorCode.STORAGE) from error
