"""Works that wait for the disk, done in groups."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from studio import until

from floradl.fs.durable import Flush, flushed_together
from floradl.library import batch_writer
from floradl.library.batch_writer import BatchWriter

pytestmark = pytest.mark.anyio


def each(works: Sequence[Callable[[], Any]]) -> list[Any]:
    """Do all, as a library does."""
    return flushed_together([partial(_within, work) for work in works])


def _within(work: Callable[[], Any], _: Flush) -> Any:
    return work()


class Gate:
    """Works that hold their group up until `opened`; `groups` counts how many waited there at a time."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.done: list[str] = []
        self.threads: list[int] = []

    def blocking(self, name: str) -> Callable[[], str]:
        def work() -> str:
            self.entered.set()
            assert self.opened.wait(30)
            return self.plain(name)()

        return work

    def plain(self, name: str) -> Callable[[], str]:
        def work() -> str:
            self.done.append(name)
            return name

        return work


async def entered(gate: Gate) -> None:
    await anyio.to_thread.run_sync(gate.entered.wait, 30)


async def test_a_work_gives_what_it_returns() -> None:
    assert await BatchWriter(each).do(lambda: 7) == 7


async def test_what_a_work_raises_reaches_whoever_waits_for_it_and_nobody_else() -> None:
    def broken() -> str:
        raise ValueError("mine")

    groups, gate, got = BatchWriter(each, 1), Gate(), []

    async def other() -> None:
        got.append(await groups.do(gate.plain("b")))

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        with pytest.raises(ValueError, match="mine"):
            await groups.do(broken)
    assert got == ["b"]


async def test_those_that_wait_while_one_group_is_done_are_done_together_and_in_turn() -> None:
    groups, gate = BatchWriter(each, 1), Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(groups.do, gate.blocking("first"))
        await entered(gate)
        for nth in range(100):
            group.start_soon(groups.do, gate.plain(f"{nth:02}"))
        await anyio.lowlevel.checkpoint()
        assert gate.done == []
        gate.opened.set()
    assert gate.done == ["first", *(f"{nth:02}" for nth in range(100))]


async def test_a_group_that_takes_long_does_not_hold_up_the_next() -> None:
    groups, gate = BatchWriter(each, 2), Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(groups.do, gate.blocking("slow"))
        await entered(gate)
        assert await groups.do(gate.plain("quick")) == "quick"
        assert gate.done == ["quick"]
        gate.opened.set()
    assert gate.done == ["quick", "slow"]


async def test_a_work_that_waits_can_be_cancelled_and_is_not_done() -> None:
    groups, gate = BatchWriter(each, 1), Gate()
    async with anyio.create_task_group() as group:
        group.start_soon(groups.do, gate.blocking("first"))
        await entered(gate)
        with anyio.move_on_after(0):
            await groups.do(gate.plain("cancelled"))
        group.start_soon(groups.do, gate.plain("second"))
        await anyio.lowlevel.checkpoint()
        gate.opened.set()
    assert gate.done == ["first", "second"]


async def test_a_work_that_has_begun_is_seen_to_its_end_before_a_cancellation_is_heeded() -> None:
    groups, gate, ended = BatchWriter(each, 1), Gate(), []
    scope = anyio.CancelScope()

    async def cancelled() -> None:
        with scope:
            try:
                await groups.do(gate.blocking("first"))
            finally:
                ended.append(list(gate.done))

    async with anyio.create_task_group() as group:
        group.start_soon(cancelled)
        await entered(gate)
        scope.cancel()
        await anyio.lowlevel.checkpoint()
        assert ended == []
        gate.opened.set()
    assert ended == [["first"]]


