"""A finished run becomes files, a sidecar and a row. What is on disk of it already is read once.

It asks the API for nothing but fresh URLs. Every step can be run twice.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set as AbstractSet
from functools import partial

import anyio
import anyio.abc
from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import (
    AttemptsExhaustedError,
    LeaseLostError,
    PauseReason,
    PermanentError,
    ServicePausedError,
)
from floradl.library.base import LibraryStore, Steps
from floradl.library.selection import Selection
from floradl.library.sidecar import by_key, earlier_of
from floradl.models import (
    STATE_OF,
    EarlierSidecar,
    FinishedRun,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    Result,
    RunNames,
    RunState,
    SavedOutput,
)
from floradl.polling.poller import RunApi
from floradl.queue.base import LateCost, RunQueue
from floradl.retry import MAX_BACKOFF, Failed, Halted, RetryIn, outcome_of
from floradl.runs.backfill import LOOKS, complete_sidecar, late_cost
from floradl.runs.events import RunEvents, RunSummary
from floradl.runs.output_saver import OutputSaver, PlannedOutput, not_had
from floradl.runs.result import (
    Dropped,
    Finished,
    Outcome,
    RunResult,
    reason_of,
    result_of,
    sidecar_of,
    with_earlier,
)


class ProcessOptions(Struct, frozen=True):
    """`give_up_after`: seconds that attempts at outputs may take; `keep_times`: files get the run's time.

    `selection` says which outputs are wanted. `names` returns what a run belongs to, as far as that is known
    when its sidecar is written, by its last answer, too.
    """

    give_up_after: float
    keep_times: bool
    selection: Selection = Selection()
    wall: Callable[[], float] = time.time
    names: Callable[[QueuedRun, RemoteRun | None], RunNames] = lambda run, _: run.names


class Processor:
    """Saves finished runs."""

    def __init__(
        self,
        api: RunApi,
        library: LibraryStore,
        saver: OutputSaver,
        queue: RunQueue,
        progress: RunEvents,
        options: ProcessOptions,
    ) -> None:
        self._api = api
        self._library = library
        self._saver = saver
        self._queue = queue
        self._progress = progress
        self._options = options
        self._disk = saver.disk
        self.make_room: Callable[[], Awaitable[bool]] | None = None
        """Called where the library's disk is full; returns whether there is more room now."""

    async def check_room(self, needed: int) -> None:
        """Look whether the library's disk is full, see `LibraryStore.check_room`; nothing is fetched."""
        await to_thread.run_sync(self._library.check_room, needed)

    def change(self, give_up_after: float) -> None:
        """Try for so many seconds from now on."""
        self._options = replace(self._options, give_up_after=give_up_after)

    def select(self, selection: Selection) -> None:
        """Choose the outputs by `selection` from now on."""
        self._options = replace(self._options, selection=selection)

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        found = await self._disk.do(lambda: self._library.find_sidecar(reference))
        return found is not None and not outputs <= by_key(found.outputs).keys()

    async def process(self, finished: FinishedRun) -> Outcome:
        """Save a finished run, and record how it ended, or when it is polled again.

        Raises `LeaseLostError` where another daemon saves it by now.
        """
        while True:
            outcome = await self._attempt(finished)
            if not isinstance(outcome, Halted) or outcome.reason is not PauseReason.DISK_FULL:
                return outcome
            if self.make_room is None or not await self.make_room():
                return outcome

    async def _attempt(self, finished: FinishedRun) -> Outcome:
        run = finished.run
        outcome: Outcome | Failed
        try:
            answer = finished.answer if finished.failure is None else None
            begun = await self._begin(run.run_id, downloads=answer is not None and bool(answer.outputs))
            if begun is None:
                return Dropped()
            run, known = begun
            outcome = await self._process(run, finished, known)
        except LeaseLostError:
            raise
        except Exception as error:  # noqa: BLE001 - a bug of ours must not cost the run, nor the others
            outcome = outcome_of(run, error, self._options.give_up_after)
        if isinstance(outcome, Failed):
            if finished.failure is None:
                return await self._attempt(replace(finished, failure=outcome.failure))
            outcome = RetryIn(run, MAX_BACKOFF, outcome.failure.message)
        if isinstance(outcome, RetryIn):
            try:
                await self._record(outcome.run)
            except ServicePausedError as error:
                return Halted(error.reason, str(error))
        return outcome

    async def _begin(
        self, run_id: str, *, downloads: bool
    ) -> tuple[QueuedRun, dict[str, SavedOutput]] | None:
        """Read a run and its saved outputs, and record that others are downloaded; None if it is not open."""
        if downloads:
            return await self._queue.begin_download(run_id, self._options.wall())
        run = await self._queue.get(run_id)
        if run is None or not run.state.open:
            return None
        return run, await self._queue.saved_outputs(run_id)

    async def _process(self, run: QueuedRun, finished: FinishedRun, known: dict[str, SavedOutput]) -> Outcome:
        answer, failure = finished.answer, finished.failure
        if failure is None:
            if answer is None:
                return await self._finish_done(run, finished)
            if answer.outputs:
                return await self._save(run, answer, finished, known)
            failure = reason_of(answer)
        run = replace(run, detected_at=run.detected_at or self._options.wall())
        run, on_disk = await self._read(run, finished, known)
        return await self._conclude(run, answer, RunResult(Result.FAILED, failure, failure), on_disk)

    async def _finish_done(self, run: QueuedRun, finished: FinishedRun) -> Finished:
        """Record a run whose sidecar stood already, which is completed where it says less than the row."""
        late: LateCost | None = None
        if finished.incomplete:
            keep_times = self._options.keep_times
            await self._disk.do(partial(complete_sidecar, self._library, run, keep_times=keep_times))
        if finished.uncosted is not None:  # whoever wrote it ended before its cost could be looked for
            late = LateCost(run.run_id, self._options.wall() + LOOKS[0], 0, finished.uncosted or None)
        stored = finished.run
        run = replace(run, label=stored.label or run.label, meta=stored.meta or run.meta)
        return await self._finish(replace(run, state=RunState.DONE, error=None), None, late=late)

    async def _save(
        self, run: QueuedRun, answer: RemoteRun, finished: FinishedRun, known: dict[str, SavedOutput]
    ) -> Outcome:
        self._progress.run(run, None)
        run, on_disk = await self._read(run, finished, known)
        if on_disk.is_all_small(answer):
            done = await self._save_whole(run, answer, on_disk)
            if done is not None:
                return done
        renewal = _Renewal(self._api, run, answer)
        work = _OutputsOfRun(self._saver, self._queue, run, renewal, on_disk, self._options.selection)
        answer, trouble = await work.save()
        if trouble is not None:
            outcome = outcome_of(run, trouble, self._options.give_up_after)
            if not isinstance(outcome, Failed):
                return outcome
            for output in answer.outputs:
                on_disk.saved.setdefault(output.key, not_had(output, outcome.failure))
        failed = reason_of(answer) if answer.status == "failed" else None
        return await self._conclude(run, answer, result_of(on_disk.all_of(answer), failed), on_disk)

    async def _save_whole(self, run: QueuedRun, answer: RemoteRun, on_disk: _OnDisk) -> Finished | None:
        """Save a run of small outputs with its sidecar, in as few steps as can be.

        Where an output is not to be had at the first try, the others are saved, and None is returned.
        """

        def conclude(saved: Sequence[SavedOutput]) -> Steps[RunSummary]:
            found = zip(on_disk.small, saved, strict=True)
            there = on_disk.saved | {planned.output.key: output for planned, output in found}
            return self._write_sidecar(
                run, answer, result_of([there[output.key] for output in answer.outputs])
            )

        found, summary = await self._saver.save_small(run, answer, on_disk.small, conclude)
        if isinstance(summary, RunSummary):
            self._charge(answer, on_disk)
            ended = replace(run, state=RunState.DONE, error=None, force=False, progress=100.0)
            return await self._finish(ended, summary, answer)
        await _keep(self._queue, run, found, on_disk)
        if isinstance(summary, Exception):
            raise summary
        return None

    async def _read(
        self, begun: QueuedRun, finished: FinishedRun, known: dict[str, SavedOutput]
    ) -> tuple[QueuedRun, _OnDisk]:
        """Return the run, and the outputs that are not fetched: those on disk, and those that are left out.

        What the run does not know of itself an earlier sidecar says, as where only `get` had it before. Where
        the poller has not read that, it is read here.
        """
        answer = finished.answer if finished.failure is None else None

        def look() -> tuple[QueuedRun, _OnDisk]:
            sidecar = self._vouched_for(begun) if finished.earlier is None else finished.earlier
            run, told = sidecar.fill(begun), sidecar.outputs
            earlier = self._library.existing(told)
            saved = self._library.existing(known)
            left_out = any(output.skipped or output.removed for output in told.values())
            removed = {key: output for key, output in told.items() if output.removed is not None}
            if answer is None:
                saved = saved if run.force else earlier | saved
                return run, _OnDisk(
                    saved, earlier, [], left_out=left_out, removed=removed, costed=sidecar.costed
                )
            plan = self._options.selection.plan(run, answer, told, earlier)
            too_large = {key: output for key, output in known.items() if output.skipped is not None}
            saved = too_large | plan.kept | plan.skipped | saved
            saved = saved if run.force else earlier | saved
            missing = (output for output in plan.wanted if output.key not in saved)
            plans = (self._saver.plan_small(run, answer, output) for output in missing)
            small = [planned for planned in plans if planned is not None]
            return run, _OnDisk(
                saved, earlier, small, left_out=left_out, removed=removed, costed=sidecar.costed
            )

        return await self._disk.do(look)

    def _vouched_for(self, run: QueuedRun) -> EarlierSidecar:
        """Return what an earlier sidecar says of the run; blocking."""
        try:
            return earlier_of(self._library.find_sidecar(run.reference))
        except PermanentError:  # what stands in the way there is reported when the new one is written
            return EarlierSidecar()

    async def _conclude(
        self, run: QueuedRun, answer: RemoteRun | None, ending: RunResult, on_disk: _OnDisk
    ) -> Finished:
        ended = replace(run, state=STATE_OF[ending.result], error=ending.reason, force=False, progress=100.0)
        if ending.result is not Result.COMPLETE and (on_disk.earlier or on_disk.left_out):
            # What is unavailable now may be there from before: that is neither lost nor denied.
            if not ending.outputs:
                return await self._finish(ended, None)
            ending = with_earlier(on_disk.earlier, on_disk.removed, ending)
        summary = await self._disk.do(partial(self._write_sidecar, run, answer, ending))
        self._charge(answer, on_disk)
        return await self._finish(ended, summary, answer)

    def _write_sidecar(
        self, run: QueuedRun, answer: RemoteRun | None, ending: RunResult
    ) -> Steps[RunSummary]:
        named = replace(run, names=self._options.names(run, answer))
        sidecar = sidecar_of(named, answer, ending, self._options.wall())
        mtime = answer.completed_at if answer and self._options.keep_times else None
        path = yield from self._library.sidecar_written(sidecar, mtime)
        return RunSummary.of(path, sidecar.outputs)

    def _charge(self, answer: RemoteRun | None, on_disk: _OnDisk) -> None:
        """Count what a run cost, unless an earlier sidecar had that: it was counted then."""
        if answer is not None and not on_disk.costed:
            self._saver.tally.charge(answer.charged_cost)

    async def _record(self, run: QueuedRun) -> None:
        await self._queue.update(run, self._options.wall())

    async def _finish(
        self,
        run: QueuedRun,
        summary: RunSummary | None,
        answer: RemoteRun | None = None,
        late: LateCost | None = None,
    ) -> Finished:
        now = self._options.wall()
        late = late or late_cost(run, answer, now)
        await self._queue.finish(run, now, summary.sidecar if summary else None, late)
        return Finished(run, summary)


