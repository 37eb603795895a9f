"""Many questions become few: against a table of runs that counts what it is asked."""

from __future__ import annotations

from collections.abc import Callable

import anyio
import pytest
from studio import TEST_TIMEOUT, until

from floradl.errors import ApiUnavailableError, ErrorCode, PermanentError, TransientError
from floradl.flora.schema import RunPage
from floradl.models import QueuedRun, Reference, RemoteOutput, RemoteRun
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.planner import PollPlanner
from floradl.polling.poller import Poller

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
        self.held_runs: anyio.Event | None = None  # what single questions wait for
        self.asked: list[str] = []

    def finish(self, run_id: str, outputs: tuple[RemoteOutput, ...] = OUTPUTS) -> None:
        self.runs[run_id] = RemoteRun(run_id, "completed", 100.0, None, outputs=outputs)

    async def run(self, reference: Reference) -> RemoteRun:
        self.asked.append(reference.run_id)
        if self.held_runs is not None:
            await self.held_runs.wait()
        return self.runs[reference.run_id]

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        self.asked.append(f"{kind} {cursor or 0}")
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


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def asking_of(table: Table, clock: Clock | None = None, due_queue: DueQueue | None = None) -> Poller:
    clock = clock or Clock()
    due_queue = due_queue or DueQueue(clock, 2.0)
    return Poller(table, PollPlanner(due_queue, Durations(clock), 2.0, clock), clock)


async def ask(poller: Poller, *run_ids: str, technique: str | None = "t") -> dict[str, str]:
    found: dict[str, str] = {}

    async def one(run_id: str) -> None:
        found[run_id] = (await poller.run(Reference(run_id, technique))).status

    async with anyio.create_task_group() as group:
        for run_id in run_ids:
            group.start_soon(one, run_id)
    return found


async def test_runs_due_together_cost_one_question() -> None:
    table = Table(*(f"run_{number}" for number in range(50)))
    table.finish("run_7")
    found = await ask(asking_of(table), *table.runs)
    assert table.asked == ["technique_runs 0"]
    assert found["run_7"] == "completed"
    assert found["run_8"] == "running"


async def test_one_or_two_are_asked_about_alone() -> None:
    table = Table("run_1", "run_2")
    await ask(asking_of(table), "run_1", "run_2")
    assert sorted(table.asked) == ["run_1", "run_2"]


async def test_pages_go_on_while_they_find_something() -> None:
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    await ask(asking_of(table), *table.runs)
    assert table.asked == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]


async def test_runs_that_no_page_shows_are_asked_about_alone() -> None:
    table = Table(*(f"run_{number}" for number in range(5)))
    table.runs |= {f"run_old{n}": RemoteRun(f"run_old{n}", "running", 0.0, None) for n in range(4)}
    table.size = 5
    wanted = [f"run_{number}" for number in range(3)] + ["run_old0"]
    await ask(asking_of(table), *wanted)
    assert table.asked == ["technique_runs 0", "run_old0"]


async def test_the_list_tells_of_a_run_that_nobody_asked_about_yet() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    table = Table("run_1", "run_2", "run_3", "run_later", "run_elsewhere")
    table.finish("run_later")
    table.finish("run_elsewhere")
    poller = asking_of(table, due_queue=due_queue)
    due_queue.put("run_later", 60.0)
    await ask(poller, "run_1", "run_2", "run_3")
    assert due_queue.pop() == "run_later"
    assert due_queue.pop() is None
    table.asked.clear()
    assert (await poller.run(Reference("run_later", "t"))).status == "completed"
    assert table.asked == []


async def test_a_list_that_leaves_outputs_out_settles_nothing() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.finish("run_1", outputs=())
    await ask(asking_of(table), *table.runs)
    assert table.asked == ["technique_runs 0", "run_1"]


async def test_a_forbidden_list_is_not_asked_for_again_for_ten_minutes() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3")
    table.refusal = TransientError("no", ErrorCode.FORBIDDEN)
    poller = asking_of(table, clock)
    for _ in range(2):
        await ask(poller, *table.runs)
    assert table.asked.count("technique_runs 0") == 1
    clock.now += 601
    await ask(poller, *table.runs)
    assert table.asked.count("technique_runs 0") == 2


async def test_trouble_with_the_list_costs_nobody_the_answer() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusal = TransientError("busy")
    assert len(await ask(asking_of(table), *table.runs)) == 3


async def test_bare_ids_are_looked_for_in_both_lists() -> None:
    table = Table("run_1", "run_2", "run_3", "run_4")
    table.size = 0  # as if no list showed any
    await ask(asking_of(table), *table.runs, technique=None)
    assert table.asked[:2] == ["technique_runs 0", "generations 0"]
    assert sorted(table.asked[2:]) == sorted(table.runs)


