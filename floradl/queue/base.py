"""The queue's door: all that the rest of floradl knows of how runs are kept over a restart.

`RunQueue` is what an engine has to offer: `sqlite` keeps it on disk, or in memory for `get`.
`tests/test_queue_conformance.py` holds each engine to what stands here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import PauseReason
from floradl.models import Action, LeftFile, QueuedRun, RunNames, RunRequest, RunState, SavedOutput
from floradl.queue.sharing import RunSharing
from floradl.redaction import redact
from floradl.wakeups import Signal

DURATIONS_KEPT = 400
"""How many durations are kept of each technique."""

GIVEN_UP_KEPT = 1000
"""How many events are kept that no try delivered."""

DELIVERIES_KEPT = 7 * 86_400.0
"""Seconds that a webhook's delivery is known; FLORA repeats one for minutes, nobody may after fifteen."""


class QueueTrouble(Struct, frozen=True):
    """Why nothing can be recorded. `since` is unix seconds."""

    message: str
    since: float
    reason: PauseReason = PauseReason.DISK_FULL


class QueueCounts(Struct, frozen=True):
    """How many runs are in each state, and when the oldest open one was queued (unix seconds), if any is."""

    states: Mapping[RunState, int]
    oldest_open: float | None


class DeliveryRecord(Struct, frozen=True):
    """What became of a webhook's delivery: whether it is new, its run one that is open, and queued by it."""

    new: bool
    open: bool
    queued: bool = False


class LateCost(Struct, frozen=True):
    """A run that ended without its cost, which FLORA may know later. Times are unix seconds.

    It is looked for at `look_at`, after `looks` others. `created_at` is when FLORA created it.
    """

    run_id: str
    look_at: float
    looks: int = 0
    created_at: float | None = None


class HookEvent(Struct, frozen=True):
    """A run that ended, for the hook. `tries` counts the failed ones.

    `sidecar` is its path in the library; None where it stood already when the run was looked at.
    """

    number: int
    run: QueuedRun
    sidecar: str | None
    tries: int


class SentPause(Struct, frozen=True):
    """A pause that the hook has reported. Times are unix seconds; `over`: it has ended."""

    reason: str
    since: float
    reported_at: float
    over: bool = False


class HookOutbox(Protocol):
    """What hooks have to report. Durable, and raises, as `RunQueue` does."""

    async def expect(self, *, finished: bool) -> None:
        """Say whether `RunQueue.finish` adds events from now on; where not, those that wait are dropped.

        An engine that was just opened adds none. Safe to repeat.
        """

    async def after(self, number: int) -> list[int]:
        """Return the numbers of the events added after `number`, ascending. No number is used twice."""

    async def get(self, number: int) -> HookEvent | None:
        """Read one event, its run as it is now; None where it was dropped."""

    async def count_failure(self, number: int) -> None:
        """Count a failed try; each call counts one."""

    async def drop(self, number: int) -> None:
        """Forget an event: it was delivered, or there is nothing to deliver. Safe to repeat."""

    async def give_up(self, number: int) -> None:
        """Keep an event as one that no try delivered; `after` and `get` pass over it. Safe to repeat.

        The last thousand are kept, each until its run ends anew.
        """

    async def pauses(self) -> list[SentPause]:
        """Return the last pause of each reason that `put_pause` recorded, in no order."""

    async def put_pause(self, pause: SentPause) -> None:
        """Record a pause in place of the last of its reason. Safe to repeat."""


