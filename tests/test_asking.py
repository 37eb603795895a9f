"""Many questions become few: against a table of runs that counts what it is asked."""

from __future__ import annotations

import anyio
import pytest

from floradl.errors import ErrorCode, PassingError
from floradl.flora.asking import Asking
from floradl.flora.wire import Page
from floradl.models import Reference, RemoteOutput, RemoteRun
from floradl.schedule import Schedule

pytestmark = pytest.mark.anyio
OUTPUTS = (RemoteOutput("a", "text", "words"),)


class Table:
    """The runs of a workspace, newest first, `size` to a page."""

    def __init__(self, *run_ids: str, size: int = 100) -> None:
        self.runs = {run_id: RemoteRun(run_id, "running", 0.0, None) for run_id in run_ids}
        self.size = size
        self.refusal: PassingError | None = None
        self.asked: list[str] = []

    def finish(self, run_id: str, outputs: tuple[RemoteOutput, ...] = OUTPUTS) -> None:
        self.runs[run_id] = RemoteRun(run_id, "completed", 100.0, None, outputs=outputs)

    async def run(self, reference: Reference) -> RemoteRun:
        self.asked.append(reference.run_id)
        return self.runs[reference.run_id]

    async def page(self, kind: str, cursor: str | None = None) -> Page:
        self.asked.append(f"{kind} {cursor or 0}")
        if self.refusal is not None:
            raise self.refusal
        wanted = [] if kind == "generations" else list(self.runs.values())
        start = int(cursor or 0)
        end = start + self.size
        return Page(tuple(wanted[start:end]), str(end) if end < len(wanted) else None)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def ask(asking: Asking, *run_ids: str, technique: str | None = "t") -> dict[str, str]:
    found: dict[str, str] = {}

    async def one(run_id: str) -> None:
        found[run_id] = (await asking.run(Reference(run_id, technique))).status

    async with anyio.create_task_group() as group:
        for run_id in run_ids:
            group.start_soon(one, run_id)
    return found


async def test_runs_due_together_cost_one_question() -> None:
    table = Table(*(f"run_{number}" for number in range(50)))
    table.finish("run_7")
    found = await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *table.runs)
    assert table.asked == ["technique_runs 0"]
    assert found["run_7"] == "completed"
    assert found["run_8"] == "running"


async def test_one_or_two_are_asked_about_alone() -> None:
    table = Table("run_1", "run_2")
    await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), "run_1", "run_2")
    assert sorted(table.asked) == ["run_1", "run_2"]


async def test_pages_go_on_while_they_find_something() -> None:
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *table.runs)
    assert table.asked == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]


async def test_runs_that_no_page_shows_are_asked_about_alone() -> None:
    table = Table(*(f"run_{number}" for number in range(5)))
    table.runs |= {f"run_old{n}": RemoteRun(f"run_old{n}", "running", 0.0, None) for n in range(4)}
    table.size = 5
    wanted = [f"run_{number}" for number in range(3)] + ["run_old0"]
    await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *wanted)
    assert table.asked == ["technique_runs 0", "run_old0"]


async def test_the_list_tells_of_a_run_that_nobody_asked_about_yet() -> None:
    schedule = Schedule(Clock(), 2.0)
    table = Table("run_1", "run_2", "run_3", "run_later", "run_elsewhere")
    table.finish("run_later")
    table.finish("run_elsewhere")
    asking = Asking(table, schedule, Clock())
    schedule.put("run_later", 60.0)
    await ask(asking, "run_1", "run_2", "run_3")
    assert schedule.pop() == "run_later"
    assert schedule.pop() is None
    table.asked.clear()
    assert (await asking.run(Reference("run_later", "t"))).status == "completed"
    assert table.asked == []


async def test_a_list_that_leaves_outputs_out_settles_nothing() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.finish("run_1", outputs=())
    await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *table.runs)
    assert table.asked == ["technique_runs 0", "run_1"]


