"""Calls that wait together are committed together, and none answers for another."""

from __future__ import annotations

import gc
import sqlite3
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import studio
from studio import until

from floradl.errors import QueueDamagedError, QueueUnavailableError
from floradl.queue.group_commit import GroupCommit

pytestmark = pytest.mark.anyio

Work = Callable[[sqlite3.Connection], Any]


class Commits:
    """Counts what SQLite is told, and can hold a commit up."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self.count = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        db.set_trace_callback(self._heard)

    def _heard(self, statement: str) -> None:
        if statement == "COMMIT":
            self.count += 1
            self.reached.set()
            self.go_on.wait(studio.TEST_TIMEOUT)


class World:
    """A file with a table of names, and one way to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "names.sqlite3"
        self.db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("CREATE TABLE IF NOT EXISTS names (name TEXT)")
        self.commits = Commits(self.db)
        self.group = GroupCommit(self.db, 0.02)

    def names(self) -> list[str]:
        return names(self.db)


def names(db: sqlite3.Connection) -> list[str]:
    return [row[0] for row in db.execute("SELECT name FROM names ORDER BY rowid")]


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(world.group.serve)
            yield world
            world.group.close()
    finally:
        world.db.close()


def add(name: str) -> Work:
    def work(db: sqlite3.Connection) -> list[str]:
        db.execute("INSERT INTO names VALUES (?)", (name,))
        return [name]

    return work


def fail(db: sqlite3.Connection) -> None:
    add("run_of_the_one_that_fails")(db)
    raise KeyError("mine")


async def outcome(group: GroupCommit, work: Work) -> object:
    try:
        return await group.call(work)
    except Exception as error:  # noqa: BLE001 - what came is what is asked for
        return error


async def all_at_once(world: World, works: list[Work]) -> list[object]:
    """Have all calls wait for one commit that is under way; returns what became of each."""
    outcomes: list[object] = [None] * len(works)
    world.commits.go_on.clear()
    world.commits.reached.clear()

    async def call(number: int) -> None:
        outcomes[number] = await outcome(world.group, works[number])

    async with anyio.create_task_group() as group:
        group.start_soon(outcome, world.group, lambda _: None)
        await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
        for number in range(len(works)):
            group.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        world.commits.go_on.set()
    return outcomes


