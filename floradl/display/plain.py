"""Progress as plain lines, for logs, pipes and dumb terminals: a line where something changed, no more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from floradl.display.results import ResultCounts, RunLine, format_seconds, gains, reason, shown, summary
from floradl.models import QueuedRun, RunState
from floradl.runs.events import RunSummary

_STEP = 25.0  # per cent between two lines about a running run
_SAME_TROUBLE = 300.0  # seconds without it, until the same trouble is news again
_MOST_TROUBLES = 256


class PlainDisplay:
    """A `RunEvents` that writes lines to `stream`; `quiet` leaves failures only."""

    def __init__(
        self,
        stream: TextIO,
        *,
        quiet: bool = False,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream = stream
        self._encoding = stream.encoding or "utf-8"
        self._quiet = quiet
        self._monotonic = monotonic
        self._started = monotonic()
        self._since: dict[str, float] = {}
        self._told: dict[str, tuple[RunState, float]] = {}
        self._troubles: dict[str, float] = {}
        self._tally = ResultCounts()

    def run(self, run: QueuedRun, next_in: float | None) -> None:  # noqa: ARG002  # not news each time
        """Tell a new state, and each quarter of the way."""
        self._since.setdefault(run.run_id, self._monotonic())
        told = self._told.get(run.run_id)
        if told is not None and told[0] is run.state and abs(run.progress - told[1]) < _STEP:
            return
        self._told[run.run_id] = (run.state, run.progress)
        far = f", {run.progress:.0f} %" if run.state is RunState.RUNNING else ""
        self._tell(run, f"{run.state}{far}")

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Keep silent: bytes are for bars."""

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Print nothing: the finished run names its files."""

    def finished(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Tell how it ended."""
        since = self._since.pop(run.run_id, None)
        self._told.pop(run.run_id, None)
        seconds = None if since is None else self._monotonic() - since
        self._tally.count(run, brought)
        sidecar = brought.sidecar if brought else None
        told = ", ".join(part for part in (run.state, gains(RunLine(run, brought, seconds)), sidecar) if part)
        why = reason(run)
        self._tell(run, f"{told}: {why}" if why else told, failure=why is not None)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Tell trouble once for as long as it lasts, however many runs meet it."""
        self._since.setdefault(run.run_id, self._monotonic())
        now = self._monotonic()
        last = self._troubles.pop(message, None)
        self._troubles[message] = now  # at the end: the first one is the oldest
        if len(self._troubles) > _MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        if last is None or now - last > _SAME_TROUBLE:
            self._tell(run, f"{message}; next try in {format_seconds(next_in)}")

    def close(self) -> None:
        """Tell what came of all, where that is more than the lines said."""
        left = len(self._since)
        if not self._quiet and self._tally.ended + left > 1:
            self._write(summary(self._tally, left, self._monotonic() - self._started))

    def _tell(self, run: QueuedRun, text: str, *, failure: bool = False) -> None:
        if failure or not self._quiet:
            label = f" ({run.label})" if run.label else ""
            self._write(f"{run.reference}{label}: {text}")

    def _write(self, line: str) -> None:
        try:
            self._stream.write(shown(line, self._encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads any more: the work goes on in silence
