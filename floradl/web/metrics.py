"""Health, and metrics: what is counted as it happens, and what is measured at a scrape.

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
MISSING = (
    "/metrics needs prometheus-client, which is not installed: add the extra `metrics`, see docs/webhooks.md"
)
_WITHIN = 1.0  # seconds for disks to answer: where they hang, the other metrics come without theirs


class HealthState(Struct, frozen=True):
    """How the daemon is: last progress (unix seconds), pause, and whether it is past its start."""

    progress_at: Callable[[], float]
    paused: Callable[[], PauseReason | None]
    started: Callable[[], bool]


class Health:
    """Answers `/healthz` and `/readyz`. `wall` gives unix seconds."""

    def __init__(self, state: HealthState, wall: Callable[[], float] = time.time) -> None:
        self._state = state
        self._wall = wall

    async def alive(self, _request: HttpRequest) -> HttpResponse:
        """Answer 200 while there is progress, or nothing to do; 503 where it hangs."""
        quiet = self._wall() - self._state.progress_at()
        if quiet > STUCK_AFTER:
            return HttpResponse.of_text(503, f"no progress for {quiet:.0f} s")
        return HttpResponse.of_text(200, "alive")

    async def ready(self, _request: HttpRequest) -> HttpResponse:
        """Answer 200 while it works; 503 before that, and in a pause."""
        if not self._state.started():
            return HttpResponse.of_text(503, "starting")
        reason = self._state.paused()
        return (
            HttpResponse.of_text(503, f"paused: {reason}") if reason else HttpResponse.of_text(200, "ready")
        )


class Totals(Struct, frozen=True):
    """What is counted elsewhere, and grows."""

    api: Mapping[str, int]
    outputs: OutputCounters
    delays: Histogram
    webhooks: Mapping[str, int]


class MetricsSnapshot(Struct, frozen=True):
    """What was measured in time: the age of the oldest open run (seconds), bytes free by folder."""

    paused: PauseReason | None
    counts: Mapping[RunState, int] | None = None
    age: float = 0.0
    free: Mapping[str, int] = {}


class MetricsCollector:
    """Measures what is not counted."""

    def __init__(self, queue: RunQueue, folders: Mapping[str, Path]) -> None:
        self._queue = queue
        self._folders = folders
        self._looking = CapacityLimiter(len(folders))  # its own: a disk that hangs keeps these threads only

    async def measure(self, paused: PauseReason | None, now: float) -> MetricsSnapshot:
        """Measure queue and disks; `now` is unix seconds."""
        counts: Mapping[RunState, int] | None = None
        age = 0.0
        free: dict[str, int] = {}

        async def count_runs() -> None:
            nonlocal counts, age
            if self._queue.trouble is None:  # what waits for it must not pile up
                found = await self._queue.counts()
                counts = found.states
                age = max(now - found.oldest_open, 0.0) if found.oldest_open is not None else 0.0

        async def look_at(name: str, folder: Path) -> None:
            with suppress(OSError):
                found = await to_thread.run_sync(
                    os.statvfs, folder, limiter=self._looking, abandon_on_cancel=True
                )
                free[name] = found.f_bavail * found.f_frsize

        with anyio.move_on_after(_WITHIN):
            async with anyio.create_task_group() as group:
                group.start_soon(count_runs)
                for name, folder in self._folders.items():
                    group.start_soon(look_at, name, folder)
        return MetricsSnapshot(paused, counts, age, free)


def installed() -> bool:
    """Whether the extra is there."""
    try:
        return find_spec("prometheus_client") is not None
    except ValueError:  # it is there, and somebody has hidden it
        return False


class MetricsPage:
    """Answers with all metrics; without the extra it reports that. `wall` gives unix seconds."""

    def __init__(
        self,
        collector: MetricsCollector,
        totals: Totals,
        state: HealthState,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._collector = collector
        self._totals = totals
        self._state = state
        self._wall = wall

    async def page(self, _request: HttpRequest) -> HttpResponse:
        """Answer a scrape."""
        if not installed():
            return HttpResponse.of_text(503, MISSING)
        from floradl.web import prometheus  # noqa: PLC0415 - needs the extra

        snapshot = await self._collector.measure(self._state.paused(), self._wall())
        return HttpResponse(200, prometheus.render(snapshot, self._totals), prometheus.CONTENT_TYPE)
