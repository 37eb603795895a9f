"""What falls due is judged once more by what was seen since."""

from __future__ import annotations

import itertools
import random

import pytest

from floradl.models import QueuedRun, RemoteRun
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.planner import PollPlanner


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A lookout, and what it works with."""

    def __init__(self) -> None:
        random.seed(1)
        self.clock = Clock()
        self.due_queue = DueQueue(self.clock, 2.0)
        self.durations = Durations(self.clock)
        self.planner = PollPlanner(self.due_queue, self.durations, 2.0, self.clock)

    def gap(self) -> float:
        """Return the seconds until the next question about one of many runs."""
        for number in range(50):
            self.goes_on(f"run_{number}", 20.0)
        self.goes_on("run_new", 20.0)
        return self.planner._gap(self.planner._looks["run_new"])

    def told(self, *run_ids: str) -> None:
        """Let runs go on, and webhooks tell of their end."""
        for run_id in run_ids:
            self.goes_on(run_id, 20.0)
            self.planner.webhook_came(run_id)
            self.ends(run_id)

    def ends(self, run_id: str) -> None:
        """Let FLORA answer that a run ended, and the work on it be done."""
        self.planner.ended(RemoteRun(run_id, "completed", 100.0, 0.0, completed_at=30.0))
        self.planner.forget(run_id)

    def goes_on(self, run_id: str, age: float, batch_size: int = 1) -> tuple[float, float]:
        answer = RemoteRun(run_id, "running", 0.0, None, age=age, batch_size=batch_size)
        return self.planner.goes_on(QueuedRun(run_id=run_id, technique="t", queued_at=0.0), answer)


def test_a_run_is_asked_about_when_its_gap_is_over_and_the_gap_is_judged_before() -> None:
    world = World()
    for number in range(50):
        world.goes_on(f"run_{number}", 1.0)
    seconds, put_back = world.goes_on("run_new", 1.0)
    assert put_back == 0.0
    judged = 1
    world.clock.now += seconds
    while world.planner.puts_back("run_new"):
        judged += 1
        world.clock.now += world.due_queue.delay()
    assert judged > 1
    assert world.clock.now == pytest.approx(world.planner._gap(world.planner._looks["run_new"]), abs=0.5)


def test_a_run_is_put_back_where_others_of_its_technique_go_on_for_longer() -> None:
    world = World()
    for number in range(50):
        world.goes_on(f"run_{number}", 1.0)
    seconds, _ = world.goes_on("run_new", 1.0)
    world.clock.now += seconds
    for number in range(50):
        world.goes_on(f"run_{number}", 60.0)
    assert world.planner.puts_back("run_new")
    assert world.due_queue.delay() > 1.0


def test_the_time_by_which_a_run_was_put_back_counts_as_waited() -> None:
    world = World()
    planned, _ = world.goes_on("run_1", 20.0)
    world.clock.now += planned
    world.planner.saw(RemoteRun("run_1", "running", 0.0, None, age=20.0 + planned))
    while world.planner.puts_back("run_1"):
        world.clock.now += world.due_queue.delay()
    _, put_back = world.goes_on("run_1", 40.0)
    assert planned + put_back == pytest.approx(world.clock.now)
    assert world.goes_on("run_1", 60.0)[1] == 0.0


def test_one_that_was_never_asked_about_must_be_told_itself() -> None:
    world = World()
    assert not world.planner.saw(RemoteRun("run_1", "running", 0.0, None))
    world.goes_on("run_1", 20.0)
    assert world.planner.saw(RemoteRun("run_1", "running", 0.0, None))


def test_one_that_there_is_news_of_is_not_put_back() -> None:
    world = World()
    world.goes_on("run_1", 20.0)
    world.due_queue.put("run_1", 60.0)
    world.planner.webhook_came("run_1")
    assert world.due_queue.pop() == "run_1"
    assert not world.planner.puts_back("run_1")


def test_many_that_one_page_answers_for_are_looked_at_more_often_than_one() -> None:
    world = World()
    for number in range(100):
        world.goes_on(f"run_{number}", 20.0, batch_size=100)
    assert world.goes_on("run_0", 20.0, batch_size=100)[0] < world.goes_on("run_1", 20.0)[0]


def test_who_has_one_run_in_flight_asks_more_often_than_who_has_many() -> None:
    one, many = World(), World()
    alone, _ = one.goes_on("run_1", 20.0)
    for number in range(100):
        many.goes_on(f"run_{number}", 20.0)
    assert alone < many.goes_on("run_1", 20.0)[0]


def early(world: World) -> dict[str, float]:
    """Let a crowd go on; returns which of them are polled early, and in how many seconds."""
    waits = {f"run_{number}": world.goes_on(f"run_{number}", 1.0)[0] for number in range(100)}
    return {run_id: seconds for run_id, seconds in waits.items() if world.planner._looks[run_id].scout}


def test_some_of_a_crowd_of_an_unknown_technique_are_polled_early_at_even_intervals() -> None:
    waits = sorted(early(World()).values())
    assert 5 <= len(waits) <= 40
    assert waits[0] == 2.0
    assert max(later - sooner for sooner, later in itertools.pairwise(waits)) <= 1.0


def test_a_run_that_is_polled_early_is_not_put_back_when_it_falls_due() -> None:
    world = World()
    run_id, seconds = max(early(world).items(), key=lambda each: each[1])
    world.clock.now += seconds
    assert not world.planner.puts_back(run_id)


def test_none_is_polled_early_once_a_technique_is_known() -> None:
    world = World()
    for _ in range(5):
        world.durations.add("t", 0.0, 30.0)
    assert not early(world)


# Where webhooks come


def test_a_technique_whose_ends_are_told_by_webhooks_is_asked_about_less_often() -> None:
    usual, told = World(), World()
    for world in (usual, told):
        world.gap()
    told.told("run_1", "run_2", "run_3")
    for run_id in ("run_1", "run_2", "run_3"):
        usual.ends(run_id)
    assert told.gap() > 2 * usual.gap()


def test_two_webhooks_prove_nothing_yet() -> None:
    world = World()
    before = world.gap()
    world.told("run_1", "run_2")
    assert world.gap() < 1.5 * before


def test_an_end_that_no_webhook_told_of_brings_the_usual_questions_back() -> None:
    world = World()
    world.told("run_1", "run_2", "run_3")
    rare = world.gap()
    world.ends("run_4")
    assert world.gap() < rare / 2


def test_an_end_that_a_list_showed_before_the_webhook_came_brings_them_back_too() -> None:
    world = World()
    world.told("run_1", "run_2", "run_3")
    rare = world.gap()
    world.goes_on("run_4", 20.0)
    world.planner.ended(RemoteRun("run_4", "completed", 100.0, 0.0, completed_at=30.0))
    world.planner.webhook_came("run_4")
    assert world.gap() < rare / 2


def test_an_end_that_was_told_counts_once_also_where_flora_answers_first_that_it_goes_on() -> None:
    world = World()
    world.told("run_1", "run_2", "run_3")
    rare = world.gap()
    world.planner.webhook_came("run_4")
    world.goes_on("run_4", 21.0)
    world.ends("run_4")
    assert world.gap() > rare / 2


def test_a_webhook_that_does_not_come_costs_a_minute_at_most() -> None:
    world = World()
    world.told("run_1", "run_2", "run_3")
    for number in range(50):
        world.goes_on(f"run_{number}", 3600.0)
    assert world.planner._gap(world.planner._looks["run_0"]) <= 60.0 * 1.1  # gaps are spread by a tenth


def test_techniques_are_told_apart() -> None:
    world = World()
    before = world.gap()
    world.told("run_1", "run_2", "run_3")
    other = QueuedRun(run_id="run_other", technique="other", queued_at=0.0)
    world.planner.goes_on(other, RemoteRun("run_other", "running", 0.0, None, age=20.0, batch_size=1))
    assert world.planner._gap(world.planner._looks["run_other"]) < 2 * before