async def test_one_who_is_cancelled_takes_nobody_along() -> None:
    table = Table("run_1", "run_2", "run_3", "run_4")
    poller = asking_of(table)
    found: dict[str, str] = {}

    async def one(run_id: str) -> None:
        found[run_id] = (await poller.run(Reference(run_id, "t"))).status

    async with anyio.create_task_group() as group, anyio.create_task_group() as first:
        first.start_soon(one, "run_1")
        await anyio.lowlevel.checkpoint()
        for run_id in ("run_2", "run_3", "run_4"):
            group.start_soon(one, run_id)
        await anyio.lowlevel.checkpoint()
        first.cancel_scope.cancel()
    assert set(found) == {"run_2", "run_3", "run_4"}


async def test_pages_go_on_while_they_tell_of_runs_that_wait() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    for run_id in table.runs:
        table.finish(run_id)
        due_queue.put(run_id, 60.0)
    oldest = list(table.runs)[-5:]
    poller = asking_of(table, due_queue=due_queue)
    for run_id in oldest:
        due_queue.put(run_id, 0.0)
        assert due_queue.pop() == run_id
    await ask(poller, *oldest)
    assert table.asked == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]
    await ask(poller, "run_0", "run_30", "run_50")
    assert len(table.asked) == 3


async def test_news_that_grew_old_are_not_taken_for_an_answer() -> None:
    clock = Clock()
    due_queue, table = DueQueue(clock, 2.0), Table("run_1", "run_2", "run_3", "run_later")
    table.finish("run_later")
    due_queue.put("run_later", 60.0)
    poller = asking_of(table, clock, due_queue)
    await ask(poller, "run_1", "run_2", "run_3")
    table.asked.clear()
    clock.now += 901
    await ask(poller, "run_later")
    assert table.asked == ["run_later"]


async def test_a_backlog_is_not_paged_through_again_for_each_batch() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    for run_id in table.runs:
        table.finish(run_id)
        due_queue.put(run_id, 0.0)
    poller = asking_of(table, clock, due_queue)
    strangers = [f"run_old{number}" for number in range(8)]
    for run_id in strangers:
        table.finish(run_id)
    table.size = 60
    await ask(poller, *strangers[:4])
    table.asked.clear()
    clock.now += 10.0
    await ask(poller, *strangers[4:])
    assert len([name for name in table.asked if name.startswith("technique_runs")]) == 1


def waiting_and_seen(due_queue: DueQueue, planner: PollPlanner, *run_ids: str) -> None:
    """Have these wait for a minute: they were asked about before, and go on."""
    for run_id in run_ids:
        run = QueuedRun(run_id=run_id, technique="t", queued_at=0.0)
        planner.goes_on(run, RemoteRun(run_id, "running", 0.0, None, age=20.0))
        due_queue.put(run_id, 60.0)


async def test_one_that_is_due_asks_for_the_page_that_shows_others_who_wait() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3", "run_4")
    due_queue = DueQueue(clock, 2.0)
    planner = PollPlanner(due_queue, Durations(clock), 2.0, clock)
    poller = Poller(table, planner, clock)
    await ask(poller, *table.runs)
    waiting_and_seen(due_queue, planner, "run_2", "run_3", "run_4")
    table.asked.clear()
    clock.now += 10.0
    await ask(poller, "run_1")
    assert table.asked == ["technique_runs 0"]


async def test_one_that_a_list_showed_to_go_on_is_not_asked_about_at_once() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3", "run_4")
    due_queue = DueQueue(clock, 2.0)
    planner = PollPlanner(due_queue, Durations(clock), 2.0, clock)
    waiting_and_seen(due_queue, planner, "run_4")
    clock.now += 60.0
    assert due_queue.pop() == "run_4"
    assert not planner.puts_back("run_4")
    due_queue.put("run_4", 0.0)
    await ask(Poller(table, planner, clock), "run_1", "run_2", "run_3")
    assert due_queue.pop() == "run_4"
    assert planner.puts_back("run_4")
    assert due_queue.delay() > 1.0


async def test_an_answer_says_how_many_that_go_on_it_answered_for() -> None:
    table = Table("run_1", "run_2", "run_3", "run_elsewhere")
    table.finish("run_1")
    poller = asking_of(table)
    companies: dict[str, int] = {}

    async def one(run_id: str) -> None:
        companies[run_id] = (await poller.run(Reference(run_id, "t"))).batch_size

    async with anyio.create_task_group() as group:
        for run_id in ("run_1", "run_2", "run_3"):
            group.start_soon(one, run_id)
    assert companies == {"run_1": 2, "run_2": 2, "run_3": 2}
    assert (await poller.fresh(Reference("run_2", "t"))).batch_size == 1


