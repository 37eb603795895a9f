"""The state that `status` shows: lock, the daemon's last snapshot and queue, read while others write them.

Errors of reading become `ConfigError`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from msgspec import Struct

from floradl.errors import PauseReason
from floradl.models import LeftFile, QueuedRun, RunState
from floradl.queue import folder, heartbeat, sharing
from floradl.queue.folder import Holder
from floradl.queue.heartbeat import LiveRun, Snapshot
from floradl.queue.reader import HookTrouble, read_queue, readable
from floradl.units import format_count, format_duration

_MOST = 1000
_FAILED_AT_LEAST = 100  # so many of the failed are shown, however many wait
_SAME_START = 60.0
_PAGE = 1000


class DaemonInfo(Struct, frozen=True):
    """The process that holds the state folder, and its last snapshot; None of a process that has ended."""

    holder: Holder | None
    snapshot: Snapshot | None

    @property
    def alive(self) -> bool:
        """Whether the process is a daemon: `once` holds the lock too, and ends by itself."""
        return self.holder is not None and self.holder.command == "run"

    @property
    def silent_until(self) -> float | None:
        """Until when FLORA wants no request (unix seconds); None where it did not ask for that."""
        return self.snapshot.silent_until if self.snapshot is not None and self.alive else None

    def trouble(self, now: float) -> str | None:
        """Return why the daemon is not healthy, None where it is. `now` is unix seconds."""
        if self.holder is None:
            return "no daemon is running: start it with 'floradl run'"
        if not self.alive:
            return f"{self.holder} is at work, but no daemon: start it with 'floradl run' afterwards"
        seen = self.snapshot.progress_at if self.snapshot else self.holder.since
        # Either way: a clock that was put back must not make a daemon that hangs look well for ever.
        if abs(now - seen) <= heartbeat.STUCK_AFTER or not seen:
            return None
        return (
            f"{self.holder} made no progress for {coarse(now - seen)}: see its log (and whether the disk of "
            "the state folder is full), then restart it"
        )


class StatusReport(Struct, frozen=True):
    """What `status` shows. `counts` is None without a queue; `left` are done job files still in the inbox.

    `hooks` says for which runs the hook failed. `sharers` are the daemons that share the queue, by name.
    """

    daemon: DaemonInfo
    counts: Mapping[RunState, int] | None = None
    unfinished: tuple[QueuedRun, ...] = ()
    failed: tuple[QueuedRun, ...] = ()
    left: Mapping[str, LeftFile] = MappingProxyType({})
    hooks: HookTrouble = HookTrouble()
    sharers: tuple[sharing.DaemonState, ...] = ()


def read_daemon_state(state_dir: Path) -> StatusReport:
    """Read the state, with 1,000 runs at most: unfinished and last failed ones. Raises `ConfigError`."""
    daemon = read_daemon(state_dir)
    paused = daemon.snapshot.paused if daemon.snapshot is not None else None
    if paused is not None and paused.reason == PauseReason.QUEUE_UNAVAILABLE:
        return StatusReport(daemon)  # which says why
    with read_queue(state_dir) as queue:
        if queue is None:
            return StatusReport(daemon)
        failed = queue.ended((RunState.FAILED, RunState.PARTIAL), _MOST)
        unfinished = queue.unfinished(_MOST - min(len(failed), _FAILED_AT_LEAST))
        failed = failed[: _MOST - len(unfinished)]
        return StatusReport(
            daemon,
            queue.counts(),
            tuple(unfinished),
            tuple(failed),
            queue.left_files(),
            queue.hook_trouble(),
            tuple(queue.daemons()),
        )


def read_daemon(state_dir: Path) -> DaemonInfo:
    """Read which process holds the state folder. Raises `ConfigError` where this user may not."""
    with readable(state_dir):
        holder = folder.holder(state_dir)
        snapshot = heartbeat.read(state_dir) if holder is not None else None
    if holder is None or snapshot is None:
        return DaemonInfo(holder, None)
    # In containers each daemon has the same process id, so a snapshot left behind is recognised by its start.
    ours = holder.pid == snapshot.pid and abs(holder.since - snapshot.since) <= _SAME_START
    return DaemonInfo(holder, snapshot if ours else None)


def read_counts(state_dir: Path) -> Mapping[RunState, int] | None:
    """Count the runs in each state, None where there is no queue. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return None if queue is None else queue.counts()


