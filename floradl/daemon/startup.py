"""What a start begins with: the library is made or found, and a journal that is new learns what there was.

The library is the truth, so a lost state folder costs no download: its sidecars say what is done. What was
queued and not finished is still said by the job files in `accepted/`.
"""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, nullcontext, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import anyio
import structlog
from anyio import to_thread

from floradl import __version__
from floradl.clock import unix_seconds
from floradl.config.settings import Config
from floradl.daemon.systemd import Supervision, SystemdView, describe
from floradl.errors import (
    ConfigError,
    ErrorCode,
    FloradlError,
    PauseReason,
    QueueDamagedError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.capabilities import probe
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.mounts import is_shared, unmounted
from floradl.fs.os_errors import is_full
from floradl.fs.permissions import refusal
from floradl.library.folder import MARKER, Library
from floradl.library.scan import library_entries
from floradl.library.sidecar import Sidecar
from floradl.models import STATE_OF, Action, QueuedRun, RunFailure
from floradl.queue import folder as state_folder, heartbeat, lock
from floradl.queue.folder import SEEN
from floradl.queue.group_commit import GroupCommit
from floradl.queue.heartbeat import LivePause, Snapshot
from floradl.queue.recovery import LOST, RECALL, QueueFiles, is_to_be_filled, marked_open, mend, set_aside
from floradl.queue.sqlite import FILE_NAME, SqliteQueue
from floradl.runs.circuit_breaker import Pause
from floradl.runs.scheduler import Scheduler
from floradl.sources.archive import accepted_orders

_ROOM_AGAIN = 5.0
_opening_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class StartStoppedError(Exception):
    """Told to stop before anything had begun."""


@asynccontextmanager
async def opened(
    config: Config, command: str, supervision: Supervision | None = None
) -> AsyncIterator[SqliteQueue]:
    """Hold the state folder and its journal.

    Where the disk is full those with a `supervision` wait for room, and others give up. A journal that cannot
    be worked with is set aside, and a new one is to be filled; where that shows later, `QueueDamagedError`
    comes through here, and the next who opens it finds it mended. Raises that, `LockedError`, `ConfigError`
    (also where others could have put there what stands there), `TransientError` (no room),
    `StartStoppedError`.
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
            presence = QueueFiles(config.state_dir)
            try:
                with marked_open(config.state_dir):
                    yield store
            except BaseExceptionGroup as error:
                if error.subgroup(QueueDamagedError) is None:
                    raise
                # Before it is closed, which would write into what is to stay as it is.
                what = await to_thread.run_sync(_leave, config, store, presence)
                raise QueueDamagedError(what) from error
            finally:
                store.close()
    except PermissionError as error:
        whose = refusal(Path(os.fsdecode(error.filename or config.state_dir)))
        raise ConfigError(f"the state folder {config.state_dir} cannot be used: {whose}") from error
    except (OSError, sqlite3.DatabaseError) as error:
        raise ConfigError(f"the state folder {config.state_dir} cannot be used: {error}") from error


async def _store(state_dir: Path, since: float, supervision: Supervision | None) -> SqliteQueue:
    """Open the journal, as soon as there is room for it."""
    try:
        return _open(state_dir)
    except TransientError as error:
        if supervision is None:
            raise
        paused = LivePause(PauseReason.DISK_FULL, str(error), time.time())
    _opening_log.error("paused", reason=paused.reason, message=paused.message)
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        while True:
            heartbeat.write(state_dir, Snapshot(os.getpid(), __version__, since, time.time(), paused))
            supervision.beat(describe(SystemdView(paused=paused, starting=True)), well=True)
            with anyio.move_on_after(_ROOM_AGAIN):
                await anext(signals)
                raise StartStoppedError
            with suppress(TransientError):
                store = _open(state_dir)
                _opening_log.info("resumed", reason=paused.reason)
                return store


def _open(state_dir: Path) -> SqliteQueue:
    try:
        new = is_to_be_filled(state_dir)
        mended = mend(state_dir, time.time(), partial(note_recall, state_dir), new=new)
        if mended is not None:
            what = f"is set aside as {mended.aside.name}" if mended.aside else "is filled up"
            message = f"the journal {state_dir / FILE_NAME} {what}: {mended.why}; {LOST}"
            _opening_log.error("journal_damaged", message=message)
        note_new_journal(state_dir)
        return SqliteQueue.open(state_dir)
    except (OSError, sqlite3.DatabaseError) as error:
        if not is_full(error, state_dir):
            raise
        message = f"the journal in {state_dir} cannot be opened ({error}): make room on its disk"
        raise TransientError(message, ErrorCode.STORAGE) from error


def _leave(config: Config, store: SqliteQueue, presence: QueueFiles) -> str:
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


_BATCH = 500
_AGAIN = 5.0  # seconds between looks for a library that is not there
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def note_new_journal(state_dir: Path) -> None:
    """Note that the journal is to be filled, where there is none yet. Before it is made, and safe to repeat.

    Raises `OSError`.
    """
    if not (state_dir / FILE_NAME).exists():
        note_recall(state_dir)


def note_recall(state_dir: Path) -> None:
    """Note that the journal is to be filled; that outlives a crash in the middle of it. Raises `OSError`."""
    (state_dir / RECALL).touch(0o644)
    with open_root(state_dir) as folder:
        sync_folder(folder)


def first_start(state_dir: Path, library: Library) -> bool:
    """Make the library where this state folder has not seen it yet; later a missing one is a pause.

    Says whether it was made. Raises `ServicePausedError` where it should be made and cannot, `OSError` of the
    state.
    """
    seen = state_dir / SEEN
    place = os.fsencode(library.root)
    if was_seen(state_dir, library.root):
        return False
    point = unmounted(library.root)
    if point is not None:
        raise ServicePausedError(
            f"{library.root}: nothing is mounted at {point}, as /etc/fstab wants it: mount it, or mend "
            "output.dir",
            PauseReason.LIBRARY_MISSING,
        )
    made = library.create()
    seen.touch(0o644)  # for this user alone to write, whatever the umask gives
    with seen.open("ab") as file, open_root(state_dir) as folder:
        file.write(place + b"\n")
        file.flush()
        os.fsync(file.fileno())  # a power cut must not make the place below a mount point a new library
        sync_folder(folder)
    return made


def was_seen(state_dir: Path, root: Path) -> bool:
    """Whether a start with this state folder has seen the library at `root`."""
    try:
        return os.fsencode(root) in (state_dir / SEEN).read_bytes().split(b"\n")
    except FileNotFoundError:
        return False


class Startup:
    """Sees to the library and the journal at a start, and later on until both stand."""

    def __init__(
        self, state_dir: Path, watch_dir: Path, library: Library, journal: GroupCommit, scheduler: Scheduler
    ) -> None:
        self._state_dir = state_dir
        self._watch_dir = watch_dir
        self._library = library
        self._journal = journal
        self._scheduler = scheduler
        self._told = False
        self.pause: Pause | None = None
        """Why the library is not there, where it is not."""
        self.turned_at = time.monotonic()
        """When it last got a step on (monotonic seconds)."""

    async def serve(self) -> None:
        """Try until all stands: a disk may be mounted at any time."""
        while True:
            if await self.attempt():
                return
            await anyio.sleep(_AGAIN)

    async def attempt(self) -> bool:
        """Make the library if it is new, fill the journal if that is; False where the library is not there.

        Safe to repeat. What the journal knows already stays as it is.
        """
        try:
            made = await to_thread.run_sync(first_start, self._state_dir, self._library)
            if await to_thread.run_sync(is_to_be_filled, self._state_dir):
                await self._recall(made=made)
                await to_thread.run_sync((self._state_dir / RECALL).unlink)
        except (FloradlError, OSError, sqlite3.Error) as error:
            if isinstance(error, ServicePausedError):
                since = self.pause.since if self.pause else time.time()
                self.pause = Pause(error.reason, str(error), since)
            if not self._told:
                _log.warning("library_not_ready", message=str(error))
            self._told = True
            return False
        self.pause = None
        await to_thread.run_sync(self._tell_weaknesses)
        self._scheduler.probe_now()
        self.turned_at = time.monotonic()
        return True

    def _tell_weaknesses(self) -> None:
        # What keeps it from being tried out (a full disk) keeps the work too, and is told there.
        with suppress(FloradlError), self._library.open() as root:
            for weakness in probe(root).weaknesses():
                _log.warning("library_weaker", message=f"{self._library.root}: {weakness}")

    async def _recall(self, *, made: bool) -> None:
        started = time.monotonic()
        said = await to_thread.run_sync(accepted_orders, self._watch_dir)
        forgotten = [order for order in said if order.action is Action.FORGET]
        await self._journal.call(lambda store: store.add(forgotten, time.time(), again=False))
        runs = _finished(self._library)
        count = 0
        while batch := await to_thread.run_sync(_some, runs):
            count += await self._journal.call(partial(_put_new, runs=batch))
            self.turned_at = time.monotonic()
        # A library that was not there before is a new beginning: what was asked for long ago is not meant.
        queued = [] if made else [order for order in said if order.action is Action.FETCH]
        touched = await self._journal.call(lambda store: store.add(queued, time.time(), again=False))
        self._scheduler.enqueue(touched)
        if count or forgotten or touched:
            _log.info(
                "journal_recalled",
                finished=count,
                forgotten=len(forgotten),
                queued=len(touched),
                duration=round(time.monotonic() - started, 3),
            )


def _some(runs: Iterator[tuple[QueuedRun, float]]) -> list[tuple[QueuedRun, float]]:
    """Take what can be had in a second, so that a slow disk keeps nobody from stopping."""
    until = time.monotonic() + 1
    found = []
    for each in islice(runs, _BATCH):
        found.append(each)
        if time.monotonic() > until:
            break
    return found


def _finished(library: Library) -> Iterator[tuple[QueuedRun, float]]:
    return (_row(found.sidecar) for found in library_entries(library) if found.sidecar is not None)


def _put_new(store: SqliteQueue, runs: list[tuple[QueuedRun, float]]) -> int:
    new = [(run, when) for run, when in runs if store.load(run.run_id) is None]
    for run, when in new:
        store.put(run, when)
    return len(new)


def _row(sidecar: Sidecar) -> tuple[QueuedRun, float]:
    """Return the row that a run had when its sidecar was written, and when that was (unix seconds)."""
    times = sidecar.times
    finished = unix_seconds(times.finished_at) or time.time()
    run = QueuedRun(
        run_id=sidecar.run_id,
        technique=sidecar.technique,
        label=sidecar.label,
        state=STATE_OF[sidecar.result],
        queued_at=unix_seconds(times.queued_at) or finished,
        detected_at=unix_seconds(times.detected_at),
        progress=100.0,
        error=sidecar.error or _first_error(sidecar),
    )
    return run, finished


def _first_error(sidecar: Sidecar) -> RunFailure | None:
    return next((output.error for output in sidecar.outputs if output.error is not None), None)
