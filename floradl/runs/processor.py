"""The whole life of one run: ask FLORA, wait, save its outputs, write the sidecar.

`advance` takes a run one step on and says what comes next. It knows neither which queue called it nor
what kind of library it fills, and every step can be run twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set as AbstractSet
from functools import partial

import anyio
import msgspec
import structlog
from anyio import to_thread

from floradl.errors import ErrorCode, ForeignAnswerError, PermanentError, ServicePausedError, TransientError
from floradl.fs.durable import Flush
from floradl.library.batch_writer import BatchWriter
from floradl.library.folder import Library
from floradl.library.sidecar import by_key
from floradl.models import (
    STATE_OF,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    Result,
    RunFailure,
    RunState,
    SavedOutput,
)
from floradl.polling.durations import Durations, detection_delay
from floradl.polling.planner import PollPlanner
from floradl.polling.poller import Poller
from floradl.queue.base import RunQueue
from floradl.redaction import redact
from floradl.retry import MAX_BACKOFF, after_trouble
from floradl.runs.counters import Histogram
from floradl.runs.events import RunEvents, RunSummary
from floradl.runs.outcome import AttemptsExhaustedError, Finished, Paused, RetryIn, Step
from floradl.runs.output_saver import OutputSaver, not_had
from floradl.runs.result import RunResult, reason_of, result_of, sidecar_of, with_earlier
from floradl.runs.slots import DownloadSlots, load_of

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Processor:
    """Takes runs through their lives. Times are in seconds; `wall` returns unix seconds."""

    def __init__(
        self,
        poller: Poller,
        library: Library,
        saver: OutputSaver,
        queue: RunQueue,
        progress: RunEvents,
        deadlines: Deadlines,
    ) -> None:
        self._poller = poller
        self._library = library
        self._saver = saver
        self._queue = queue
        self._progress = progress
        self._deadlines = deadlines
        self._looks = BatchWriter(1)
        self._sidecars = BatchWriter()
        self.delays = Histogram(0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 300)
        """How long runs were over before it was noticed, in seconds."""
        self.slots = DownloadSlots()

    async def check_room(self, needed: int) -> None:
        """Look whether the library's disk is full, see `Library.check_room`; nothing is asked or fetched."""
        await to_thread.run_sync(self._library.check_room, needed)

    def change(self, give_up_after: float) -> None:
        """Wait for so many seconds from now on."""
        self._deadlines = msgspec.structs.replace(self._deadlines, give_up_after=give_up_after)

    async def lacks(self, reference: Reference, outputs: AbstractSet[str]) -> bool:
        """Whether some of `outputs`, by key, are not in the sidecar of a run. False where it has none."""
        found = await self._looks.do(lambda _: self._library.find_sidecar(reference))
        return found is not None and not outputs <= by_key(found.outputs).keys()

    async def advance(self, run: QueuedRun) -> Step:
        """Take `run` one step on. Raises `ServicePausedError` where nothing can go on for any run."""
        try:
            return await self._advance(run)
        except TransientError as error:
            wait = self._wait(run, error)
            if wait is not None and _is_bad_answer(error):
                waited = run.waited + wait.seconds
                wait = msgspec.structs.replace(wait, run=msgspec.structs.replace(wait.run, waited=waited))
                if waited > self._deadlines.give_up_after:
                    said = f"{error}, for {self._deadlines.give_up_after:.0f} s (poll.give_up_after)"
                    return await self._fail(run, RunFailure(error.code, said), None)
            return wait or await self._fail(run, RunFailure(error.code, str(error)), None)
        except PermanentError as error:
            return await self._fail(run, RunFailure(error.code, str(error)), None)

    async def _advance(self, run: QueuedRun) -> Step:
        if run.state is RunState.WAITING and not run.fresh:
            stands = await self._looks.do(lambda _: self._library.find_sidecar(run.reference))
            if stands is not None and stands.result is Result.COMPLETE:
                return Finished(msgspec.structs.replace(run, state=RunState.DONE, error=None), None)
        answer = await self._poller.run(run.reference, run.queued_at)
        if not answer.finished:
            return await self._unfinished(run, answer)
        self._deadlines.planner.ended(answer)
        if answer.status == "failed" and not answer.outputs:
            return await self._fail(run, reason_of(answer), answer)
        if not answer.outputs:
            raise TransientError("FLORA says that it completed, but lists no outputs", ErrorCode.NO_OUTPUTS)
        load = load_of(answer.outputs)
        if not self.slots.has_one_for(run.run_id, load):
            run = await self._detected(run, answer, RunState.RUNNING)
        if not self.slots.take(run.run_id, load):
            self._poller.keep(answer)
            return Paused(
                run
            )  # with nothing awaited since: who waits for a place may be called at any moment
        try:
            return await self._download(await self._detected(run, answer, RunState.DOWNLOADING), answer)
        finally:
            self.slots.leave(load)

    async def _unfinished(self, run: QueuedRun, answer: RemoteRun) -> Step:
        if run.waited > self._deadlines.give_up_after:
            failure = RunFailure(
                ErrorCode.GAVE_UP,
                f"FLORA did not finish it within {self._deadlines.give_up_after:.0f} s "
                f"(poll.give_up_after); it was {answer.status[:40]!a} at {answer.progress:.0f} %",
            )
            return await self._fail(run, failure, answer)
        seconds, put_back = self._deadlines.planner.goes_on(run, answer)
        run = msgspec.structs.replace(
            run,
            state=RunState.RUNNING,
            waited=run.waited + put_back + seconds,
            tries=0,
            progress=answer.progress,
            error=None,
        )
        return RetryIn(run, seconds, shared=answer.batch_size > 1)

    async def _detected(self, run: QueuedRun, answer: RemoteRun, state: RunState) -> QueuedRun:
        """Record that a run which ended at FLORA stands in `state`; the first time, learn from it."""
        first = run.detected_at is None
        if run.state is RunState.DOWNLOADING or (run.state is state and not first):
            return run
        run = msgspec.structs.replace(
            run,
            state=state,
            detected_at=self._deadlines.wall() if first else run.detected_at,
            waited=0.0,
            tries=0,
            progress=100.0,
            error=None,
        )
        delay = detection_delay(answer, run.queued_at, self._deadlines.wall())
        if first and delay is not None:
            self.delays.add(delay)
        seconds = (
            self._deadlines.durations.add(run.technique, answer.created_at, answer.completed_at)
            if first and answer.status == "completed"
            else None
        )
        await self._queue.update(run, self._deadlines.wall(), duration=seconds)
        if first and answer.status == "completed":
            _log.info("run_completed", run=run.run_id, technique=run.technique, outputs=len(answer.outputs))
        return run

    async def _download(self, run: QueuedRun, answer: RemoteRun) -> Step:
        self._progress.run(run, None)
        had = await self._remembered(run)
        answer, trouble = await self._save_all(run, answer, had.saved)
        if trouble is not None:
            wait = self._wait(run, trouble)
            if wait is not None:
                # The library's own trouble is no fault of the outputs.
                lasted = 0.0 if trouble.code is ErrorCode.STORAGE else trouble.spent + wait.seconds
                waited = run.waited + lasted
                if waited <= self._deadlines.give_up_after:  # the deadline of its outputs
                    return msgspec.structs.replace(wait, run=msgspec.structs.replace(wait.run, waited=waited))
            failure = RunFailure(trouble.code, str(trouble))
            for output in answer.outputs:
                had.saved.setdefault(output.key, not_had(output, failure))
        failed = reason_of(answer) if answer.status == "failed" else None
        try:
            return await self._conclude(run, answer, result_of(had.all_of(answer), failed))
        except TransientError as error:  # all is on disk but the sidecar: it is never given up
            return self._wait(run, error) or RetryIn(run, MAX_BACKOFF, str(error))

    async def _save_all(
        self, run: QueuedRun, answer: RemoteRun, saved: dict[str, SavedOutput]
    ) -> tuple[RemoteRun, AttemptsExhaustedError | None]:
        """Save what is not among `saved` yet, all at once, and add it there, by key, as it is settled.

        Each is remembered as soon as it is on disk. Where one meets trouble the others go on. What FLORA
        lists beyond that, when it is asked for a fresh URL, is saved too. Returns its newest answer, and one
        trouble.
        Raises `ServicePausedError`.
        """
        renewal = _Renewal(self._poller, run, answer)
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

    async def _remembered(self, run: QueuedRun) -> _Had:
        """Return the outputs that are on disk already: by the queue, or by an earlier sidecar."""
        known = await self._queue.saved_outputs(run.run_id)

        def look(_: Flush) -> _Had:
            earlier = self._vouched_for(run)
            if run.fresh:
                return _Had(self._standing(known), self._standing(earlier))
            return _Had(self._standing(earlier | known), {})

        return await self._looks.do(look)

    def _vouched_for(self, run: QueuedRun) -> dict[str, SavedOutput]:
        """Return, by key, what an earlier sidecar says of the run's outputs; blocking."""
        try:
            earlier = self._library.find_sidecar(run.reference)
        except PermanentError:  # what stands in the way there is told when the new one is written
            return {}
        return by_key(earlier.outputs) if earlier else {}

    def _standing(self, outputs: dict[str, SavedOutput]) -> dict[str, SavedOutput]:
        """Return those of `outputs` whose files are there; blocking."""
        return {
            key: output
            for key, output in outputs.items()
            if output.path and self._library.holds(output.path, output.bytes or 0)
        }

    async def _fail(self, run: QueuedRun, failure: RunFailure, answer: RemoteRun | None) -> Step:
        run = msgspec.structs.replace(run, detected_at=run.detected_at or self._deadlines.wall())
        try:
            return await self._conclude(run, answer, RunResult(Result.FAILED, failure, failure))
        except TransientError as error:  # the sidecar could not be written now
            return self._wait(run, error) or RetryIn(run, MAX_BACKOFF, str(error))

    async def _conclude(self, run: QueuedRun, answer: RemoteRun | None, ending: RunResult) -> Step:
        ended = msgspec.structs.replace(
            run, state=STATE_OF[ending.result], error=ending.reason, fresh=False, progress=100.0
        )
        if ending.result is not Result.COMPLETE:
            # What could not be had anew may be there from before: that is neither lost nor denied.
            before = await to_thread.run_sync(lambda: self._standing(self._vouched_for(run)))
            if before and not ending.outputs:
                return Finished(ended, None)
            if before:
                ending = with_earlier(before, ending)
        sidecar = sidecar_of(run, answer, ending, self._deadlines.wall())
        mtime = answer.completed_at if answer and self._deadlines.keep_times else None
        with self._library.translating():
            written = await self._sidecars.do(partial(self._library.write_sidecar, sidecar, mtime))
        return Finished(ended, RunSummary.of(written, sidecar.outputs))

    def _wait(self, run: QueuedRun, error: TransientError) -> RetryIn | None:
        """Return when to try again after `error`, None to give up."""
        again = run.error is not None and run.error.code is error.code
        tries = run.tries + 1 if again else 1  # a 404 after a long outage is the first one
        seconds = after_trouble(error, tries)
        if seconds is None:
            return None
        # As the queue will give it back: only so is it seen that the next trouble is the same.
        trouble = redact(str(error))
        run = msgspec.structs.replace(run, tries=tries, error=RunFailure(error.code, trouble))
        return RetryIn(run, seconds, trouble)


