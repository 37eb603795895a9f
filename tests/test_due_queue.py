from __future__ import annotations

import math
import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from floradl.polling.due_queue import DueQueue


class Clock:
    def __init__(self) -> None:
        self.now = 100.7

    def __call__(self) -> float:
        return self.now


def test_what_is_due_first_comes_first_and_equals_in_their_order() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    for name, seconds in (("c", 5.0), ("a", 0.0), ("b", 0.0)):
        due_queue.put(name, seconds)
    assert [due_queue.pop(), due_queue.pop(), due_queue.pop()] == ["a", "b", None]
    assert due_queue.delay() == pytest.approx(5.0)
    clock.now += 5
    assert due_queue.pop() == "c"
    assert due_queue.delay() == math.inf


def test_putting_again_replaces_the_moment() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    due_queue.put("a", 0.0)
    due_queue.put("a", 9.0)
    assert due_queue.pop() is None
    clock.now += 9
    assert due_queue.pop() == "a"
    clock.now += 100
    assert due_queue.pop() is None


def test_only_who_waits_is_hastened() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    due_queue.poll_now("a")
    assert due_queue.pop() is None
    due_queue.put("a", 60.0)
    due_queue.poll_now("a")
    assert due_queue.pop() == "a"
    assert "a" not in due_queue


@given(st.lists(st.floats(2.0, 30.0), min_size=2, max_size=30))
def test_aligned_moments_fall_on_ticks_and_not_much_too_early(gaps: list[float]) -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    start = clock.now
    for number, seconds in enumerate(gaps):
        due_queue.put(f"run_{number}", seconds, aligned=True)
    waits = []
    while (delay := due_queue.delay()) < math.inf:
        clock.now += delay + 1e-9
        assert due_queue.pop() is not None
        waits.append(clock.now - start)
        assert (clock.now + 1e-6) % 2.0 < 1e-5
    for wait, seconds in zip(waits, sorted(gaps), strict=True):
        assert max(1.5, seconds - 2.0) <= wait + 1e-6
        assert wait <= seconds + 2.0


def test_one_asked_about_at_a_tick_is_asked_again_at_the_next_one() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    clock.now = 200.03
    due_queue.put("a", 2.0, aligned=True)
    assert due_queue.delay() == pytest.approx(1.97)


def test_what_is_hastened_comes_before_what_is_due_by_itself() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    for name in ("a", "b", "c"):
        due_queue.put(name, 0.0)
    due_queue.poll_now("c")
    assert [due_queue.pop(), due_queue.delay(), due_queue.pop()] == ["c", 0.0, "a"]


def test_another_tick_draws_what_waits_longer_to_it() -> None:
    now = 0.0
    due_queue = DueQueue(lambda: now, 3600.0)
    due_queue.put("soon", 0.5)
    due_queue.put("late", 3600.0)
    due_queue.change(2.0)
    assert due_queue.delay() == 0.5
    now = 0.5
    assert due_queue.pop() == "soon"
    now = 2.0
    assert due_queue.pop() == "late"
    assert due_queue.delay() == math.inf


def test_where_much_is_due_the_newest_and_who_waits_longest_come_in_turn() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    for number in range(3):
        due_queue.put(f"old_{number}", 0.0)
        clock.now += 1
    due_queue.add_new(["new_0", "new_1"])
    clock.now += 1
    due_queue.add_new(["newest_0", "newest_1"])
    assert due_queue.delay() == 0.0
    popped = [due_queue.pop() for _ in range(7)]
    assert popped == ["newest_0", "old_0", "newest_1", "old_1", "new_0", "old_2", "new_1"]
    assert due_queue.pop() is None
    assert due_queue.delay() == math.inf


def test_only_what_was_put_first_is_taken_where_that_is_asked_for() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    due_queue.put("old", 0.0)
    due_queue.add_new(["new", "told"])
    assert due_queue.pop(first_only=True) is None
    assert due_queue.delay(first_only=True) == math.inf
    due_queue.poll_now("told")
    assert due_queue.delay(first_only=True) == 0.0
    assert due_queue.pop(first_only=True) == "told"
    assert due_queue.pop(first_only=True) is None
    assert {due_queue.pop(), due_queue.pop(), due_queue.pop()} == {"old", "new", None}


def test_many_that_are_put_together_come_in_their_order_beside_others() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    due_queue.put("late", 1.0)
    due_queue.put_all(["a", "b", "c", "d"])
    due_queue.put("b", 2.0)
    due_queue.put_first("d")
    due_queue.discard("c")
    clock.now += 3
    assert [due_queue.pop() for _ in range(5)] == ["d", "a", "late", "b", None]
    assert len(due_queue) == 0


def test_who_was_taken_is_known_until_put_again() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    taken = due_queue.watch_taken()
    due_queue.add_new(["a", "b", "c"])
    assert [due_queue.pop(), due_queue.pop()] == ["a", "b"]
    assert taken == {"a", "b"}
    due_queue.put("a", 5.0)
    due_queue.put_all(["b"])
    assert taken == set()
    assert len(due_queue) == 3


@pytest.mark.parametrize("bring", [DueQueue.add_new, DueQueue.put_all])
def test_a_name_that_waits_takes_little_memory(bring: Callable[[DueQueue, list[str]], None]) -> None:
    due_queue = DueQueue(Clock(), 2.0)
    tracemalloc.start()
    try:
        for first in range(0, 100_000, 10_000):
            bring(due_queue, [f"run_{first + number:08}" for number in range(10_000)])
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(due_queue) == 100_000
    assert taken / 100_000 < 64 + 8 + 64  # bytes: the name, its place, its share of a table that is half full


def test_many_that_are_due_together_come_in_their_order_but_for_those_put_anew() -> None:
    clock = Clock()
    due_queue = DueQueue(clock, 2.0)
    due_queue.put("before", 0.0)
    clock.now += 1
    due_queue.put_all(["a", "b", "c", "b", "d"])
    due_queue.put("c", 5.0)
    due_queue.discard("d")
    assert [due_queue.pop() for _ in range(4)] == ["before", "a", "b", None]
    due_queue.change(2.0)
    clock.now += 5
    assert [due_queue.pop(), due_queue.pop()] == ["c", None]
    assert due_queue.delay() == math.inf


def test_a_name_of_halves_of_characters_comes_back_as_it_was() -> None:
    due_queue = DueQueue(Clock(), 2.0)
    due_queue.put_all(["run_\ud800", "run_é"])
    assert "run_\ud800" in due_queue
    assert [due_queue.pop(), due_queue.pop()] == ["run_\ud800", "run_é"]


def test_a_name_that_waits_with_many_others_takes_less_than_120_bytes() -> None:
    names = [f"run_{number}" for number in range(100_000)]
    due_queue = DueQueue(Clock(), 2.0)
    tracemalloc.start()
    try:
        due_queue.put_all(names)
        due_queue.add_new(f"new_{name}" for name in names[:10])
        assert tracemalloc.get_traced_memory()[0] < 120 * len(names)
    finally:
        tracemalloc.stop()
