"""What happens to runs: reported to the log and the displays, and counted for metrics."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from enum import Enum
from typing import Protocol, Self

from msgspec import Struct

from floradl.errors import ErrorCode
from floradl.log import get_logger
from floradl.models import OutputKind, QueuedRun, RemoteRun, SavedOutput
from floradl.polling.durations import detection_delay

_log = get_logger()
_LOGGED_SINGLY = 5  # runs with the same error that are logged one by one
_MOST_PLACES = 3  # paths of one run that are named one by one


class LoggedError(Enum):
    """What to log when a run meets an error."""

    RUN = "run"
    MORE = "more"  # that further runs meet it, too
    NOTHING = "nothing"  # it was logged, for this run or for enough others


class ErrorLog:
    """Which runs meet which error now. An error lasts from the first run that meets it to the last."""

    def __init__(self) -> None:
        self._code_of: dict[str, ErrorCode] = {}
        self._runs_with: dict[ErrorCode, set[str]] = {}
        self._logged: dict[ErrorCode, int] = {}

    def met(self, run_id: str, code: ErrorCode) -> LoggedError:
        """Record that a run met an error; return what to log."""
        if self._code_of.get(run_id) is code:
            return LoggedError.NOTHING
        self.over(run_id)
        self._code_of[run_id] = code
        self._runs_with.setdefault(code, set()).add(run_id)
        logged = self._logged[code] = self._logged.get(code, 0) + 1
        if logged <= _LOGGED_SINGLY:
            return LoggedError.RUN
        return LoggedError.MORE if logged == _LOGGED_SINGLY + 1 else LoggedError.NOTHING

    def over(self, run_id: str) -> ErrorCode | None:
        """Record that a run has no error any more; return one that ends with it, where many runs met it."""
        code = self._code_of.pop(run_id, None)
        if code is None:
            return None
        self._runs_with[code].discard(run_id)
        if self._runs_with[code]:
            return None
        del self._runs_with[code]
        return code if self._logged.pop(code) > 1 else None


class Histogram:
    """How many values there were up to each bound, and their sum."""

    def __init__(self, *bounds: float) -> None:
        self._bounds = (*sorted(bounds), math.inf)
        self._counts = [0] * len(self._bounds)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[next(nth for nth, bound in enumerate(self._bounds) if value <= bound)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return each bound, the last one infinity, with how many values were not above it."""
        total, found = 0, []
        for bound, number in zip(self._bounds, self._counts, strict=True):
            total += number
            found.append((bound, total))
        return found


class OutputCounters:
    """What was saved. `seconds` are those of transfers, from the request until the file is on disk."""

    def __init__(self) -> None:
        self.outputs: Counter[OutputKind] = Counter()
        self.bytes: Counter[OutputKind] = Counter()
        self.charged = Decimal(0)
        """What FLORA charged for runs that were saved, in USD; each once, when its cost became known."""
        self.seconds = Histogram(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)

    def charge(self, cost: float | None) -> None:
        """Add what a run cost, in USD; None where that is not known yet."""
        if cost is not None and math.isfinite(cost):
            self.charged += Decimal(repr(cost))

    def saved(self, kind: OutputKind, size: int, seconds: float | None) -> None:
        """Count an output of `size` bytes; `seconds` is None where nothing was transferred."""
        self.outputs[kind] += 1
        self.bytes[kind] += size
        if seconds is not None:
            self.seconds.add(seconds)


class RunSummary(Struct, frozen=True):
    """What a run gave: a sidecar (its path in the library), outputs in all, files on disk, their bytes.

    `skipped` outputs were left out. `places` are the files' paths in the library, or their folders (with `/`
    at the end) where there are more than three.
    """

    sidecar: str
    outputs: int
    files: int
    bytes: int
    skipped: int = 0
    places: tuple[str, ...] = ()

    @classmethod
    def of(cls, sidecar: str, outputs: Sequence[SavedOutput]) -> Self:
        """Count the `outputs` that `sidecar` names."""
        files = {output.path: output.bytes or 0 for output in outputs if output.path is not None}
        skipped = sum(bool(output.skipped or output.removed) for output in outputs)
        places = tuple(files)
        if len(places) > _MOST_PLACES:
            places = tuple(dict.fromkeys(f"{path.rpartition('/')[0]}/" for path in places))
        return cls(sidecar, len(outputs), len(files), sum(files.values()), skipped, places)