async def test_a_list_that_meets_a_limit_is_asked_for_again() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusals = [ApiUnavailableError("busy"), ApiUnavailableError("busy")]
    await ask(asking_of(table), *table.runs)
    assert table.asked == ["technique_runs 0"] * 3


async def test_a_limit_that_stays_is_told_to_all_and_nobody_asks_alone() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusals = [ApiUnavailableError("busy", retry_after=7.0)] * 10
    poller = asking_of(table)
    met: list[float | None] = []

    async def one(run_id: str) -> None:
        try:
            await poller.run(Reference(run_id, "t"))
        except ApiUnavailableError as error:
            met.append(error.retry_after)

    async with anyio.create_task_group() as group:
        for run_id in table.runs:
            group.start_soon(one, run_id)
    assert met == [7.0, 7.0, 7.0]
    assert set(table.asked) == {"technique_runs 0"}


async def test_what_was_found_before_a_list_met_a_limit_is_answered() -> None:
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    table.refused_from = "20"
    poller = asking_of(table)
    outcomes: list[str] = []

    async def one(run_id: str) -> None:
        try:
            outcomes.append((await poller.run(Reference(run_id, "t"))).status)
        except ApiUnavailableError:
            outcomes.append("limit")

    async with anyio.create_task_group() as group:
        for run_id in table.runs:
            group.start_soon(one, run_id)
    assert sorted(outcomes) == ["limit"] * 40 + ["running"] * 20


async def test_who_falls_due_while_a_list_is_on_its_way_is_answered_by_it() -> None:
    table = Table(*(f"run_{number}" for number in range(8)))
    table.held = anyio.Event()
    poller = asking_of(table)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, poller, *list(table.runs)[:4])
        await until(lambda: table.asked)
        group.start_soon(ask, poller, *list(table.runs)[4:])
        await anyio.wait_all_tasks_blocked()
        table.held.set()
    assert table.asked == ["technique_runs 0"]


async def test_one_who_stands_in_line_to_ask_alone_takes_the_answer_of_a_list() -> None:
    lone = [f"run_old{number}" for number in range(12)]
    table = Table(*(f"run_{number}" for number in range(5)))
    table.runs |= {run_id: RemoteRun(run_id, "running", 0.0, None) for run_id in lone}
    table.size, table.held_runs = 5, anyio.Event()
    clock = Clock()
    poller = asking_of(table, clock)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, poller, *lone)
        await until(lambda: len([name for name in table.asked if name.startswith("run_old")]) >= 8)
        await anyio.wait_all_tasks_blocked()
        assert len([name for name in table.asked if name.startswith("run_old")]) == 8
        table.size = 20
        clock.now += 10.0
        group.start_soon(ask, poller, "run_0", "run_1", "run_2")
        await until(lambda: table.asked.count("technique_runs 0") == 2)
        await anyio.wait_all_tasks_blocked()
        table.held_runs.set()
    assert len([name for name in table.asked if name.startswith("run_old")]) == 8


async def test_what_lies_below_the_pages_is_looked_for_there_once() -> None:
    clock = Clock()
    table = Table(*(f"run_{number}" for number in range(20)), size=5)
    poller, old = asking_of(table, clock), list(table.runs)[-4:]
    await ask(poller, *old)
    assert table.asked == ["technique_runs 0", *old]
    table.asked.clear()
    clock.now += 10.0
    await ask(poller, *old)
    assert table.asked == old


async def test_a_backlog_costs_hardly_more_than_the_pages_that_hold_it() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    table = Table(*(f"run_{number}" for number in range(3000)))
    oldest_first = list(reversed(table.runs))
    for run_id in oldest_first:
        table.finish(run_id)
    poller = asking_of(table, due_queue=due_queue)
    for run_id in oldest_first[256:]:
        due_queue.put(run_id, 0.0)
    found = await ask(poller, *oldest_first[:256])
    while (due := due_queue.pop()) is not None:
        found |= await ask(poller, due)
    assert set(found) == set(table.runs)
    assert len(table.asked) <= 40


async def test_a_backlog_too_large_to_remember_is_read_on_where_it_was_left() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    table = Table(*(f"run_{number}" for number in range(6000)))
    for run_id in table.runs:
        table.finish(run_id)
        due_queue.put(run_id, 0.0)
    poller = asking_of(table, clock, due_queue)
    found: dict[str, str] = {}
    while len(found) < 6000:
        due = [each for _ in range(256) if (each := due_queue.pop()) is not None]
        found |= await ask(poller, *due)
    pages = [name for name in table.asked if name.startswith("technique_runs")]
    assert len(pages) <= 60 + 25
    assert len(table.asked) - len(pages) <= 3 * 256


