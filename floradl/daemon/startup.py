"""The first steps of a start: hold the state folder, open the queue, make or find the library.

The library is the truth, so a lost state folder costs no download: its sidecars show what is done, and a new
queue is filled from them. What was queued and not finished is still in the job files in `accepted/`.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

from floradl import __version__
from floradl.clock import unix_seconds
from floradl.config.settings import SQLITE, Config
from floradl.errors import (
    ConfigError,
    FloradlError,
    PauseReason,
    QueueUnavailableError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.folders import open_root, sync_folder
from floradl.fs.mounts import is_shared, unmounted
from floradl.fs.permissions import refusal
from floradl.library.base import LibraryStore
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
    from floradl.queue.postgres.connection import Server
    from floradl.queue.sharing import RunSharing

_T = TypeVar("_T")
_ROOM_AGAIN = 5.0  # seconds between looks for room
_BATCH = 500
_BESIDE = b"+"  # before a library that only `get` and programs have used
_FILLED_AGAIN = 1.0  # seconds between looks whether another daemon has filled the queue
_AGAIN = 5.0  # seconds between looks for a library that is not there
_log = get_logger()


class StartStoppedError(Exception):
    """A signal ended the start before anything had begun."""


class BucketSettingsError(ConfigError):
    """The library's bucket does not exist, is in another region, or refuses these credentials."""


@asynccontextmanager
async def opened(
    config: Config, command: str, supervision: Supervision | None = None
) -> AsyncIterator[RunQueue]:
    """Hold the state folder, and open the queue: the one in it, or the shared one.

    Where the disk is full or the database is away, a daemon (`supervision`) waits, other commands give up. A
    damaged file is set aside, and a new one is to be filled; where that shows later, `QueueDamagedError`
    comes through here, and the next who opens it finds it repaired. Raises that, `LockedError`,
    `ConfigError` (also where others could have put there what stands there), `TransientError` (no room),
    `QueueUnavailableError` (no database), `StartStoppedError`.
    """
    server = _shared_server(config) if config.queue.engine != SQLITE else None
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
            if server is not None:
                async with _opened_shared(server, state_dir, since, supervision) as shared:
                    yield shared
                return
            queue = await _open_when_there(partial(_open, state_dir), state_dir, since, supervision)
            async with kept_open(queue, state_dir, partial(_library_is_there, config)):
                yield queue
    except OSError as error:
        place = Path(os.fsdecode(error.filename or state_dir))
        why = refusal(place) if isinstance(error, PermissionError) else error
        raise ConfigError(f"the state folder {state_dir} cannot be used: {why}") from error


def _shared_server(config: Config) -> Server | None:
    from floradl.daemon.database import shared_server  # noqa: PLC0415 - for those who share a queue

    return shared_server(config)


@asynccontextmanager
async def _opened_shared(
    server: Server, state_dir: Path, since: float, supervision: Supervision | None
) -> AsyncIterator[RunQueue]:
    from floradl.queue.postgres import opening  # noqa: PLC0415 - an extra

    prepare = partial(opening.prepare_database, server)
    state = await _open_when_there(prepare, state_dir, since, supervision)
    member = await to_thread.run_sync(opening.join, state_dir, state)
    async with opening.opened_queue(server, member.daemon, opening.name_of(state_dir)) as queue:
        yield queue


async def _open(state_dir: Path) -> SqliteQueue:
    return open_queue(state_dir)


async def _open_when_there(
    open_it: Callable[[], Awaitable[_T]], state_dir: Path, since: float, supervision: Supervision | None
) -> _T:
    try:
        return await open_it()
    except (TransientError, QueueUnavailableError) as error:
        if supervision is None:
            raise
        reason = getattr(error, "reason", PauseReason.DISK_FULL)
        paused = LivePause(reason, str(error), time.time())
    _log.error("paused", reason=paused.reason, message=paused.message)
    from floradl.daemon.systemd import SystemdView, describe  # noqa: PLC0415 - of the daemon alone

    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        while True:
            heartbeat.write(state_dir, Snapshot(os.getpid(), __version__, since, time.time(), paused))
            supervision.beat(describe(SystemdView(paused=paused, starting=True)), well=True)
            with anyio.move_on_after(_ROOM_AGAIN):
                await anext(signals)
                raise StartStoppedError
            with suppress(TransientError, QueueUnavailableError):
                opened_now = await open_it()
                _log.info("resumed", reason=paused.reason)
                return opened_now