async def test_a_forbidden_list_is_not_asked_for_again_for_ten_minutes() -> None:
    clock, table = Clock(), Table("run_1", "run_2", "run_3")
    table.refusal = PassingError("no", ErrorCode.FORBIDDEN)
    asking = Asking(table, Schedule(clock, 2.0), clock)
    for _ in range(2):
        await ask(asking, *table.runs)
    assert table.asked.count("technique_runs 0") == 1
    clock.now += 601
    await ask(asking, *table.runs)
    assert table.asked.count("technique_runs 0") == 2


async def test_trouble_with_the_list_costs_nobody_the_answer() -> None:
    table = Table("run_1", "run_2", "run_3")
    table.refusal = PassingError("busy")
    assert len(await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *table.runs)) == 3


async def test_bare_ids_are_looked_for_in_both_lists() -> None:
    table = Table("run_1", "run_2", "run_3", "run_4")
    table.size = 0  # as if no list showed any
    await ask(Asking(table, Schedule(Clock(), 2.0), Clock()), *table.runs, technique=None)
    assert table.asked[:2] == ["technique_runs 0", "generations 0"]
    assert sorted(table.asked[2:]) == sorted(table.runs)


async def test_one_who_is_cancelled_takes_nobody_along() -> None:
    table = Table("run_1", "run_2", "run_3", "run_4")
    asking = Asking(table, Schedule(Clock(), 2.0), Clock())
    found: dict[str, str] = {}

    async def one(run_id: str) -> None:
        found[run_id] = (await asking.run(Reference(run_id, "t"))).status

    async with anyio.create_task_group() as group, anyio.create_task_group() as first:
        first.start_soon(one, "run_1")
        await anyio.lowlevel.checkpoint()
        for run_id in ("run_2", "run_3", "run_4"):
            group.start_soon(one, run_id)
        await anyio.lowlevel.checkpoint()
        first.cancel_scope.cancel()
    assert set(found) == {"run_2", "run_3", "run_4"}


async def test_pages_go_on_while_they_tell_of_runs_that_wait() -> None:
    schedule = Schedule(Clock(), 2.0)
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    for run_id in table.runs:
        table.finish(run_id)
        schedule.put(run_id, 60.0)
    oldest = list(table.runs)[-5:]
    asking = Asking(table, schedule, Clock())
    for run_id in oldest:
        schedule.put(run_id, 0.0)
        assert schedule.pop() == run_id
    await ask(asking, *oldest)
    assert table.asked == ["technique_runs 0", "technique_runs 20", "technique_runs 40"]
    await ask(asking, "run_0", "run_30", "run_50")
    assert len(table.asked) == 3


async def test_news_that_grew_old_are_not_taken_for_an_answer() -> None:
    clock = Clock()
    schedule, table = Schedule(clock, 2.0), Table("run_1", "run_2", "run_3", "run_later")
    table.finish("run_later")
    schedule.put("run_later", 60.0)
    asking = Asking(table, schedule, clock)
    await ask(asking, "run_1", "run_2", "run_3")
    table.asked.clear()
    clock.now += 31
    await ask(asking, "run_later")
    assert table.asked == ["run_later"]


async def test_a_backlog_is_not_paged_through_again_for_each_batch() -> None:
    schedule = Schedule(Clock(), 2.0)
    table = Table(*(f"run_{number}" for number in range(60)), size=20)
    for run_id in table.runs:
        table.finish(run_id)
        schedule.put(run_id, 0.0)
    asking = Asking(table, schedule, Clock())
    strangers = [f"run_old{number}" for number in range(8)]
    for run_id in strangers:
        table.finish(run_id)
    table.size = 60
    await ask(asking, *strangers[:4])
    table.asked.clear()
    await ask(asking, *strangers[4:])
    assert len([name for name in table.asked if name.startswith("technique_runs")]) == 1
