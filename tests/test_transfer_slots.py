"""Leave to transfer, shared by threads and tasks."""

from __future__ import annotations

import threading
from functools import partial

import anyio
import pytest
from studio import until

from floradl.runs.slots import HostBackoff, TransferSlots

pytestmark = pytest.mark.anyio


def waiting(slots: TransferSlots, count: int) -> bool:
    return len(slots._waiting) == count


async def test_no_more_are_taken_than_there_are() -> None:
    slots = TransferSlots(2)
    assert [slots.take_now() for _ in range(3)] == [True, True, False]
    slots.release()
    assert slots.take_now()


async def test_a_task_that_waits_comes_before_a_thread_that_asks() -> None:
    slots = TransferSlots(1)
    assert slots.take_now()
    order: list[str] = []

    async def wait() -> None:
        async with slots:
            order.append("task")

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await until(lambda: slots._waiting)
        slots.release()
        assert not slots.take_now()
    assert order == ["task"]
    assert slots.take_now()


async def test_a_thread_wakes_the_task_that_waits_longest() -> None:
    slots = TransferSlots(1)
    assert slots.take_now()
    order: list[int] = []

    async def wait(nth: int) -> None:
        async with slots:
            order.append(nth)

    async with anyio.create_task_group() as group:
        for nth in range(3):
            group.start_soon(wait, nth)
            await until(partial(waiting, slots, nth + 1))
        await anyio.to_thread.run_sync(slots.release)
    assert order == [0, 1, 2]


async def test_a_task_that_gives_one_back_says_so_to_threads() -> None:
    slots, freed = TransferSlots(1), threading.Event()
    slots.on_free = freed.set
    async with slots:
        assert not freed.is_set()
    assert freed.is_set()


async def test_a_larger_total_lets_waiting_tasks_in_at_once() -> None:
    slots, freed = TransferSlots(1), threading.Event()
    slots.on_free = freed.set
    assert slots.take_now()
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            async with slots:
                pass

        group.start_soon(wait)
        await until(lambda: slots._waiting)
        slots.change(2)
    assert freed.is_set()


async def test_a_smaller_total_holds_once_those_under_way_are_done() -> None:
    slots = TransferSlots(3)
    assert all(slots.take_now() for _ in range(3))
    slots.change(1)
    slots.release()
    slots.release()
    assert not slots.take_now()
    slots.release()
    assert slots.take_now()


async def test_a_task_that_is_cancelled_while_it_waits_takes_none() -> None:
    slots = TransferSlots(1)
    assert slots.take_now()
    with anyio.move_on_after(0):
        async with slots:
            pass
    assert not slots._waiting
    slots.release()
    assert slots.take_now()


async def test_a_task_that_is_cancelled_as_one_is_granted_gives_it_back() -> None:
    slots = TransferSlots(1)
    assert slots.take_now()
    async with anyio.create_task_group() as group:

        async def wait() -> None:
            async with slots:
                raise AssertionError("it was cancelled")

        group.start_soon(wait)
        await until(lambda: slots._waiting)
        slots.release()  # granted, and not told yet
        group.cancel_scope.cancel()
    assert slots.take_now()


async def test_a_shorter_back_off_from_another_thread_does_not_shorten_a_longer_one() -> None:
    back_off = HostBackoff(lambda: 100.0)
    await anyio.to_thread.run_sync(back_off.ask_for, "h", 30.0)
    back_off.ask_for("h", 5.0)
    assert back_off.hosts() == {"h": 130.0}
