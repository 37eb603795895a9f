"""A finished run becomes files, a sidecar and a row. What is on disk of it already is read once.

It asks the API for nothing but fresh URLs. Every step can be run twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set as AbstractSet
from functools import partial

import anyio
from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import AttemptsExhaustedError, PermanentError, ServicePausedError
from floradl.library.base import Library
from floradl.library.batch_writer import BatchWriter
from floradl.library.sidecar import by_key
from floradl.models import (
    STATE_OF,
    FinishedRun,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    Result,
    RunState,
    SavedOutput,
)
from floradl.polling.poller import RunApi
from floradl.queue.base import RunQueue
from floradl.retry import MAX_BACKOFF, Failed, Halted, RetryIn, outcome_of
from floradl.runs.events import RunEvents, RunSummary
from floradl.runs.output_saver import OutputSaver, not_had
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
    """`give_up_after`: seconds that attempts at outputs may take; `keep_times`: files get the run's time."""

    give_up_after: float
    keep_times: bool
    wall: Callable[[], float] = time.time


class Processor:
    """Saves finished runs."""

    def __init__(
        self,
        api: RunApi,
        library: Library,
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
        self._looks = BatchWriter(library.together, 1)
        self._sidecars = BatchWriter(library.together)

    async def check_room(self, needed: int) -> None:
        """Look whether the library's disk is full, see `Library.check_room`; nothing is fetched."""
        await to_thread.run_sync(self._library.check_room, needed)

    def change(self, give_up_after: float) -> None:
        """Try for so many seconds from now on."""
        self._options = replace(self._options, give_up_after=give_up_after)

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        found = await self._looks.do(lambda: self._library.find_sidecar(reference))
        return found is not None and not outputs <= by_key(found.outputs).keys()

    async def process(self, finished: FinishedRun) -> Outcome:
        """Save a finished run, and record how it ended, or when it is polled again."""
        run = finished.run
        outcome: Outcome | Failed
        try:
            row = await self._queue.get(run.run_id)
            if row is None or not row.state.open:
                return Dropped()
            run = await self._begin(row, finished)
            outcome = await self._process(run, finished)
        except Exception as error:  # noqa: BLE001 - a bug of ours must not cost the run, nor the others
            outcome = outcome_of(run, error, self._options.give_up_after)
        if isinstance(outcome, Failed):
            if finished.failure is None:
                return await self.process(replace(finished, failure=outcome.failure))
            outcome = RetryIn(run, MAX_BACKOFF, outcome.failure.message)
        if isinstance(outcome, RetryIn):
            try:
                await self._record(outcome.run)
            except ServicePausedError as error:
                return Halted(error.reason, str(error))
        return outcome

    async def _begin(self, run: QueuedRun, finished: FinishedRun) -> QueuedRun:
        """Record that outputs of `run` are downloaded, where there are any."""
        if run.state is RunState.DOWNLOADING or finished.failure is not None:
            return run
        if finished.answer is None or not finished.answer.outputs:
            return run
        run = replace(run, state=RunState.DOWNLOADING, waited=0.0, tries=0, progress=100.0, error=None)
        await self._record(run)
        return run

    async def _process(self, run: QueuedRun, finished: FinishedRun) -> Outcome:
        answer, failure = finished.answer, finished.failure
        if failure is None:
            if answer is None:
                return await self._finish(replace(run, state=RunState.DONE, error=None), None)
            if answer.outputs:
                return await self._save(run, answer, finished.earlier)
            failure = reason_of(answer)
        run = replace(run, detected_at=run.detected_at or self._options.wall())
        on_disk = await self._read(run, finished.earlier)
        return await self._conclude(run, answer, RunResult(Result.FAILED, failure, failure), on_disk)

    async def _save(
        self, run: QueuedRun, answer: RemoteRun, earlier: dict[str, SavedOutput] | None
    ) -> Outcome:
        self._progress.run(run, None)
        on_disk = await self._read(run, earlier)
        answer, trouble = await self._save_all(run, answer, on_disk.saved)
        if trouble is not None:
            outcome = outcome_of(run, trouble, self._options.give_up_after)
            if not isinstance(outcome, Failed):
                return outcome
            for output in answer.outputs:
                on_disk.saved.setdefault(output.key, not_had(output, outcome.failure))
        failed = reason_of(answer) if answer.status == "failed" else None
        return await self._conclude(run, answer, result_of(on_disk.all_of(answer), failed), on_disk)

    async def _save_all(
        self, run: QueuedRun, answer: RemoteRun, saved: dict[str, SavedOutput]
    ) -> tuple[RemoteRun, AttemptsExhaustedError | None]:
        """Save what is not among `saved` yet, all at once, and add it there, by key, as it is settled.

        Each is recorded as soon as it is on disk. Where one meets trouble the others go on. What FLORA lists
        beyond that, when a fresh URL is requested, is saved too. Returns its newest answer, and one trouble.
        Raises `ServicePausedError`.
        """
        renewal = _Renewal(self._api, run, answer)
        troubles: list[AttemptsExhaustedError] = []
        pauses: list[ServicePausedError] = []
        begun: set[str] = set()

        async def save(output: RemoteOutput) -> None:
            try:
                done = await self._saver.save(run, renewal.listed, output, renewal.newer_than)
                saved[output.key] = done
                if done.error is None:
                    await self._queue.save_output(run.run_id, output.key, done)
            except AttemptsExhaustedError as error:
                troubles.append(error)
            except ServicePausedError as error:  # kept out of the group, which would wrap it
                pauses.append(error)

        while left := [
            output for output in renewal.listed.outputs if output.key not in saved and output.key not in begun
        ]:
            async with anyio.create_task_group() as group:
                for output in left:
                    begun.add(output.key)
                    group.start_soon(save, output)
            if pauses:
                raise pauses[0]
        return renewal.listed, troubles[0] if troubles else None

    async def _read(self, run: QueuedRun, sidecar: dict[str, SavedOutput] | None) -> _OnDisk:
        """Return the outputs that are on disk already: by the queue, or by an earlier `sidecar`.

        Where the poller has not read that, it is read here.
        """
        known = await self._queue.saved_outputs(run.run_id)

        def look() -> _OnDisk:
            earlier = self._library.existing(self._vouched_for(run) if sidecar is None else sidecar)
            saved = self._library.existing(known)
            return _OnDisk(saved if run.force else earlier | saved, earlier)

        return await self._looks.do(look)

    def _vouched_for(self, run: QueuedRun) -> dict[str, SavedOutput]:
        """Return, by key, what an earlier sidecar says of the run's outputs; blocking."""
        try:
            earlier = self._library.find_sidecar(run.reference)
        except PermanentError:  # what stands in the way there is reported when the new one is written
            return {}
        return by_key(earlier.outputs) if earlier else {}

    async def _conclude(
        self, run: QueuedRun, answer: RemoteRun | None, ending: RunResult, on_disk: _OnDisk
    ) -> Finished:
        ended = replace(run, state=STATE_OF[ending.result], error=ending.reason, force=False, progress=100.0)
        if ending.result is not Result.COMPLETE and on_disk.earlier:
            # What is unavailable now may be there from before: that is neither lost nor denied.
            if not ending.outputs:
                return await self._finish(ended, None)
            ending = with_earlier(on_disk.earlier, ending)
        sidecar = sidecar_of(run, answer, ending, self._options.wall())
        mtime = answer.completed_at if answer and self._options.keep_times else None
        written = await self._sidecars.do(partial(self._library.write_sidecar, sidecar, mtime))
        return await self._finish(ended, RunSummary.of(written, sidecar.outputs))

    async def _record(self, run: QueuedRun) -> None:
        await self._queue.update(run, self._options.wall())

    async def _finish(self, run: QueuedRun, summary: RunSummary | None) -> Finished:
        await self._queue.finish(run, self._options.wall(), summary.sidecar if summary else None)
        return Finished(run, summary)


class _OnDisk(Struct):
    """What is on disk of a run, by key: what stays as it is, and what an earlier sidecar names."""

    saved: dict[str, SavedOutput]
    earlier: dict[str, SavedOutput]

    def all_of(self, answer: RemoteRun) -> list[SavedOutput]:
        """Return the outputs of `answer`, and with them what was had that it lists no more, or otherwise.

        A file that was saved for a run once is named by its sidecar for good.
        """
        outputs = [self.saved[output.key] for output in answer.outputs]
        paths = {output.path for output in outputs}
        for output in (*self.saved.values(), *self.earlier.values()):
            if output.path is not None and output.path not in paths:
                paths.add(output.path)
                outputs.append(output)
        return outputs


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
