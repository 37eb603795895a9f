"""What is going on right now, for `status`: kept in memory, written now and then beside the queue.

It is not a record: it may be lost at any moment, so it is not flushed. The lock, not this file, shows whether
the daemon lives.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from floradl.models import QueuedRun
from floradl.redaction import redact

FILE_NAME = "live.json"
STUCK_AFTER = 120.0
"""Seconds without progress after which a daemon counts as stuck; it writes the file each 10 s at least."""

_MOST = 1000
_MOST_TOLD = 100


class Transfer(msgspec.Struct, frozen=True):
    """One transfer under way, in bytes; `total` is None where the server does not state it."""

    output_id: str
    bytes: int
    total: int | None


class LiveRun(msgspec.Struct, frozen=True):
    """One run under way. `next_at` is unix seconds, None while it is at work."""

    run_id: str
    progress: float
    next_at: float | None
    outputs: tuple[Transfer, ...] = ()


class LivePause(msgspec.Struct, frozen=True):
    """Why nothing goes on. `since` is unix seconds."""

    reason: str
    message: str
    since: float


class Snapshot(msgspec.Struct, frozen=True):
    """What the file holds. Times are unix seconds, `rate_limit` is in bytes a second.

    `hints` say what a person should look into, though work goes on. `held` says why job files wait in the
    watch folder, and `inbox_troubles` what is wrong with single files there. `silent_until` is where FLORA
    asked to be left alone.
    """

    pid: int
    version: str
    since: float
    progress_at: float
    paused: LivePause | None = None
    queue_file_error: str | None = None
    rate_limit: int | None = None
    hints: tuple[str, ...] = ()
    held: LivePause | None = None
    inbox_troubles: tuple[str, ...] = ()
    runs: tuple[LiveRun, ...] = ()
    silent_until: float | None = None


class Heartbeat:
    """Collects; a `RunEvents`. Worker threads may call it."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self.since = wall()
        """When it began (unix seconds)."""
        self.ended = 0
        """How many runs were finished since then."""
        self._runs: dict[str, LiveRun] = {}
        self._transfers: dict[tuple[str, str], Transfer] = {}
        self.changed = False
        self.last: Snapshot | None = None
        """What was last written."""
        self.hints: list[Callable[[], tuple[str, ...]]] = []
        """Who else knows of something that a person should look into."""
        self.bytes_at = time.monotonic()
        """When bytes of an output last arrived (monotonic seconds)."""

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        next_at = None if next_in is None else self._wall() + next_in
        self._runs[run.run_id] = LiveRun(run.run_id, run.progress, next_at)
        self.changed = True

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:  # noqa: ARG002 - in the queue
        self.run(run, next_in)

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        self._transfers[run.run_id, output_id] = Transfer(output_id, received, total)
        self.bytes_at = time.monotonic()
        self.changed = True

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        self._transfers.pop((run.run_id, output_id), None)
        self.changed = True

    def finished(self, run: QueuedRun, brought: object) -> None:  # noqa: ARG002 - as above
        self._runs.pop(run.run_id, None)
        self.ended += 1
        self.changed = True

    def dropped(self, run_id: str) -> None:
        self._runs.pop(run_id, None)
        self.changed = True

    def runs(self) -> tuple[LiveRun, ...]:
        """Return what is under way, at most a thousand."""
        transfers: dict[str, list[Transfer]] = {}
        for (run_id, _), transfer in list(self._transfers.items()):
            transfers.setdefault(run_id, []).append(transfer)
        return tuple(
            msgspec.structs.replace(run, outputs=tuple(transfers.get(run.run_id, ())))
            for run in list(self._runs.values())[:_MOST]
        )


def write(state_dir: Path, snapshot: Snapshot) -> None:
    """Write the snapshot, its messages redacted; readers see the old one or the new one.

    A full disk is no reason to fall over. That nothing goes on is then written over the old snapshot, into
    the room that this has: a reader in that very moment may see neither.
    """
    path = state_dir / FILE_NAME
    temporary = path.with_name(f".{FILE_NAME}.part")
    snapshot = redacted(snapshot)
    try:
        # This process alone writes it, whatever the umask gives others: `status` is believed.
        with open(temporary, "wb", opener=_for_this_user) as file:
            file.write(msgspec.json.encode(snapshot))
        os.replace(temporary, path)  # noqa: PTH105 - the same in fewer words
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        with suppress(OSError), path.open("r+b") as file:
            file.write(msgspec.json.encode(msgspec.structs.replace(snapshot, runs=())))
            file.truncate()


def _for_this_user(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o644)


def shortened(snapshot: Snapshot) -> Snapshot:
    """Return a snapshot for other machines: redacted, and of the runs at most a hundred with transfers."""
    runs = tuple(run for run in snapshot.runs if run.outputs)[:_MOST_TOLD]
    return msgspec.structs.replace(redacted(snapshot), runs=runs)


def redacted(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as it may be written down: its messages quote what others said."""
    paused, broken = snapshot.paused, snapshot.queue_file_error
    return msgspec.structs.replace(
        snapshot,
        paused=msgspec.structs.replace(paused, message=redact(paused.message)) if paused else None,
        queue_file_error=redact(broken) if broken else broken,
        hints=tuple(redact(hint) for hint in snapshot.hints),
        inbox_troubles=tuple(redact(trouble) for trouble in snapshot.inbox_troubles),
    )


def read(state_dir: Path) -> Snapshot | None:
    """Return the last snapshot; None where there is none that can be read."""
    try:
        return msgspec.json.decode((state_dir / FILE_NAME).read_bytes(), type=Snapshot)
    except (FileNotFoundError, ValueError):  # a power cut may have left anything
        return None
