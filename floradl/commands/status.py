"""`floradl status`: what is waiting, running, paused, done and failed, whether a daemon runs or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import msgspec

from floradl.clock import rfc3339
from floradl.commands.daemon_state import (
    DaemonInfo,
    StatusReport,
    all_runs,
    coarse,
    hook_failures,
    next_look,
    read_daemon,
    read_daemon_state,
    read_runs,
    read_sharers,
    rejected_jobs,
)
from floradl.commands.exits import Exit
from floradl.commands.streams import say
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError
from floradl.models import STATE_OF, QueuedRun, Reference, RunState
from floradl.queue.heartbeat import LivePause, LiveRun, Transfer
from floradl.queue.sharing import DaemonState
from floradl.redaction import redact
from floradl.units import format_count, format_size

if TYPE_CHECKING:
    from floradl.commands.results import FoundRun
    from floradl.library.base import LibraryStore
    from floradl.library.sidecar import Sidecar
    from floradl.sources.scan import Entry

_MOST_OPEN, _MOST_FAILED = 10, 5
_SILENT = 20.0  # seconds; a daemon that shares the queue reports every ten
SCHEMA_VERSION = 1


def lines(report: StatusReport, config: Config, now: float) -> Iterator[str]:
    """Return the lines to show. `now` is unix seconds. They are not redacted yet."""
    yield from head_lines(report, config, now)
    if any((report.counts or {}).values()):
        yield from _under_way(report, now)
        yield from failed_lines(report)


def head_lines(report: StatusReport, config: Config, now: float) -> Iterator[str]:
    """Return the first of `lines`: all but single runs."""
    daemon = report.daemon
    yield f"home     {config.home}"
    yield from _daemon_lines(daemon, now)
    yield from _sharer_lines(report.sharers, now)
    inbox = list(_inbox(report, config))
    yield from inbox
    yield from (f"hooks    {failure}" for failure in hook_failures(report.hooks))
    counts = {state: n for state, n in (report.counts or {}).items() if n}
    if not counts:
        if not inbox:
            yield f"runs     nothing queued yet: 'floradl add REF', or a job file in {config.queue.watch_dir}"
        return
    yield "runs     " + ", ".join(f"{n:,} {state}" for state, n in counts.items())
    unfinished = sum(n for state, n in counts.items() if state.open)
    if unfinished and daemon.holder is None and not report.sharers:
        yield "         nothing works on them: start a daemon with 'floradl run', or 'floradl once'"


def _daemon_lines(daemon: DaemonInfo, now: float) -> Iterator[str]:
    if (holder := daemon.holder) is None:
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
    if (snapshot := daemon.snapshot) is None:
        return
    if (paused := snapshot.paused) is not None:
        yield f"paused   for {coarse(now - paused.since)} ({paused.reason}): {paused.message}"
        yield "         it resumes once that is fixed"
    if snapshot.queue_file_error:
        yield f"queue    {snapshot.queue_file_error}"
    for hint in snapshot.hints:
        yield f"hint     {hint}"
    if snapshot.rate_limit is not None:
        yield f"limit    {format_size(snapshot.rate_limit)} a second, all transfers together"


def _sharer_lines(sharers: Sequence[DaemonState], now: float) -> Iterator[str]:
    """Return a line for each daemon that shares the queue, and one for its pause."""
    if not sharers:
        return
    yield f"shared   the queue, by {format_count(len(sharers), 'daemon')}"
    for each in sharers:
        snapshot = each.snapshot
        transfers = sum(len(run.outputs) for run in snapshot.runs)
        does = ["polls"] if each.polls else []
        does += [f"{format_count(transfers, 'transfer')} under way" if transfers else "no transfer under way"]
        if now - each.seen_at > _SILENT:  # its last report is out of date
            does = [f"not seen for {coarse(now - each.seen_at)}: others take over its runs"]
        since = coarse(now - snapshot.since)
        yield f"         {each.name}: {', '.join(does)} (version {each.version}, for {since})"
        if (paused := snapshot.paused) is not None:
            yield f"           paused for {coarse(now - paused.since)} ({paused.reason}): {paused.message}"
    if not any(each.polls for each in sharers):
        yield "         none of them polls just now: one is elected within ten seconds, of those with a key"


def _inbox(report: StatusReport, config: Config) -> Iterator[str]:
    from floradl.sources.scan import entries, shown  # noqa: PLC0415 - heavy, and `--json` needs none of it

    watch_dir, queue_file = config.queue.watch_dir, config.queue.file
    refused = 0
    waiting: list[Entry] = []
    lying: list[str] = []
    try:
        with suppress(FileNotFoundError):  # the folder is made when it is needed
            here = [entry for entry in entries(watch_dir) if watch_dir / entry.name != queue_file]
            marks = [(entry.name, entry.stamp.mtime_ns, entry.stamp.size) for entry in here]
            known = {(left.name, left.mtime_ns, left.size) for left in report.left.values()}
            lying = [mark[0] for mark in marks if mark in known]
            waiting = [entry for entry in here if entry.unseen is None and entry.name not in lying]
    except OSError as error:
        yield f"inbox    {watch_dir} cannot be read: {error.strerror}"
        return
    with suppress(OSError):
        refused = rejected_jobs(watch_dir)
    snapshot = report.daemon.snapshot
    if waiting:
        yield f"inbox    {format_count(len(waiting), 'job file')} in {watch_dir} not taken yet"
    if snapshot is not None and snapshot.held is not None:
        yield f"{'         they wait, for' if waiting else 'inbox   '} {snapshot.held.message}"
    if refused:
        files = format_count(refused, "job file")
        yield f"inbox    {files} refused: {watch_dir / 'rejected'} says why beside each"
    troubles = snapshot.inbox_troubles if snapshot is not None else ()
    yield from (f"inbox    {trouble}" for trouble in troubles)
    if lying and not troubles:
        files = format_count(len(lying), "job file")
        yield f"inbox    {files} done with, but could not be moved away: {', '.join(map(shown, lying[:3]))}"


def _under_way(report: StatusReport, now: float) -> Iterator[str]:
    # One that only waits is in the counts.
    known = _live(report.daemon, report.sharers)
    shown_runs = [run for run in report.unfinished if run.state is not RunState.WAITING or run.error]
    if shown_runs:
        yield from ("", "Not finished")
    for run in shown_runs[:_MOST_OPEN]:
        live = known.get(run.run_id)
        due = next_look(run, live, report.daemon.silent_until)
        yield f"  {run.reference}  {_progress(run, live, due, now)}"
        yield from (f"    {_transfer(transfer)}" for transfer in (live.outputs if live else ()))
    if len(shown_runs) > _MOST_OPEN:
        yield f"  and {len(shown_runs) - _MOST_OPEN:,} more: floradl status --json"


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


def failed_lines(report: StatusReport) -> Iterator[str]:
    """Return the last of `lines`: which runs failed last, and why."""
    if not report.failed:
        return
    yield from ("", "Failed last")
    for run in report.failed[:_MOST_FAILED]:
        partly = "some outputs missing; " if run.state is RunState.PARTIAL else ""
        why = f"{run.error.code}: {run.error.message}" if run.error else "see its sidecar"
        yield f"  {run.reference}  {partly}{why}"
    if len(report.failed) > _MOST_FAILED:
        yield "  and more: floradl status --json"
    first = report.failed[0].reference
    yield f"  try again: floradl retry {first}, or all of them: floradl retry --failed"


def status(
    config: Config,
    *,
    as_json: bool,
    everything: bool,
    check: bool,
    stream: TextIO,
    wall: Callable[[], float] = time.time,
) -> Exit:
    """Write the state to `stream`; return the exit code.

    A text for people; with `as_json` one JSON object; with `everything` one JSON object a line for each run;
    with `check` one line that shows whether a daemon is alive and makes progress, and exit code 1 where none
    does (beside the other two, only the exit code). `wall` gives unix seconds. Raises `ConfigError` where the
    state cannot be read.
    """
    state_dir = config.state_dir
    report = None if everything or (check and not as_json) else read_daemon_state(state_dir)
    daemon = report.daemon if report is not None else read_daemon(state_dir)
    if everything:
        known = _live(daemon)
        described = (_run(run, known.get(run.run_id), daemon.silent_until) for run in all_runs(state_dir))
        stream.writelines(json.dumps({"schema_version": SCHEMA_VERSION} | run) + "\n" for run in described)
    elif report is None:
        say(stream, _verdict(daemon, wall()))
    elif as_json:
        # Python's own encoder is slow where it indents.
        stream.write(msgspec.json.format(json.dumps(document(report, config)), indent=2) + "\n")
    else:
        for line in lines(report, config, wall()):
            say(stream, line)
    return Exit.FOUND if check and daemon.trouble(wall()) else Exit.OK


def document(report: StatusReport, config: Config) -> dict[str, Any]:
    """Return what `--json` shows, as plain values."""
    daemon = report.daemon
    snapshot = daemon.snapshot if daemon.alive else None
    broken = snapshot.queue_file_error if snapshot else None
    known = _live(daemon, report.sharers)
    counts = report.counts or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "home": str(config.home),
        "daemon": _daemon(daemon),
        "daemons": [_sharer(each) for each in report.sharers],
        "paused": _pause(snapshot.paused if snapshot else None),
        "queue_file_error": None if broken is None else redact(broken),
        "hints": [redact(hint) for hint in (snapshot.hints if snapshot else ())],
        "inbox": {
            "held": _pause(snapshot.held if snapshot else None),
            "troubles": [redact(trouble) for trouble in (snapshot.inbox_troubles if snapshot else ())],
            "rejected": _rejected(config),
        },
        "hooks": {"retried": report.hooks.retried, "given_up": report.hooks.given_up},
        "rate_limit": snapshot.rate_limit if snapshot else None,
        "counts": {state.value: counts.get(state, 0) for state in RunState},
        "runs": [
            _run(run, known.get(run.run_id), daemon.silent_until)
            for run in (*report.unfinished, *report.failed)
        ],
    }


def _rejected(config: Config) -> int | None:
    with suppress(OSError):
        return rejected_jobs(config.queue.watch_dir)
    return None


def _pause(pause: LivePause | None) -> dict[str, Any] | None:
    if pause is None:
        return None
    return {"reason": pause.reason, "message": redact(pause.message), "since": rfc3339(pause.since)}


def _daemon(daemon: DaemonInfo) -> dict[str, Any]:
    holder = daemon.holder if daemon.alive else None
    snapshot = daemon.snapshot if daemon.alive else None
    return {
        "alive": holder is not None,
        "pid": holder.pid or None if holder else None,
        "version": holder.version or None if holder else None,
        "since": rfc3339(holder.since) if holder else None,
        "progress_at": rfc3339(snapshot.progress_at) if snapshot else None,
    }


def _sharer(daemon: DaemonState) -> dict[str, Any]:
    snapshot = daemon.snapshot
    return {
        "name": daemon.name,
        "version": daemon.version,
        "polls": daemon.polls,
        "seen_at": rfc3339(daemon.seen_at),
        "since": rfc3339(snapshot.since),
        "progress_at": rfc3339(snapshot.progress_at),
        "paused": _pause(snapshot.paused),
        "hints": [redact(hint) for hint in snapshot.hints],
        "transfers": sum(len(run.outputs) for run in snapshot.runs),
    }


def _live(daemon: DaemonInfo, sharers: Sequence[DaemonState] = ()) -> dict[str, LiveRun]:
    """Return the runs under way, by id: this machine's daemon counts before others that share the queue."""
    known = {run.run_id: run for each in sharers for run in each.snapshot.runs}
    return known | {run.run_id: run for run in daemon.snapshot.runs} if daemon.snapshot else known


