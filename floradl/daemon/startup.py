"""What a start begins with: state folder, queue and ports are opened, the library is made or found.

The library is the truth, so a lost state folder costs no download: its sidecars show what is done, and a new
queue is filled from them. What was queued and not finished is still in the job files in `accepted/`.
"""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from floradl import __version__
from floradl.clock import unix_seconds
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError, PauseReason, ServicePausedError, TransientError
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.mounts import is_shared, unmounted
from floradl.fs.permissions import refusal
from floradl.library.folder import MARKER, FolderLibrary
from floradl.library.sidecar import Sidecar, names_of
from floradl.log import get_logger
from floradl.models import STATE_OF, Action, QueuedRun, RunState
from floradl.polling.circuit_breaker import Pause
from floradl.portability import flush
from floradl.queue import folder as state_folder, heartbeat
from floradl.queue.base import RunQueue
from floradl.queue.folder import SEEN, is_to_be_filled, note_filled
from floradl.queue.heartbeat import LivePause, Snapshot
from floradl.queue.recovery import kept_open, open_queue
from floradl.queue.sqlite import SqliteQueue
from floradl.runs.scheduler import Scheduler
from floradl.units import format_count

if TYPE_CHECKING:
    from floradl.daemon.systemd import Supervision

_ROOM_AGAIN = 5.0  # seconds between looks for room
_BATCH = 500
_BESIDE = b"+"  # before a library that only `get` and programs have used
_AGAIN = 5.0  # seconds between looks for a library that is not there
_log = get_logger()


class StartStoppedError(Exception):
    """A signal ended the start before anything had begun."""


@asynccontextmanager
async def opened(
    config: Config, command: str, supervision: Supervision | None = None
) -> AsyncIterator[SqliteQueue]:
    """Hold the state folder and its queue.

    Where the disk is full those with a `supervision` wait for room, and others give up. A damaged file is set
    aside, and a new one is to be filled; where that shows later, `QueueDamagedError` comes through here, and
    the next who opens it finds it repaired. Raises that, `LockedError`, `ConfigError` (also where others
    could have put there what stands there), `TransientError` (no room), `StartStoppedError`.
    """
    state_dir = config.state_dir
    try:
        if is_shared(state_dir):
            raise ConfigError(
                f"state_dir: {state_dir} is on a network file system, where no journal "
                "is safe: put it on a local disk"
            )
        state_folder.make(state_dir)
        since = time.time()
        with state_folder.hold(state_dir, command, __version__, since):
            queue = await _open_when_room(state_dir, since, supervision)
            async with kept_open(queue, state_dir, (config.output.dir / MARKER).exists):
                yield queue
    except OSError as error:
        place = Path(os.fsdecode(error.filename or state_dir))
        why = refusal(place) if isinstance(error, PermissionError) else error
        raise ConfigError(f"the state folder {state_dir} cannot be used: {why}") from error


async def _open_when_room(state_dir: Path, since: float, supervision: Supervision | None) -> SqliteQueue:
    try:
        return open_queue(state_dir)
    except TransientError as error:
        if supervision is None:
            raise
        paused = LivePause(PauseReason.DISK_FULL, str(error), time.time())
    _log.error("paused", reason=paused.reason, message=paused.message)
    from floradl.daemon.systemd import SystemdView, describe  # noqa: PLC0415 - of the daemon alone

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        while True:
            heartbeat.write(state_dir, Snapshot(os.getpid(), __version__, since, time.time(), paused))
            supervision.beat(describe(SystemdView(paused=paused, starting=True)), well=True)
            with anyio.move_on_after(_ROOM_AGAIN):
                await anext(signals)
                raise StartStoppedError
            with suppress(TransientError):
                queue = open_queue(state_dir)
                _log.info("resumed", reason=paused.reason)
                return queue


def is_first_start(state_dir: Path, library: FolderLibrary) -> bool:
    """Whether this state folder has not seen the library: `first_start` makes it.

    Raises `ServicePausedError` where its disk is not mounted.
    """
    if was_seen(state_dir, library.root):
        return False
    if (point := unmounted(library.root)) is not None:
        raise ServicePausedError(
            f"{library.root}: nothing is mounted at {point}, as /etc/fstab wants it: mount it, or correct "
            "output.dir",
            PauseReason.LIBRARY_MISSING,
        )
    return True


def first_start(state_dir: Path, library: FolderLibrary, *, beside: bool = False) -> bool:
    """Make a library that this state folder has not seen; return whether. Raises `ServicePausedError`.

    `beside`: for a command that has no part in the queue, whose runs may be done in another library.
    """
    place = os.fsencode(library.root)
    lines = _places_seen(state_dir)
    if place in lines or (beside and _BESIDE + place in lines):
        return False
    made = library.create() if is_first_start(state_dir, library) else False
    seen = state_dir / SEEN
    seen.touch(0o644)  # for this user alone to write, whatever the umask gives
    with seen.open("ab") as file, open_root(state_dir) as folder:
        file.write((_BESIDE if beside else b"") + place + b"\n")
        file.flush()
        flush(file.fileno())  # a power cut must not make the place below a mount point a new library
        sync_folder(folder)
    return made


def was_seen(state_dir: Path, root: Path) -> bool:
    """Whether a start with this state folder has seen the library at `root`."""
    lines = _places_seen(state_dir)
    return os.fsencode(root) in lines or _BESIDE + os.fsencode(root) in lines


