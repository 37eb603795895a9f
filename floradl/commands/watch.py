"""`status --watch` and `wait`: look at a daemon's work again and again, from outside.

Both read what `status` reads, whether a daemon, `once` or no process is at work.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from floradl.commands.daemon_state import (
    StatusReport,
    next_look,
    read_daemon,
    read_daemon_state,
    read_runs,
)
from floradl.commands.exits import Exit
from floradl.commands.streams import tell
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError, JobError, PauseReason
from floradl.models import STATE_OF, QueuedRun, Reference, RunState
from floradl.queue.heartbeat import LiveRun
from floradl.redaction import redact

if TYPE_CHECKING:
    from floradl.display.board import BoardView, Rate, RunRow, TransferRow
    from floradl.sources.file_ready import Stamp

_EVERY = 0.5  # seconds between two pictures
_LOOK_EVERY = 0.2  # seconds between two looks at the queue; more where a look takes long
_RESTART = 30.0  # seconds that a daemon may be away while it restarts
_MOST_FAILED = 6  # lines


def watch(config: Config, stream: TextIO) -> Exit:
    """Draw the daemon's state on the terminal `stream` until Ctrl-C, which is exit code 0.

    Raises `ConfigError` where it is no terminal, and where the state cannot be read at first.
    """
    if not stream.isatty() or os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        raise ConfigError(
            "--watch draws on a terminal, and standard output is none: programs read 'floradl status --json' "
            "or 'floradl events --follow'"
        )
    from floradl.slim_imports import allow_rich  # noqa: PLC0415 - rich, only where it is seen

    allow_rich()
    from floradl.display.terminal import redrawn  # noqa: PLC0415 - as above

    picture = DaemonPicture(config)
    picture.look(time.time())
    with suppress(KeyboardInterrupt), redrawn(stream) as draw:
        while True:
            draw(picture.lines(time.time()))
            time.sleep(_EVERY)
            picture.look(time.time())
    return Exit.OK


class DaemonPicture:
    """The picture of a daemon on a terminal, drawn anew at each look."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._state: StatusReport | None = None
        self._trouble: str | None = None
        self._rates: dict[tuple[str, str], tuple[int, Rate]] = {}
        self._seen_at = 0.0

    def look(self, now: float) -> None:
        """Read the state. `now` is unix seconds. Raises `ConfigError` the first time."""
        try:
            self._state = read_daemon_state(self._config.state_dir)
            self._trouble = None
        except ConfigError as error:
            if self._state is None:
                raise
            self._trouble = str(error)
            return
        snapshot = self._state.daemon.snapshot
        at = snapshot.progress_at if snapshot is not None else now
        if at != self._seen_at:
            self._sample(at)

    def _sample(self, at: float) -> None:
        from floradl.display.board import Rate  # noqa: PLC0415 - as in `watch`

        seconds, self._seen_at = max(0.0, at - self._seen_at) if self._seen_at else 0.0, at
        found = {}
        for run in self._live().values():
            for output in run.outputs:
                before, rate = self._rates.get((run.run_id, output.output_id), (output.bytes, Rate()))
                if seconds:
                    rate.add(max(0, output.bytes - before), seconds)
                found[run.run_id, output.output_id] = output.bytes, rate
        self._rates = found

    def _live(self) -> dict[str, LiveRun]:
        snapshot = self._state.daemon.snapshot if self._state is not None else None
        return {run.run_id: run for run in snapshot.runs} if snapshot is not None else {}

    def lines(self, now: float) -> Callable[[int], list[str | BoardView]]:
        """Return what is to be drawn, for a number of lines; texts are not redacted yet."""
        from floradl.commands.status import failed_lines, head_lines  # noqa: PLC0415 - as in `watch`

        def drawn(room: int) -> list[str | BoardView]:
            if self._state is None:
                return []
            head: list[str | BoardView] = [*head_lines(self._state, self._config, now)]
            if self._trouble is not None:
                head.insert(0, self._trouble)
            failed = [*failed_lines(self._state)][:_MOST_FAILED]
            return [*head, self._view(max(2, room - len(head) - len(failed) - 1), now), *failed]

        return drawn

    def _view(self, room: int, now: float) -> BoardView:
        from floradl.display.board import BoardView, TransferStage  # noqa: PLC0415 - as in `watch`
        from floradl.display.plain import ResultCounts  # noqa: PLC0415 - as in `watch`

        state = self._state or StatusReport(read_daemon(self._config.state_dir))
        counts = state.counts or {}
        rows: list[RunRow | TransferRow] = []
        hidden = 0
        for block in self._rows(state, now):
            if hidden or len(rows) + len(block) > room - 2:
                hidden += 1
            else:
                rows += block
        rates = [rate.per_second or 0.0 for _, rate in self._rates.values()]
        troubled = sum(run.error is not None for run in state.unfinished)
        waiting = counts.get(RunState.WAITING, 0)
        holder = state.daemon.holder
        return BoardView(
            tuple(rows),
            hidden,
            {
                TransferStage.DOWNLOADING: counts.get(RunState.DOWNLOADING, 0),
                TransferStage.TROUBLED: troubled,
                TransferStage.RUNNING: counts.get(RunState.RUNNING, 0),
                TransferStage.WAITING: max(0, waiting - troubled),
            },
            ResultCounts(
                counts.get(RunState.DONE, 0), counts.get(RunState.PARTIAL, 0), counts.get(RunState.FAILED, 0)
            ),
            sum(rates) if rates else None,
            now - holder.since if holder is not None else 0.0,
        )

    def _rows(self, state: StatusReport, now: float) -> Iterator[list[RunRow | TransferRow]]:
        from msgspec.structs import replace  # noqa: PLC0415 - as in `watch`

        from floradl.display.board import RunRow, TransferRow, TransferStage  # noqa: PLC0415 - as in `watch`

        stages = {RunState.DOWNLOADING: TransferStage.DOWNLOADING, RunState.RUNNING: TransferStage.RUNNING}
        live_runs = self._live()
        for run in state.unfinished:
            live = live_runs.get(run.run_id)
            if run.state is RunState.WAITING and run.error is None:
                continue  # it is in the counts
            due = next_look(run, live, state.daemon.silent_until)
            next_in = None if due is None else max(0.0, due - now)
            outputs = live.outputs if live else ()
            shown = replace(run, progress=live.progress) if live else run
            stage = stages.get(run.state, TransferStage.WAITING)
            message = None
            if run.error is not None:
                stage, message = TransferStage.TROUBLED, f"{run.error.code}: {run.error.message}"
            yield [
                RunRow(shown, stage, message, next_in, bool(outputs)),
                *(
                    TransferRow(
                        output.output_id,
                        output.bytes,
                        output.total,
                        self._rates[run.run_id, output.output_id][1].per_second,
                    )
                    for output in outputs
                    if (run.run_id, output.output_id) in self._rates
                ),
            ]


