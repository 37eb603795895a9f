"""How a run ended, in words: shared by the plain lines and the terminal's picture."""

from __future__ import annotations

from msgspec import Struct

from floradl.models import QueuedRun, RunState
from floradl.redaction import printable, redact
from floradl.runs.events import RunSummary
from floradl.units import format_count, format_size

_LONGEST = 1000


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
        match run.state:
            case RunState.DONE:
                self.done += 1
            case RunState.PARTIAL:
                self.partial += 1
            case RunState.FAILED:
                self.failed += 1
            case _:
                pass

    @property
    def ended(self) -> int:
        """All finished runs."""
        return self.done + self.partial + self.failed


def shown(text: str, encoding: str) -> str:
    """Return `text` fit for a person's eyes: redacted, no character that steers, nothing too long.

    What `encoding` cannot write is escaped.
    """
    text = printable(redact(text))
    if len(text) > _LONGEST:
        text = text[:_LONGEST] + "..."
    return text.encode(encoding, "backslashreplace").decode(encoding)


def gains(ending: RunLine) -> str:
    """Say what a finished run brought and how long it took: `3 files, 12.4 MB, 4.2 s`; may be empty."""
    brought = ending.brought
    if brought is None and ending.run.state is RunState.DONE:
        return "already there"
    told = []
    if brought is not None and ending.run.state is not RunState.FAILED:
        whole = brought.files == brought.outputs
        told += [
            format_count(brought.files, "file")
            if whole
            else f"{brought.files} of {format_count(brought.outputs, 'file')}",
            format_size(brought.bytes),
        ]
    if ending.seconds is not None:
        told.append(format_seconds(ending.seconds))
    return ", ".join(told)


def reason(run: QueuedRun) -> str | None:
    """Say why a run failed, or some output of it: `safety_blocked: the prompt was refused`."""
    return None if run.error is None else f"{run.error.code}: {run.error.message}"


def summary(tally: ResultCounts, left: int, seconds: float) -> str:
    """Say what came of all: `12 done, 1 failed, 3 not finished: 36 files, 412 MB in 34 s`."""
    numbers = (
        (tally.done, "done"),
        (tally.partial, "partial"),
        (tally.failed, "failed"),
        (left, "not finished"),
    )
    told = ", ".join(f"{number} {word}" for number, word in numbers if number)
    brought = f"{format_count(tally.files, 'file')}, {format_size(tally.bytes)} in " if tally.files else ""
    return f"{told or 'nothing to do'}: {brought}{format_seconds(seconds)}"


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