async def test_who_is_cancelled_when_its_turn_to_lead_came_leaves_it_to_the_next() -> None:
    groups, gate = BatchWriter(each, 1), Gate()
    scope = anyio.CancelScope()

    async def leads_next() -> None:
        with scope:
            await groups.do(gate.plain("cancelled"))

    async def first() -> None:
        await groups.do(gate.blocking("first"))
        scope.cancel()  # now the next one was told to lead, and has not begun

    async with anyio.create_task_group() as group:
        group.start_soon(first)
        await entered(gate)
        group.start_soon(leads_next)
        await anyio.lowlevel.checkpoint()
        group.start_soon(groups.do, gate.plain("third"))
        await anyio.lowlevel.checkpoint()
        gate.opened.set()
    assert gate.done[0] == "first"
    assert gate.done[-1] == "third"
    assert await groups.do(gate.plain("later")) == "later"


async def test_put_calls_done_with_the_result_and_then_what_that_returns_in_the_event_loop() -> None:
    writer, ended = BatchWriter(each, 1), anyio.Event()
    called: list[int | Exception] = []

    def then() -> None:
        called.append(threading.get_ident())
        ended.set()

    def done(result: int | Exception) -> Callable[[], None]:
        called.append(result)
        return then

    writer.attach()
    writer.put(lambda: 7, done)
    with anyio.fail_after(30):
        await ended.wait()
    assert called == [7, threading.get_ident()]
    await anyio.to_thread.run_sync(writer.close)


async def test_put_reports_what_was_raised() -> None:
    def broken() -> int:
        raise ValueError("mine")

    writer = BatchWriter(each)
    called: list[int | Exception] = []
    writer.put(broken, called.append)
    await anyio.to_thread.run_sync(writer.close)
    assert [str(error) for error in called] == ["mine"]


async def test_close_waits_for_all_that_was_put_and_for_what_that_puts() -> None:
    writer = BatchWriter(each, 2)
    done: list[int] = []

    def more(nth: int, _: object) -> None:
        writer.put(partial(done.append, nth), lambda _: None)

    for nth in range(100):
        writer.put(lambda: None, partial(more, nth))
    await anyio.to_thread.run_sync(writer.close)
    assert sorted(done) == list(range(100))
    assert not writer._threads


@pytest.mark.parametrize("number", range(30))
async def test_close_ends_though_other_threads_put_work_meanwhile(number: int) -> None:
    gates = [Gate(), Gate()]
    writer, done = BatchWriter(lambda works: [work() for work in works]), anyio.Event()
    counted: list[int] = []

    def count(_: object) -> None:
        counted.append(1)

    async def close() -> None:
        await anyio.to_thread.run_sync(writer.close, abandon_on_cancel=True)
        done.set()

    for gate in gates:
        writer.put(gate.blocking("long"), count)
        await entered(gate)
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(close)
            for turn in range(number + 3):
                await anyio.lowlevel.checkpoint()
                writer.put(lambda: None, count)
                if turn == number // 2:
                    gates[0].opened.set()
            gates[1].opened.set()
            await done.wait()
    assert len(counted) == number + 5


async def test_a_thread_that_waits_for_work_holds_none_of_what_it_did() -> None:
    class File:
        """Whose memory counts."""

        def __call__(self) -> None: ...

    writer, file = BatchWriter(each, 1), File()
    gone = weakref.ref(file)
    await writer.do(file)
    del file
    with anyio.fail_after(30):
        while gone() is not None:  # noqa: ASYNC110 - the thread has no event for that
            await anyio.sleep(0.005)
    await anyio.to_thread.run_sync(writer.close)


async def test_batches_of_a_burst_keep_open_what_they_open_and_one_alone_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun, left = threading.Event(), threading.Event()

    @contextmanager
    def kept_open() -> Iterator[None]:
        begun.set()
        yield
        left.set()

    writer = BatchWriter(each, 1, kept_open=kept_open)
    monkeypatch.setattr(batch_writer, "_SPAN", 1e9)  # however slow it is, these are a burst
    await writer.do(lambda: None)
    assert not begun.is_set()
    for _ in range(batch_writer._MANY):
        await writer.do(lambda: None)
    await until(begun.is_set)
    assert await writer.do(left.is_set) is False
    monkeypatch.setattr(batch_writer, "_SPAN", 0)
    await until(left.is_set)
    assert await writer.do(lambda: 7) == 7  # its thread is there for more
    await anyio.to_thread.run_sync(writer.close)
