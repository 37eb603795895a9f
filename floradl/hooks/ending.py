"""Work that is seen to its end, in bounded time, while all else is stopped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

_AT_MOST = 5.7  # seconds once there is hurry: a stop takes 7 s at most, and the journal comes last


async def to_its_end(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Do `work`; where this is cancelled meanwhile it goes on, and the event that it was given is set.

    From then on it has some seconds, after which it is cancelled, too.
    """
    hurry = anyio.Event()
    shield = anyio.CancelScope(shield=True)

    async def shielded() -> None:
        with shield:
            await work(hurry)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
        try:
            await anyio.sleep_forever()
        finally:
            hurry.set()
            shield.deadline = anyio.current_time() + _AT_MOST
