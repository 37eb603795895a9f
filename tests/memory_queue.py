"""The queue in dictionaries: for fast tests, and to show that the door is one."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from msgspec.structs import replace

from floradl.models import Action, LeftFile, QueuedRun, RunNames, RunRequest, RunState, SavedOutput
from floradl.queue.base import (
    DELIVERIES_KEPT,
    DURATIONS_KEPT,
    DeliveryRecord,
    HookEvent,
    HookOutbox,
    LateCost,
    QueueCounts,
    RunQueue,
    SentPause,
    completed_by,
    downloading,
    is_detected_by,
    is_queued_again,
    kinds_after,
    loses_files,
    queued,
    without_secrets,
)
from floradl.queue.sharing import RunSharing
from floradl.wakeups import Signal


class MemoryQueue(RunQueue):
    """Keeps all in dictionaries; a call does its work at once, between two turns of the event loop."""

    def __init__(self) -> None:
        self._runs: dict[str, QueuedRun] = {}
        self._saved: dict[str, dict[str, SavedOutput]] = {}
        self._durations: dict[str, list[float]] = {}
        self._marks: dict[tuple[str, str], float] = {}
        self._deliveries: dict[str, float] = {}
        self._left_files: dict[str, tuple[LeftFile, float]] = {}
        self._closed = anyio.Event()
        self._incomplete_ids: dict[str, None] = {}
        self._late_costs: dict[str, LateCost] = {}
        self._technique_names: dict[str, RunNames] = {}
        self._incomplete = Signal()
        self._outbox = MemoryHookOutbox(self._runs, self._closed)

    @property
    def trouble(self) -> None:
        return None

    @property
    def sharing(self) -> RunSharing | None:
        return None

    @property
    def outbox(self) -> MemoryHookOutbox:
        return self._outbox

    @property
    def incomplete(self) -> Signal:
        return self._incomplete

    async def serve(self) -> None:
        await self._closed.wait()

    def close(self) -> None:
        self._closed.set()

    async def submit(
        self,
        requests: Sequence[RunRequest],
        now: float,
        *,
        retry_failed: bool,
        files: Iterable[LeftFile] = (),
    ) -> list[str]:
        await _turn(self._closed)
        self._left_files.update({file.name: (file, now) for file in files})
        return self._submit(requests, now, retry_failed=retry_failed)

    def _submit(self, requests: Sequence[RunRequest], now: float, *, retry_failed: bool) -> list[str]:
        waiting = []
        for request in requests:
            run = queued(request, now)
            known = self._runs.get(run.run_id)
            if request.action is Action.FORGET:
                self._put(replace(run, state=RunState.FORGOTTEN))
            elif known is None:
                self._runs[run.run_id] = run
                waiting.append(run.run_id)
                continue
            elif is_queued_again(request.action, known.state, retry_failed=retry_failed):
                known = completed_by(known, request)
                force = loses_files(known.state)
                kept = _first_named(kinds_after(known, request))
                self._runs[run.run_id] = replace(run, names=known.names, force=force, **kept)
                waiting.append(run.run_id)
            else:
                self._runs[run.run_id] = completed_by(known, request)
                if self._runs[run.run_id] != known and not known.state.open:
                    self._incomplete_ids[run.run_id] = None
                    self._incomplete.set()
                continue
            self._saved.pop(run.run_id, None)
        return waiting

    def _put(self, run: QueuedRun) -> None:
        known = self._runs.get(run.run_id)
        run = without_secrets(run)
        if known is not None:
            names = known.names if run.names == RunNames() else run.names
            technique = known.technique or run.technique
            run = replace(run, names=names, queued_at=known.queued_at, **_first_named(known))
            run = replace(run, technique=technique)
        if known is None or known.state is not RunState.FORGOTTEN:
            self._runs[run.run_id] = run

    async def count_new(self, jobs: Sequence[Sequence[RunRequest]], *, retry_failed: bool) -> list[int]:
        await _turn(self._closed)
        return [self._count_new(requests, retry_failed=retry_failed) for requests in jobs]

    def _count_new(self, requests: Sequence[RunRequest], *, retry_failed: bool) -> int:
        actions = {request.reference.run_id: request.action for request in requests}
        return sum(
            (known := self._runs.get(run_id)) is None
            or is_queued_again(action, known.state, retry_failed=retry_failed)
            for run_id, action in actions.items()
            if action is not Action.FORGET
        )

    async def recover(self, runs: Sequence[tuple[QueuedRun, float]]) -> int:
        await _turn(self._closed)
        before = len(self._runs)
        for run, _ in runs:
            self._runs.setdefault(run.run_id, without_secrets(run))
        return len(self._runs) - before

    async def reopen(self, run_ids: Iterable[str], now: float) -> list[str]:  # noqa: ARG002 - nobody reads it
        await _turn(self._closed)
        ended = {RunState.DONE, RunState.PARTIAL, RunState.FAILED}
        again = [each for each in run_ids if (run := self._runs.get(each)) and run.state in ended]
        for run_id in again:
            run = self._runs[run_id]
            kinds = () if run.state is RunState.DONE else run.retry_kinds
            self._runs[run_id] = replace(
                run,
                state=RunState.RUNNING,
                waited=0.0,
                tries=0,
                error=None,
                force=False,
                retry_kinds=kinds,
            )
        return again

    async def get(self, run_id: str) -> QueuedRun | None:
        await _turn(self._closed)
        return self._runs.get(run_id)

    async def get_all(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        await _turn(self._closed)
        return {run_id: self._runs[run_id] for run_id in run_ids if run_id in self._runs}

    async def update(self, run: QueuedRun, now: float) -> None:  # noqa: ARG002
        await _turn(self._closed)
        self._put(run)

    async def update_all(self, runs: Sequence[tuple[QueuedRun, float | None]], now: float) -> None:
        for run, duration in runs:
            if duration is not None and is_detected_by(run, self._runs.get(run.run_id)):
                of_technique = self._durations.setdefault(run.technique or "", [])
                of_technique.append(duration)
                del of_technique[:-DURATIONS_KEPT]
            await self.update(run, now)

    async def begin_download(
        self,
        run_id: str,
        now: float,  # noqa: ARG002 - as above
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        await _turn(self._closed)
        run = self._runs.get(run_id)
        if run is None or not run.state.open:
            return None
        if run.state is not RunState.DOWNLOADING:
            run = downloading(run)
            self._put(run)
        return run, dict(self._saved.get(run_id, {}))

    async def save_outputs(self, run_id: str, outputs: Mapping[str, SavedOutput]) -> None:
        await _turn(self._closed)
        self._saved.setdefault(run_id, {}).update(outputs)

    async def saved_outputs(self, run_id: str) -> dict[str, SavedOutput]:
        await _turn(self._closed)
        return dict(self._saved.get(run_id, {}))

    async def finish(
        self,
        run: QueuedRun,
        now: float,  # noqa: ARG002 - as above
        sidecar: str | None,
        late: LateCost | None = None,
    ) -> None:
        await _turn(self._closed)
        before = self._runs.get(run.run_id)
        if before is not None and any(
            had and not has for had, has in zip(_said(before), _said(run), strict=True)
        ):
            self._incomplete_ids[run.run_id] = None
            self._incomplete.set()
        if late is not None:
            self._late_costs[run.run_id] = late
            self._incomplete.set()
        self._put(run)
        self._saved.pop(run.run_id, None)
        if before is None or before.state.open:
            self._outbox.add(run.run_id, sidecar)

    async def open_ids(self) -> list[str]:
        await _turn(self._closed)
        found = [run for run in self._runs.values() if run.state.open]
        found.sort(key=lambda run: (run.state is RunState.WAITING, run.queued_at))
        return [run.run_id for run in found]

    async def counts(self) -> QueueCounts:
        await _turn(self._closed)
        runs = self._runs.values()
        found = Counter(run.state for run in runs)
        oldest = min((run.queued_at for run in runs if run.state.open), default=None)
        return QueueCounts({state: found[state] for state in RunState}, oldest)

    async def durations(self) -> dict[str, list[float]]:
        await _turn(self._closed)
        return {technique: list(durations) for technique, durations in self._durations.items()}

    async def sync_mark(self, kind: str, workspace: str) -> float | None:
        await _turn(self._closed)
        return self._marks.get((kind, workspace))

    async def set_sync_mark(self, kind: str, workspace: str, mark: float) -> None:
        await _turn(self._closed)
        self._marks[kind, workspace] = mark

    async def note_delivery(
        self, delivery_id: str, request: RunRequest, now: float, *, known_only: bool, retry_failed: bool
    ) -> DeliveryRecord:
        await _turn(self._closed)
        run_id = request.reference.run_id
        for each in [each for each, at in self._deliveries.items() if at < now - DELIVERIES_KEPT]:
            del self._deliveries[each]
        new = delivery_id not in self._deliveries
        self._deliveries.setdefault(delivery_id, now)
        waiting = []
        if new and not (known_only and run_id not in self._runs):
            waiting = self._submit([request], now, retry_failed=retry_failed)
        run = self._runs.get(run_id)
        return DeliveryRecord(new, run is not None and run.state.open, bool(waiting))

    async def incomplete_ids(self, limit: int) -> list[str]:
        await _turn(self._closed)
        return list(self._incomplete_ids)[:limit]

    async def note_incomplete(self, run_ids: Iterable[str]) -> None:
        await _turn(self._closed)
        if added := dict.fromkeys(run_ids):
            self._incomplete_ids.update(added)
            self._incomplete.set()

    async def note_complete(self, run_ids: Iterable[str]) -> None:
        await _turn(self._closed)
        for run_id in run_ids:
            self._incomplete_ids.pop(run_id, None)

    async def next_late_cost(self) -> float | None:
        await _turn(self._closed)
        return min((each.look_at for each in self._late_costs.values()), default=None)

    async def late_costs(self, now: float, limit: int) -> list[LateCost]:
        await _turn(self._closed)
        due = [each for each in self._late_costs.values() if each.look_at <= now]
        return sorted(due, key=lambda each: each.look_at)[:limit]

    async def put_late_costs(self, again: Iterable[LateCost], settled: Iterable[str] = ()) -> None:
        await _turn(self._closed)
        for run_id in settled:
            self._late_costs.pop(run_id, None)
        self._late_costs.update({each.run_id: each for each in again})
        self._incomplete.set()

    async def technique_names(self) -> dict[str, RunNames]:
        await _turn(self._closed)
        return dict(self._technique_names)

    async def put_technique_names(self, found: Mapping[str, RunNames]) -> None:
        await _turn(self._closed)
        self._technique_names.update(found)

    async def left_files(self) -> dict[str, LeftFile]:
        await _turn(self._closed)
        return {name: file for name, (file, _) in self._left_files.items()}

    async def drop_left_files(self, names: Iterable[str], before: float = math.inf) -> None:
        await _turn(self._closed)
        for name in names:
            if name in self._left_files and self._left_files[name][1] < before:
                del self._left_files[name]


class MemoryHookOutbox(HookOutbox):
    """The outbox of the queue that keeps these `runs`."""

    def __init__(self, runs: Mapping[str, QueuedRun], closed: anyio.Event) -> None:
        self._runs = runs
        self._closed = closed
        self._events: dict[int, tuple[str, str | None, int]] = {}
        self._last = 0
        self._expected = False
        self._pauses: dict[str, SentPause] = {}
        self._given_up: list[int] = []

    def add(self, run_id: str, sidecar: str | None) -> None:
        """Add an event where one is expected."""
        for number in [number for number in self._given_up if self._events[number][0] == run_id]:
            self._given_up.remove(number)
            del self._events[number]
        if self._expected:
            self._last += 1
            self._events[self._last] = run_id, sidecar, 0

    async def expect(self, *, finished: bool) -> None:
        await _turn(self._closed)
        self._expected = finished
        if not finished:
            self._events.clear()
            self._given_up.clear()

    async def after(self, number: int) -> list[int]:
        await _turn(self._closed)
        return [each for each in self._events if each > number and each not in self._given_up]

    async def get(self, number: int) -> HookEvent | None:
        await _turn(self._closed)
        if number not in self._events or number in self._given_up:
            return None
        run_id, sidecar, tries = self._events[number]
        return HookEvent(number, self._runs[run_id], sidecar, tries)

    async def count_failure(self, number: int) -> None:
        await _turn(self._closed)
        if number in self._events:
            run_id, sidecar, tries = self._events[number]
            self._events[number] = run_id, sidecar, tries + 1

    async def drop(self, number: int) -> None:
        await _turn(self._closed)
        self._events.pop(number, None)

    async def give_up(self, number: int) -> None:
        await _turn(self._closed)
        if number in self._events and number not in self._given_up:
            self._given_up.append(number)

    async def pauses(self) -> list[SentPause]:
        await _turn(self._closed)
        return list(self._pauses.values())

    async def put_pause(self, pause: SentPause) -> None:
        await _turn(self._closed)
        self._pauses[pause.reason] = pause


async def _turn(closed: anyio.Event) -> None:
    """Let others have their turn first, as an engine on disk does. Raises where the queue is closed."""
    if closed.is_set():
        raise anyio.ClosedResourceError
    await checkpoint()


def _said(run: QueuedRun) -> tuple[object, ...]:
    return run.technique, run.label, run.meta


def _first_named(known: QueuedRun) -> dict[str, Any]:
    """Return what no update changes."""
    return {name: getattr(known, name) for name in ("technique", "label", "kinds", "meta", "retry_kinds")}
