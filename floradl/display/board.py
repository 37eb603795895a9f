"""What is under way, in numbers: reported by the work's threads, read ten times a second.

Reporting is cheap (a transfer stores two numbers), and looking costs what is to be seen rather than what
there is, so a hundred thousand runs slow neither.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from enum import Enum
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, field

from floradl.display.plain import ResultCounts, RunLine
from floradl.models import QueuedRun, RunState

if TYPE_CHECKING:
    from floradl.runs.events import RunSummary  # at run time it would bring structlog

_MEMORY = 3.0  # seconds over which rates are averaged
_SETTLED = 0.3  # seconds until a rate is worth showing
_CHUNK = 256 * 1024  # the most that one report adds: what a first one reports beyond that was there before


class TransferStage(Enum):
    """Where an open run stands, in the order of showing: the nearest to its end comes first."""

    DOWNLOADING = "downloading"
    TROUBLED = "in trouble"
    RUNNING = "running"
    WAITING = "waiting"


class RunRow(Struct, frozen=True):
    """One run to be seen; `next_in` is seconds to the next try, `moving`: transfers follow."""

    run: QueuedRun
    stage: TransferStage
    message: str | None = None
    next_in: float | None = None
    moving: bool = False


class TransferRow(Struct, frozen=True):
    """One transfer to be seen: bytes, and bytes a second (None: too young to tell)."""

    output_id: str
    received: int
    total: int | None
    rate: float | None


class Batch(Struct, frozen=True):
    """How far the runs are that came since none was open: `ended` ones, parts of open ones, seconds.

    `left` is the seconds until all open runs are there; None where one has not begun, or a size is unknown.
    """

    ended: int
    partial: float
    seconds: float
    left: float | None = None


class BoardView(Struct, frozen=True):
    """All that is to be seen now. `hidden` runs had no room; `rate` is bytes a second, `elapsed` seconds."""

    rows: tuple[RunRow | TransferRow, ...]
    hidden: int
    stages: dict[TransferStage, int]
    tally: ResultCounts
    rate: float | None
    elapsed: float
    batch: Batch | None = None


class Rate:
    """Bytes a second, averaged over the last few seconds."""

    def __init__(self) -> None:
        self._bytes = self._seconds = 0.0

    def add(self, size: int, seconds: float) -> None:
        """Record that `size` bytes came within `seconds`."""
        fading = math.exp(-seconds / _MEMORY)
        self._bytes = self._bytes * fading + size
        self._seconds = self._seconds * fading + seconds

    @property
    def per_second(self) -> float | None:
        """The rate, None where it was not watched for long enough."""
        return self._bytes / self._seconds if self._seconds >= _SETTLED else None


class _Transfer(Struct, eq=False):
    """A transfer under way; `received` and `total` are written by its worker, the rest by who looks."""

    output_id: str
    received: int
    seen: int
    at: float
    total: int | None = None
    rate: Rate = field(default_factory=Rate)

    def sample(self, now: float) -> int:
        received = self.received
        size = max(0, received - self.seen)  # less than before: it started over
        self.rate.add(size, now - self.at)
        self.seen, self.at = received, now
        return size


class _Open(Struct, eq=False):
    run: QueuedRun
    order: int
    since: float
    stage: TransferStage
    message: str | None = None
    next_at: float | None = None
    arrived: int = 0  # bytes of transfers that are over
    part: float = 0.0  # of what is known of its outputs, the most that was seen

    def row(self, now: float, *, moving: bool) -> RunRow:
        next_in = None if self.next_at is None else max(0.0, self.next_at - now)
        return RunRow(self.run, self.stage, self.message, next_in, moving)


class Board:
    """A `RunEvents` that keeps the numbers; `look` returns what is to be seen. Any thread may call it."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._started = self._looked = monotonic()
        self._lock = threading.Lock()  # for what is iterated over; the numbers of a transfer need none
        self._order = itertools.count()
        self._open: dict[str, _Open] = {}
        self._stages: dict[TransferStage, dict[str, _Open]] = {stage: {} for stage in TransferStage}
        self._transfers: dict[tuple[str, str], _Transfer] = {}
        self._unsampled = 0  # bytes of transfers that ended since the last look
        self._rate = Rate()
        self._tally = ResultCounts()
        self._batch_began = (monotonic(), 0)  # and how many had ended then
        self._partial = 0.0  # the parts of all open runs
        self.endings: deque[RunLine] = deque()
        """Finished runs that are not printed yet: whoever prints them takes them out, at the left."""

    def run(self, run: QueuedRun, next_in: float | None) -> None:  # noqa: ARG002  # polls change nothing
        """Record where a run is."""
        stages = {RunState.DOWNLOADING: TransferStage.DOWNLOADING, RunState.RUNNING: TransferStage.RUNNING}
        with self._lock:
            self._move(run, stages.get(run.state, TransferStage.WAITING))

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Record what holds a run up."""
        with self._lock:
            entry = self._move(run, TransferStage.TROUBLED)
            entry.message, entry.next_at = message, self._monotonic() + next_in

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Record how far a transfer is."""
        if (transfer := self._transfers.get((run.run_id, output_id))) is None:
            transfer = _Transfer(output_id, received, max(0, received - _CHUNK), self._monotonic())
            with self._lock:
                self._transfers[run.run_id, output_id] = transfer
        transfer.received, transfer.total = received, total

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Forget a transfer."""
        with self._lock:
            if (transfer := self._transfers.pop((run.run_id, output_id), None)) is not None:
                self._unsampled += max(0, transfer.received - transfer.seen)
                if (entry := self._open.get(run.run_id)) is not None:
                    entry.arrived += transfer.received

    def finished(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Forget a run, and have its end printed."""
        with self._lock:
            entry = self._take(run.run_id)
            self._tally.count(run, brought)
        self.endings.append(RunLine(run, brought, None if entry is None else self._monotonic() - entry.since))

    def dropped(self, run_id: str) -> None:
        """Forget a run."""
        with self._lock:
            self._take(run_id)

    def _take(self, run_id: str) -> _Open | None:
        if (entry := self._open.pop(run_id, None)) is not None:
            del self._stages[entry.stage][run_id]
            self._partial -= entry.part
        return entry

    def look(self, lines: int) -> BoardView:
        """Return what is to be seen in so many lines; rates are measured from look to look."""
        now = self._monotonic()
        with self._lock:
            arrived, self._unsampled = self._unsampled, 0
            arrived += sum(transfer.sample(now) for transfer in self._transfers.values())
            self._rate.add(arrived, now - self._looked)
            self._looked = now
            rows, hidden = self._rows(lines, now)
            if hidden:  # which takes a line to say
                rows, hidden = self._rows(lines - 1, now)
            return BoardView(
                tuple(rows),
                hidden,
                {stage: len(entries) for stage, entries in self._stages.items()},
                msgspec.structs.replace(self._tally),
                self._rate.per_second if self._transfers else None,
                now - self._started,
                self._batch(now),
            )

    def _batch(self, now: float) -> Batch:
        known: dict[str, tuple[int, int]] = {}  # bytes that are there, and in all
        for (run_id, _), transfer in self._transfers.items():
            there, size = known.get(run_id, (0, 0))
            # One whose size is not known counts as if half of it was there.
            known[run_id] = there + transfer.received, size + (transfer.total or 2 * transfer.received)
        for run_id, (there, size) in known.items():
            if (entry := self._open.get(run_id)) is not None and size:
                part = max(entry.part, min(1.0, (entry.arrived + there) / (entry.arrived + size)))
                self._partial += part - entry.part
                entry.part = part
        began, ended = self._batch_began
        return Batch(self._tally.ended - ended, self._partial, now - began, self._left())

    def _left(self) -> float | None:
        if self._open.keys() - {run_id for run_id, _ in self._transfers}:
            return None
        rest, longest, overall = 0, 0.0, self._rate.per_second
        for transfer in self._transfers.values():
            rate = transfer.rate.per_second
            if transfer.total is None or not rate:
                return None
            size = max(0, transfer.total - transfer.seen)
            rest, longest = rest + size, max(longest, size / rate)
        return max(longest, rest / overall) if overall else None

    def _rows(self, lines: int, now: float) -> tuple[list[RunRow | TransferRow], int]:
        active: dict[str, list[_Transfer]] = {}
        for (run_id, _), transfer in self._transfers.items():
            active.setdefault(run_id, []).append(transfer)
        rows: list[RunRow | TransferRow] = []
        seen = 0
        for entry in self._in_order(active):
            transfers = active.get(entry.run.run_id, [])
            if len(rows) + 1 + bool(transfers) > lines:
                break
            rows.append(entry.row(now, moving=bool(transfers)))
            rows += [
                TransferRow(transfer.output_id, transfer.received, transfer.total, transfer.rate.per_second)
                for transfer in transfers[: lines - len(rows)]
            ]
            seen += 1
        return rows, len(self._open) - seen

    def _in_order(self, active: Iterable[str]) -> Iterator[_Open]:
        # Those with transfers first, each kind in the order of their coming.
        moving = [self._open[run_id] for run_id in active if run_id in self._open]
        yield from sorted(moving, key=lambda entry: entry.order)
        for entries in self._stages.values():
            yield from (entry for run_id, entry in entries.items() if run_id not in active)

    def _move(self, run: QueuedRun, stage: TransferStage) -> _Open:
        if (entry := self._open.get(run.run_id)) is None:
            if not self._open:
                self._batch_began, self._partial = (self._monotonic(), self._tally.ended), 0.0
            entry = self._open[run.run_id] = _Open(run, next(self._order), self._monotonic(), stage)
        elif entry.stage is not stage:
            del self._stages[entry.stage][run.run_id]
        self._stages[stage][run.run_id] = entry
        entry.run, entry.stage, entry.message, entry.next_at = run, stage, None, None
        return entry