def read_runs(state_dir: Path, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
    """Read runs by id; unknown ones are left out. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.runs(run_ids) if queue is not None else {}


def read_sharers(state_dir: Path) -> tuple[sharing.DaemonState, ...]:
    """Read the daemons that share the queue, by name; empty if none does. Raises as `read_daemon_state`."""
    with read_queue(state_dir) as queue:
        return tuple(queue.daemons()) if queue is not None else ()


def read_hook_trouble(state_dir: Path) -> HookTrouble:
    """Read for which runs the hook failed. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.hook_trouble() if queue is not None else HookTrouble()


def hook_failures(trouble: HookTrouble) -> Iterator[str]:
    """Return a sentence for each kind of failure of the hook."""
    if trouble.given_up:
        which = trouble.example if trouble.given_up == 1 else f"{trouble.given_up:,} runs"
        yield (
            f"run_finished failed for good for {which}: 'floradl events' says why; once it is fixed, "
            f"'floradl retry {trouble.example}' reports a run again"
        )
    if trouble.retried:
        runs = format_count(trouble.retried, "run")
        yield f"run_finished failed for {runs}, and is tried again: 'floradl events' says why"


def rejected_jobs(watch_dir: Path) -> int:
    """Count the files in the folder of rejected job files. Raises `OSError` where it cannot be read."""
    with suppress(FileNotFoundError), os.scandir(watch_dir / "rejected") as rejected:
        notes = (file for file in rejected if file.name.endswith(".error.txt"))
        return sum(note.is_file(follow_symlinks=False) for note in notes)
    return 0


def read_ended(state_dir: Path, *states: RunState) -> list[QueuedRun]:
    """Read all runs in these final states, newest first. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.ended(states, -1) if queue is not None else []


def read_under_way(state_dir: Path) -> list[str]:
    """Read the files that are saved of runs still open. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return list(queue.saved_files()) if queue is not None else []


def open_run_ids(state_dir: Path) -> set[str]:
    """Read the ids of open runs, whose files may change at any moment. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        runs = queue.unfinished(-1) if queue is not None else []
    return {run.run_id for run in runs}


def is_open(state_dir: Path, run_id: str) -> bool:
    """Whether a run is open now. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        run = queue.runs([run_id]).get(run_id) if queue is not None else None
    return run is not None and run.state.open


def all_runs(state_dir: Path) -> Iterator[QueuedRun]:
    """Read every run, page by page, so that a slow reader blocks no writer. Raises as `read_daemon_state`."""
    after = ""
    while True:
        with read_queue(state_dir) as queue:
            page = queue.page(after, _PAGE) if queue is not None else []
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].run_id


def next_look(run: QueuedRun, live: LiveRun | None, silent_until: float | None) -> float | None:
    """Return when an open run is polled next (unix seconds); None while it is downloaded, or if unknown."""
    due = live.next_at if live is not None else None
    if not run.state.open or silent_until is None or run.state is RunState.DOWNLOADING:
        return due if run.state.open else None
    return max(silent_until, due or 0.0)


def coarse(seconds: float) -> str:
    """Write a duration for a person, in at most two units: `12s`, `3h12m`, `2d4h`."""
    seconds = abs(seconds)
    unit = next((small for large, small in ((86_400, 3600), (3600, 60)) if seconds >= large), 1)
    return format_duration(seconds // unit * unit) if seconds >= 1 else "0s"