class RunEvents(Protocol):
    """Gets every step of every run. `transfer` and `transferred` are called from worker threads, too."""

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        """Record that a run changed, or was polled; `next_in` is in seconds, None while it is worked on."""
        ...

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Record that `received` of `total` bytes of an output are there."""
        ...

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Record that no transfer of this output is under way any more."""
        ...

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        """Record that a run is finished; None where the library had all of it already."""
        ...

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Record an error that may pass; the next try is in `next_in` seconds."""
        ...

    def dropped(self, run_id: str) -> None:
        """Record that a run is not worked on here any more, though it was not finished here."""
        ...


class EventSink(Protocol):
    """Gets what other programs hear of. For the event loop's thread."""

    def accepted(self, run_ids: Iterable[str]) -> None:
        """Record that runs are open from now on."""
        ...

    def completed(self, run: QueuedRun, outputs: int) -> None:
        """Record that a run was seen to be completed at FLORA, with so many outputs."""
        ...

    def saved(self, run: QueuedRun, output: SavedOutput) -> None:
        """Record that an output is on disk."""
        ...

    def finished(self, run: QueuedRun, sidecar: str | None, files: int, size: int) -> None:
        """Record how a run ended, its sidecar if that is new, and its files and their bytes."""
        ...


class _NoEvents(EventSink):
    def accepted(self, run_ids: Iterable[str]) -> None:
        """Do nothing."""

    def completed(self, run: QueuedRun, outputs: int) -> None:
        """Do nothing."""

    def saved(self, run: QueuedRun, output: SavedOutput) -> None:
        """Do nothing."""

    def finished(self, run: QueuedRun, sidecar: str | None, files: int, size: int) -> None:
        """Do nothing."""


NO_EVENTS: EventSink = _NoEvents()
"""Keeps nothing: for a command whose only memory is the library."""


class RunReports:
    """Passes all on to `events` and `sink`, and logs what changes. `wall` returns unix seconds."""

    def __init__(
        self, events: RunEvents, sink: EventSink = NO_EVENTS, wall: Callable[[], float] = time.time
    ) -> None:
        self._events = events
        self._sink = sink
        self._wall = wall
        self._errors = ErrorLog()
        self.delays = Histogram(0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 300)
        """Seconds from the end of a run at FLORA until a poll or webhook showed it."""

    def accepted(self, run_ids: Sequence[str]) -> None:
        """Report that runs are open from now on."""
        self._sink.accepted(run_ids)

    def unfinished(self, run: QueuedRun, next_in: float) -> None:
        """Report that a polled run is not finished, and is polled again in `next_in` seconds."""
        self._recovered(run.run_id)
        self._events.run(run, next_in)

    def detected(self, run: QueuedRun, answer: RemoteRun) -> None:
        """Report that a run was found to have ended at FLORA; the first time."""
        delay = detection_delay(answer, run.queued_at, self._wall())
        if delay is not None:
            self.delays.add(delay)
        if answer.status == "completed":
            _log.info("run_completed", run=run.run_id, technique=run.technique, outputs=len(answer.outputs))
            self._sink.completed(run, len(answer.outputs))

    def forwarded(self, run: QueuedRun) -> None:
        """Report that a run ended at FLORA, and is saved as soon as there is a slot."""
        self._recovered(run.run_id)
        self._events.run(run, None)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report an error: a line when it changes, none for each try, few where many runs meet the same."""
        logged = self._errors.met(run.run_id, run.error.code if run.error else ErrorCode.BAD_ANSWER)
        if logged is LoggedError.RUN:
            _log.warning("run_trouble", run=run.run_id, message=message, next_in=next_in)
        elif logged is LoggedError.MORE:
            _log.warning("more_in_trouble", message=f"{message}; 'floradl status' shows which runs")
        self._events.trouble(run, message, next_in)

    def halted(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report that a run met what pauses all; the pause itself is logged where it begins."""
        self._events.trouble(run, message, next_in)

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        """Report that a run is finished, and recorded."""
        self._recovered(run.run_id)
        _log.info(
            "run_finished",
            run=run.run_id,
            technique=run.technique,
            result=run.state,
            sidecar=summary.sidecar if summary else None,
            error=run.error.message if run.error else None,
        )
        self._events.finished(run, summary)
        if summary is None:
            self._sink.finished(run, None, 0, 0)
        else:
            self._sink.finished(run, summary.sidecar, summary.files, summary.bytes)

    def dropped(self, run_id: str) -> None:
        """Report that a run is not worked on here any more, though this process has not saved it."""
        self._recovered(run_id)
        self._events.dropped(run_id)

    def _recovered(self, run_id: str) -> None:
        code = self._errors.over(run_id)
        if code is not None:
            _log.info("trouble_over", code=code)
