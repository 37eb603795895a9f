"""The text of `floradl status`. Nothing here writes, and only the inbox is read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from floradl.commands.daemon_state import (
    DaemonInfo,
    DaemonState,
    coarse,
    next_look,
)
from floradl.config.settings import Config
from floradl.models import QueuedRun, RunState
from floradl.queue.heartbeat import LiveRun, Transfer
from floradl.sources.scan import Entry, entries, shown
from floradl.units import format_count, format_size

_MOST_OPEN = 10


_MOST_FAILED = 5


def lines(standing: DaemonState, config: Config, now: float) -> Iterator[str]:
    """Return the lines to show. `now` is unix seconds. They are not redacted yet."""
    daemon = standing.daemon
    yield f"home     {config.home}"
    yield from _daemon_lines(daemon, now)
    inbox = list(_inbox(standing, config))
    yield from inbox
    counts = {state: n for state, n in (standing.counts or {}).items() if n}
    if not counts:
        if not inbox:
            yield f"runs     nothing queued yet: 'floradl add REF', or a job file in {config.queue.watch_dir}"
        return
    yield "runs     " + ", ".join(f"{n:,} {state}" for state, n in counts.items())
    unfinished = sum(n for state, n in counts.items() if state.open)
    if unfinished and daemon.holder is None:
        yield "         nothing works on them: start a daemon with 'floradl run', or 'floradl once'"
    yield from _under_way(standing, now)
    yield from _failed(standing)


def _daemon_lines(daemon: DaemonInfo, now: float) -> Iterator[str]:
    holder = daemon.holder
    if holder is None:
        yield "daemon   not running"
        return
    if not daemon.alive:
        yield f"daemon   not running, but {holder} is at work, for {coarse(now - holder.since)}"
        return
    if not holder.pid:
        yield "daemon   starting"
        return
    place = f"process {holder.pid} on {holder.host}, version {holder.version}"
    yield f"daemon   running for {coarse(now - holder.since)} ({place})"
    if trouble := daemon.trouble(now):
        yield f"         {trouble}"
    if daemon.snapshot is not None and (paused := daemon.snapshot.paused) is not None:
        yield f"paused   for {coarse(now - paused.since)} ({paused.reason}): {paused.message}"
        yield "         it resumes once that is fixed"
    if daemon.snapshot is not None and daemon.snapshot.queue_file_error:
        yield f"queue    {daemon.snapshot.queue_file_error}"
    for hint in daemon.snapshot.hints if daemon.snapshot else ():
        yield f"hint     {hint}"
    if daemon.snapshot is not None and daemon.snapshot.rate_limit is not None:
        yield f"limit    {format_size(daemon.snapshot.rate_limit)} a second, all transfers together"


def _inbox(standing: DaemonState, config: Config) -> Iterator[str]:
    """Tell of job files that nobody took yet, of those that were refused, and of what is wrong there."""
    watch_dir, queue_file = config.queue.watch_dir, config.queue.file
    refused = 0
    waiting: list[Entry] = []
    lying: list[str] = []
    try:
        with suppress(FileNotFoundError):  # a folder that nobody needed yet
            here = [entry for entry in entries(watch_dir) if watch_dir / entry.name != queue_file]
            lying = [entry.name for entry in here if _is_left(entry, standing)]
            waiting = [entry for entry in here if entry.unseen is None and entry.name not in lying]
    except OSError as error:
        yield f"inbox    {watch_dir} cannot be read: {error.strerror}"
        return
    with suppress(OSError), os.scandir(watch_dir / "rejected") as rejected:
        notes = (file for file in rejected if file.name.endswith(".error.txt"))
        refused = sum(note.is_file(follow_symlinks=False) for note in notes)
    snapshot = standing.daemon.snapshot
    if waiting:
        yield f"inbox    {format_count(len(waiting), 'job file')} in {watch_dir} not taken yet"
    if snapshot is not None and snapshot.held is not None:
        yield (
            f"         they wait, for {snapshot.held.message}"
            if waiting
            else f"inbox    {snapshot.held.message}"
        )
    if refused:
        files = format_count(refused, "job file")
        yield f"inbox    {files} refused: {watch_dir / 'rejected'} says why beside each"
    troubles = snapshot.inbox_troubles if snapshot is not None else ()
    yield from (f"inbox    {trouble}" for trouble in troubles)
    if lying and not troubles:
        files = format_count(len(lying), "job file")
        yield f"inbox    {files} done with, but could not be moved away: {', '.join(map(shown, lying[:3]))}"


def _is_left(entry: Entry, standing: DaemonState) -> bool:
    left = standing.left.get(entry.name)
    return left is not None and (left.mtime_ns, left.size) == (entry.stamp.mtime_ns, entry.stamp.size)


def _under_way(standing: DaemonState, now: float) -> Iterator[str]:
    """Tell of the runs that there is something to tell of: one that only waits is in the counts."""
    snapshot = standing.daemon.snapshot
    known = {run.run_id: run for run in snapshot.runs} if snapshot else {}
    telling = [run for run in standing.unfinished if run.state is not RunState.WAITING or run.error]
    if telling:
        yield ""
        yield "Not finished"
    for run in telling[:_MOST_OPEN]:
        live = known.get(run.run_id)
        due = next_look(run, live, standing.daemon.silent_until)
        yield f"  {run.reference}  {_progress(run, live, due, now)}"
        yield from (f"    {_transfer(transfer)}" for transfer in (live.outputs if live else ()))
    if len(telling) > _MOST_OPEN:
        yield f"  and {len(telling) - _MOST_OPEN:,} more: floradl status --json"


def _progress(run: QueuedRun, live: LiveRun | None, due: float | None, now: float) -> str:
    text: str = run.state.value
    if run.state is RunState.RUNNING:
        text += f" {live.progress if live else run.progress:.0f} %"
    if due is not None:
        left = due - now
        text += f", next look {f'in {coarse(left)}' if left >= 1 else 'now'}"
    if run.error is not None:
        text += f"; {run.error.code}: {run.error.message}"
    return text


def _transfer(transfer: Transfer) -> str:
    if not transfer.total:
        return f"{transfer.output_id}  {format_size(transfer.bytes)}"
    share = 100 * transfer.bytes // transfer.total
    return f"{transfer.output_id}  {format_size(transfer.bytes)} of {format_size(transfer.total)} ({share} %)"


def _failed(standing: DaemonState) -> Iterator[str]:
    if not standing.failed:
        return
    yield ""
    yield "Failed last"
    for run in standing.failed[:_MOST_FAILED]:
        partly = "some outputs missing; " if run.state is RunState.PARTIAL else ""
        why = f"{run.error.code}: {run.error.message}" if run.error else "see its sidecar"
        yield f"  {run.reference}  {partly}{why}"
    if len(standing.failed) > _MOST_FAILED:
        yield "  and more: floradl status --json"
    first = standing.failed[0].reference
    yield f"  try again: floradl retry {first}, or all of them: floradl retry --failed"
