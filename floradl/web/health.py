"""Whether the daemon lives, and whether it works: `/healthz` and `/readyz`.

They say a word and no details: messages and paths are for those who may read the log.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from floradl.errors import PauseReason
from floradl.queue.heartbeat import STUCK_AFTER
from floradl.web.http import HttpRequest, HttpResponse

ALIVE = "/healthz"
READY = "/readyz"
PATHS = (ALIVE, READY)


class HealthState(Struct, frozen=True):
    """How the daemon stands, each asked anew.

    `progress_at` is when all was last seen to work (unix seconds), `paused` why floradl is paused, `started`
    whether it is past its start.
    """

    progress_at: Callable[[], float]
    paused: Callable[[], PauseReason | None]
    started: Callable[[], bool]


class Health:
    """Answers both questions. `wall` gives unix seconds."""

    def __init__(self, standing: HealthState, wall: Callable[[], float] = time.time) -> None:
        self._standing = standing
        self._wall = wall

    async def alive(self, _request: HttpRequest) -> HttpResponse:
        """Answer 200 while there is progress, or nothing to do; 503 where it hangs."""
        quiet = self._wall() - self._standing.progress_at()
        if quiet > STUCK_AFTER:
            return HttpResponse.said(503, f"no progress for {quiet:.0f} s")
        return HttpResponse.said(200, "alive")

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        """Answer 200 while it works; 503 before that, and in a pause."""
        if not self._standing.started():
            return HttpResponse.said(503, "starting")
        reason = self._standing.paused()
        return HttpResponse.said(503, f"paused: {reason}") if reason else HttpResponse.said(200, "ready")
