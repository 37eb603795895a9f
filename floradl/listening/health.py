"""Whether the daemon lives, and whether it works: `/healthz` and `/readyz`.

They say a word and no details: messages and paths are for those who may read the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from floradl.errors import PauseReason
from floradl.listening.http import Answer, Request
from floradl.state.live import STUCK_AFTER

ALIVE = "/healthz"
READY = "/readyz"
PATHS = (ALIVE, READY)


class Standing(Struct, frozen=True):
    """How the daemon stands, each asked anew.

    `progress_at` is when all was last seen to be well (unix seconds), `paused` why nothing goes on, `started`
    whether it is past its start.
    """

    progress_at: Callable[[], float]
    paused: Callable[[], PauseReason | None]
    started: Callable[[], bool]


class Health:
    """Answers both questions. `wall` gives unix seconds."""

    def __init__(self, standing: Standing, wall: Callable[[], float] = time.time) -> None:
        self._standing = standing
        self._wall = wall

    async def alive(self, _request: Request) -> Answer:
        """Answer 200 while there is progress, or nothing to do; 503 where it hangs."""
        quiet = self._wall() - self._standing.progress_at()
        if quiet > STUCK_AFTER:
            return Answer.said(503, f"no progress for {quiet:.0f} s")
        return Answer.said(200, "alive")

    async def ready(self, _request: Request) -> Answer:
        """Answer 200 while it works; 503 before that, and in a pause."""
        if not self._standing.started():
            return Answer.said(503, "starting")
        reason = self._standing.paused()
        return Answer.said(503, f"paused: {reason}") if reason else Answer.said(200, "ready")
