"""`floradl status`: what is waiting, running, paused, done and failed, whether a daemon runs or not."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, TextIO

import msgspec

from floradl.clock import rfc3339
from floradl.commands.daemon_state import (
    DaemonInfo,
    DaemonState,
    all_runs,
    coarse,
    next_look,
    read_daemon,
    read_daemon_state,
)
from floradl.commands.exits import Exit
from floradl.commands.streams import say
from floradl.config.settings import Config
from floradl.models import QueuedRun, RunState
from floradl.queue.heartbeat import LivePause, LiveRun
from floradl.redaction import redact

SCHEMA_VERSION = 1


def status(
    config: Config,
    *,
    as_json: bool,
    everything: bool,
    check: bool,
    stream: TextIO,
    wall: Callable[[], float] = time.time,
) -> Exit:
    """Write how things stand to `stream`; return the exit code.

    A text for people; with `as_json` one JSON object; with `everything` one JSON object a line for each run,
    of any number; with `check` one line that says whether a daemon is alive and makes progress, and exit code
    1 where none does (beside `as_json` or `everything`, only the exit code). `wall` gives unix seconds.
    Raises `ConfigError` where the state cannot be read.
    """
    state_dir = config.state_dir
    if everything:
        daemon = read_daemon(state_dir)
        known = _live(daemon)
        described = (_run(run, known.get(run.run_id), daemon.silent_until) for run in all_runs(state_dir))
        stream.writelines(json.dumps(run) + "\n" for run in described)
    elif as_json:
        standing = read_daemon_state(state_dir)
        daemon = standing.daemon
        # Python's own encoder is slow where it indents.
        stream.write(msgspec.json.format(json.dumps(document(standing, config)), indent=2) + "\n")
    elif check:
        daemon = read_daemon(state_dir)
        say(stream, _verdict(daemon, wall()))
    else:
        standing = read_daemon_state(state_dir)
        daemon = standing.daemon

        from floradl.commands.status_text import lines  # noqa: PLC0415 - JSON needs no text

        for line in lines(standing, config, wall()):
            say(stream, line)
    return Exit.FOUND if check and daemon.trouble(wall()) else Exit.OK


def document(standing: DaemonState, config: Config) -> dict[str, Any]:
    """Return what `--json` says, as plain values."""
    daemon = standing.daemon
    snapshot = daemon.snapshot if daemon.alive else None
    paused = snapshot.paused if snapshot else None
    broken = snapshot.queue_file_error if snapshot else None
    known = _live(daemon)
    counts = standing.counts or {}
    return {
        "schema_version": SCHEMA_VERSION,
        "home": str(config.home),
        "daemon": _daemon(daemon),
        "paused": _pause(paused),
        "queue_file_error": None if broken is None else redact(broken),
        "hints": [redact(hint) for hint in (snapshot.hints if snapshot else ())],
        "inbox": {
            "held": _pause(snapshot.held if snapshot else None),
            "troubles": [redact(trouble) for trouble in (snapshot.inbox_troubles if snapshot else ())],
        },
        "rate_limit": snapshot.rate_limit if snapshot else None,
        "counts": {state.value: counts.get(state, 0) for state in RunState},
        "runs": [
            _run(run, known.get(run.run_id), daemon.silent_until)
            for run in (*standing.unfinished, *standing.failed)
        ],
    }


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


def _live(daemon: DaemonInfo) -> dict[str, LiveRun]:
    return {run.run_id: run for run in daemon.snapshot.runs} if daemon.snapshot else {}


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


def _verdict(daemon: DaemonInfo, now: float) -> str:
    trouble = daemon.trouble(now)
    if trouble is not None:
        return trouble
    if daemon.snapshot is None:
        return "a daemon has just started"
    paused = daemon.snapshot.paused
    pause = f"; paused ({paused.reason}): {paused.message}" if paused else ""
    return f"{daemon.holder} is alive, last seen well {coarse(now - daemon.snapshot.progress_at)} ago{pause}"