def _places_seen(state_dir: Path) -> list[bytes]:
    try:
        return (state_dir / SEEN).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []


def library_before(state_dir: Path, root: Path) -> Path | None:
    """Return the last library that the queue was used with, where another one is to be, without a marker.

    One that is there comes before one that is not.
    """
    if was_seen(state_dir, root) or (root / MARKER).exists() or unmounted(root):
        return None
    seen = [Path(os.fsdecode(each)) for each in _places_seen(state_dir) if each.startswith(b"/")]
    there = [place for place in seen if (place / MARKER).exists()]
    places = there or seen
    return places[-1] if places else None


def files_elsewhere(root: Path, before: Path, counts: Mapping[RunState, int]) -> str | None:
    """Return that the files of done runs are not at `root`, and what to do; None where no run is done."""
    done = counts.get(RunState.DONE, 0) + counts.get(RunState.PARTIAL, 0)
    if not done:
        return None
    old, new = shlex.quote(str(before)), shlex.quote(str(root))
    begin = f"begin a new library there (mkdir -p {new} && touch {new}/{MARKER})"
    what = f"{root} has no files of the {format_count(done, 'run')} done so far"
    if not (before / MARKER).exists():
        return (
            f"{what}: they were in {before}, which is no library any more. Mount its disk, or restore a "
            f"backup to {root}, its {MARKER} too; or {begin}"
        )
    return (
        f"{what}: they are in {before}. Move them (stop floradl; FLORADL_OUTPUT__DIR={old} floradl "
        f"move-library {new}), or {begin}"
    )


class Startup:
    """Prepares library and queue at a start, and later on until both are there."""

    def __init__(
        self, state_dir: Path, watch_dir: Path, library: FolderLibrary, queue: RunQueue, scheduler: Scheduler
    ) -> None:
        self._state_dir = state_dir
        self._watch_dir = watch_dir
        self._library = library
        self._queue = queue
        self._scheduler = scheduler
        self._logged = False
        self.pause: Pause | None = None
        """Why the library is not there, where it is not."""
        self.turned_at = time.monotonic()
        """When it last got a step on (monotonic seconds)."""

    async def serve(self) -> None:
        """Try until all is there: a disk may be mounted at any time."""
        while True:
            if await self.attempt():
                return
            await anyio.sleep(_AGAIN)

    async def attempt(self) -> bool:
        """Make a new library, fill a new queue; False where the library is missing. Safe to repeat."""
        try:
            await self._check_it_is_ours()
            made = await to_thread.run_sync(first_start, self._state_dir, self._library)
            if await to_thread.run_sync(is_to_be_filled, self._state_dir):
                await self._recall(made=made)
                await to_thread.run_sync(note_filled, self._state_dir)
        except (FloradlError, OSError) as error:
            if isinstance(error, ServicePausedError):
                since = self.pause.since if self.pause else time.time()
                self.pause = Pause(error.reason, str(error), since)
            if not self._logged:
                _log.warning("library_not_ready", message=str(error))
            self._logged = True
            return False
        self.pause = None
        await to_thread.run_sync(self._log_weaknesses)
        self._scheduler.probe_now()
        self.turned_at = time.monotonic()
        return True

    async def _check_it_is_ours(self) -> None:
        """Raise `ServicePausedError` where runs are done, and the library is to be a new one elsewhere."""
        before = await to_thread.run_sync(library_before, self._state_dir, self._library.root)
        if before is not None:
            counts = (await self._queue.counts()).states
            if (why := files_elsewhere(self._library.root, before, counts)) is not None:
                raise ServicePausedError(why, PauseReason.LIBRARY_OTHER)

    def _log_weaknesses(self) -> None:
        # What keeps it from being tried out (a full disk) keeps the work too, and is reported there.
        with suppress(FloradlError):
            for weakness in self._library.weaknesses():
                _log.warning("library_weaker", message=f"{self._library.root}: {weakness}")

    async def _recall(self, *, made: bool) -> None:
        started = time.monotonic()
        from floradl.sources.archive import accepted_orders  # noqa: PLC0415 - where the queue is filled anew

        orders = await to_thread.run_sync(accepted_orders, self._watch_dir)
        forgotten = [order for order in orders if order.action is Action.FORGET]
        await self._queue.submit(forgotten, time.time(), retry_failed=False)
        runs = (_row(found.sidecar) for found in self._library.scan() if found.sidecar is not None)
        count = 0
        while batch := await to_thread.run_sync(_some, runs):
            count += await self._queue.recover(batch)
            self.turned_at = time.monotonic()
        # A library that was not there before is a new beginning: what was asked for long ago is not meant.
        queued = [] if made else [order for order in orders if order.action is Action.FETCH]
        touched = await self._queue.submit(queued, time.time(), retry_failed=False)
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
    """Take what is ready within a second, so that a slow disk keeps nobody from stopping."""
    until = time.monotonic() + 1
    found = []
    for each in islice(runs, _BATCH):
        found.append(each)
        if time.monotonic() > until:
            break
    return found


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
        error=sidecar.error or next((output.error for output in sidecar.outputs if output.error), None),
        meta=sidecar.meta,
        names=names_of(sidecar),
    )
    return run, finished
