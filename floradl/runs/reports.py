"""Reports what becomes of runs: to the log, to displays and heartbeat, and to whoever wants figures."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from floradl.errors import ErrorCode
from floradl.models import QueuedRun, RemoteRun
from floradl.polling.durations import detection_delay
from floradl.runs.events import ErrorLog, Histogram, LoggedError, RunEvents, RunSummary

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RunReports:
    """Hands all on to `events`, and logs what changes. `wall` returns unix seconds."""

    def __init__(self, events: RunEvents, wall: Callable[[], float] = time.time) -> None:
        self._events = events
        self._wall = wall
        self._errors = ErrorLog()
        self.delays = Histogram(0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 300)
        """How long runs were over before it was noticed, in seconds."""

    def unfinished(self, run: QueuedRun, next_in: float) -> None:
        """Report that a run was polled, goes on, and is polled again in so many seconds."""
        self.forwarded(run.run_id)
        self._events.run(run, next_in)

    def detected(self, run: QueuedRun, answer: RemoteRun) -> None:
        """Report that a run was found to have ended at FLORA; the first time."""
        delay = detection_delay(answer, run.queued_at, self._wall())
        if delay is not None:
            self.delays.add(delay)
        if answer.status == "completed":
            _log.info("run_completed", run=run.run_id, technique=run.technique, outputs=len(answer.outputs))

    def forwarded(self, run_id: str) -> None:
        """Report that a run is in no trouble any more."""
        code = self._errors.over(run_id)
        if code is not None:
            _log.info("trouble_over", code=code)

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report trouble when it begins: a line a change, none a try, and few where many meet the same."""
        logged = self._errors.met(run.run_id, run.error.code if run.error else ErrorCode.BAD_ANSWER)
        if logged is LoggedError.RUN:
            _log.warning("run_trouble", run=run.run_id, message=message, next_in=next_in)
        elif logged is LoggedError.MORE:
            _log.warning("more_in_trouble", message=f"{message}; 'floradl status' tells which runs")
        self._events.trouble(run, message, next_in)

    def halted(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Report that a run met what pauses all; the pause itself is logged where it begins."""
        self._events.trouble(run, message, next_in)

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        """Report that a run is finished, and recorded."""
        self.forwarded(run.run_id)
        _log.info(
            "run_finished",
            run=run.run_id,
            technique=run.technique,
            result=run.state,
            sidecar=summary.sidecar if summary else None,
            error=run.error.message if run.error else None,
        )
        self._events.finished(run, summary)
