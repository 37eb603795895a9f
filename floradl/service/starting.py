"""What a start begins with: the library is made or found, and a journal that is new learns what there was.

The library is the truth, so a lost state folder costs no download: its sidecars say what is done. What was
queued and not finished is still said by the job files in `accepted/`.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path

import anyio
import structlog
from anyio import to_thread

from floradl.disk.abilities import probe
from floradl.disk.folders import open_root, sync_folder
from floradl.disk.mounts import unmounted
from floradl.errors import FloradlError, PausedError, PauseReason
from floradl.incoming.accepted import accepted_orders
from floradl.library.inventory import standing
from floradl.library.library import Library
from floradl.library.sidecar import Sidecar
from floradl.models import STATE_OF, Action, Failure, QueuedRun
from floradl.runs.engine import Engine
from floradl.runs.pausing import Pause
from floradl.state.damage import RECALL, is_to_be_filled
from floradl.state.folder import SEEN
from floradl.state.journal import Journal
from floradl.state.store import FILE_NAME, Store
from floradl.times import unix_seconds

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

    Says whether it was made. Raises `PausedError` where it should be made and cannot, `OSError` of the state.
    """
    seen = state_dir / SEEN
    place = os.fsencode(library.root)
    if was_seen(state_dir, library.root):
        return False
    point = unmounted(library.root)
    if point is not None:
        raise PausedError(
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


class Start:
    """Sees to the library and the journal at a start, and later on until both stand."""

    def __init__(
        self, state_dir: Path, watch_dir: Path, library: Library, journal: Journal, engine: Engine
    ) -> None:
        self._state_dir = state_dir
        self._watch_dir = watch_dir
        self._library = library
        self._journal = journal
        self._engine = engine
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
            if isinstance(error, PausedError):
                since = self.pause.since if self.pause else time.time()
                self.pause = Pause(error.reason, str(error), since)
            if not self._told:
                _log.warning("library_not_ready", message=str(error))
            self._told = True
            return False
        self.pause = None
        await to_thread.run_sync(self._tell_weaknesses)
        self._engine.probe_now()
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
        self._engine.enqueue(touched)
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
    return (_row(found.sidecar) for found in standing(library) if found.sidecar is not None)


def _put_new(store: Store, runs: list[tuple[QueuedRun, float]]) -> int:
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


def _first_error(sidecar: Sidecar) -> Failure | None:
    return next((output.error for output in sidecar.outputs if output.error is not None), None)
