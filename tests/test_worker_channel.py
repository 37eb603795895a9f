"""Who asks FLORA alone, in which order."""

from __future__ import annotations

import anyio
import pytest

from floradl.polling.poller import RequestLine

pytestmark = pytest.mark.anyio
LONG = 60.0


class Served:
    """Runs that each stand in a line of one turn at a time, and the order in which they had it."""

    def __init__(self) -> None:
        self.line = RequestLine(1)
        self.order: list[str] = []

    async def stand(self, run_id: str, queued_at: float) -> None:
        assert await self.line.enter(self.line.place(queued_at), LONG)
        self.order.append(run_id)
        self.line.leave()


async def test_the_newest_run_and_who_stands_longest_come_in_turn() -> None:
    served = Served()
    line = served.line
    assert await line.enter(line.place(0.0), LONG)
    async with anyio.create_task_group() as group:
        for number in range(4):
            group.start_soon(served.stand, f"crowd_{number}", 1.0)
            await anyio.wait_all_tasks_blocked()
        for number in range(2):
            group.start_soon(served.stand, f"new_{number}", 2.0 + number)
            await anyio.wait_all_tasks_blocked()
        line.leave()
    assert served.order == ["new_1", "crowd_0", "new_0", "crowd_1", "crowd_2", "crowd_3"]


async def test_one_whose_patience_ends_steps_out_and_keeps_the_place() -> None:
    served = Served()
    line = served.line
    assert await line.enter(line.place(0.0), LONG)
    first = line.place(1.0)
    assert not await line.enter(first, 0.01)
    async with anyio.create_task_group() as group:
        group.start_soon(served.stand, "later", 1.0)
        await anyio.wait_all_tasks_blocked()

        async def again() -> None:
            assert await line.enter(first, LONG)
            served.order.append("first")
            line.leave()

        group.start_soon(again)
        await anyio.wait_all_tasks_blocked()
        line.leave()
    assert served.order == ["first", "later"]


@pytest.mark.parametrize("came", [False, True])
async def test_one_who_is_cancelled_takes_no_turn_along(*, came: bool) -> None:
    served = Served()
    line = served.line
    assert await line.enter(line.place(0.0), LONG)
    async with anyio.create_task_group() as group:
        async with anyio.create_task_group() as cancelled:
            cancelled.start_soon(served.stand, "cancelled", 2.0)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(served.stand, "next", 1.0)
            await anyio.wait_all_tasks_blocked()
            if came:
                line.leave()
            cancelled.cancel_scope.cancel()
        if not came:
            line.leave()
    assert served.order[-1] == "next"
    assert await line.enter(line.place(0.0), 0.0)
