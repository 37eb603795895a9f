"""The figures for Prometheus, at `/metrics`: its own library (the extra `metrics`) writes them down."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec

from floradl.listening.figures import Meter, Sums
from floradl.listening.health import Standing
from floradl.listening.http import Answer, Request

MISSING = (
    "/metrics needs prometheus-client, which is not installed: add the extra `metrics`, see docs/webhooks.md"
)


def installed() -> bool:
    """Whether the extra is there."""
    try:
        return find_spec("prometheus_client") is not None
    except ValueError:  # it is there, and somebody has hidden it
        return False


class Metrics:
    """Answers with the figures; without the extra it says so. `wall` gives unix seconds."""

    def __init__(
        self, meter: Meter, sums: Sums, standing: Standing, wall: Callable[[], float] = time.time
    ) -> None:
        self._meter = meter
        self._sums = sums
        self._standing = standing
        self._wall = wall

    async def page(self, _request: Request) -> Answer:
        """Answer a scrape."""
        if not installed():
            return Answer.said(503, MISSING)
        from floradl.listening.exposition import CONTENT_TYPE, render  # noqa: PLC0415  # the extra

        figures = await self._meter.measure(self._standing.paused(), self._wall())
        return Answer(200, render(figures, self._sums), CONTENT_TYPE)