def _library_is_there(config: Config) -> bool:
    """Whether the library's marker shows that its disk is mounted; a bucket needs no disk."""
    place = config.output.dir
    return not isinstance(place, Path) or (place / MARKER).exists()


def refuse_unusable(library: LibraryStore) -> None:
    """Raise `BucketSettingsError` for an unusable bucket. What may pass raises nothing: it pauses."""
    if not isinstance(library, FolderLibrary):
        with suppress(ServicePausedError, TransientError), _refusals_told():
            library.require()


@contextmanager
def _refusals_told() -> Iterator[None]:
    """Raise `BucketSettingsError` in place of the refusal of a bucket."""
    try:
        yield
    except ServicePausedError as error:
        from floradl.library.object_errors import BucketRefusedError  # noqa: PLC0415 - hardly ever needed

        if isinstance(error, BucketRefusedError):
            raise BucketSettingsError(str(error)) from error
        raise


def is_first_start(state_dir: Path, library: LibraryStore) -> bool:
    """Whether this state folder has never been used with the library, so that `first_start` makes it.

    Raises `ServicePausedError` where its disk is not mounted.
    """
    if was_seen(state_dir, library.location()):
        return False
    if (point := unmounted_below(library)) is not None:
        raise ServicePausedError(
            f"{library.location()}: nothing is mounted at {point}, as /etc/fstab wants it: mount it, or "
            "correct output.dir",
            PauseReason.LIBRARY_MISSING,
        )
    return True


def unmounted_below(library: LibraryStore) -> Path | None:
    """Return the mount point above a library's folder where nothing is mounted; None where all is well."""
    return unmounted(library.root) if isinstance(library, FolderLibrary) else None


def first_start(state_dir: Path, library: LibraryStore, *, beside: bool = False) -> bool:
    """Make the library if this state folder has never been used with it; return whether it was made.

    Raises `ServicePausedError`, and `BucketSettingsError`.

    `beside`: for a command that has no part in the queue, whose runs may be done in another library.
    """
    place = os.fsencode(library.location())
    lines = _places_seen(state_dir)
    if place in lines or (beside and _BESIDE + place in lines):
        return False
    with _refusals_told():  # of a bucket that is none
        made = library.create() if is_first_start(state_dir, library) else False
    seen = state_dir / SEEN
    seen.touch(0o644)  # for this user alone to write, whatever the umask gives
    with seen.open("ab") as file, open_root(state_dir) as folder:
        file.write((_BESIDE if beside else b"") + place + b"\n")
        file.flush()
        flush(file.fileno())  # a power cut must not make the place below a mount point a new library
        sync_folder(folder)
    return made


def was_seen(state_dir: Path, location: str) -> bool:
    """Whether a start with this state folder has seen the library at `location`, a path or URL."""
    lines, place = _places_seen(state_dir), os.fsencode(location)
    return place in lines or _BESIDE + place in lines


def _places_seen(state_dir: Path) -> list[bytes]:
    try:
        return (state_dir / SEEN).read_bytes().split(b"\n")
    except FileNotFoundError:
        return []


def library_before(state_dir: Path, library: LibraryStore) -> str | None:
    """Return the library that the queue was used with last, where the configured one is new and another.

    A path or URL; a folder that is a library comes before one that is none. Raises `FloradlError` where it is
    not known whether there is one.
    """
    if was_seen(state_dir, library.location()):
        return None
    places = [
        os.fsdecode(place) for place in _places_seen(state_dir) if place and not place.startswith(_BESIDE)
    ]
    if not places or unmounted_below(library) or _has_marker(library):
        return None
    there = [place for place in places if _may_be_there(place)]
    return (there or places)[-1]


def _may_be_there(place: str) -> bool:
    return not place.startswith("/") or (Path(place) / MARKER).exists()


def _has_marker(library: LibraryStore) -> bool:
    try:
        library.require()
    except ServicePausedError as error:
        if error.reason is PauseReason.LIBRARY_MISSING:
            return False
        raise
    return True