class _OnDisk(Struct):
    """What is on disk of a run, by key: what stays as it is, and what an earlier sidecar names.

    `saved` has what is left out, too. Of the outputs that are `small` nothing is there yet, and they can be
    fetched with many others. `failed` is what the first try at some of them met. `left_out`: the earlier
    sidecar says so of some; `costed`: it has what the run cost. `removed` is what it says of those whose
    files were removed.
    """

    saved: dict[str, SavedOutput]
    earlier: dict[str, SavedOutput]
    small: list[PlannedOutput]
    failed: dict[str, Exception] = {}
    left_out: bool = False
    costed: bool = False
    removed: dict[str, SavedOutput] = {}

    def is_all_small(self, answer: RemoteRun) -> bool:
        """Whether nothing is there of a run, and all of it that is wanted is small."""
        # Also what FLORA lists no more: a sidecar names it for good.
        there = self.earlier or any(output.skipped is None for output in self.saved.values())
        left = sum(output.key not in self.saved for output in answer.outputs)
        return 0 < left == len(self.small) and not there and answer.status != "failed"

    def all_of(self, answer: RemoteRun) -> list[SavedOutput]:
        """Return the outputs of `answer`, and with them what was had that it lists no more, or otherwise.

        A file that was saved for a run once is named by its sidecar for good.
        """
        listed = {output.key for output in answer.outputs}
        outputs = [self.saved[output.key] for output in answer.outputs]
        outputs += [output for key, output in self.removed.items() if key not in listed]
        paths = {output.path for output in outputs}
        for output in (*self.saved.values(), *self.earlier.values()):
            if output.path is not None and output.path not in paths:
                paths.add(output.path)
                outputs.append(output)
        return outputs