async def test_a_cursor_that_is_refused_costs_nobody_the_answer_nor_the_list() -> None:
    clock = Clock()
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    table.bad_cursor = "20"
    poller = asking_of(table, clock)
    assert len(await ask(poller, *table.runs)) == 60
    table.asked.clear()
    clock.now += 10.0
    await ask(poller, "run_1", "run_2", "run_3")
    assert table.asked == ["technique_runs 0"]


async def passing(condition: Callable[[], bool]) -> None:
    """Wait until it holds."""
    with anyio.fail_after(TEST_TIMEOUT):
        while not condition():
            await anyio.lowlevel.checkpoint()


async def test_whoever_stands_in_line_is_looked_for_again_at_each_tick_and_so_are_the_newest() -> None:
    """A crowd below the pages keeps the line full for minutes; what is new is on the newest page."""
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    planner = PollPlanner(due_queue, Durations(clock), 2.0, clock)
    crowd = [f"run_old{number}" for number in range(30)]
    table = Table("run_1", "run_2", "run_3", *crowd)
    table.size, table.held_runs = 3, anyio.Event()
    waiting_and_seen(due_queue, planner, "run_1", "run_2", "run_3")
    poller = Poller(table, planner, clock, tick=0.05)
    with anyio.fail_after(TEST_TIMEOUT):
        async with anyio.create_task_group() as group:
            group.start_soon(ask, poller, *crowd)
            await passing(lambda: table.asked.count("technique_runs 0") >= 2)
            table.finish("run_2")
            await passing(lambda: due_queue.pop() == "run_2")
            table.held_runs.set()
    assert len(table.asked) - table.asked.count("technique_runs 0") <= len(crowd) + 3


async def test_the_newest_run_is_asked_about_before_a_crowd_that_stands_in_line() -> None:
    crowd = [f"run_old{number}" for number in range(30)]
    table = Table(*crowd, "run_new", size=0)
    table.held_runs = anyio.Event()
    poller = asking_of(table)
    async with anyio.create_task_group() as group:
        group.start_soon(ask, poller, *crowd)
        await passing(lambda: len(table.asked) >= 8)  # the line is full
        group.start_soon(poller.run, Reference("run_new", "t"), 1.0)
        await passing(lambda: len(poller._alone._waiting) == len(crowd) - 8 + 1)
        table.held_runs.set()
    singles = [name for name in table.asked if name.startswith("run")]
    assert singles.index("run_new") <= 8 + 1


async def test_an_end_is_told_although_it_was_told_before_that_the_run_goes_on() -> None:
    clock = Clock()
    due_queue, table = DueQueue(clock, 2.0), Table("run_1", "run_2", "run_3", "run_later")
    due_queue.put("run_later", 60.0)
    poller = asking_of(table, clock, due_queue)
    await ask(poller, "run_1", "run_2", "run_3")
    table.finish("run_later")
    clock.now += 1.0
    await ask(poller, "run_1", "run_2", "run_3")
    assert (await ask(poller, "run_later")) == {"run_later": "completed"}


# For those who read whole lists


async def test_a_page_that_somebody_reads_is_news_for_those_who_wait() -> None:
    clock = Clock()
    due_queue, table = DueQueue(clock, 2.0), Table("run_1", "run_2")
    table.finish("run_1")
    due_queue.put("run_1", 60.0)
    poller = asking_of(table, clock, due_queue)
    await poller.page("technique_runs")
    assert due_queue.pop() == "run_1"
    table.asked.clear()
    assert (await poller.run(Reference("run_1", "t"))).status == "completed"
    assert table.asked == []


async def test_a_first_page_that_was_just_asked_for_serves_once_who_reads_the_list() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3")
    poller = asking_of(table, clock)
    await poller.page("technique_runs")
    clock.now += 1
    await ask(poller, *table.runs)
    assert table.asked == ["technique_runs 0"] * 2
    assert len((await poller.page("technique_runs")).runs) == 3
    assert table.asked == ["technique_runs 0"] * 2
    await poller.page("technique_runs")
    assert table.asked == ["technique_runs 0"] * 3
    clock.now += 1
    await ask(poller, *table.runs)
    clock.now += 11
    await poller.page("technique_runs")
    assert table.asked == ["technique_runs 0"] * 5


async def test_what_a_list_said_of_a_run_answers_its_first_question_and_no_other() -> None:
    table = Table("run_1", "run_2")
    table.finish("run_2", outputs=())
    poller = asking_of(table)
    poller.tell(table.runs.values())
    assert (await poller.run(Reference("run_1", "t"))).status == "running"
    assert table.asked == []
    await poller.run(Reference("run_1", "t"))
    await poller.run(Reference("run_2", "t"))
    assert table.asked == ["run_1", "run_2"]