def files_elsewhere(library: LibraryStore, before: str, counts: Mapping[RunState, int]) -> str | None:
    """Return a message that done runs' files are elsewhere, and what to do; None where no run is done."""
    done = counts.get(RunState.DONE, 0) + counts.get(RunState.PARTIAL, 0)
    if not done:
        return None
    from shlex import quote  # noqa: PLC0415 - where something is wrong

    place = library.location()
    old, new = quote(before), quote(place)
    begin = f"put an empty object with the name {MARKER} there"
    if isinstance(library, FolderLibrary):
        begin = f"mkdir -p {new} && touch {new}/{MARKER}"
    begin = f"begin a new library there ({begin})"
    what = f"{place} has no files of the {format_count(done, 'run')} done so far"
    if not _may_be_there(before):
        return (
            f"{what}: they were in {before}, which is no library any more. Mount its disk, or restore a "
            f"backup to {place}, its {MARKER} too; or {begin}"
        )
    return (
        f"{what}: they are in {before}. Move them (stop floradl; FLORADL_OUTPUT__DIR={old} floradl "
        f"move-library {new}), or {begin}"
    )


class Startup:
    """Prepares library and queue at a start, and later on until both are there."""

    def __init__(
        self, state_dir: Path, watch_dir: Path, library: LibraryStore, queue: RunQueue, scheduler: Scheduler
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
        """Make a new library, fill a new queue; False where the library is missing. Safe to repeat.

        Raises `BucketSettingsError`.
        """
        await to_thread.run_sync(refuse_unusable, self._library)
        try:
            await self._check_it_is_ours()
            made = await to_thread.run_sync(first_start, self._state_dir, self._library)
            if await to_thread.run_sync(is_to_be_filled, self._state_dir):
                await self._recall(made=made)
                await to_thread.run_sync(note_filled, self._state_dir)
        except BucketSettingsError:
            raise
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
        """Raise `ServicePausedError` where runs are done, and the configured library would be a new one."""
        before = await to_thread.run_sync(library_before, self._state_dir, self._library)
        if before is not None:
            counts = (await self._queue.counts()).states
            if (why := files_elsewhere(self._library, before, counts)) is not None:
                raise ServicePausedError(why, PauseReason.LIBRARY_OTHER)

    def _log_weaknesses(self) -> None:
        # What keeps it from being tried out (a full disk) keeps the work too, and is reported there.
        with suppress(FloradlError):
            for weakness in self._library.weaknesses():
                _log.warning("library_weaker", message=f"{self._library.location()}: {weakness}")

    async def _recall(self, *, made: bool) -> None:
        started = time.monotonic()
        from floradl.sources.archive import accepted_orders  # noqa: PLC0415 - where the queue is filled anew

        orders = await to_thread.run_sync(accepted_orders, self._watch_dir)
        forgotten = [order for order in orders if order.action is Action.FORGET]
        await self._queue.submit(forgotten, time.time(), retry_failed=False)
        count = await (
            self._fill() if self._queue.sharing is None else self._share_filling(self._queue.sharing)
        )
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

    async def _fill(self, *others: Callable[[], Awaitable[object]]) -> int:
        """Add the runs of all sidecars; return how many were new. `others` are called after each batch."""
        runs = (_row(found.sidecar) for found in self._library.scan() if found.sidecar is not None)
        count = 0
        while batch := await to_thread.run_sync(_some, runs):
            count += await self._queue.recover(batch)
            self.turned_at = time.monotonic()
            for each in others:
                await each()
        return count

    async def _share_filling(self, sharing: RunSharing) -> int:
        """Fill a new queue that daemons share, or wait for the one that does."""
        while not await sharing.is_filled():
            if await sharing.lead_filling():
                count = await self._fill(sharing.lead_filling)
                await sharing.note_filled()
                return count
            self.turned_at = time.monotonic()
            await anyio.sleep(_FILLED_AGAIN)
        return 0


def _some(runs: Iterator[tuple[QueuedRun, float]]) -> list[tuple[QueuedRun, float]]:
    """Take what is ready within a second, so that a slow disk delays no stop."""
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
