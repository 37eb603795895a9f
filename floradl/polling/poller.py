"""Polls the runs that are due: many by one list page, the others one by one.

At each tick the pages are read that pay: a page of `GET /technique-runs` answers for a hundred runs at the
cost of one. What it shows of runs that are not due yet is used, too: those that ended go on at once, the
others need no poll soon. Runs that no page shows stand in line for single requests, a few at a time, and are
looked for in the lists again at each tick, so the newest page is seen however long the line is. A list that
meets a limit is requested again, since single requests would meet it all the more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Protocol, TypeAlias

import anyio
from anyio.abc import TaskGroup
from msgspec import Struct
from msgspec.structs import replace

from floradl.errors import (
    ApiUnavailableError,
    ErrorCode,
    FloradlError,
    ForeignAnswerError,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.flora.client import WrongWorkspaceCheck
from floradl.flora.schema import KINDS, RunPage
from floradl.flora.technique_names import named_by
from floradl.library.base import LibraryStore
from floradl.log import get_logger
from floradl.models import (
    FinishedRun,
    QueuedRun,
    Reference,
    RemoteRun,
    RunFailure,
    RunState,
)
from floradl.polling.done_runs import DoneRuns
from floradl.polling.list_pages import ListPlan, ListQuery, PageSummary, is_refusal
from floradl.polling.open_runs import OpenRuns
from floradl.retry import Failed, Halted, RetryIn, outcome_of

FEW_TRIES = 2
"""`PollOptions.missing_tries` where somebody waits for the answer."""

_PAGE_FOR = 10.0  # seconds for which `page` returns a first page that was requested here
_GATHER = 0.01  # seconds in which runs that are due at the same tick come together
_QUIET = 1.0  # seconds without a due run, after which the next one does not wait for others
_TRIES = 3  # of a page
_CROWD = 256  # runs that are polled at a time; the others stay due
_ALONE = 8  # single requests at once; a list may yet answer for the others
_log = get_logger()

_Polled: TypeAlias = RetryIn | FinishedRun | Halted


class RunApi(Protocol):
    """The part of the API that is needed."""

    async def run(self, reference: Reference) -> RemoteRun:
        """Return one run."""

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Return a page of the newest runs."""


class NextStage(Protocol):
    """Where finished runs go."""

    @property
    def room(self) -> bool:
        """Whether it takes any finished run now."""

    def offer(self, finished: FinishedRun, /) -> None:
        """Take a finished run, or have it polled again once there is room."""


class PollOptions(Struct, frozen=True):
    """`give_up_after` and `tick` are in seconds: how long a run may go on, how often lists are read.

    A run that FLORA does not know is polled `missing_tries` times more at most.
    """

    give_up_after: float
    tick: float = 2.0
    missing_tries: float = math.inf


