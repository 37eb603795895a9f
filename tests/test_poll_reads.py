"""What is on disk of a run is read once on its way: by the poller, which hands it to the processor."""

from __future__ import annotations

from typing import Any, cast

import pytest
from memory_library import MemoryLibrary
from polling import Clock, World

from floradl.errors import ErrorCode
from floradl.flora.schema import RunPage
from floradl.library.batch_writer import BatchWriter
from floradl.library.sidecar import Sidecar
from floradl.models import (
    FinishedRun,
    OutputKind,
    QueuedRun,
    Reference,
    RemoteOutput,
    RemoteRun,
    Result,
    RunFailure,
    RunState,
    SavedOutput,
)
from floradl.net.addresses import HostPatterns
from floradl.runs.output_saver import OutputOptions, OutputSaver
from floradl.runs.processor import ProcessOptions, Processor
from floradl.runs.result import Finished, RunResult, sidecar_of
from floradl.runs.slots import TransferSlots

pytestmark = pytest.mark.anyio
RUN = QueuedRun(run_id="run_1", technique="t", queued_at=0.0)
ANSWER = RemoteRun(
    "run_1",
    "completed",
    100.0,
    None,
    outputs=(RemoteOutput("old", "text", "words"), RemoteOutput("new", "text", "more words")),
)


class CountingLibrary(MemoryLibrary):
    """Counts how often a sidecar is looked for."""

    reads = 0

    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        self.reads += 1
        return super().locate_sidecar(reference)


class Api:
    """Answers for one run."""

    def __init__(self, answer: RemoteRun) -> None:
        self.answer = answer

    async def run(self, _: Reference) -> RemoteRun:
        return self.answer

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        raise AssertionError(kind, cursor)


class NoEvents:
    """Wants to know nothing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_args: None


def partial_library() -> CountingLibrary:
    """Return a library with the sidecar of a run of which one output was saved, and one was not."""
    library = CountingLibrary()
    library.put("text/t/run_1-old.txt", b"words")
    old = SavedOutput(
        output_id="old", type="text", kind=OutputKind.TEXT, path="text/t/run_1-old.txt", bytes=5
    )
    failure = RunFailure(ErrorCode.NO_OUTPUTS, "it was not there")
    new = SavedOutput(output_id="new", type="text", kind=OutputKind.TEXT, error=failure)
    result = RunResult(Result.PARTIAL, None, failure, (old, new))
    library.write_sidecar(sidecar_of(RUN, ANSWER, result, 0.0), None)
    return library


class Stages:
    """The poller and the processor over one library and one queue."""

    def __init__(self, library: CountingLibrary, answer: RemoteRun = ANSWER) -> None:
        self.api = Api(answer)
        self.world = World(self.api, Clock(), library=library)
        events = cast("Any", NoEvents())
        saver = OutputSaver(
            library,
            BatchWriter(library.together),
            cast("Any", None),  # texts are in the answer
            events,
            TransferSlots(4),
            OutputOptions(HostPatterns.parse([]), keep_times=False),
        )
        options = ProcessOptions(86_400.0, keep_times=False)
        self.processor = Processor(self.api, library, saver, self.world.rows, events, options)

    async def poll(self, run: QueuedRun) -> FinishedRun | None:
        self.world.rows._put(run)
        self.world.open_runs.take([run.run_id])
        await self.world.poller.poll(run.run_id)
        return self.world.finished.pop(run.run_id, None)

    async def process(self, run: QueuedRun) -> Finished:
        finished = await self.poll(run)
        assert finished is not None
        outcome = await self.processor.process(finished)
        assert isinstance(outcome, Finished)
        return outcome


async def test_a_run_that_is_finished_when_first_polled_has_its_sidecar_read_once() -> None:
    library = CountingLibrary()
    outcome = await Stages(library).process(RUN)
    assert outcome.run.state is RunState.DONE
    assert library.reads == 1


async def test_what_an_earlier_sidecar_names_is_kept_and_read_once() -> None:
    library = partial_library()
    outcome = await Stages(library).process(RUN)
    assert outcome.run.state is RunState.DONE
    assert library.reads == 1
    found = library.find_sidecar(RUN.reference)
    assert found is not None
    assert next(output.path for output in found.outputs) == "text/t/run_1-old.txt"
    assert {output.output_id for output in found.outputs if output.path} == {"old", "new"}


async def test_a_complete_sidecar_is_read_once_and_its_run_not_polled() -> None:
    library = CountingLibrary()
    await Stages(library).process(RUN)
    library.reads = 0
    stages = Stages(library)
    stages.api = cast("Any", None)
    outcome = await stages.process(RUN)
    assert outcome.run.state is RunState.DONE
    assert library.reads == 1


async def test_a_sidecar_is_read_again_for_a_run_that_was_waited_for_since() -> None:
    library = CountingLibrary()
    stages = Stages(library, RemoteRun("run_1", "running", 10.0, None))
    assert await stages.poll(RUN) is None
    stages.api.answer = ANSWER
    row = await stages.world.rows.get("run_1")
    assert row is not None
    await stages.process(row)
    assert library.reads == 2
