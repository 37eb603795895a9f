"""Many questions become few: runs that are due together are looked up in a list first.

A page of `GET /technique-runs` answers for a hundred runs at the cost of one. What it shows of runs that
nobody asked about yet is kept for a moment, and its owner is told, so that all that finished is known at
the same tick. Runs that no list shows are asked about one by one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import anyio
import structlog

from floradl.errors import ErrorCode, FloradlError, PassingError, PausedError, PermanentError
from floradl.flora.wire import Page
from floradl.models import Reference, RemoteRun

_GATHER = 0.01  # seconds in which those who are due at the same tick come together
_WORTH_A_PAGE = 3  # questions: fewer are asked one by one
_MOST_PAGES = 10
_NEWS_FOR = 30.0  # seconds in which what a list said may stand for an answer
_NO_LIST_FOR = 600.0  # seconds after which a list that was forbidden is tried again
_KINDS = ("technique_runs", "generations")
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Api(Protocol):
    """What is needed of the API."""

    async def run(self, reference: Reference) -> RemoteRun:
        """Ask for one run."""
        ...

    async def page(self, kind: str, cursor: str | None = None) -> Page:
        """Ask for a page of the newest runs."""
        ...


class Waiting(Protocol):
    """The runs that somebody waits for. Who hastens one also sees to it that it is taken on."""

    def __contains__(self, run_id: str, /) -> bool:
        """Whether it waits to be asked about, and nobody is at work on it."""
        ...

    def hasten(self, run_id: str, /) -> None:
        """Ask about it now: there is news of it."""
        ...


class _Batch:
    """Those who wait for the same lists: what was found so far, and whether the lists are through."""

    def __init__(self) -> None:
        self.wanted: dict[str, Reference] = {}
        self.found: dict[str, RemoteRun] = {}
        self.paused: PausedError | None = None
        self.done = anyio.Event()


class Asking:
    """Answers questions about runs, by list where that is cheaper.

    What a list shows to be finished, of the runs in `waiting`, is hastened: the next question about it
    is answered at once, from what the list said. `monotonic` returns seconds.
    """

    def __init__(self, api: Api, waiting: Waiting, monotonic: Callable[[], float]) -> None:
        self._api = api
        self._waiting = waiting
        self._monotonic = monotonic
        self._batch: _Batch | None = None
        self._news: dict[str, tuple[float, RemoteRun]] = {}
        self._not_before = dict.fromkeys(_KINDS, 0.0)

    async def run(self, reference: Reference) -> RemoteRun:
        """Answer about one run. Raises as `Flora.run` does."""
        told_at, told = self._news.pop(reference.run_id, (0.0, None))
        if told is not None and self._monotonic() - told_at < _NEWS_FOR:
            return told
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            batch.wanted[reference.run_id] = reference
            await self._serve(batch)
        else:
            batch.wanted[reference.run_id] = reference
            await batch.done.wait()
        if batch.paused is not None:
            raise PausedError(str(batch.paused), batch.paused.reason)
        return batch.found.get(reference.run_id) or await self._api.run(reference)

    async def fresh(self, reference: Reference) -> RemoteRun:
        """Ask about one run alone: what a list said may be a moment old."""
        return await self._api.run(reference)

    async def _serve(self, batch: _Batch) -> None:
        try:
            await anyio.sleep(_GATHER)
            self._batch = None  # who comes from now on makes a batch of their own
            await self._look_up(batch)
        finally:
            self._batch = None if self._batch is batch else self._batch
            batch.done.set()

    async def _look_up(self, batch: _Batch) -> None:
        for kind in _KINDS:
            # A bare id may be of any kind; one with a technique is in the first list or in none.
            candidates = {
                run_id
                for run_id, reference in batch.wanted.items()
                if run_id not in batch.found and (kind == _KINDS[0] or reference.technique is None)
            }
            if self._monotonic() < self._not_before[kind]:
                continue
            try:
                await self._page_through(kind, candidates, batch)
            except PausedError as error:
                batch.paused = error  # it holds for everybody: nobody needs to hear it alone
                return
            except FloradlError as error:
                # Whatever it is: those who ask one by one will hear it, each for its own run.
                if isinstance(error, PermanentError) or _is_refusal(error):
                    self._not_before[kind] = self._monotonic() + _NO_LIST_FOR
                    _log.info("list_refused", kind=kind, message=str(error))

    async def _page_through(self, kind: str, candidates: set[str], batch: _Batch) -> None:
        """Page on while a further page is cheaper than the questions it may save."""
        cursor: str | None = None
        for _ in range(_MOST_PAGES):
            if len(candidates) < _WORTH_A_PAGE:
                return
            page = await self._api.page(kind, cursor)
            of_use = sum([self._take(run, candidates, batch) for run in page.runs])
            cursor = page.cursor
            if cursor is None or not of_use:
                return

    def _take(self, run: RemoteRun, candidates: set[str], batch: _Batch) -> bool:
        """Take in what a list says of one run; whether that was of any use."""
        if run.status == "completed" and not run.outputs:
            return False  # a list that leaves the outputs out only tells that it is time to ask
        if run.run_id in candidates:
            candidates.discard(run.run_id)
            batch.found[run.run_id] = run
            return True
        told_at, _ = self._news.get(run.run_id, (-_NEWS_FOR, None))
        if self._monotonic() - told_at < _NEWS_FOR:
            return False  # known already: a backlog must not be paged through once more for each batch
        if run.finished and run.run_id in self._waiting:
            self._news[run.run_id] = (self._monotonic(), run)
            self._waiting.hasten(run.run_id)
            return True
        return False


def _is_refusal(error: FloradlError) -> bool:
    return isinstance(error, PassingError) and error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}