class Poller:
    """Polls open runs, and hands on those that are finished. `serve` must be running."""

    def __init__(
        self,
        api: RunApi,
        open_runs: OpenRuns,
        library: LibraryStore,
        next_stage: NextStage,
        options: PollOptions,
        workspace_check: WrongWorkspaceCheck | None = None,
    ) -> None:
        self._api = api
        self._open_runs = open_runs
        self._done = DoneRuns(library, open_runs.clocks.wall)
        self._next_stage = next_stage
        self._options = options
        self._workspace_check = workspace_check or WrongWorkspaceCheck()
        self._monotonic = open_runs.clocks.monotonic
        self._lists = {kind: ListPlan(self._monotonic) for kind in KINDS}
        self._unavailable: set[str] = set()  # the lists, when last requested
        self._looking = anyio.Lock()
        self._first_pages: dict[str, tuple[float, RunPage]] | None = None  # None before `page` is used
        self._due: dict[str, QueuedRun] = {}  # due at this tick, and not found in a list yet
        self._line: dict[str, QueuedRun] = {}  # shown by no list, and polled one by one
        self._alone: set[str] = set()  # polled by a single request that is under way
        self._ticked_at = 0.0  # when the line was last looked for in the lists
        self._looked_at = -math.inf  # when a tick was over
        self._newest_first = True
        self._group: TaskGroup | None = None

    def change(self, give_up_after: float) -> None:
        """Wait for runs for so many seconds from now on."""
        self._options = replace(self._options, give_up_after=give_up_after)

    def restart(self) -> None:
        """Forget what was seen so far: another process has polled since. `serve` must not be running."""
        self._lists = {kind: ListPlan(self._monotonic) for kind in KINDS}
        self._unavailable.clear()
        self._looking = anyio.Lock()
        self._first_pages = None
        self._due, self._line = {}, {}
        self._alone.clear()
        self._done.clear()

    async def serve(self) -> None:
        """Poll what is due, forever."""
        async with anyio.create_task_group() as group:
            self._group = group
            while True:
                if self._open_runs.breaker.now is not None:
                    self._put_back()
                    await self._open_runs.breaker.passes()
                self._poll_next_alone()
                delay = min(self._open_runs.delay(first_only=self._room <= 0), self._until_tick())
                if delay > 0:
                    await self._open_runs.breaker.changed.wait(delay)
                    continue
                if self._monotonic() - self._looked_at < _QUIET:
                    await anyio.sleep(_GATHER)
                async with self._looking:
                    await self._tick()
                self._looked_at = self._monotonic()

    @property
    def _room(self) -> int:
        return _CROWD - len(self._line) - len(self._alone)

    def _until_tick(self) -> float:
        return self._ticked_at + self._options.tick - self._monotonic() if self._line else math.inf

    async def _tick(self) -> None:
        """Look for due runs in the lists; those that are not shown come into the line."""
        standing = bool(self._line) and self._until_tick() <= 0
        if standing or not self._line:
            self._ticked_at = self._monotonic()
        self._due = await self._without_done(await self._load(self._open_runs.take_due(self._room)))
        if self._open_runs.breaker.now is not None:
            self._put_back()
            return
        looked_for = {**self._line, **self._due} if standing else dict(self._due)
        try:
            for kind in KINDS:
                # A bare id may be of any kind; one with a technique is in the first list or in none.
                due = {
                    run_id
                    for run_id, run in looked_for.items()
                    if self._is_sought(run_id) and (kind == KINDS[0] or run.technique is None)
                }
                await self._read_list(kind, due, standing=standing)
        except Exception as error:  # noqa: BLE001 - it holds for all of them
            met = [run for run_id, run in looked_for.items() if self._is_sought(run_id)]
            for run in met:
                self._line.pop(run.run_id, None)
                self._due.pop(run.run_id, None)
            await self._settle([(run, self._after_error(run, error)) for run in met])
        self._line |= self._due
        self._due = {}

    def _put_back(self) -> None:
        """Make all due again that wait for an answer: in a pause, each may be the probe."""
        waiting = {**self._line, **self._due}
        self._line, self._due = {}, {}
        for run_id in waiting:
            self._done.take_earlier(run_id)
        self._open_runs.put_back(waiting)

    def _is_sought(self, run_id: str) -> bool:
        return run_id in self._due or run_id in self._line

    async def _load(self, run_ids: Sequence[str]) -> dict[str, QueuedRun]:
        try:
            found = await self._open_runs.load(run_ids) if run_ids else {}
        except Exception as error:  # noqa: BLE001 - none of them may be lost
            for run in [QueuedRun(run_id=run_id, queued_at=0.0) for run_id in run_ids]:
                self._apply(run, self._after_error(run, error))
            return {}
        for run_id in set(run_ids) - found.keys():
            self._done.take_earlier(run_id)
        return found

    async def _without_done(self, runs: dict[str, QueuedRun]) -> dict[str, QueuedRun]:
        """Leave out the runs of which all that is wanted is there, by their sidecars: they are not polled."""
        settled: list[tuple[QueuedRun, _Polled]] = [
            (run, found if isinstance(found, FinishedRun) else self._after_error(run, found))
            for run, found in await self._done.look_up(runs.values())
        ]
        if not settled:
            return runs
        await self._settle(settled)
        known = {run.run_id for run, _ in settled}
        return {run_id: run for run_id, run in runs.items() if run_id not in known}

    # Lists

    async def _read_list(self, kind: str, due: set[str], *, standing: bool) -> None:
        """Read the pages of a list that pay, from the newest on, and use what they show.

        Raises what concerns every run: a limit, or the cause of a pause.
        """
        try:
            await self._page_through(kind, due, standing=standing)
        except (ServicePausedError, ApiUnavailableError):
            raise
        except FloradlError as error:
            # Single requests meet it, too, each for its own run.
            self._lists[kind].failed(error)
            if kind not in self._unavailable:  # one line when it begins
                _log.info("list_refused", kind=kind, message=str(error))
            self._unavailable.add(kind)

    async def _page_through(self, kind: str, due: set[str], *, standing: bool) -> None:
        lists, sought = self._lists[kind], ListQuery(due, self._open_runs, standing)
        place = first = lists.begin(sought)
        while place is not None:
            _, cursor = place
            try:
                page = await self._page(kind, cursor)
            except PermanentError:
                if cursor is None:
                    raise
                lists.lost()  # it was valid for a while only
                return
            self._unavailable.discard(kind)
            if cursor is None and self._first_pages is not None:
                self._first_pages[kind] = (self._monotonic(), page)
            shown = await self._take_in(page, due)
            place = lists.turn(place, shown, sought, room=self._next_stage.room)
        if first is not None:
            lists.end(due)

    async def _page(self, kind: str, cursor: str | None) -> RunPage:
        """Request a page, a few times where the error may pass: the rate limiter waits in between.

        Not where another server answers: that may concern lists alone, so single requests are next.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._api.page(kind, cursor)
            except TransientError as error:
                if is_refusal(error) or isinstance(error, ForeignAnswerError):
                    raise
        return await self._api.page(kind, cursor)

    async def _take_in(self, page: RunPage, due: set[str]) -> PageSummary:
        """Use what a page shows of our runs, due or not, and take these out of `due`."""
        going_on = frozenset(run.run_id for run in page.runs if not run.finished)
        batch_size = sum(self._is_sought(run_id) or run_id in self._open_runs for run_id in going_on)
        found: list[RemoteRun] = []  # about runs that were due
        news: list[RemoteRun] = []  # about others
        for run in {run.run_id: run for run in page.runs}.values():
            if run.status == "completed" and not run.outputs:
                continue  # a list that leaves the outputs out is no answer
            answer = replace(run, batch_size=max(batch_size, 1))
            if self._is_sought(run.run_id):
                (found if run.run_id in due else news).append(answer)
                due.discard(run.run_id)
            elif run.run_id in self._open_runs and self._is_news(answer):
                news.append(answer)
        new = {answer.run_id for answer in news if answer.run_id in self._open_runs}
        await self._take_answers([*found, *news], new)
        return PageSummary(going_on, len(found), len(news), page.cursor)

    def _is_news(self, answer: RemoteRun) -> bool:
        """Whether an answer about a run that is not due is used."""
        return self._next_stage.room if answer.finished else not self._open_runs.planner.saw(answer)

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Return a page of a list; what it shows of our runs is used, too.

        A first page that was requested just now is not requested again. Raises as `FloraClient.page` does.
        """
        async with self._looking:
            if self._first_pages is None:
                self._first_pages = {}
            requested_at, page = self._first_pages.pop(kind, (0.0, None))
            if cursor is None and page is not None and self._monotonic() - requested_at < _PAGE_FOR:
                return page
            page = await self._api.page(kind, cursor)
            await self._take_in(page, set())
        return page

    async def add_answered(self, answers: Iterable[RemoteRun]) -> None:
        """Use what a list showed of runs that were queued for it, as their first answers."""
        listed = {answer.run_id: answer for answer in answers}
        usable = {
            run_id: each for run_id, each in listed.items() if each.status != "completed" or each.outputs
        }
        taken = self._open_runs.take(usable)
        await self._take_answers([usable[run_id] for run_id in taken], taken)
        self._open_runs.add_new(listed.keys() - usable.keys())

    # Single requests

    def _poll_next_alone(self) -> None:
        """Send single requests, for the newest run and the first in line by turns."""
        while self._line and len(self._alone) < _ALONE and self._group is not None:
            runs = self._line.values()
            run = max(runs, key=lambda each: each.queued_at) if self._newest_first else next(iter(runs))
            self._newest_first = not self._newest_first
            del self._line[run.run_id]
            self._alone.add(run.run_id)
            self._group.start_soon(self._poll_alone, run)

    async def poll(self, run_id: str) -> None:
        """Poll a run now, by a single request."""
        for run in (await self._without_done(await self._load([run_id]))).values():
            await self._poll_alone(run)

    async def _poll_alone(self, run: QueuedRun) -> None:
        try:
            answer = await self._api.run(run.reference)
        except Exception as error:  # noqa: BLE001 - each becomes an outcome
            if isinstance(error, TransientError) and error.code is ErrorCode.NOT_FOUND:
                self._count_missing(run.run_id)
            await self._settle([(run, self._after_error(run, error))])
        else:
            await self._take_answers([answer])
        finally:
            self._alone.discard(run.run_id)
            self._open_runs.wake()

    def _count_missing(self, run_id: str) -> None:
        before = self._workspace_check.hint
        self._workspace_check.missing(run_id)
        if before is None and self._workspace_check.hint is not None:
            _log.warning("key_in_doubt", message=self._workspace_check.hint)

    # Answers

    async def _take_answers(self, answers: Sequence[RemoteRun], new: Collection[str] = ()) -> None:
        """Give each run the outcome of its answer; the sidecars of `new` ones have not been read."""
        if answers:
            self._workspace_check.found()
        for answer in answers:
            self._line.pop(answer.run_id, None)
            self._due.pop(answer.run_id, None)
        self._open_runs.take(new)
        runs = await self._load([answer.run_id for answer in answers])
        unseen = await self._without_done({run_id: run for run_id, run in runs.items() if run_id in new})
        known = {run_id: run for run_id, run in runs.items() if run_id in unseen or run_id not in new}
        found = [(known[answer.run_id], answer) for answer in answers if answer.run_id in known]
        await self._settle([(run, self._outcome(run, answer)) for run, answer in found])

    def _outcome(self, run: QueuedRun, answer: RemoteRun) -> _Polled:
        try:
            return self._after_answer(run, answer)
        except Exception as error:  # noqa: BLE001 - a bug must not cost the run, nor the others
            return self._after_error(run, error)

    def _after_answer(self, run: QueuedRun, answer: RemoteRun) -> _Polled:
        run = named_by(run, answer)
        if answer.finished:
            self._open_runs.planner.ended(answer)
            if answer.outputs:
                return FinishedRun(self._detected(run), answer)
            if answer.status == "failed":
                return FinishedRun(run, answer)
            message = "FLORA says that it completed, but lists no outputs"
            return self._after_error(run, TransientError(message, ErrorCode.NO_OUTPUTS))
        patience = self._options.give_up_after
        if run.waited > patience:
            failure = RunFailure(
                ErrorCode.GAVE_UP,
                f"FLORA did not finish it within {patience:.0f} s (poll.give_up_after); it was "
                f"{answer.status[:40]!a} at {answer.progress:.0f} %",
            )
            return FinishedRun(run, answer, failure)
        seconds, put_back = self._open_runs.planner.goes_on(run, answer)
        run = replace(run, state=RunState.RUNNING, waited=run.waited + put_back + seconds)
        run = replace(run, tries=0, progress=answer.progress, error=None)
        return RetryIn(run, seconds, shared=answer.batch_size > 1)

    def _detected(self, run: QueuedRun) -> QueuedRun:
        """Return the run as it is recorded once it was found to have ended at FLORA."""
        if run.detected_at is not None:
            return run
        run = replace(run, state=RunState.RUNNING, detected_at=self._open_runs.clocks.wall())
        return replace(run, waited=0.0, tries=0, progress=100.0, error=None)

    def _after_error(self, run: QueuedRun, error: Exception) -> _Polled:
        outcome = outcome_of(run, error, self._options.give_up_after)
        missing = isinstance(error, TransientError) and error.code is ErrorCode.NOT_FOUND
        if missing and isinstance(outcome, RetryIn) and outcome.run.tries > self._options.missing_tries:
            outcome = Failed(RunFailure(ErrorCode.NOT_FOUND, str(error)))
        return FinishedRun(run, failure=outcome.failure) if isinstance(outcome, Failed) else outcome

    async def _settle(self, polled: Sequence[tuple[QueuedRun, _Polled]]) -> None:
        """Record what became of runs, then make them due again or hand them on."""
        changed = [each.run for run, each in polled if not isinstance(each, Halted) and each.run != run]
        detected = {
            run.run_id: (each.run, answer)
            for run, each in polled
            if isinstance(each, FinishedRun) and (answer := _detection(run, each)) is not None
        }
        durations = {
            run_id: self._open_runs.planner.learn_duration(run, answer)
            for run_id, (run, answer) in detected.items()
        }
        try:
            await self._open_runs.record((run, durations.get(run.run_id)) for run in changed)
        except Exception as error:  # noqa: BLE001 - none of them may be lost
            polled, detected = [(run, self._after_error(run, error)) for run, _ in polled], {}
        for run, answer in detected.values():
            self._open_runs.reports.detected(run, answer)
        for run, outcome in polled:
            self._apply(run, outcome)

    def _apply(self, run: QueuedRun, outcome: _Polled) -> None:
        # A run that is polled again has its sidecar read at its end: another process may have written it.
        earlier = self._done.take_earlier(run.run_id)
        match outcome:
            case RetryIn():
                self._open_runs.postpone(outcome)
            case Halted():
                self._open_runs.halt(outcome, run)
            case FinishedRun():
                self._open_runs.forwarded(outcome.run)
                self._next_stage.offer(replace(outcome, earlier=earlier))


def _detection(run: QueuedRun, outcome: FinishedRun) -> RemoteRun | None:
    """Return the answer by which a run was first found to have ended, if this is it."""
    if run.detected_at is None and outcome.run.detected_at is not None:
        return outcome.answer
    return None