async def _keep(
    queue: RunQueue, run: QueuedRun, found: Mapping[str, SavedOutput | Exception], on_disk: _OnDisk
) -> None:
    """Record what came of small outputs."""
    on_disk.small = []
    done = {key: result for key, result in found.items() if isinstance(result, SavedOutput)}
    on_disk.failed = {key: result for key, result in found.items() if isinstance(result, Exception)}
    if done:
        await queue.save_outputs(run.run_id, done)
    on_disk.saved.update(done)


class _OutputsOfRun:
    """The outputs of one run, saved all at once, each recorded as soon as it is on disk.

    Where one meets trouble the others go on. What FLORA lists beyond that, when a fresh URL is requested, is
    saved too, if `selection` wants it.
    """

    def __init__(
        self,
        saver: OutputSaver,
        queue: RunQueue,
        run: QueuedRun,
        renewal: _Renewal,
        on_disk: _OnDisk,
        selection: Selection,
    ) -> None:
        self._saver = saver
        self._queue = queue
        self._run = run
        self._renewal = renewal
        self._on_disk = on_disk
        self._selection = selection
        self._planned = renewal.listed
        self._troubles: list[AttemptsExhaustedError] = []
        self._endings: list[ServicePausedError | LeaseLostError] = []

    async def save(self) -> tuple[RemoteRun, AttemptsExhaustedError | None]:
        """Save what is not on disk yet; return FLORA's newest answer, and one trouble.

        Raises `ServicePausedError`, `LeaseLostError`.
        """
        begun: set[str] = set()
        while left := [output for output in self._unsaved() if output.key not in begun]:
            begun.update(output.key for output in left)
            small = {planned.output.key for planned in self._on_disk.small}
            async with anyio.create_task_group() as group:
                if small:
                    group.start_soon(self._save_small, group)
                for output in left:
                    if output.key not in small:
                        group.start_soon(self._save, output)
            if self._endings:
                raise self._endings[0]
        return self._renewal.listed, self._troubles[0] if self._troubles else None

    def _unsaved(self) -> list[RemoteOutput]:
        """Return what FLORA lists now and is wanted, and is not on disk."""
        listed, saved = self._renewal.listed, self._on_disk.saved
        if listed is not self._planned:
            self._planned = listed
            plan = self._selection.plan(replace(self._run, force=False), listed, saved, saved)
            saved.update({key: output for key, output in plan.skipped.items() if key not in saved})
        return [output for output in listed.outputs if output.key not in saved]

    async def _save(self, output: RemoteOutput) -> None:
        renewal = self._renewal
        failed = self._on_disk.failed.pop(output.key, None)
        try:
            done = await self._saver.save(self._run, renewal.listed, output, renewal.newer_than, failed)
            self._on_disk.saved[output.key] = done
            if done.error is None:
                await self._queue.save_outputs(self._run.run_id, {output.key: done})
        except AttemptsExhaustedError as error:
            self._troubles.append(error)
        except (ServicePausedError, LeaseLostError) as error:  # kept out of the group, which would wrap it
            self._endings.append(error)

    async def _save_small(self, group: anyio.abc.TaskGroup) -> None:
        planned = self._on_disk.small
        try:
            found, _ = await self._saver.save_small(self._run, self._renewal.listed, planned)
            await _keep(self._queue, self._run, found, self._on_disk)
        except (ServicePausedError, LeaseLostError) as error:
            self._endings.append(error)
            return
        for each in planned:
            if each.output.key not in self._on_disk.saved:
                group.start_soon(self._save, each.output)


class _Renewal:
    """Fresh URLs for all outputs of a run by one request: many expire together.

    `listed` is the newest answer that lists any.
    """

    def __init__(self, api: RunApi, run: QueuedRun, answer: RemoteRun) -> None:
        self._api = api
        self._run = run
        self._answer = self.listed = answer
        self._turn = anyio.Lock()

    async def newer_than(self, answer: RemoteRun) -> RemoteRun:
        async with self._turn:
            if self._answer is answer:
                self._answer = await self._api.run(self._run.reference)
                if self._answer.outputs:
                    self.listed = self._answer
            return self._answer