async def test_a_call_returns_what_its_work_returned(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        assert await world.group.call(add("run_a")) == ["run_a"]


async def test_what_a_call_did_is_durable_when_it_returns(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.group.call(add("run_a"))
        with closing(sqlite3.connect(world.path)) as other:
            assert names(other) == ["run_a"]


async def test_calls_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        outcomes = await all_at_once(world, [add(f"run_{number}") for number in range(200)])
        assert outcomes == [[f"run_{number}"] for number in range(200)]
        assert world.commits.count == 2  # that which was under way, and one for all


async def test_one_call_alone_waits_for_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        with anyio.fail_after(studio.TEST_TIMEOUT):
            await world.group.call(add("run_a"))
        assert world.commits.count == 1


async def test_calls_one_after_the_other_wait_for_no_timer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    async with serving(tmp_path) as world:
        for number in range(30):
            await world.group.call(add(f"run_{number}"))
    assert slept == []


async def test_a_call_that_fails_touches_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        first, failed, last = await all_at_once(world, [add("run_a"), fail, add("run_c")])
        assert (first, last) == (["run_a"], ["run_c"])
        assert isinstance(failed, KeyError)
        assert world.names() == ["run_a", "run_c"]


async def test_calls_are_worked_off_in_the_order_they_came(tmp_path: Path) -> None:
    seen: list[int] = []
    async with serving(tmp_path) as world:
        works = [partial(lambda number, _: seen.append(number), number) for number in range(600)]
        await all_at_once(world, [*works])
    assert seen == list(range(600))


def no_room(db: sqlite3.Connection) -> None:
    """Allow the file no page more than it has, and ask for many."""
    pages = db.execute("PRAGMA page_count").fetchone()[0]
    limit = db.execute("PRAGMA max_page_count").fetchone()[0]
    if limit > 1_000_000:
        db.execute(f"PRAGMA max_page_count={pages}")
    db.executemany("INSERT INTO names VALUES (?)", [(f"run_{n}" + "x" * 200,) for n in range(1000)])


def give_room(world: World) -> None:
    world.db.execute("PRAGMA max_page_count=1000000")


async def test_while_the_disk_is_full_all_that_wait_together_wait_on(tmp_path: Path) -> None:
    """SQLite takes the whole transaction back: nobody may believe that his part of it stands."""
    async with serving(tmp_path) as world, anyio.create_task_group() as group:

        async def relieve() -> None:
            await until(lambda: world.group.trouble)
            trouble = world.group.trouble
            assert trouble is not None
            assert "full" in trouble.message
            assert world.names() == []
            await until(lambda: len(tries) > 2)
            assert world.group.trouble is trouble  # said once, however often it is tried
            give_room(world)

        def swell(db: sqlite3.Connection) -> None:
            tries.append(1)
            no_room(db)

        tries: list[int] = []
        group.start_soon(relieve)
        outcomes = await all_at_once(world, [add("run_a"), swell, add("run_c")])
        assert (outcomes[0], outcomes[2]) == (["run_a"], ["run_c"])
        assert world.group.trouble is None
        assert len(world.names()) == 1002


async def test_while_another_program_writes_the_journal_calls_wait_for_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        world.db.execute("PRAGMA busy_timeout=0")
        with closing(sqlite3.connect(world.path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            group.start_soon(world.group.call, add("run_a"))
            await until(lambda: world.group.trouble)
            assert world.group.trouble is not None
            assert "another program" in world.group.trouble.message
        await until(lambda: world.group.trouble is None)
        assert world.names() == ["run_a"]


async def test_a_call_that_fails_beside_one_that_waits_for_room_hears_of_it_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        outcomes: dict[str, object] = {}

        async def call(name: str, work: Work) -> None:
            outcomes[name] = await outcome(world.group, work)

        world.commits.go_on.clear()
        group.start_soon(call, "first", lambda _: None)
        await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
        group.start_soon(call, "fails", fail)
        group.start_soon(call, "waits", no_room)
        await anyio.wait_all_tasks_blocked()
        world.commits.go_on.set()
        await until(lambda: "fails" in outcomes)
        assert isinstance(outcomes["fails"], KeyError)
        assert "waits" not in outcomes
        give_room(world)


async def test_who_waits_for_room_when_all_ends_is_told_that_nothing_was_recorded(tmp_path: Path) -> None:
    outcomes: list[object] = []

    async def call(commits: GroupCommit) -> None:
        outcomes.append(await outcome(commits, no_room))

    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        group.start_soon(call, world.group)
        await until(lambda: world.group.trouble)
        world.group.close()
    assert [type(each) for each in outcomes] == [QueueUnavailableError]
    assert "full" in str(outcomes[0])


async def test_a_commit_that_fails_is_told_to_all_and_the_next_is_tried(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:

        def break_the_commit(db: sqlite3.Connection) -> None:
            db.execute("PRAGMA defer_foreign_keys=ON")
            db.execute("INSERT INTO child VALUES (1)")

        def children(db: sqlite3.Connection) -> None:
            db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            db.execute("CREATE TABLE child (of_parent REFERENCES parent)")

        await world.group.call(children)
        world.db.execute("PRAGMA foreign_keys=ON")
        outcomes = await all_at_once(world, [add("run_a"), break_the_commit, add("run_c")])
        assert [type(each) for each in outcomes] == [QueueUnavailableError] * 3
        assert all("FOREIGN KEY" in str(each) for each in outcomes)
        assert world.names() == []
        assert await world.group.call(add("run_d")) == ["run_d"]


async def test_calls_that_wait_when_it_is_closed_are_still_committed(tmp_path: Path) -> None:
    outcomes: list[object] = []
    async with serving(tmp_path) as world:
        world.commits.go_on.clear()

        async def call(run_id: str) -> None:
            outcomes.append(await outcome(world.group, add(run_id)))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(call, f"run_{number}")
            await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
            world.group.close()
            world.commits.go_on.set()
        assert sorted(map(str, outcomes)) == ["['run_0']", "['run_1']", "['run_2']"]
        assert isinstance(await outcome(world.group, add("run_late")), anyio.ClosedResourceError)


async def test_a_result_that_was_returned_is_not_held_until_the_next_call(tmp_path: Path) -> None:
    class Large:
        pass

    async with serving(tmp_path) as world:
        returned = weakref.ref(await world.group.call(lambda _: Large()))
        gc.collect()
        assert returned() is None


async def test_a_call_that_nobody_waits_for_any_more_is_done_all_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.commits.go_on.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(outcome, world.group, add("run_a"))
            await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
            group.cancel_scope.cancel()
        world.commits.go_on.set()
        await world.group.call(lambda _: None)
        assert world.names() == ["run_a"]


async def test_one_who_must_know_hears_of_a_call_that_came_just_before_all_was_stopped(
    tmp_path: Path,
) -> None:
    world = World(tmp_path)
    outcomes: list[object] = []

    async def call() -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            outcomes.append(await outcome(world.group, add("run_a")))

    async def stop(scope: anyio.CancelScope) -> None:
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(world.group.serve)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(call)
        group.start_soon(stop, group.cancel_scope)
    assert outcomes == [["run_a"]]
    world.group.close()
    world.db.close()


async def test_a_commit_under_way_is_finished_when_all_is_stopped(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.commits.go_on.clear()
    release = threading.Timer(0.05, world.commits.go_on.set)
    async with anyio.create_task_group() as group:
        group.start_soon(world.group.serve)
        group.start_soon(outcome, world.group, add("run_a"))
        await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
        release.start()
        group.cancel_scope.cancel()
    assert not world.db.in_transaction
    assert world.names() == ["run_a"]
    world.group.close()
    world.db.close()


async def test_a_damaged_file_ends_the_work_and_no_call_returns(tmp_path: Path) -> None:
    outcomes: list[object] = []

    async def call(commits: GroupCommit) -> None:
        outcomes.append(await outcome(commits, lambda db: db.execute("SELECT * FROM gone")))

    with pytest.raises(ExceptionGroup) as error:
        async with serving(tmp_path) as world, anyio.create_task_group() as group:
            group.start_soon(call, world.group)
    assert error.group_contains(QueueDamagedError, match="no such table")
    assert outcomes == []