def _run(run: QueuedRun, now: LiveRun | None, silent_until: float | None) -> dict[str, Any]:
    if not run.state.open:
        now = None  # it finished since the snapshot was written
    progress = now.progress if now else run.progress
    return {
        "reference": str(run.reference),
        "run_id": run.run_id,
        "state": run.state.value,
        "progress": int(progress) if progress.is_integer() else progress,
        "next_at": rfc3339(next_look(run, now, silent_until)),
        "error": {"code": run.error.code.value, "message": redact(run.error.message)} if run.error else None,
        "outputs": [
            {"output_id": output.output_id, "bytes": output.bytes, "total": output.total}
            for output in (now.outputs if now else ())
        ],
    }


def status_of(config: Config, references: Sequence[Reference], stream: TextIO, *, as_json: bool) -> Exit:
    """Write what became of single runs, with the files of those that ended, to `stream`.

    A text for people, or with `as_json` one JSON object. Returns `FOUND` where one is neither queued nor in
    the library. Raises `ConfigError` where state or library cannot be read.
    """
    from floradl.library_builder import build_library  # noqa: PLC0415 - as heavy as the rest of the command

    rows = read_runs(config.state_dir, [reference.run_id for reference in references])
    daemon = read_daemon(config.state_dir)
    library = build_library(config)
    # Before the first start there is no library, which is no error here.
    place = config.output.dir
    used = config.state_dir.exists() or not isinstance(place, Path) or place.exists()
    runs = []
    for reference in references:
        row = rows.get(reference.run_id)
        required = used and (row is None or not row.state.open)
        found = _find(library, row.reference if row else reference, required=required)
        if row is None and found is not None:
            row = _row_of(found.sidecar)
        runs.append((row or reference, found))
    live = _live(daemon, read_sharers(config.state_dir))
    if as_json:
        described = [_described(run, found, live, daemon.silent_until) for run, found in runs]
        stream.write(json.dumps({"schema_version": SCHEMA_VERSION, "runs": described}, indent=2) + "\n")
    else:
        now = time.time()
        for run, found in runs:
            for line in _told(run, found, live, daemon.silent_until, now):
                say(stream, line)
    return Exit.FOUND if any(isinstance(run, Reference) for run, _ in runs) else Exit.OK