def wait(
    config: Config, references: Sequence[Reference], timeout: float = math.inf, *, quiet: bool = False
) -> Exit:
    """Wait until all these runs have ended; return the exit code that `once` would have for them.

    `timeout` is in seconds; `quiet` leaves out the line for each run that ends. Where nobody works on them,
    that is said, and `GAVE_UP` returned. Raises `ConfigError` for a run that nobody queued, and where the
    state cannot be read.
    """
    waiting = _Waiting(config, references, quiet=quiet)
    deadline = time.monotonic() + timeout
    while True:
        began = time.monotonic()
        if (code := waiting.look()) is not None:
            return code
        if time.monotonic() >= deadline:
            tell(f"floradl: --timeout is over, and {waiting.left} not ended")
            return Exit.GAVE_UP
        pause = max(_LOOK_EVERY, 5 * (time.monotonic() - began))
        time.sleep(max(0.0, min(pause, deadline - time.monotonic())))


class _Waiting:
    def __init__(self, config: Config, references: Sequence[Reference], *, quiet: bool) -> None:
        self._config = config
        self._quiet = quiet
        self._open = {reference.run_id: reference for reference in references}
        self._jobs: dict[str, tuple[Stamp, frozenset[str]]] = {}
        self._seen_alive = -math.inf
        self._first = True
        self._code = Exit.OK

    @property
    def left(self) -> str:
        """Name the runs that have not ended, for a person."""
        first = str(next(iter(self._open.values())))
        more = len(self._open) - 1
        return f"{first} has" if not more else f"{first} and {more:,} more have"

    def look(self) -> Exit | None:
        """Look once; return the exit code as soon as it is known."""
        daemon = read_daemon(self._config.state_dir)
        asked_for = self._asked_for()  # before the queue: what is gone from here stands there
        rows = read_runs(self._config.state_dir, list(self._open))
        unknown = []
        for run_id, reference in list(self._open.items()):
            row = rows.get(run_id)
            if run_id in asked_for or (row is not None and row.state.open):
                continue
            state, why = (row.state, _reason(row)) if row is not None else self._in_library(reference)
            if state is None:
                unknown.append(reference)
            else:
                self._ended(reference, state, why)
        self._first = False
        if not self._open:
            return self._code
        if daemon.holder is not None:
            self._seen_alive = time.monotonic()
        elif time.monotonic() - self._seen_alive > _RESTART:
            tell(
                f"floradl: no daemon is running, and {self.left} not ended: start one with 'floradl run', or "
                "'floradl once'"
            )
            return Exit.GAVE_UP
        if unknown and not self._brings_runs():
            raise ConfigError(f"{unknown[0]} is not queued: 'floradl add {unknown[0]}' queues it")
        paused = daemon.snapshot.paused if daemon.snapshot is not None else None
        if paused is not None and paused.reason == PauseReason.KEY_REFUSED:
            tell(f"floradl: {redact(paused.message)}")
            return Exit.KEY_REFUSED
        return None

    def _ended(self, reference: Reference, state: RunState, why: str) -> None:
        del self._open[reference.run_id]
        if state is not RunState.DONE:
            self._code = Exit.FAILED
        if not self._quiet:
            tell(redact(f"{reference}: {state}{why}"))

    def _in_library(self, reference: Reference) -> tuple[RunState | None, str]:
        """Return the result of a run that only has a sidecar: `get` does not use the queue."""
        if not self._first:
            return None, ""
        from floradl.library_builder import build_library  # noqa: PLC0415 - heavy, and seldom needed

        with suppress(FloradlError):
            found = build_library(self._config).find_sidecar(reference)
            if found is not None:
                return STATE_OF[found.result], f"; {found.error.message}" if found.error else ""
        return None, ""

    def _brings_runs(self) -> bool:
        """Whether runs may also come by webhook, or from the account's history."""
        return self._config.webhook.listen is not None or bool(self._config.sync.kinds)

    def _asked_for(self) -> set[str]:
        """Return the runs named in job files that are still in the inbox."""
        from floradl.sources.scan import entries  # noqa: PLC0415 - `--watch` needs none of it

        watch_dir = self._config.queue.watch_dir
        try:
            found = [entry for entry in entries(watch_dir) if entry.kind is None and entry.unseen is None]
        except OSError:
            return set()
        known, self._jobs = self._jobs, {}
        for entry in found:
            job = known.get(entry.name)
            if job is None or job[0] != entry.stamp:
                job = entry.stamp, _runs_of(watch_dir / entry.name)
            self._jobs[entry.name] = job
        return {run_id for _, run_ids in self._jobs.values() for run_id in run_ids}


def _reason(run: QueuedRun) -> str:
    return f"; {run.error.code}: {run.error.message}" if run.error else ""


def _runs_of(file: Path) -> frozenset[str]:
    from floradl.fs.folders import open_plain  # noqa: PLC0415 - `--watch` needs none of it
    from floradl.sources.file_ready import MAX_BYTES  # noqa: PLC0415 - `--watch` needs none of it
    from floradl.sources.job_file import parse_job  # noqa: PLC0415 - as above

    # The daemon says what is wrong with one.
    with suppress(OSError, JobError), os.fdopen(open_plain(file, os.O_RDONLY), "rb") as stream:
        data = stream.read(MAX_BYTES + 1)
        if len(data) <= MAX_BYTES:
            return frozenset(request.reference.run_id for request in parse_job(data, file.name))
    return frozenset()
