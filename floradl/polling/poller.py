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

import itertools
from collections.abc import Callable, Iterable
from typing import Protocol

import anyio
import msgspec
import structlog
from msgspec import Struct

from floradl.errors import (
    ApiUnavailableError,
    ErrorCode,
    FloradlError,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.flora.schema import KINDS, RunPage
from floradl.flora.wrong_workspace import WrongWorkspaceCheck
from floradl.models import Reference, RemoteRun
from floradl.polling.list_pages import ListPlan, ListQuery, PageSummary


class LinePlace(Struct, frozen=True):
    """Somebody's place in the line, kept while stepping out of it. `queued_at` says how new the run is."""

    number: int
    queued_at: float


class RequestLine:
    """Lets `most` at a time go on."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._numbers = itertools.count()
        self._waiting: dict[LinePlace, anyio.Event] = {}
        self._newest_first = True

    def place(self, queued_at: float) -> LinePlace:
        """Return a place behind all others."""
        return LinePlace(next(self._numbers), queued_at)

    async def enter(self, place: LinePlace, seconds: float) -> bool:
        """Wait for a turn, for `seconds` at most; whether it came. `leave` ends it."""
        if self._free:
            self._free -= 1
            return True
        turn = self._waiting[place] = anyio.Event()
        try:
            with anyio.move_on_after(seconds):
                await turn.wait()
        except BaseException:
            if self._waiting.pop(place, None) is None:
                self.leave()  # the turn came, and nobody makes use of it
            raise
        return self._waiting.pop(place, None) is None

    def leave(self) -> None:
        """End a turn: the next one has it."""
        if not self._waiting:
            self._free += 1
            return
        if self._newest_first:
            place = max(self._waiting, key=lambda each: (each.queued_at, -each.number))
        else:
            place = min(self._waiting, key=lambda each: each.number)
        self._newest_first = not self._newest_first
        self._waiting.pop(place).set()


_FINISHED_FOR = 900.0  # seconds in which news of a run that ended stand: it does not change any more
_OPEN_FOR = 10.0  # seconds in which one that was hastened hears that it goes on
_SHOWN_FOR = 0.5  # seconds in which whatever was just shown stands for an answer
_SHOWN_FINISHED_FOR = 5.0
_MOST = 4000  # answers that somebody was told of: some kilobytes each
_MOST_OPEN = 500  # of these, that it goes on: as many as hear it before they grow old
_MOST_SHOWN = 1000


class _Item(Struct, frozen=True):
    until: float
    answer: RemoteRun


class News:
    """Answers, each for one who will ask. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[str, _Item] = {}
        self._open: set[str] = set()  # of those who were told, who goes on
        self._shown: dict[str, _Item] = {}

    def known(self, answer: RemoteRun) -> bool:
        """Whether its owner was told as much, and will ask."""
        told = self._told.get(answer.run_id)
        return (
            told is not None
            and told.until > self._monotonic()
            and (told.answer.finished or not answer.finished)
        )

    @property
    def room(self) -> bool:
        """Whether more may be kept."""
        return len(self._told) < _MOST

    def keep(self, answer: RemoteRun) -> bool:
        """Keep an answer whose owner is told; whether there is room for it."""
        if not self.room or (not answer.finished and len(self._open) >= _MOST_OPEN):
            return False
        stands = _FINISHED_FOR if answer.finished else _OPEN_FOR
        self._told[answer.run_id] = _Item(self._monotonic() + stands, answer)
        (self._open.discard if answer.finished else self._open.add)(answer.run_id)
        return True

    def show(self, answer: RemoteRun) -> None:
        """Keep for a moment what may be on somebody's mind: who is about to ask is in no list of ours."""
        self._shown.pop(answer.run_id, None)
        stands = _SHOWN_FINISHED_FOR if answer.finished else _SHOWN_FOR
        self._shown[answer.run_id] = _Item(self._monotonic() + stands, answer)
        if len(self._shown) > _MOST_SHOWN:
            del self._shown[next(iter(self._shown))]

    def take(self, run_id: str) -> RemoteRun | None:
        """Give what is known of a run, once."""
        self._open.discard(run_id)
        for items in (self._told, self._shown):
            item = items.pop(run_id, None)
            if item is not None and item.until > self._monotonic():
                return item.answer
        return None

    def sweep(self) -> None:
        """Drop what has grown old."""
        now = self._monotonic()
        self._told = {run_id: item for run_id, item in self._told.items() if item.until > now}
        self._open &= self._told.keys()
        self._shown = {run_id: item for run_id, item in self._shown.items() if item.until > now}


_PAGE_FOR = 10.0  # seconds in which a first page that was asked for here serves who reads the whole list
_GATHER = 0.01  # seconds in which those who are due at the same tick come together
_TRIES = 3  # of a page
_ALONE = 8  # single questions at once; the others may yet be answered by a list
_TICK = 2.0  # seconds
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RunApi(Protocol):
    """What is needed of the API."""

    async def run(self, reference: Reference) -> RemoteRun:
        """Ask for one run."""
        ...

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Ask for a page of the newest runs."""
        ...


class Waiting(Protocol):
    """The runs that somebody waits for. Who hastens one also sees to it that it is taken on."""

    def __contains__(self, run_id: str, /) -> bool:
        """Whether it waits to be asked about, and nobody is at work on it."""
        ...

    def poll_now(self, run_id: str, /) -> None:
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
        self.stopped: ServicePausedError | ApiUnavailableError | None = None
        self.done = anyio.Event()

    def join(self, reference: Reference, *, again: bool) -> None:
        """Have a run looked up; `again` where that was done before, in vain."""
        self.wanted[reference.run_id] = reference
        self.standing = self.standing or again


class Poller:
    """Answers questions about runs, by list where that is cheaper.

    What a list shows to be finished, of the runs in `waiting`, is hastened: the next question about it
    is answered at once, from what the list said. `monotonic` returns seconds, `tick` is how many may pass
    until who stands in line looks at the lists again.
    """

    def __init__(
        self,
        api: RunApi,
        waiting: Waiting,
        monotonic: Callable[[], float],
        tick: float = _TICK,
        workspace_check: WrongWorkspaceCheck | None = None,
    ) -> None:
        self._api = api
        self._waiting = waiting
        self._monotonic = monotonic
        self._news = News(monotonic)
        self._lists = {kind: ListPlan(monotonic) for kind in KINDS}
        self._workspace_check = workspace_check or WrongWorkspaceCheck()
        self._batch: _Batch | None = None
        self._refused: set[str] = set()  # the lists that could not be had when last asked for
        self._looking = anyio.Lock()
        self._tick = tick
        self._alone = RequestLine(_ALONE)
        self._first: dict[str, tuple[float, RunPage]] | None = None  # None until somebody reads whole lists

    async def run(self, reference: Reference, queued_at: float = 0.0) -> RemoteRun:
        """Answer about one run, queued at that time (unix seconds). Raises as `Flora.run` does."""
        try:
            answer = await self._answer(reference, queued_at)
        except TransientError as error:
            if error.code is ErrorCode.NOT_FOUND:
                self._miss(reference.run_id)
            raise
        self._workspace_check.found()
        return answer

    def _miss(self, run_id: str) -> None:
        before = self._workspace_check.hint
        self._workspace_check.missing(run_id)
        if before is None and self._workspace_check.hint is not None:
            _log.warning("key_in_doubt", message=self._workspace_check.hint)

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
        if isinstance(batch.stopped, ServicePausedError):
            raise ServicePausedError(str(batch.stopped), batch.stopped.reason)
        if batch.stopped is not None:
            raise ApiUnavailableError(str(batch.stopped), retry_after=batch.stopped.retry_after)
        return None

    def keep(self, answer: RemoteRun) -> None:
        """Keep an answer for the next question about its run, which comes a while later."""
        self._news.keep(answer)

    async def fresh(self, reference: Reference) -> RemoteRun:
        """Ask about one run alone: what a list said may be a moment old."""
        return await self._api.run(reference)

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
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
            except (ServicePausedError, ApiUnavailableError) as error:
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
        lists, sought = self._lists[kind], ListQuery(due, self._waiting, batch.standing)
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

    async def _page(self, kind: str, cursor: str | None) -> RunPage:
        """Ask for a page; where there is trouble that may pass, a few times: the gate sees to the waits."""
        for _ in range(_TRIES - 1):
            try:
                return await self._api.page(kind, cursor)
            except TransientError as error:
                if _is_refusal(error):
                    raise
        return await self._api.page(kind, cursor)

    def _take_in(self, page: RunPage, due: set[str], batch: _Batch) -> PageSummary:
        """Hand on what a page says, to those who wait for it and to those who do not wait yet."""
        going_on = frozenset(run.run_id for run in page.runs if not run.finished)
        batch_size = sum(run_id in due or run_id in self._waiting for run_id in going_on)
        found = told = 0
        for run in page.runs:
            if run.status == "completed" and not run.outputs:
                continue  # a list that leaves the outputs out only tells that it is time to ask
            answer = msgspec.structs.replace(run, batch_size=max(batch_size, 1))
            if run.run_id in due:
                due.discard(run.run_id)
                batch.found[run.run_id] = answer
                found += 1
            elif run.run_id in self._waiting:
                told += self._tell(answer)
            else:
                self._news.show(answer)
        return PageSummary(going_on, found, told, page.cursor)

    def _tell(self, answer: RemoteRun) -> bool:
        """Tell the owner of a run that waits; whether that was news."""
        if self._news.known(answer):
            return False  # a backlog must not be paged through once more for each batch
        if not answer.finished and self._waiting.saw(answer):
            return False
        if not self._news.keep(answer):
            return False
        self._waiting.poll_now(answer.run_id)
        return True


def _is_refusal(error: FloradlError) -> bool:
    return isinstance(error, PermanentError) or (
        isinstance(error, TransientError) and error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}
    )
