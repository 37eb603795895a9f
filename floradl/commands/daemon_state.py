"""How things stand: the lock, the daemon's last snapshot and the queue, read beside whoever works there.

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
        """Return why it does not count as healthy, None where it does. `now` is unix seconds."""
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
    """The whole picture. `counts` is None without a queue; `left` are done job files that may lie there.

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
    """Read a thousand runs, unfinished and last failed ones. Raises `ConfigError` where that fails."""
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
    """Read who works with the state folder. Raises `ConfigError` where this user may not."""
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
    """Read which daemons share the queue, by name; none where one has it alone. Raises as above."""
    with read_queue(state_dir) as queue:
        return tuple(queue.daemons()) if queue is not None else ()


def read_hook_trouble(state_dir: Path) -> HookTrouble:
    """Read for which runs the hook failed. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.hook_trouble() if queue is not None else HookTrouble()


def hook_failures(trouble: HookTrouble) -> Iterator[str]:
    """Return for a person what the hook failed for."""
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
    """Count the job files that were refused and still lie there. Raises `OSError` where that is unknown."""
    with suppress(FileNotFoundError), os.scandir(watch_dir / "rejected") as rejected:
        notes = (file for file in rejected if file.name.endswith(".error.txt"))
        return sum(note.is_file(follow_symlinks=False) for note in notes)
    return 0


def read_ended(state_dir: Path, *states: RunState) -> list[QueuedRun]:
    """Read all runs that ended so, newest first. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.ended(states, -1) if queue is not None else []


def read_under_way(state_dir: Path) -> list[str]:
    """Read which files are on disk although their runs go on. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        return queue.saved_paths() if queue is not None else []


def open_run_ids(state_dir: Path) -> set[str]:
    """Read which runs are open, which may be worked on at any moment. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        runs = queue.unfinished(-1) if queue is not None else []
    return {run.run_id for run in runs}


def is_open(state_dir: Path, run_id: str) -> bool:
    """Whether a run is open by now. Raises as `read_daemon_state` does."""
    with read_queue(state_dir) as queue:
        run = queue.runs([run_id]).get(run_id) if queue is not None else None
    return run is not None and run.state.open


def all_runs(state_dir: Path) -> Iterator[QueuedRun]:
    """Read every run, page by page: a slow reader is in nobody's way. Raises as `read_daemon_state`."""
    after = ""
    while True:
        with read_queue(state_dir) as queue:
            page = queue.page(after, _PAGE) if queue is not None else []
        yield from page
        if len(page) < _PAGE:
            return
        after = page[-1].run_id


def next_look(run: QueuedRun, live: LiveRun | None, silent_until: float | None) -> float | None:
    """Return when an open run is polled next (unix seconds); None where it is at work, or nobody knows."""
    due = live.next_at if live is not None else None
    if not run.state.open or silent_until is None or run.state is RunState.DOWNLOADING:
        return due if run.state.open else None
    return max(silent_until, due or 0.0)


def coarse(seconds: float) -> str:
    """Write a duration for a person, in at most two units: `12s`, `3h12m`, `2d4h`."""
    seconds = abs(seconds)
    unit = next((small for large, small in ((86_400, 3600), (3600, 60)) if seconds >= large), 1)
    return format_duration(seconds // unit * unit) if seconds >= 1 else "0s"
