"""What both hosts share: every answer is written into the simulator's log before it leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal

from aiohttp import web

from floradl.simulator.state import Counters, RequestRecord, Simulator

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Host = Literal["api", "media"]


def record(simulator: Simulator, host: Host, request: web.Request, status: int) -> None:
    """Write a request down as answered with `status` (0: the connection was broken)."""
    run_id = request.match_info.get("run_id")
    simulator.record(
        RequestRecord(
            time=simulator.now(),
            host=host,
            method=request.method,
            path=request.path,
            status=status,
            authorization="Authorization" in request.headers,
            run_id=run_id,
            output_id=_output_id(simulator, run_id, request.match_info.get("number")),
            query=request.query_string if host == "api" else "",
            range=request.headers.get("Range"),
            accept_encoding=request.headers.get("Accept-Encoding"),
        )
    )


def _output_id(simulator: Simulator, run_id: str | None, number: str | None) -> str | None:
    run = simulator.run(run_id) if run_id is not None else None
    if run is None or number is None or not 0 < int(number) <= len(run.outputs):
        return None
    return run.outputs[int(number) - 1].output_id


class Opened:
    """A request that counts as open until it is closed; a second time does nothing.

    A handler that streams closes it before the last bytes leave: who has those may ask for more at once, and
    must not be counted twice.
    """

    def __init__(self, counters: Counters, host: Host) -> None:
        self._counters: Counters | None = counters
        self._host = host
        counters.opened(host, 1)

    def close(self) -> None:
        """Count it out."""
        if self._counters is not None:
            self._counters.opened(self._host, -1)
        self._counters = None
