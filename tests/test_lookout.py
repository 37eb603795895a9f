"""What falls due is judged once more by what was seen since."""

from __future__ import annotations

import random

import pytest

from floradl.history import History
from floradl.lookout import Lookout
from floradl.models import QueuedRun, RemoteRun
from floradl.schedule import Schedule


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class World:
    """A lookout, and what it works with."""

    def __init__(self) -> None:
        random.seed(1)
        self.clock = Clock()
        self.schedule = Schedule(self.clock, 2.0)
        self.history = History(self.clock)
        self.lookout = Lookout(self.schedule, self.history, 2.0, self.clock)

    def goes_on(self, run_id: str, age: float, company: int = 1) -> tuple[float, float]:
        answer = RemoteRun(run_id, "running", 0.0, None, age=age, company=company)
        return self.lookout.goes_on(QueuedRun(run_id=run_id, technique="t", queued_at=0.0), answer)


def test_a_run_is_asked_about_when_its_gap_is_over_and_the_gap_is_judged_before() -> None:
    world = World()
    for number in range(50):
        world.goes_on(f"run_{number}", 1.0)
    seconds, put_back = world.goes_on("run_new", 1.0)
    assert put_back == 0.0
    judged = 1
    world.clock.now += seconds
    while world.lookout.puts_back("run_new"):
        judged += 1
        world.clock.now += world.schedule.delay()
    assert judged > 1
    assert world.clock.now == pytest.approx(world.lookout._gap(world.lookout._looks["run_new"]), abs=0.5)


def test_a_run_is_put_back_where_others_of_its_technique_go_on_for_longer() -> None:
    world = World()
    for number in range(50):
        world.goes_on(f"run_{number}", 1.0)
    seconds, _ = world.goes_on("run_new", 1.0)
    world.clock.now += seconds
    for number in range(50):
        world.goes_on(f"run_{number}", 60.0)
    assert world.lookout.puts_back("run_new")
    assert world.schedule.delay() > 1.0


def test_the_time_by_which_a_run_was_put_back_counts_as_waited() -> None:
    world = World()
    planned, _ = world.goes_on("run_1", 20.0)
    world.clock.now += planned
    world.lookout.saw(RemoteRun("run_1", "running", 0.0, None, age=20.0 + planned))
    while world.lookout.puts_back("run_1"):
        world.clock.now += world.schedule.delay()
    _, put_back = world.goes_on("run_1", 40.0)
    assert planned + put_back == pytest.approx(world.clock.now)
    assert world.goes_on("run_1", 60.0)[1] == 0.0


def test_one_that_was_never_asked_about_must_be_told_itself() -> None:
    world = World()
    assert not world.lookout.saw(RemoteRun("run_1", "running", 0.0, None))
    world.goes_on("run_1", 20.0)
    assert world.lookout.saw(RemoteRun("run_1", "running", 0.0, None))


def test_one_that_there_is_news_of_is_not_put_back() -> None:
    world = World()
    world.goes_on("run_1", 20.0)
    world.schedule.put("run_1", 60.0)
    world.lookout.hasten("run_1")
    assert world.schedule.pop() == "run_1"
    assert not world.lookout.puts_back("run_1")


def test_many_that_one_page_answers_for_are_looked_at_more_often_than_one() -> None:
    world = World()
    for number in range(100):
        world.goes_on(f"run_{number}", 20.0, company=100)
    assert world.goes_on("run_0", 20.0, company=100)[0] < world.goes_on("run_1", 20.0)[0]


def test_who_has_one_run_in_flight_asks_more_often_than_who_has_many() -> None:
    one, many = World(), World()
    alone, _ = one.goes_on("run_1", 20.0)
    for number in range(100):
        many.goes_on(f"run_{number}", 20.0)
    assert alone < many.goes_on("run_1", 20.0)[0]
