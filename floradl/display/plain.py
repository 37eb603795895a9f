"""Progress as plain lines, for logs, pipes and dumb terminals, and how results are worded anywhere.

There is a line where something changed, and no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from msgspec import Struct

from floradl.models import QueuedRun, RunState
from floradl.redaction import printable, redact
from floradl.units import format_count, format_size

if TYPE_CHECKING:
    from floradl.runs.events import RunSummary  # at run time it would bring structlog

_LONGEST = 1000
_UNITS = ("B", "kB", "MB", "GB", "TB")
_STEP = 25.0  # per cent between two lines about a running run
_SAME_TROUBLE = 300.0  # seconds without it, until the same trouble is news again
_MOST_TROUBLES = 256


class RunLine(Struct, frozen=True):
    """A run that is finished, and what it brought; `seconds` it took, None if not known."""

    run: QueuedRun
    brought: RunSummary | None
    seconds: float | None


class ResultCounts(Struct):
    """How many runs ended how, and what they brought; counted up by its owner."""

    done: int = 0
    partial: int = 0
    failed: int = 0
    files: int = 0
    bytes: int = 0

    def count(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Count a finished run, and what it brought."""
        if brought is not None:
            self.files += brought.files
            self.bytes += brought.bytes
        self.done += run.state is RunState.DONE
        self.partial += run.state is RunState.PARTIAL
        self.failed += run.state is RunState.FAILED

    @property
    def ended(self) -> int:
        """All finished runs."""
        return self.done + self.partial + self.failed


def shown(text: str, encoding: str) -> str:
    """Return `text` fit to be seen: redacted, no control characters, not too long, in `encoding`."""
    text = printable(redact(text))
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return text.encode(encoding, "backslashreplace").decode(encoding)


def gains(ending: RunLine) -> str:
    """Return what a finished run brought and how long it took: `3 files, 12.4 MB, 4.2 s`; may be empty."""
    brought = ending.brought
    if brought is None and ending.run.state is RunState.DONE:
        return "already there"
    parts = []
    if brought is not None and ending.run.state is not RunState.FAILED:
        wanted = brought.outputs - brought.skipped
        part = "" if brought.files == wanted else f"{brought.files} of "
        if wanted:
            parts += [f"{part}{format_count(wanted, 'file')}", format_size(brought.bytes)]
        if brought.skipped:
            parts.append(f"{brought.skipped:,} left out")
    if ending.seconds is not None:
        parts.append(format_seconds(ending.seconds))
    return ", ".join(parts)


def reason(run: QueuedRun) -> str | None:
    """Return why a run failed, or some output of it: `safety_blocked: the prompt was refused`."""
    return None if run.error is None else f"{run.error.code}: {run.error.message}"


def summary(tally: ResultCounts, left: int, seconds: float) -> str:
    """Return what came of all: `12 done, 1 failed, 3 not finished: 36 files, 412 MB in 34 s`."""
    numbers = {"done": tally.done, "partial": tally.partial, "failed": tally.failed, "not finished": left}
    counts = ", ".join(f"{number} {word}" for word, number in numbers.items() if number)
    brought = f"{format_count(tally.files, 'file')}, {format_size(tally.bytes)} in " if tally.files else ""
    return f"{counts or 'nothing to do'}: {brought}{format_seconds(seconds)}"


def format_seconds(seconds: float) -> str:
    """Write how long something took: `0.4 s`, `34 s`, `5 min 20 s`, `2 h 5 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + " s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def _scaled(size: float) -> tuple[float, str]:
    """Return the divisor and the unit for `size` with at most three digits before the point."""
    power = 0
    while power < len(_UNITS) - 1 and size >= 999.95 * 1000**power:
        power += 1
    return 1000.0**power, _UNITS[power]


def format_part(received: int, total: int | None) -> str:
    """Write how much of how much, in one unit, so that the numbers keep their places: `3.1/12.0 MB`."""
    divisor, unit = _scaled(max(received, total or 0))
    digits = 0 if divisor == 1 else 1
    of = "" if total is None else f"/{total / divisor:.{digits}f}"
    return f"{received / divisor:.{digits}f}{of} {unit}"


def format_rate(rate: float | None) -> str:
    """Write bytes a second: `4.0 MB/s`; empty for None."""
    if rate is None:
        return ""
    divisor, unit = _scaled(rate)
    return f"{rate / divisor:.{0 if divisor == 1 else 1}f} {unit}/s"


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
        self._shown: dict[str, tuple[RunState, float]] = {}
        self._troubles: dict[str, float] = {}
        self._tally = ResultCounts()

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        """Write a new state, and each quarter of the way; not that a run ended and waits for a slot."""
        self._since.setdefault(run.run_id, self._monotonic())
        last = self._shown.get(run.run_id)
        if last is not None and last[0] is run.state and abs(run.progress - last[1]) < _STEP:
            return
        if run.state is RunState.RUNNING and run.progress == 100:
            return
        if run.state is RunState.WAITING and next_in is None:
            return  # it ended, or is there: the next line says which
        self._shown[run.run_id] = (run.state, run.progress)
        far = f", {run.progress:.0f} %" if run.state is RunState.RUNNING else ""
        self._show(run, f"{run.state}{far}")

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Keep silent: bytes are for bars."""

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Print nothing: the finished run names its files."""

    def finished(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Write how it ended."""
        since = self._since.pop(run.run_id, None)
        self._shown.pop(run.run_id, None)
        seconds = None if since is None else self._monotonic() - since
        self._tally.count(run, brought)
        places = (brought.places or (brought.sidecar,)) if brought else ()
        parts = (run.state, gains(RunLine(run, brought, seconds)), *places)
        text, why = ", ".join(part for part in parts if part), reason(run)
        self._show(run, f"{text}: {why}" if why else text, failure=why is not None)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Write trouble once for as long as it lasts, however many runs meet it."""
        self._since.setdefault(run.run_id, self._monotonic())
        now = self._monotonic()
        last = self._troubles.pop(message, None)
        self._troubles[message] = now  # at the end: the first one is the oldest
        if len(self._troubles) > _MOST_TROUBLES:
            del self._troubles[next(iter(self._troubles))]
        if last is None or now - last > _SAME_TROUBLE:
            self._show(run, f"{message}; next try in {format_seconds(next_in)}")

    def dropped(self, run_id: str) -> None:
        """Forget a run."""
        self._since.pop(run_id, None)
        self._shown.pop(run_id, None)

    def close(self) -> None:
        """Write what came of all, where that is more than the lines before."""
        left = len(self._since)
        if not self._quiet and self._tally.ended + left > 1:
            self._write(summary(self._tally, left, self._monotonic() - self._started))

    def _show(self, run: QueuedRun, text: str, *, failure: bool = False) -> None:
        if failure or not self._quiet:
            label = f" ({run.label})" if run.label else ""
            self._write(f"{run.reference}{label}: {text}")

    def _write(self, line: str) -> None:
        try:
            self._stream.write(shown(line, self._encoding) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            return  # nobody reads any more: the work goes on in silence
