"""Metrics: what is counted as it happens, and what is measured at a scrape.

They hold no name of a run, no path and no message.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from floradl.errors import PauseReason
from floradl.models import RunState
from floradl.queue.base import RunQueue
from floradl.queue.heartbeat import STUCK_AFTER
from floradl.runs.events import Histogram, OutputCounters
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


_WITHIN = 1.0  # seconds for disks to answer: where they hang, the other metrics come without theirs


class Totals(Struct, frozen=True):
    """What is counted elsewhere, and grows."""

    api: Mapping[str, int]
    outputs: OutputCounters
    delays: Histogram
    webhooks: Mapping[str, int]


class MetricsSnapshot(Struct, frozen=True):
    """What was measured. `age` is of the oldest open run (seconds), `free` is in bytes by folder.

    What was not measured in time is missing: `counts` is None, `age` is 0.
    """

    paused: PauseReason | None
    counts: Mapping[RunState, int] | None = None
    age: float = 0.0
    free: Mapping[str, int] = {}


class MetricsCollector:
    """Measures."""

    def __init__(self, queue: RunQueue, folders: Mapping[str, Path]) -> None:
        self._queue = queue
        self._folders = folders
        self._looking = CapacityLimiter(len(folders))  # its own: a disk that hangs keeps these threads only

    async def measure(self, paused: PauseReason | None, now: float) -> MetricsSnapshot:
        """Ask the queue and the disks; `now` is unix seconds."""
        counts: Mapping[RunState, int] | None = None
        age = 0.0
        free: dict[str, int] = {}

        async def ask_queue() -> None:
            nonlocal counts, age
            if self._queue.trouble is None:  # what waits for it must not pile up
                found = await self._queue.counts()
                counts = found.states
                age = max(now - found.oldest_open, 0.0) if found.oldest_open is not None else 0.0

        async def ask_disk(name: str, folder: Path) -> None:
            with suppress(OSError):
                free[name] = await to_thread.run_sync(
                    _room, folder, limiter=self._looking, abandon_on_cancel=True
                )

        with anyio.move_on_after(_WITHIN):
            async with anyio.create_task_group() as group:
                group.start_soon(ask_queue)
                for name, folder in self._folders.items():
                    group.start_soon(ask_disk, name, folder)
        return MetricsSnapshot(paused, counts, age, free)


def _room(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


MISSING = (
    "/metrics needs prometheus-client, which is not installed: add the extra `metrics`, see docs/webhooks.md"
)


def installed() -> bool:
    """Whether the extra is there."""
    try:
        return find_spec("prometheus_client") is not None
    except ValueError:  # it is there, and somebody has hidden it
        return False


class MetricsPage:
    """Answers with the figures; without the extra it says so. `wall` gives unix seconds."""

    def __init__(
        self,
        meter: MetricsCollector,
        sums: Totals,
        standing: HealthState,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._meter = meter
        self._sums = sums
        self._standing = standing
        self._wall = wall

    async def page(self, _request: HttpRequest) -> HttpResponse:
        """Answer a scrape."""
        if not installed():
            return HttpResponse.said(503, MISSING)
        from floradl.web import prometheus  # noqa: PLC0415 - needs the extra

        figures = await self._meter.measure(self._standing.paused(), self._wall())
        return HttpResponse(200, prometheus.render(figures, self._sums), prometheus.CONTENT_TYPE)
