"""Many questions become few: runs that wait are looked up in a list first.

A page of `GET /technique-runs` answers for a hundred runs at the cost of one. So whoever falls due asks for
the pages that pay: those that show enough runs that somebody waits for, due or not. What they show of runs
that are not due is passed on: who ended is taken on at once, and who goes on need not be asked about soon.
Runs that no list shows are asked about one by one.

Lists are asked for one at a time, and who falls due meanwhile joins the next: what was just shown answers
most of them. Who stands in line to ask alone joins again at each tick, so that whatever crowd is asked about
one by one, the newest page is seen. A list that meets a limit is asked for again, since single questions
would meet it all the more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import msgspec
import structlog

from floradl.errors import ErrorCode, FloradlError, PassingError, PausedError, PermanentError, StandstillError
from floradl.flora.account import KINDS
from floradl.flora.doubt import Doubt
from floradl.flora.line import Line
from floradl.flora.lists import Lists, Shown, Sought
from floradl.flora.news import News
from floradl.flora.wire import Page
from floradl.models import Reference, RemoteRun

_PAGE_FOR = 10.0  # seconds in which a first page that was asked for here serves who reads the whole list
_GATHER = 0.01  # seconds in which those who are due at the same tick come together
_TRIES = 3  # of a page
_ALONE = 8  # single questions at once; the others may yet be answered by a list
_TICK = 2.0  # seconds
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

    def saw(self, answer: RemoteRun, /) -> bool:
        """Hear that one which nobody asked about now goes on; False where its owner must hear it itself."""
        ...


class _Batch:
    """Those who wait for the same lists: what was found so far, and whether the lists are through."""

    def __init__(self) -> None:
        self.wanted: dict[str, Reference] = {}
        self.found: dict[str, RemoteRun] = {}
        self.standing = False  # whether some are here again
        self.stopped: PausedError | StandstillError | None = None
        self.done = anyio.Event()

    def join(self, reference: Reference, *, again: bool) -> None:
        """Have a run looked up; `again` where that was done before, in vain."""
        self.wanted[reference.run_id] = reference
        self.standing = self.standing or again


class Asking:
    """Answers questions about runs, by list where that is cheaper.

    What a list shows to be finished, of the runs in `waiting`, is hastened: the next question about it
    is answered at once, from what the list said. `monotonic` returns seconds, `tick` is how many may pass
    until who stands in line looks at the lists again.
    """

    def __init__(
        self,
        api: Api,
        waiting: Waiting,
        monotonic: Callable[[], float],
        tick: float = _TICK,
        doubt: Doubt | None = None,
    ) -> None:
        self._api = api
        self._waiting = waiting
        self._monotonic = monotonic
        self._news = News(monotonic)
        self._lists = {kind: Lists(monotonic) for kind in KINDS}
        self._doubt = doubt or Doubt()
        self._batch: _Batch | None = None
        self._refused: set[str] = set()  # the lists that could not be had when last asked for
        self._looking = anyio.Lock()
        self._tick = tick
        self._alone = Line(_ALONE)
        self._first: dict[str, tuple[float, Page]] | None = None  # None until somebody reads whole lists

    async def run(self, reference: Reference, queued_at: float = 0.0) -> RemoteRun:
        """Answer about one run, queued at that time (unix seconds). Raises as `Flora.run` does."""
        try:
            answer = await self._answer(reference, queued_at)
        except PassingError as error:
            if error.code is ErrorCode.NOT_FOUND:
                self._miss(reference.run_id)
            raise
        self._doubt.found()
        return answer

    def _miss(self, run_id: str) -> None:
        before = self._doubt.hint
        self._doubt.missing(run_id)
        if before is None and self._doubt.hint is not None:
            _log.warning("key_in_doubt", message=self._doubt.hint)

    async def _answer(self, reference: Reference, queued_at: float) -> RemoteRun:
        told = self._news.take(reference.run_id) or await self._by_list(reference, again=False)
        if told is not None:
            return told
        place = self._alone.place(queued_at)
        while not await self._alone.enter(place, self._tick):
            told = await self._by_list(reference, again=True)
            if told is not None:
                return told
        try:
            return self._news.take(reference.run_id) or await self._api.run(reference)
        finally:
            self._alone.leave()

    async def _by_list(self, reference: Reference, *, again: bool) -> RemoteRun | None:
        """Look a run up together with others; None where no list shows it."""
        batch = self._batch
        if batch is None:
            batch = self._batch = _Batch()
            batch.join(reference, again=again)
            await self._serve(batch)
        else:
            batch.join(reference, again=again)
            await batch.done.wait()
        found = batch.found.get(reference.run_id)
        if found is not None:
            return found
        if isinstance(batch.stopped, PausedError):
            raise PausedError(str(batch.stopped), batch.stopped.reason)
        if batch.stopped is not None:
            raise StandstillError(str(batch.stopped), retry_after=batch.stopped.retry_after)
        return None

    def keep(self, answer: RemoteRun) -> None:
        """Keep an answer for the next question about its run, which comes a while later."""
        self._news.keep(answer)

    async def fresh(self, reference: Reference) -> RemoteRun:
        """Ask about one run alone: what a list said may be a moment old."""
        return await self._api.run(reference)

    async def page(self, kind: str, cursor: str | None = None) -> Page:
        """Return a page for somebody who reads a whole list: it is news for the runs that wait, too.

        A first page that was asked for just now is not asked for again. Raises as `Flora.page` does.
        """
        async with self._looking:
            if self._first is None:
                self._first = {}
            asked_at, page = self._first.pop(kind, (0.0, None))
            if cursor is None and page is not None and self._monotonic() - asked_at < _PAGE_FOR:
                return page
            page = await self._api.page(kind, cursor)
            self._news.sweep()
            self._take_in(page, set(), _Batch())
        return page

    def tell(self, answers: Iterable[RemoteRun]) -> None:
        """Keep what a list said of runs that were queued by it: their first question is answered."""
        for answer in answers:
            if answer.status != "completed" or answer.outputs:
                self.keep(answer)

    async def _serve(self, batch: _Batch) -> None:
        try:
            await anyio.sleep(_GATHER)
            async with self._looking:
                self._batch = None  # who comes from now on makes a batch of their own
                await self._look_up(batch)
        finally:
            self._batch = None if self._batch is batch else self._batch
            batch.done.set()

    async def _look_up(self, batch: _Batch) -> None:
        self._news.sweep()
        for run_id in batch.wanted:
            told = self._news.take(run_id)
            if told is not None:  # while it stood in line
                batch.found[run_id] = told
        for kind in KINDS:
            # A bare id may be of any kind; one with a technique is in the first list or in none.
            due = {
                run_id
                for run_id, reference in batch.wanted.items()
                if run_id not in batch.found and (kind == KINDS[0] or reference.technique is None)
            }
            try:
                await self._page_through(kind, due, batch)
            except (PausedError, StandstillError) as error:
                batch.stopped = error  # it holds for everybody: nobody needs to hear it alone
                return
            except FloradlError as error:
                # Whatever it is: those who ask one by one will hear it, each for its own run.
                self._lists[kind].failed(refused=_is_refusal(error))
                if kind not in self._refused:  # one line when it begins
                    _log.info("list_refused", kind=kind, message=str(error))
                self._refused.add(kind)

    async def _page_through(self, kind: str, due: set[str], batch: _Batch) -> None:
        """Read the pages that pay, from the newest on."""
        lists, sought = self._lists[kind], Sought(due, self._waiting, batch.standing)
        place = first = lists.begin(sought)
        while place is not None:
            _, cursor = place
            try:
                page = await self._page(kind, cursor)
            except PermanentError:
                if cursor is None:
                    raise
                lists.lost()  # it was good for a while only
                return
            self._refused.discard(kind)
            if cursor is None and self._first is not None:
                self._first[kind] = (self._monotonic(), page)
            place = lists.turn(place, self._take_in(page, due, batch), sought, room=self._news.room)
        if first is not None:
            lists.end(due)

    async def _page(self, kind: str, cursor: str | None) -> Page:
        """Ask for a page; where there is trouble that may pass, a few times: the gate sees to the waits."""
        for _ in range(_TRIES - 1):
            try:
                return await self._api.page(kind, cursor)
            except PassingError as error:
                if _is_refusal(error):
                    raise
        return await self._api.page(kind, cursor)

    def _take_in(self, page: Page, due: set[str], batch: _Batch) -> Shown:
        """Hand on what a page says, to those who wait for it and to those who do not wait yet."""
        going_on = frozenset(run.run_id for run in page.runs if not run.finished)
        company = sum(run_id in due or run_id in self._waiting for run_id in going_on)
        found = told = 0
        for run in page.runs:
            if run.status == "completed" and not run.outputs:
                continue  # a list that leaves the outputs out only tells that it is time to ask
            answer = msgspec.structs.replace(run, company=max(company, 1))
            if run.run_id in due:
                due.discard(run.run_id)
                batch.found[run.run_id] = answer
                found += 1
            elif run.run_id in self._waiting:
                told += self._tell(answer)
            else:
                self._news.show(answer)
        return Shown(going_on, found, told, page.cursor)

    def _tell(self, answer: RemoteRun) -> bool:
        """Tell the owner of a run that waits; whether that was news."""
        if self._news.known(answer):
            return False  # a backlog must not be paged through once more for each batch
        if not answer.finished and self._waiting.saw(answer):
            return False
        if not self._news.keep(answer):
            return False
        self._waiting.hasten(answer.run_id)
        return True


def _is_refusal(error: FloradlError) -> bool:
    return isinstance(error, PermanentError) or (
        isinstance(error, PassingError) and error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}
    )