class Deadlines(msgspec.Struct, frozen=True):
    """How long to wait, in seconds; `keep_times`: files get the run's time.

    `history` is what runs of a technique take, `lookout` says when each is asked about again.
    """

    give_up_after: float
    keep_times: bool
    durations: Durations
    planner: PollPlanner
    wall: Callable[[], float] = time.time


class _Had(msgspec.Struct):
    """What is on disk of a run, by key: what stays as it is, and what was there and is fetched anew."""

    saved: dict[str, SavedOutput]
    before: dict[str, SavedOutput]

    def all_of(self, answer: RemoteRun) -> list[SavedOutput]:
        """Return the outputs of `answer`, and with them what was had that it lists no more, or otherwise.

        A file that was saved for a run once is named by its sidecar for good.
        """
        outputs = [self.saved[output.key] for output in answer.outputs]
        paths = {output.path for output in outputs}
        for output in (*self.saved.values(), *self.before.values()):
            if output.path is not None and output.path not in paths:
                paths.add(output.path)
                outputs.append(output)
        return outputs


class _Renewal:
    """Fresh URLs for all outputs of a run at one question: many expire together.

    `listed` is FLORA's newest answer that lists any.
    """

    def __init__(self, poller: Poller, run: QueuedRun, answer: RemoteRun) -> None:
        self._poller = poller
        self._run = run
        self._answer = self.listed = answer
        self._turn = anyio.Lock()

    async def newer_than(self, answer: RemoteRun) -> RemoteRun:
        async with self._turn:
            if self._answer is answer:
                self._answer = await self._poller.fresh(self._run.reference)
                if self._answer.outputs:
                    self.listed = self._answer
            return self._answer


def _is_bad_answer(error: TransientError) -> bool:
    """Whether FLORA itself says of this run what makes no sense: that is borne for a while only."""
    return error.code is ErrorCode.BAD_ANSWER and not isinstance(error, ForeignAnswerError)
