"""Brings back what `verify` found damaged or gone, in the foreground; beside a daemon it does no harm.

The fresh bytes arrive in a part file first. If they are those that the sidecar vouches for they take the old
name, and the damaged file is kept beside it as `NAME.damaged`; other bytes come under another name.
"""

from __future__ import annotations

import hashlib
import sys
import threading
from collections.abc import Mapping
from itertools import groupby
from pathlib import PurePosixPath

import anyio
import msgspec
from anyio import CapacityLimiter, to_thread

from floradl.app import App, working
from floradl.clock import unix_seconds
from floradl.commands.exits import Exit
from floradl.commands.verify.scan import Problem, VerifyOutcome
from floradl.config.settings import Config
from floradl.daemon.run import wait_for_stop
from floradl.display import open_display
from floradl.errors import ErrorCode, PauseReason, PermanentError, ServicePausedError, TransientError
from floradl.library.sidecar import Sidecar, by_key, earlier_of
from floradl.library.verify import FileVerdict, file_verifier
from floradl.models import OutputKind, QueuedRun, Reference, RemoteOutput, RemoteRun, RunState, SavedOutput
from floradl.queue.sqlite import SqliteQueue
from floradl.retry import after_trouble
from floradl.runs.events import RunEvents, RunSummary
from floradl.urls import is_only_url

_RUNS_AT_ONCE = 8
_TRIES = 5
_ELSEWHERE = "FLORA has other bytes now; what stood there stays as it is"


async def repair_all(
    config: Config, environ: Mapping[str, str], problems: Mapping[int, Problem]
) -> tuple[Exit, dict[int, VerifyOutcome]]:
    """Fetch the numbered `problems` again; return what became of each, and what ended it all early."""
    outcomes = {number: _not_repaired(problem) for number, problem in problems.items()}
    repairable = [(number, problem) for number, problem in problems.items() if problem.sidecar is not None]
    with open_display(sys.stderr, quiet=config.log.quiet) as display, SqliteQueue.in_memory() as queue:
        async with working(config, environ, queue, display) as works:
            repairs = _Repairs(works, display, keep_times=config.output.mtime == "completed")
            by_run = groupby(repairable, key=lambda each: each[1].sidecar.run_id if each[1].sidecar else "")
            await repairs.run([dict(group) for _, group in by_run])
            return repairs.code, outcomes | repairs.outcomes


def _not_repaired(problem: Problem) -> VerifyOutcome:
    if problem.sidecar is not None:
        return VerifyOutcome(mended=False, message="it was not its turn any more")
    run = problem.reference or PurePosixPath(problem.path or "").stem  # a sidecar is named by its run
    return VerifyOutcome(mended=False, message=f"'floradl get {run}' downloads the run again")


