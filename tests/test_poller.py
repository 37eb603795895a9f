"""Many runs are polled by few requests: against a table of runs that counts what is requested."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import anyio
import pytest
import virtual
from polling import Clock, World, holds
from studio import TEST_TIMEOUT

from floradl.errors import ApiUnavailableError, ErrorCode, ForeignAnswerError, PermanentError, TransientError
from floradl.flora.schema import RunPage
from floradl.models import FinishedRun, QueuedRun, Reference, RemoteOutput, RemoteRun
from floradl.polling.open_runs import OpenRuns
from floradl.runs.slots import DownloadSlots

pytestmark = pytest.mark.anyio
OUTPUTS = (RemoteOutput("a", "text", "words"),)


class Table:
    """The runs of a workspace, newest first, `size` to a page."""

    def __init__(self, *run_ids: str, size: int = 100) -> None:
        self.runs = {run_id: RemoteRun(run_id, "running", 0.0, None) for run_id in run_ids}
        self.size = size
        self.refusal: TransientError | None = None  # of every list
        self.refusals: list[TransientError] = []  # of the next lists, one each
        self.bad_cursor: str | None = None
        self.refused_from: str | None = None  # the cursor at which a limit is met
        self.held: anyio.Event | None = None  # what lists wait for
        self.held_runs: anyio.Event | None = None  # what single requests wait for
        self.requested: list[str] = []

    def finish(self, run_id: str, outputs: tuple[RemoteOutput, ...] = OUTPUTS) -> None:
        self.runs[run_id] = RemoteRun(run_id, "completed", 100.0, None, outputs=outputs)

    async def run(self, reference: Reference) -> RemoteRun:
        self.requested.append(reference.run_id)
        if self.held_runs is not None:
            await self.held_runs.wait()
        return self.runs[reference.run_id]

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        self.requested.append(f"{kind} {cursor or 0}")
        if self.held is not None:
            await self.held.wait()
        if self.refusals:
            raise self.refusals.pop()
        if self.refusal is not None:
            raise self.refusal
        if cursor is not None and cursor == self.refused_from:
            raise ApiUnavailableError("busy")
        if cursor is not None and cursor == self.bad_cursor:
            raise PermanentError("the cursor is invalid", ErrorCode.BAD_REQUEST)
        wanted = [] if kind == "generations" else list(self.runs.values())
        start = int(cursor or 0)
        end = start + self.size
        return RunPage(tuple(wanted[start:end]), str(end) if end < len(wanted) else None)


def numbered(count: int, name: str = "run_") -> list[str]:
    return [f"{name}{number}" for number in range(count)]


def world_of(table: Table, clock: Clock | None = None) -> World:
    return World(table, clock or Clock())


async def test_runs_due_together_cost_one_request() -> None:
    table = Table(*numbered(50))
    table.finish("run_7")
    world = world_of(table)
    await world.poll(*table.runs)
    assert table.requested == ["technique_runs 0"]
    assert set(world.finished) == {"run_7"}
    assert world.went_on == table.runs.keys() - {"run_7"}


class TimedTable(Table):
    """Notes when each was requested, too."""

    def __init__(self, *run_ids: str, monotonic: Callable[[], float]) -> None:
        super().__init__(*run_ids)
        self._monotonic = monotonic
        self.times: list[float] = []

    async def run(self, reference: Reference) -> RemoteRun:
        self.times.append(self._monotonic())
        return await super().run(reference)

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        self.times.append(self._monotonic())
        return await super().page(kind, cursor)


def requests_for(due: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """Make runs due after so many seconds; return when what was requested."""

    async def work() -> list[tuple[float, str]]:
        monotonic = asyncio.get_running_loop().time
        start = monotonic()
        table = TimedTable(*(run_id for _, run_id in due), monotonic=monotonic)
        for _, run_id in due:
            table.finish(run_id)
        world = World(table, monotonic)
        async with world.serving():
            for seconds, run_id in due:
                await anyio.sleep(start + seconds - monotonic())
                world.make_due(run_id)
            await anyio.sleep(1.0)
        return [(round(at - start, 3), what) for at, what in zip(table.times, table.requested, strict=True)]

    return virtual.run(work())


def test_a_run_that_is_due_after_a_quiet_time_is_polled_at_once() -> None:
    assert requests_for([(0.5, "run_1"), (5.0, "run_2")]) == [(0.5, "run_1"), (5.0, "run_2")]


def test_runs_that_are_due_right_after_another_are_polled_together() -> None:
    due = [(0.0, "run_1"), (0.003, "run_2"), (0.006, "run_3"), (0.009, "run_4")]
    assert requests_for(due) == [(0.0, "run_1"), (0.013, "technique_runs 0")]


async def test_one_or_two_are_polled_alone() -> None:
    table = Table("run_1", "run_2")
    await world_of(table).poll("run_1", "run_2")
    assert sorted(table.requested) == ["run_1", "run_2"]


async def test_pages_go_on_while_they_find_something() -> None:
    table = Table(*numbered(60), size=20)
    await world_of(table).poll(*table.runs)
    assert table.requested == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]


async def test_runs_that_no_page_shows_are_polled_alone() -> None:
    table = Table(*numbered(5), *numbered(4, "run_old"), size=5)
    await world_of(table).poll("run_0", "run_1", "run_2", "run_old0")
    assert table.requested == ["technique_runs 0", "run_old0"]


async def test_a_list_shows_the_end_of_a_run_that_is_not_due_yet() -> None:
    table = Table("run_1", "run_2", "run_3", "run_later", "run_elsewhere")
    table.finish("run_later")
    table.finish("run_elsewhere")
    world = world_of(table)
    world.wait("run_later")
    await world.poll("run_1", "run_2", "run_3")
    assert set(world.finished) == {"run_later"}
    assert table.requested == ["technique_runs 0"]


async def test_a_run_that_a_page_shows_twice_is_taken_once() -> None:
    table = Table("run_1", "run_2", "run_3")
    world = world_of(table)
    stage: list[str] = []
    world.offer = lambda finished: stage.append(finished.run.run_id)  # type: ignore[method-assign]
    table.finish("run_1")
    page = table.page

    async def twice(kind: str, cursor: str | None = None) -> RunPage:
        shown = await page(kind, cursor)
        return RunPage(shown.runs * 2, shown.cursor)

    table.page = twice  # type: ignore[method-assign]
    world.make_due(*table.runs)
    async with world.serving():
        await world.answered(["run_2", "run_3"])
    assert stage == ["run_1"]


async def test_a_list_that_leaves_outputs_out_settles_nothing() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.finish("run_1", outputs=())
    await world_of(table).poll(*table.runs)
    assert table.requested == ["technique_runs 0", "run_1"]


async def test_a_forbidden_list_is_not_requested_again_for_ten_minutes() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3")
    table.refusal = TransientError("no", ErrorCode.FORBIDDEN)
    world = world_of(table, clock)
    for _ in range(2):
        await world.poll(*table.runs)
    assert table.requested.count("technique_runs 0") == 1
    clock.now += 601
    await world.poll(*table.runs)
    assert table.requested.count("technique_runs 0") == 2


async def test_lists_that_another_server_answers_for_are_not_retried_before_single_requests() -> None:
    table = Table(*numbered(4))
    table.refusal = ForeignAnswerError("not FLORA but a gateway answered 404")
    world = world_of(table)
    await world.poll(*table.runs, technique=None)
    assert table.requested[:2] == ["technique_runs 0", "generations 0"]
    assert sorted(table.requested[2:]) == sorted(table.runs)


async def test_trouble_with_the_list_costs_no_run_its_answer() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusal = TransientError("busy")
    world = world_of(table)
    await world.poll(*table.runs)
    assert len(world.went_on) == 3


async def test_bare_ids_are_looked_for_in_both_lists() -> None:
    table = Table("run_1", "run_2", "run_3", "run_4")
    table.size = 0  # as if no list showed any
    await world_of(table).poll(*table.runs, technique=None)
    assert table.requested[:2] == ["technique_runs 0", "generations 0"]
    assert sorted(table.requested[2:]) == sorted(table.runs)


async def test_pages_go_on_while_they_show_ends_of_runs_that_wait() -> None:
    table = Table(*numbered(60), size=20)
    for run_id in table.runs:
        table.finish(run_id)
    world = world_of(table)
    world.wait(*table.runs)
    await world.poll(*list(table.runs)[-5:])
    assert table.requested == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]
    assert world.finished.keys() == table.runs.keys()


async def test_a_backlog_is_not_paged_through_again_at_each_tick() -> None:
    clock, table = Clock(), Table(*numbered(60), size=20)
    for run_id in table.runs:
        table.finish(run_id)
    world = world_of(table, clock)
    world.wait(*table.runs, seconds=0.0)
    strangers = numbered(8, "run_old")
    for run_id in strangers:
        table.finish(run_id)
    table.size = 60
    await world.poll(*strangers[:4])
    assert world.finished.keys() >= set(numbered(60))
    table.requested.clear()
    clock.now += 10.0
    await world.poll(*strangers[4:])
    assert len([name for name in table.requested if name.startswith("technique_runs")]) == 1


def waiting_and_seen(world: World, *run_ids: str) -> None:
    """Have these wait for a minute: they were polled before, and go on."""
    world.wait(*run_ids)
    for run_id in run_ids:
        run = QueuedRun(run_id=run_id, technique="t", queued_at=0.0)
        world.planner.goes_on(run, RemoteRun(run_id, "running", 0.0, None, age=20.0))


async def test_for_one_that_is_due_the_page_is_requested_that_shows_others_who_wait() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3", "run_4")
    world = world_of(table, clock)
    await world.poll(*table.runs)
    waiting_and_seen(world, "run_2", "run_3", "run_4")
    table.requested.clear()
    clock.now += 10.0
    await world.poll("run_1")
    assert table.requested == ["technique_runs 0"]


async def test_one_that_a_list_showed_to_go_on_is_not_polled_at_once() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3", "run_4")
    world = world_of(table, clock)
    waiting_and_seen(world, "run_4")
    clock.now += 59.9
    assert not world.planner.puts_back("run_4")
    await world.poll("run_1", "run_2", "run_3")
    clock.now += 0.2
    assert "run_4" in world.open_runs
    assert "run_4" not in world.open_runs.take_due(1)
    assert world.due_queue.delay() > 1.0


async def test_an_answer_says_how_many_that_go_on_it_answered_for() -> None:
    table = Table("run_1", "run_2", "run_3", "run_elsewhere")
    table.finish("run_1")
    world = world_of(table)
    await world.poll("run_1", "run_2", "run_3")
    answers = [world.planner.answers["run_2"], world.planner.answers["run_3"]]
    assert [answer.batch_size for answer in answers] == [2, 2]
    alone = world_of(table)
    await alone.poll("run_2")
    assert alone.planner.answers["run_2"].batch_size == 1


async def test_a_list_that_meets_a_limit_is_requested_again() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusals = [ApiUnavailableError("busy"), ApiUnavailableError("busy")]
    await world_of(table).poll(*table.runs)
    assert table.requested == ["technique_runs 0"] * 3


async def test_a_limit_that_stays_holds_for_all_and_none_is_polled_alone() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusals = [ApiUnavailableError("busy", retry_after=7.0)] * 10
    world = world_of(table)
    await world.poll(*table.runs)
    assert list(world.troubles.values()) == [7.0, 7.0, 7.0]
    assert set(table.requested) == {"technique_runs 0"}


async def test_what_was_found_before_a_list_met_a_limit_is_answered() -> None:
    table = Table(*numbered(60), size=20)
    table.refused_from = "20"
    world = world_of(table)
    await world.poll(*table.runs)
    assert (len(world.went_on), len(world.troubles)) == (20, 40)


async def test_one_that_falls_due_while_a_list_is_on_its_way_is_answered_by_it() -> None:
    table = Table(*numbered(8))
    table.held = anyio.Event()
    world = world_of(table)
    world.make_due(*list(table.runs)[:4])
    async with world.serving():
        await holds(lambda: bool(table.requested))
        world.make_due(*list(table.runs)[4:])
        await anyio.wait_all_tasks_blocked()
        table.held.set()
        await world.answered(table.runs)
    assert table.requested == ["technique_runs 0"]


async def test_one_in_line_for_a_single_request_takes_the_answer_of_a_list() -> None:
    lone = numbered(12, "run_old")
    table = Table(*numbered(5), *lone, size=5)
    table.held_runs = anyio.Event()
    clock = Clock()
    world = world_of(table, clock)
    world.make_due(*lone)
    async with world.serving():
        await holds(lambda: len([name for name in table.requested if name.startswith("run_old")]) >= 8)
        await anyio.wait_all_tasks_blocked()
        assert len([name for name in table.requested if name.startswith("run_old")]) == 8
        table.size = 20
        clock.now += 10.0
        world.make_due("run_0", "run_1", "run_2")
        await holds(lambda: table.requested.count("technique_runs 0") == 2)
        await world.answered(lone[8:])
        table.held_runs.set()
        await world.answered(lone)
    assert len([name for name in table.requested if name.startswith("run_old")]) == 8


async def test_what_lies_below_the_pages_is_looked_for_there_once() -> None:
    clock = Clock()
    table = Table(*numbered(20), size=5)
    world, old = world_of(table, clock), list(table.runs)[-4:]
    await world.poll(*old)
    assert table.requested[0] == "technique_runs 0"
    assert sorted(table.requested[1:]) == sorted(old)
    table.requested.clear()
    clock.now += 10.0
    await world.poll(*old)
    assert sorted(table.requested) == sorted(old)


async def test_a_backlog_costs_hardly_more_than_the_pages_that_hold_it() -> None:
    table = Table(*numbered(3000))
    for run_id in table.runs:
        table.finish(run_id)
    world = world_of(table)
    await world.poll(*reversed(table.runs))
    assert world.finished.keys() == table.runs.keys()
    assert len(table.requested) <= 40


async def test_a_backlog_too_large_to_keep_is_read_on_where_it_was_left() -> None:
    """None is saved until no more can be kept."""
    table = Table(*numbered(6000))
    for run_id in table.runs:
        table.finish(run_id)
    stages: list[DownloadSlots] = []

    def stage(open_runs: OpenRuns) -> DownloadSlots:
        stages.append(DownloadSlots(open_runs.breaker, open_runs.put_first))
        return stages[0]

    world = World(table, Clock(), stage)
    saved: set[str] = set()
    go_on = anyio.Event()

    async def save(finished: FinishedRun) -> None:
        await go_on.wait()
        saved.add(finished.run.run_id)

    world.make_due(*table.runs)
    async with world.serving(), anyio.create_task_group() as group:
        group.start_soon(stages[0].serve, save)
        await holds(lambda: world.due_queue.delay() == math.inf and not world.poller._line)
        go_on.set()
        await holds(lambda: len(saved) == 6000)
        group.cancel_scope.cancel()
    stages[0].close()
    assert len(table.requested) <= 60 + 25 + 3 * 64


async def test_a_cursor_that_is_refused_costs_no_run_its_answer_and_not_the_list() -> None:
    clock = Clock()
    table = Table(*numbered(60), size=20)
    table.bad_cursor = "20"
    world = world_of(table, clock)
    await world.poll(*table.runs)
    assert len(world.went_on) == 60
    table.requested.clear()
    clock.now += 1.0
    await world.poll("run_1", "run_2", "run_3")
    assert table.requested == ["technique_runs 0"]


async def test_those_in_line_are_looked_for_again_at_each_tick_and_so_are_the_newest() -> None:
    """A crowd below the pages keeps the line full for minutes; what is new is on the newest page."""
    clock = Clock()
    crowd = numbered(30, "run_old")
    table = Table("run_1", "run_2", "run_3", *crowd, size=3)
    table.held_runs = anyio.Event()
    world = world_of(table, clock)
    waiting_and_seen(world, "run_1", "run_2", "run_3")
    world.make_due(*crowd)
    with anyio.fail_after(TEST_TIMEOUT):
        async with world.serving():
            await holds(lambda: table.requested.count("technique_runs 0") >= 1)
            await anyio.wait_all_tasks_blocked()
            table.finish("run_2")
            clock.now += 2.0
            world.open_runs.wake()
            await holds(lambda: "run_2" in world.finished)
            table.held_runs.set()
            await world.answered(crowd)
    assert len(table.requested) - table.requested.count("technique_runs 0") <= len(crowd) + 3


async def test_the_newest_run_is_polled_before_a_crowd_that_stands_in_line() -> None:
    crowd = numbered(30, "run_old")
    table = Table(*crowd, "run_new", size=0)
    table.held_runs = anyio.Event()
    world = world_of(table)
    world.make_due(*crowd)
    async with world.serving():
        await holds(lambda: len(table.requested) >= 8)  # as many as there may be at once
        world.make_due("run_new", queued_at=1.0)
        await holds(lambda: "run_new" in world.poller._line)
        table.held_runs.set()
        await world.answered([*crowd[8:], "run_new"])
    singles = [name for name in table.requested if name.startswith("run")]
    assert singles.index("run_new") <= 8 + 1


async def test_the_newest_run_and_the_one_that_stands_longest_in_line_come_in_turn() -> None:
    first, crowd = numbered(8, "run_first"), numbered(4, "run_crowd")
    table = Table(*first, *crowd, "run_new0", "run_new1", size=0)
    table.held_runs = anyio.Event()
    world = world_of(table)
    world.make_due(*first)
    async with world.serving():
        await holds(lambda: len(table.requested) >= 1 + 8)  # as many as there may be at once
        for queued_at, run_id in enumerate([*crowd, "run_new0", "run_new1"], 1):
            world.make_due(run_id, queued_at=max(queued_at - 3.0, 1.0))
            await holds(lambda run_id=run_id: run_id in world.poller._line)  # type: ignore[misc]
        table.requested.clear()
        table.held_runs.set()
        await world.answered(crowd)
    assert table.requested == ["run_new1", "run_crowd0", "run_new0", "run_crowd1", "run_crowd2", "run_crowd3"]


async def test_an_end_is_taken_although_a_list_showed_before_that_the_run_goes_on() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3", "run_later")
    world = world_of(table, clock)
    world.wait("run_later")
    await world.poll("run_1", "run_2", "run_3")
    table.finish("run_later")
    clock.now += 1.0
    await world.poll("run_1", "run_2", "run_3")
    assert set(world.finished) == {"run_later"}


# For those who read whole lists


async def test_a_page_that_somebody_reads_is_used_for_the_runs_that_wait() -> None:
    table = Table("run_1", "run_2")
    table.finish("run_1")
    world = world_of(table)
    world.wait("run_1")
    await world.poller.page("technique_runs")
    assert set(world.finished) == {"run_1"}
    assert table.requested == ["technique_runs 0"]


async def test_a_first_page_that_was_just_requested_serves_once_who_reads_the_list() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3")
    world = world_of(table, clock)
    await world.poller.page("technique_runs")
    clock.now += 1
    await world.poll(*table.runs)
    assert table.requested == ["technique_runs 0"] * 2
    assert len((await world.poller.page("technique_runs")).runs) == 3
    assert table.requested == ["technique_runs 0"] * 2
    await world.poller.page("technique_runs")
    assert table.requested == ["technique_runs 0"] * 3
    clock.now += 1
    await world.poll(*table.runs)
    clock.now += 11
    await world.poller.page("technique_runs")
    assert table.requested == ["technique_runs 0"] * 5


async def test_what_a_list_said_of_a_run_is_its_first_answer_and_no_other() -> None:
    table = Table("run_1", "run_2")
    table.finish("run_2", outputs=())
    world = world_of(table)
    world.queue(*table.runs)
    await world.poller.add_answered(table.runs.values())
    assert world.went_on == {"run_1"}
    assert table.requested == []
    async with world.serving():
        await world.answered(["run_2"])
        assert table.requested == ["run_2"]
    await world.poll("run_1")
    assert table.requested == ["run_2", "run_1"]