class RunQueue(Protocol):
    """Runs, how far each is, and what else must survive a restart.

    A method that records does all of it or nothing, and it is durable on return. It may be called again
    with the same arguments, after a crash too: where that adds anything, its docstring says so. While the
    engine cannot record (a full disk) all methods wait, and `trouble` says why. All raise
    `QueueUnavailableError` where that cannot be waited out. `serve` must be running. `now` is unix seconds.
    """

    @property
    def trouble(self) -> QueueTrouble | None:
        """Why nothing can be recorded now; None while all is well. Who has a choice should not call then."""

    @property
    def outbox(self) -> HookOutbox:
        """What hooks have to report."""

    @property
    def incomplete(self) -> Signal:
        """Set when `incomplete_ids` or `late_costs` have more."""

    @property
    def sharing(self) -> RunSharing | None:
        """What daemons that share the queue agree on; None where one daemon has it alone."""

    async def serve(self) -> None:
        """Do the work of the calls until `close`.

        Raises `QueueDamagedError` once the queue is damaged or gone: calls that wait then never return, and
        whoever waits is to be cancelled.
        """

    def close(self) -> None:
        """Take no more calls; `serve` ends once those that wait are done with. Safe to repeat."""

    async def submit(
        self,
        requests: Sequence[RunRequest],
        now: float,
        *,
        retry_failed: bool,
        files: Iterable[LeftFile] = (),
    ) -> list[str]:
        """Record what is asked for, and that the job `files` are done with.

        A new run waits from then on; one that is open, done or forgotten stays as it is; one that failed or
        is partial is queued again if `retry_failed`. `Action.RETRY` queues again whatever is not open, and
        `Action.FORGET` makes any run forgotten. The technique, label and meta first named stay; where a known
        run has none, those of the request complete it, and one that has ended is in `incomplete_ids` then.
        The kinds are replaced by those of a request that queues the run again, see `kinds_after`. Returns
        the ids of the runs that now wait because of this call, in order.
        """

    async def count_new(self, jobs: Sequence[Sequence[RunRequest]], *, retry_failed: bool) -> list[int]:
        """Count, for each job by itself, the runs that `submit` would return for it."""

    async def recover(self, runs: Sequence[tuple[QueuedRun, float]]) -> int:
        """Add the unknown ones of `runs`, each as it was at a time (unix seconds); returns how many."""

    async def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:
        """Make ended runs `running` again, as FLORA lists more of their outputs; returns which.

        What is open, forgotten or unknown stays as it is.
        """

    async def get(self, run_id: str) -> QueuedRun | None:
        """Read one run; None where it is unknown."""

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        """Read many runs, by id, at the cost of one; unknown ones are left out."""

    async def update(self, run: QueuedRun, now: float) -> None:
        """Record how far a run is. One that was forgotten meanwhile stays forgotten.

        A technique is recorded where none is known, as by `finish`; names take the place of earlier ones.
        """

    async def update_all(self, runs: Sequence[tuple[QueuedRun, float | None]], now: float) -> None:
        """Do as `update` for many runs that this process has not leased, at the cost of one.

        Each comes with how long it took at FLORA (seconds), if that is known: it is kept for `durations`
        where this is the update that first sets `detected_at`.
        """

    async def begin_download(
        self, run_id: str, now: float
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        """Record that the outputs of an open run are downloaded; return it, and its `saved_outputs`.

        None, and nothing is recorded, where it is not open.
        """

    async def save_outputs(self, run_id: str, outputs: Mapping[str, SavedOutput]) -> None:
        """Record outputs that are on disk, by `RemoteOutput.key`, until their run is finished."""

    async def saved_outputs(self, run_id: str) -> dict[str, SavedOutput]:
        """Return the outputs that `save_outputs` recorded for an unfinished run, by key."""

    async def finish(
        self, run: QueuedRun, now: float, sidecar: str | None, late: LateCost | None = None
    ) -> None:
        """Record how a run ended, forget its saved outputs, and add an event for the hook that is expected.

        With `late` its cost is looked for later. Where `submit` completed it meanwhile, so that `run` has not
        all of it, it is in `incomplete_ids` from then on.

        The event bears `sidecar`, see `HookEvent`; there is none where the run had ended before, or was
        forgotten meanwhile.
        """

    async def open_ids(self) -> list[str]:
        """Return the ids of all open runs: those under way first, then those that wait, each oldest first."""

    async def counts(self) -> QueueCounts:
        """Count the runs."""

    async def durations(self) -> dict[str, list[float]]:
        """Return how long past runs took at FLORA (seconds), by technique, oldest first."""

    async def sync_mark(self, kind: str, workspace: str) -> float | None:
        """Return how far a list of the account's history was read: its newest run's time, unix seconds.

        0 where no run had a time, None where it was never read.
        """

    async def set_sync_mark(self, kind: str, workspace: str, mark: float) -> None:
        """Record how far a list of the account's history was read."""

    async def note_delivery(
        self, delivery_id: str, request: RunRequest, now: float, *, known_only: bool, retry_failed: bool
    ) -> DeliveryRecord:
        """Record a webhook's delivery and, the first time, submit its `request`.

        With `known_only` the run is submitted only where the queue knows it. A delivery is known for a week.
        """

    async def incomplete_ids(self, limit: int) -> list[str]:
        """Return runs, `limit` at most, whose sidecars lack what was learned since."""

    async def note_incomplete(self, run_ids: Iterable[str]) -> None:
        """Have runs in `incomplete_ids`. Safe to repeat."""

    async def note_complete(self, run_ids: Iterable[str]) -> None:
        """Record that the sidecars of runs have all of it, or never will. Safe to repeat."""

    async def next_late_cost(self) -> float | None:
        """Return when the next cost is to be looked for (unix seconds); None where none is missing."""

    async def late_costs(self, now: float, limit: int) -> list[LateCost]:
        """Return those to be looked for by now, `limit` at most, the earliest first."""

    async def put_late_costs(self, again: Iterable[LateCost], settled: Iterable[str] = ()) -> None:
        """Record when costs are looked for again, and of which runs none is any more. Safe to repeat."""

    async def technique_names(self) -> dict[str, RunNames]:
        """Return the techniques that `put_technique_names` recorded."""

    async def put_technique_names(self, found: Mapping[str, RunNames]) -> None:
        """Record id and name of techniques, by what references call them. Safe to repeat."""

    async def left_files(self) -> dict[str, LeftFile]:
        """Return the job files that `submit` recorded and nobody dropped, by name."""

    async def drop_left_files(self, names: Iterable[str], before: float = math.inf) -> None:
        """Forget job files; with `before`, only those recorded before that time (unix seconds)."""


def queued(request: RunRequest, now: float) -> QueuedRun:
    """Return the run that a request queues."""
    reference = request.reference
    return QueuedRun(
        run_id=reference.run_id,
        technique=reference.technique,
        label=request.label,
        queued_at=now,
        force=request.action is Action.RETRY,
        kinds=() if request.action is Action.RETRY else request.kinds,
        meta=request.meta,
        retry_kinds=request.kinds if request.action is Action.RETRY else (),
    )


def kinds_after(run: QueuedRun, request: RunRequest) -> QueuedRun:
    """Return a known run with the kinds that are wanted once `request` has queued it again.

    Those of a retry hold until the run is done, and in place of those it was queued with.
    """
    if request.kinds and request.action is not Action.RETRY:
        return replace(run, kinds=request.kinds, retry_kinds=())
    if request.kinds or loses_files(run.state):
        return replace(run, retry_kinds=request.kinds)
    return run


def completed_by(run: QueuedRun, request: RunRequest) -> QueuedRun:
    """Return a known run with what a later request says of it, where nobody said that before."""
    technique, label = request.reference.technique, request.label
    if request.action is Action.FORGET or run.state is RunState.FORGOTTEN:
        return run
    return replace(
        run,
        technique=technique if run.technique is None else run.technique,
        label=label if run.label is None else run.label,
        meta=run.meta or request.meta,
    )


def is_queued_again(action: Action, state: RunState, *, retry_failed: bool) -> bool:
    """Whether `RunQueue.submit` queues a known run once more; one under way goes on as it is."""
    if action is Action.RETRY:
        return not state.open
    return action is Action.FETCH and retry_failed and state in {RunState.FAILED, RunState.PARTIAL}


def loses_files(state: RunState) -> bool:
    """Whether a run in this state is fetched anew where it is queued again, whatever the library holds.

    What was forgotten may have been done before, and its files thrown away since.
    """
    return state in {RunState.DONE, RunState.FORGOTTEN}


def is_detected_by(run: QueuedRun, before: QueuedRun | None) -> bool:
    """Whether the row `run` is the first that says when the run's end was detected; `before` is the last."""
    if before is None or before.state is RunState.FORGOTTEN:
        return False
    return before.detected_at is None and run.detected_at is not None


def without_secrets(run: QueuedRun) -> QueuedRun:
    """Return the run as it may be kept: its error's message may quote what others said, secrets included."""
    if run.error is None:
        return run
    error = msgspec.structs.replace(run.error, message=redact(run.error.message))
    return msgspec.structs.replace(run, error=error)


def downloading(run: QueuedRun) -> QueuedRun:
    """Return `run` as it is while its outputs are downloaded."""
    return replace(run, state=RunState.DOWNLOADING, waited=0.0, tries=0, progress=100.0, error=None)
