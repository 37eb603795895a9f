"""What waits for the hook of finished runs, with a queue that takes its time."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from memory_queue import MemoryHookOutbox, MemoryQueue
from wire import FOLDERS

from floradl.hooks.command import RUN_FINISHED, HookSettings
from floradl.hooks.runs import RunHooks
from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.models import QueuedRun, RunState


class LateOutbox(MemoryHookOutbox):
    """Says what there is once `answer` is set; `asked` tells that somebody asks."""

    def __init__(self, queue: MemoryQueue) -> None:
        self.__dict__ = queue.outbox.__dict__
        self.asked = anyio.Event()
        self.answer = anyio.Event()

    async def after(self, number: int) -> list[int]:
        self.asked.set()
        await self.answer.wait()
        return await super().after(number)


@pytest.fixture
def library(tmp_path: Path) -> FolderLibrary:
    library = FolderLibrary(tmp_path / "library", PathPlan.parse("{output_id}{ext}", FOLDERS, 255))
    library.create()
    (library.root / "a.json").write_text("{}")
    return library


@pytest.mark.anyio
async def test_a_drain_waits_for_what_is_just_being_looked_up(library: FolderLibrary, tmp_path: Path) -> None:
    told = tmp_path / "told"
    command = ("sh", "-c", f"cat > {told}", "hook")
    hooks = RunHooks(HookSettings({RUN_FINISHED: command}, 20.0, {"PATH": "/usr/bin:/bin"}))
    queue = MemoryQueue()
    await queue.outbox.expect(finished=True)
    await queue.finish(QueuedRun(run_id="run_a", queued_at=1.0, state=RunState.DONE), 1.0, "a.json")
    late = LateOutbox(queue)

    async def answer() -> None:
        await anyio.wait_all_tasks_blocked()  # both who serves and who drains wait for the queue
        late.answer.set()

    async with anyio.create_task_group() as group:
        group.start_soon(hooks.serve, late, library)
        await late.asked.wait()
        group.start_soon(answer)
        await hooks.drain(late)
        assert told.read_text() == "{}"
        group.cancel_scope.cancel()