class _Repairs:
    """Mends run by run, some at once."""

    def __init__(self, works: App, progress: RunEvents, *, keep_times: bool) -> None:
        self._works = works
        self._progress = progress
        self._keep_times = keep_times
        self._at_once = CapacityLimiter(_RUNS_AT_ONCE)
        self._examiner = file_verifier(works.library, lambda _: None, threading.Event(), quick=False)
        self.outcomes: dict[int, VerifyOutcome] = {}
        self.code = Exit.OK

    async def run(self, runs: list[dict[int, Problem]]) -> None:
        async def interrupted() -> None:
            await wait_for_stop(self._works.media.halt, Exit.INTERRUPTED)
            end(Exit.INTERRUPTED)

        def end(code: Exit) -> None:
            self.code = code
            self._works.media.halt()
            group.cancel_scope.cancel()

        async def one(problems: dict[int, Problem]) -> None:
            try:
                async with self._at_once:
                    await self._repair_run(problems)
            except ServicePausedError as error:
                for number in problems:
                    self.outcomes[number] = VerifyOutcome(mended=False, message=str(error))
                end(Exit.KEY_REFUSED if error.reason is PauseReason.KEY_REFUSED else Exit.GAVE_UP)

        async with anyio.create_task_group() as group:
            group.start_soon(interrupted)
            async with anyio.create_task_group() as runs_at_work:
                for problems in runs:
                    runs_at_work.start_soon(one, problems)
            group.cancel_scope.cancel()

    async def _repair_run(self, problems: dict[int, Problem]) -> None:
        if (sidecar := next(iter(problems.values())).sidecar) is None:
            return
        run = _run_of(sidecar)
        self._progress.run(run, None)
        fresh: dict[int, SavedOutput] = {}
        answer: RemoteRun | None = None
        for number, problem in problems.items():
            try:
                remembered = _remembered(sidecar)
                if _is_remembered(problem.output):
                    fresh[number] = await self._fetch(run, remembered, problem)
                    continue
                answer = answer or await self._ask(run.reference)
                fresh[number] = await self._fetch(run, answer, problem)
            except (TransientError, PermanentError) as error:
                self.outcomes[number] = VerifyOutcome(mended=False, message=str(error))
        by_index = {problems[number].index: output for number, output in fresh.items()}
        try:
            brought = await to_thread.run_sync(self._record, sidecar, by_index)
        except TransientError as error:
            for number in fresh:
                self.outcomes[number] = VerifyOutcome(mended=False, message=str(error))
            return
        for number, output in fresh.items():
            self.outcomes[number] = await to_thread.run_sync(self._judge, problems[number], output)
        mended = all(self.outcomes[number].mended for number in problems)
        self._progress.finished(
            msgspec.structs.replace(run, state=RunState.DONE if mended else RunState.PARTIAL), brought
        )

    async def _ask(self, reference: Reference) -> RemoteRun:
        tries = 0
        while True:
            try:
                answer = await self._works.flora.run(reference)
            except TransientError as error:
                tries += 1
                delay = after_trouble(error, tries)
                if delay is None or tries > _TRIES:
                    raise
                self._progress.trouble(QueuedRun(run_id=reference.run_id, queued_at=0), str(error), delay)
                await anyio.sleep(delay)
                continue
            if answer.status != "completed" and not answer.outputs:
                message = f"FLORA reports the run as {answer.status[:40]!a} now"
                raise PermanentError(message, ErrorCode.RUN_FAILED)
            return answer

    async def _fetch(self, run: QueuedRun, answer: RemoteRun, problem: Problem) -> SavedOutput:
        output, sidecar = problem.output, problem.sidecar
        assert output is not None  # noqa: S101 - the type checker cannot know that it belongs to a sidecar
        assert sidecar is not None  # noqa: S101 - as above
        key = list(by_key(sidecar.outputs))[problem.index]
        remote = next((each for each in answer.outputs if each.key == key), None)
        if remote is None:
            raise PermanentError("FLORA does not list this output any more", ErrorCode.NOT_FOUND)
        if problem.verdict is FileVerdict.DAMAGED and output.path and output.sha256:
            self._works.library.expect_damaged(output.path, output.sha256)

        async def newer(_: RemoteRun) -> RemoteRun:
            return await self._ask(run.reference)

        saved = await self._works.saver.save(run, answer, remote, newer)
        if saved.error is not None:
            raise PermanentError(saved.error.message, saved.error.code)
        if saved.skipped is not None:
            raise PermanentError("it is larger than download.max_file_size now", ErrorCode.TOO_LARGE)
        return saved

    def _record(self, sidecar: Sidecar, fresh: dict[int, SavedOutput]) -> RunSummary | None:
        """Write the sidecar anew with what was fetched; what somebody else changed meanwhile stays."""
        library = self._works.library
        if not fresh:
            return None
        there = library.find_sidecar(Reference(sidecar.run_id, sidecar.technique))
        now = there or sidecar
        if len(now.outputs) != len(sidecar.outputs):
            return None
        outputs = tuple(
            fresh[index] if index in fresh and output == sidecar.outputs[index] else output
            for index, output in enumerate(now.outputs)
        )
        mtime = unix_seconds(sidecar.times.completed_at) if self._keep_times else None
        path = library.write_sidecar(msgspec.structs.replace(now, outputs=outputs), mtime, replacing=there)
        return RunSummary.of(path, outputs)

    def _judge(self, problem: Problem, saved: SavedOutput) -> VerifyOutcome:
        sidecar = problem.sidecar
        examined = self._examiner.examine(saved, sidecar.times.completed_at if sidecar else None)
        if examined.verdict is not FileVerdict.SOUND:
            return VerifyOutcome(mended=False, message=examined.message, path=saved.path)
        kept = self._works.library.kept_as(problem.path or "")
        message = f"the damaged file is kept as {kept}" if kept else ""
        if saved.path != problem.path and problem.verdict is FileVerdict.DAMAGED:
            message = f"the damaged file stays at {problem.path}"  # by another template than today's
        if problem.output is not None and saved.sha256 != problem.output.sha256:
            message = _ELSEWHERE
        return VerifyOutcome(mended=True, message=message, path=saved.path, kept_as=kept)


def _run_of(sidecar: Sidecar) -> QueuedRun:
    queued = unix_seconds(sidecar.times.queued_at) or 0.0
    run = QueuedRun(run_id=sidecar.run_id, state=RunState.DOWNLOADING, queued_at=queued, progress=100.0)
    return earlier_of(sidecar).fill(run)  # paths are planned by all of it


def _remembered(sidecar: Sidecar) -> RemoteRun:
    """Return the answer that the sidecar holds, with the text in place of a URL where it has it."""
    outputs = [
        RemoteOutput(output.output_id, output.type, output.text or "", _nth(key, output.output_id))
        for key, output in by_key(sidecar.outputs).items()
    ]
    completed = unix_seconds(sidecar.times.completed_at)
    return RemoteRun(sidecar.run_id, "completed", 100.0, None, completed_at=completed, outputs=tuple(outputs))


def _nth(key: str, output_id: str) -> int:
    return 1 if key == output_id else int(key[len(output_id) + 1 :])


def _is_remembered(output: SavedOutput | None) -> bool:
    """Whether the sidecar itself holds the text: FLORA need not be asked for it."""
    if output is None or output.kind is not OutputKind.TEXT or output.text is None:
        return False
    digest = hashlib.sha256(output.text.encode()).hexdigest()
    return not is_only_url(output.text) and digest == output.sha256