def _find(library: LibraryStore, reference: Reference, *, required: bool) -> FoundRun | None:
    from floradl.commands.results import find_run  # noqa: PLC0415 - as heavy as the rest of the command

    try:
        return find_run(library, reference)
    except FloradlError as error:
        if required:
            raise ConfigError(str(error)) from error
        return None


def _row_of(sidecar: Sidecar) -> QueuedRun:
    """Return the row of a run that only has a sidecar (of `get`), as the queue would have it."""
    return QueuedRun(
        run_id=sidecar.run_id,
        technique=sidecar.technique,
        label=sidecar.label,
        state=STATE_OF[sidecar.result],
        queued_at=0.0,
        progress=100.0,
        error=sidecar.error or next((output.error for output in sidecar.outputs if output.error), None),
    )


def _described(
    run: QueuedRun | Reference,
    found: FoundRun | None,
    live: Mapping[str, LiveRun],
    silent_until: float | None,
) -> dict[str, Any]:
    if isinstance(run, Reference):
        known: dict[str, Any] = {"reference": str(run), "run_id": run.run_id, "state": None, "label": None}
    else:
        known = _run(run, live.get(run.run_id), silent_until) | {"label": run.label}
    return known | {
        "result": found.sidecar.result if found else None,
        "sidecar": found.path if found else None,
        "files": list(found.files) if found else [],
        "missing": list(found.missing) if found else [],
    }


def _told(
    run: QueuedRun | Reference,
    found: FoundRun | None,
    live: Mapping[str, LiveRun],
    silent_until: float | None,
    now: float,
) -> Iterator[str]:
    if isinstance(run, Reference):
        yield f"{run}  not known here: neither queued nor in the library (floradl add {run})"
        return
    now_live = live.get(run.run_id)
    label = f" ({run.label})" if run.label else ""
    yield f"{run.reference}{label}  {_progress(run, now_live, next_look(run, now_live, silent_until), now)}"
    if run.state.open:
        yield from (f"  {_transfer(transfer)}" for transfer in (now_live.outputs if now_live else ()))
    if found is not None:
        yield from (f"  {file}" for file in found.files)
        yield from (f"  {file}  is not there any more" for file in found.missing)
        yield f"  {found.path}"


def _verdict(daemon: DaemonInfo, now: float) -> str:
    if (trouble := daemon.trouble(now)) is not None:
        return trouble
    if daemon.snapshot is None:
        return "a daemon has just started"
    paused = daemon.snapshot.paused
    pause = f"; paused ({paused.reason}): {paused.message}" if paused else ""
    return f"{daemon.holder} is alive, last seen well {coarse(now - daemon.snapshot.progress_at)} ago{pause}"
