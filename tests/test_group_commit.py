"""Calls that wait together are committed together, and none answers for another."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import studio

from floradl.models import Reference, RunRequest
from floradl.queue.group_commit import GroupCommit
from floradl.queue.sqlite import FILE_NAME, SqliteQueue

pytestmark = pytest.mark.anyio
until = partial(studio.until, seconds=10.0)


class Commits:
    """Counts what SQLite is told, and can hold a commit up."""

    def __init__(self, store: SqliteQueue) -> None:
        self.count = 0
        self.go_on = threading.Event()
        self.go_on.set()
        self.reached = threading.Event()
        store._db.set_trace_callback(self._heard)

    def _heard(self, statement: str) -> None:
        if statement == "COMMIT":
            self.count += 1
            self.reached.set()
            self.go_on.wait(studio.TEST_TIMEOUT)


class World:
    def __init__(self, store: SqliteQueue) -> None:
        self.store = store
        self.commits = Commits(store)
        self.journal = GroupCommit(store, again=0.02)


@asynccontextmanager
async def serving(tmp_path: Path) -> AsyncIterator[World]:
    store = SqliteQueue.open(tmp_path)
    world = World(store)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(world.journal.serve)
            yield world
            world.journal.close()
    finally:
        store.close()


def add(run_id: str) -> Callable[[SqliteQueue], list[str]]:
    return lambda store: store.add([RunRequest(Reference(run_id))], 1.0, again=True)


def fail(store: SqliteQueue) -> None:
    add("run_of_the_one_that_fails")(store)
    raise KeyError("mine")


async def outcome(journal: GroupCommit, work: Callable[[SqliteQueue], Any]) -> object:
    try:
        return await journal.call(work)
    except Exception as error:  # noqa: BLE001 - what came is what is asked for
        return error


async def all_at_once(world: World, works: list[Callable[[SqliteQueue], Any]]) -> list[object]:
    """Have all calls wait for one commit that is under way; returns what became of each."""
    outcomes: list[object] = [None] * len(works)
    world.commits.go_on.clear()
    world.commits.reached.clear()

    async def call(number: int) -> None:
        outcomes[number] = await outcome(world.journal, works[number])

    async with anyio.create_task_group() as group:
        group.start_soon(outcome, world.journal, lambda _: None)
        await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
        for number in range(len(works)):
            group.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        world.commits.go_on.set()
    return outcomes


async def test_a_call_returns_what_its_work_returned(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        assert await world.journal.call(add("run_a")) == ["run_a"]


async def test_what_a_call_did_is_durable_when_it_returns(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        await world.journal.call(add("run_a"))
        with SqliteQueue.reading(tmp_path) as other:
            assert other is not None
            assert other.open_ids() == ["run_a"]


async def test_calls_that_wait_together_are_committed_together(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        outcomes = await all_at_once(world, [add(f"run_{number}") for number in range(200)])
        assert outcomes == [[f"run_{number}"] for number in range(200)]
        assert world.commits.count == 2  # that which was under way, and one for all


async def test_one_call_alone_waits_for_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        with anyio.fail_after(studio.TEST_TIMEOUT):
            await world.journal.call(add("run_a"))
        assert world.commits.count == 1


async def test_a_call_that_fails_touches_no_other(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        first, failed, last = await all_at_once(world, [add("run_a"), fail, add("run_c")])
        assert (first, last) == (["run_a"], ["run_c"])
        assert isinstance(failed, KeyError)
        assert world.store.open_ids() == ["run_a", "run_c"]


async def test_calls_are_worked_off_in_the_order_they_came(tmp_path: Path) -> None:
    seen: list[int] = []
    async with serving(tmp_path) as world:
        works = [partial(lambda number, _: seen.append(number), number) for number in range(600)]
        await all_at_once(world, [*works])
    assert seen == list(range(600))


def no_room(store: SqliteQueue) -> None:
    """Allow the journal no page more than it has, and ask for many."""
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    limit = store._db.execute("PRAGMA max_page_count").fetchone()[0]
    if limit > 1_000_000:
        store._db.execute(f"PRAGMA max_page_count={pages}")
    store.add([RunRequest(Reference(f"run_{n}"), "x" * 200) for n in range(1000)], 1.0, again=True)


def give_room(world: World) -> None:
    world.store._db.execute("PRAGMA max_page_count=1000000")


async def test_while_the_disk_is_full_all_that_wait_together_wait_on(tmp_path: Path) -> None:
    """SQLite takes the whole transaction back: nobody may believe that his part of it stands."""
    async with serving(tmp_path) as world, anyio.create_task_group() as group:

        async def relieve() -> None:
            await until(lambda: world.journal.trouble)
            trouble = world.journal.trouble
            assert trouble is not None
            assert "full" in trouble.message
            assert world.store.open_ids() == []
            await until(lambda: len(tries) > 2)
            assert world.journal.trouble is trouble  # said once, however often it is tried
            give_room(world)

        def swell(store: SqliteQueue) -> None:
            tries.append(1)
            no_room(store)

        tries: list[int] = []
        group.start_soon(relieve)
        outcomes = await all_at_once(world, [add("run_a"), swell, add("run_c")])
        assert (outcomes[0], outcomes[2]) == (["run_a"], ["run_c"])
        assert world.journal.trouble is None
        assert len(world.store.open_ids()) == 1002


async def test_while_another_program_writes_the_journal_calls_wait_for_its_end(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        world.store._db.execute("PRAGMA busy_timeout=0")
        with closing(sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            group.start_soon(world.journal.call, add("run_a"))
            await until(lambda: world.journal.trouble)
            assert world.journal.trouble is not None
            assert "another program" in world.journal.trouble.message
        await until(lambda: world.journal.trouble is None)
        assert world.store.open_ids() == ["run_a"]


async def test_a_call_that_fails_beside_one_that_waits_for_room_hears_of_it_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        outcomes: dict[str, object] = {}

        async def call(name: str, work: Callable[[SqliteQueue], Any]) -> None:
            outcomes[name] = await outcome(world.journal, work)

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

    async def call(journal: GroupCommit) -> None:
        outcomes.append(await outcome(journal, no_room))

    async with serving(tmp_path) as world, anyio.create_task_group() as group:
        group.start_soon(call, world.journal)
        await until(lambda: world.journal.trouble)
        world.journal.close()
    assert [type(each) for each in outcomes] == [sqlite3.OperationalError]


async def test_a_commit_that_fails_is_told_to_all_and_the_next_is_tried(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:

        def break_the_commit(store: SqliteQueue) -> None:
            store._db.execute("PRAGMA defer_foreign_keys=ON")
            store._db.execute("INSERT INTO child VALUES (1)")

        def children(store: SqliteQueue) -> None:
            store._db.execute("CREATE TABLE parent (id INTEGER PRIMARY KEY)")
            store._db.execute("CREATE TABLE child (of_parent REFERENCES parent)")

        await world.journal.call(children)
        world.store._db.execute("PRAGMA foreign_keys=ON")
        outcomes = await all_at_once(world, [add("run_a"), break_the_commit, add("run_c")])
        assert [type(each) for each in outcomes] == [sqlite3.IntegrityError] * 3
        assert world.store.open_ids() == []
        assert await world.journal.call(add("run_d")) == ["run_d"]


async def test_calls_that_wait_when_it_is_closed_are_still_committed(tmp_path: Path) -> None:
    outcomes: list[object] = []
    async with serving(tmp_path) as world:
        world.commits.go_on.clear()

        async def call(run_id: str) -> None:
            outcomes.append(await outcome(world.journal, add(run_id)))

        async with anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(call, f"run_{number}")
            await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
            world.journal.close()
            world.commits.go_on.set()
        assert sorted(map(str, outcomes)) == ["['run_0']", "['run_1']", "['run_2']"]
        assert isinstance(await outcome(world.journal, add("run_late")), anyio.ClosedResourceError)


async def test_a_call_that_nobody_waits_for_any_more_is_done_all_the_same(tmp_path: Path) -> None:
    async with serving(tmp_path) as world:
        world.commits.go_on.clear()
        async with anyio.create_task_group() as group:
            group.start_soon(outcome, world.journal, add("run_a"))
            await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
            group.cancel_scope.cancel()
        world.commits.go_on.set()
        await world.journal.call(lambda _: None)
        assert world.store.open_ids() == ["run_a"]


async def test_one_who_must_know_hears_of_a_call_that_came_just_before_all_was_stopped(
    tmp_path: Path,
) -> None:
    store = SqliteQueue.open(tmp_path)
    journal = GroupCommit(store)
    outcomes: list[object] = []

    async def call() -> None:
        with anyio.CancelScope(shield=True), anyio.move_on_after(5):
            outcomes.append(await outcome(journal, add("run_a")))

    async def stop(scope: anyio.CancelScope) -> None:
        scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(journal.serve)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(call)
        group.start_soon(stop, group.cancel_scope)
    assert outcomes == [["run_a"]]
    journal.close()
    store.close()


async def test_a_commit_under_way_is_finished_when_all_is_stopped(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path)
    world = World(store)
    world.commits.go_on.clear()
    release = threading.Timer(0.05, world.commits.go_on.set)
    async with anyio.create_task_group() as group:
        group.start_soon(world.journal.serve)
        group.start_soon(outcome, world.journal, add("run_a"))
        await anyio.to_thread.run_sync(world.commits.reached.wait, 10)
        release.start()
        group.cancel_scope.cancel()
    assert not store.in_transaction
    assert store.open_ids() == ["run_a"]
    world.journal.close()
    store.close()
