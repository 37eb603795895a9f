"""What waits for the hook of finished runs, with a journal that takes its time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import anyio
import pytest
from wire import FOLDERS

from floradl.hooks.runs import RunHooks
from floradl.hooks.settings import RUN_FINISHED, HookSettings
from floradl.library.folder import Library
from floradl.library.template import Template
from floradl.models import Reference, RunRequest
from floradl.queue.group_commit import GroupCommit
from floradl.queue.sqlite import SqliteQueue


class LateJournal:
    """A journal that answers what comes after `prepare` once `answer` is set; `asked` tells that it came."""

    def __init__(self, store: SqliteQueue) -> None:
        self._store = store
        self._prepared = False
        self.asked = anyio.Event()
        self.answer = anyio.Event()

    async def call(self, work: Callable[[SqliteQueue], Any]) -> Any:
        """Do `work`."""
        if self._prepared:
            self.asked.set()
            await self.answer.wait()
        self._prepared = True
        return work(self._store)


@pytest.fixture
def store(tmp_path: Path) -> SqliteQueue:
    store = SqliteQueue.open(tmp_path)
    store.add([RunRequest(Reference("run_a"))], 1.0, again=True)
    store.announcements.expect(finished=True)
    store.announcements.add("run_a", "a.json")
    return store


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "library", Template.parse("{output_id}{ext}"), FOLDERS, 255)
    library.create()
    (library.root / "a.json").write_text("{}")
    return library


@pytest.mark.anyio
async def test_a_drain_waits_for_what_is_just_being_looked_up(
    store: SqliteQueue, library: Library, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    command = ("sh", "-c", f"cat > {told}", "hook")
    hooks = RunHooks(HookSettings({RUN_FINISHED: command}, 20.0, {"PATH": "/usr/bin:/bin"}))
    late = LateJournal(store)
    journal = cast("GroupCommit", late)

    async def answer() -> None:
        await anyio.wait_all_tasks_blocked()  # both who serves and who drains wait for the journal
        late.answer.set()

    async with anyio.create_task_group() as group:
        group.start_soon(hooks.serve, journal, library)
        await late.asked.wait()
        group.start_soon(answer)
        await hooks.drain(journal)
        assert told.read_text() == "{}"
        group.cancel_scope.cancel()
    store.close()
