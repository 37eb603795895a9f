"""Completes what was recorded of ended runs by what is known only later; the files stay where they are.

A reference that names more of a run than the first one did, the cost, which FLORA may settle an hour after
the end, and the names of techniques. Costs are looked up in lists, a hundred runs to a request, and never one
by one. Where nothing is due nothing is requested, and no download waits for any of this.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial

import anyio
from anyio import to_thread
from msgspec import Struct
from msgspec.structs import replace

from floradl.clock import Clocks, unix_seconds
from floradl.errors import ErrorCode, FloradlError, PermanentError, TransientError
from floradl.flora.client import FloraClient
from floradl.flora.schema import KINDS
from floradl.flora.technique_names import TechniqueNames
from floradl.library.base import LibraryStore
from floradl.library.sidecar import completed
from floradl.log import get_logger
from floradl.models import QueuedRun, RemoteRun, RunNames, RunState
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.list_pages import is_refusal
from floradl.polling.poller import Poller
from floradl.queue.base import LateCost, RunQueue

LOOKS = (60.0, 300.0, 3600.0)
"""Seconds after a run's end at which a missing cost is looked for."""

_AT_ONCE = 100  # sidecars
_MOST_DUE = 100_000  # costs looked for together
_BETWEEN_LOOKS = 30.0  # seconds: runs that end one by one share a request
_PAGES_AT_ONCE, _BETWEEN_PAGES = 5, 1.0  # pages, and seconds between the further ones
_MOST_MISSED = 5  # pages in a row that show none of those looked for, and one more for each hundred
_RUNS_END = 1.0  # seconds in which many runs may end
_CLOCKS_APART = 60.0  # seconds
_AFTER_TROUBLE = 60.0  # seconds
_BETWEEN_NAMES = 1.0  # seconds between requests for techniques
_log = get_logger()


def late_cost(run: QueuedRun, answer: RemoteRun | None, now: float) -> LateCost | None:
    """Return when the cost of a run that ended now (unix seconds) is looked for; None where it is known."""
    if answer is None or not answer.finished or answer.charged_cost is not None:
        return None
    return LateCost(run.run_id, now + LOOKS[0], 0, answer.created_at)


def next_look(late: LateCost, now: float) -> LateCost | None:
    """Return when a cost that was not known now (unix seconds) is looked for again; None where it is not."""
    ended = late.look_at - LOOKS[late.looks]
    later = ((place, ended + after) for place, after in enumerate(LOOKS) if place > late.looks)
    return next((LateCost(late.run_id, at, place, late.created_at) for place, at in later if at > now), None)


def complete_sidecar(
    library: LibraryStore, run: QueuedRun, answer: RemoteRun | None = None, *, keep_times: bool = True
) -> None:
    """Complete the sidecar of an ended run by its row and a later answer. Blocking. Raises as `Library`."""
    sidecar = library.find_sidecar(run.reference)
    if sidecar is None:
        return
    more = completed(sidecar, run, answer)
    if more != sidecar:
        mtime = unix_seconds(sidecar.times.completed_at) if keep_times else None
        library.write_sidecar(more, mtime, replacing=sidecar)


class BackfillOptions(Struct, frozen=True):
    """`keep_times`: a sidecar gets the time of its run, else the moment when it is written.

    `charge` hears what each run cost (USD) as soon as that is known.
    """

    keep_times: bool = True
    clocks: Clocks = Clocks()
    charge: Callable[[float], None] = lambda _cost: None


class Backfill:
    """Completes sidecars by their rows, and looks for late costs. `names` are of the techniques."""

    def __init__(
        self,
        poller: Poller,
        breaker: CircuitBreaker,
        queue: RunQueue,
        library: LibraryStore,
        names: TechniqueNames,
        options: BackfillOptions,
    ) -> None:
        self._poller = poller
        self._breaker = breaker
        self._queue = queue
        self._library = library
        self._names = names
        self._options = options
        self._looked_at = -math.inf

    async def serve(self) -> None:
        """Do it for ever, at its time."""
        async with anyio.create_task_group() as group:
            group.start_soon(_for_ever, self._complete_when_incomplete)
            group.start_soon(_for_ever, self._look_when_due)

    async def catch_up(self, *, looks: bool = True) -> None:
        """Do what is due now, once; with `looks` also what needs requests."""
        while await self._complete():
            pass
        if looks and self._breaker.now is None:
            await self._look()

    async def _complete_when_incomplete(self) -> None:
        changed = self._queue.incomplete.next()
        if not await self._complete():
            await changed.wait()

    async def _complete(self) -> bool:
        """Complete some sidecars; return whether there were any. Raises where some could not be."""
        run_ids = await self._queue.incomplete_ids(_AT_ONCE)
        if not run_ids:
            return False
        errors = await self._write([(run_id, None) for run_id in run_ids])
        await self._queue.note_complete(run_id for run_id in run_ids if run_id not in errors)
        if errors:
            raise next(iter(errors.values()))
        return True

    async def _write(self, found: Sequence[tuple[str, RemoteRun | None]]) -> dict[str, Exception]:
        """Complete the sidecars of runs, by later answers where there are any; return what failed."""
        works: dict[str, Callable[[], None]] = {}
        for run_id, answer in found:
            run = await self._queue.get(run_id)
            # One that is open again gets a new sidecar at its end.
            if run is not None and not run.state.open and run.state is not RunState.FORGOTTEN:
                named = replace(run, names=self._names.of_run(run))
                works[run_id] = partial(
                    complete_sidecar, self._library, named, answer, keep_times=self._options.keep_times
                )
        results = await to_thread.run_sync(self._library.together, list(works.values())) if works else []
        errors = {
            run_id: result
            for run_id, result in zip(works, results, strict=True)
            if isinstance(result, Exception) and not isinstance(result, PermanentError)
        }
        if works:
            _log.debug("sidecars_completed", runs=len(works) - len(errors))
        return errors

    # Late costs

    async def _look_when_due(self) -> None:
        clocks, changed = self._options.clocks, self._queue.incomplete.next()
        due = await self._queue.next_late_cost()
        if due is None:
            await changed.wait()
            return
        gathered = self._looked_at + _BETWEEN_LOOKS - clocks.monotonic()
        delay = max(due - clocks.wall(), gathered)
        if delay > 0:
            await anyio.sleep(min(delay, _RUNS_END))
            with anyio.move_on_after(delay - _RUNS_END):
                await changed.wait()
        else:
            await self._breaker.passes()
            await self._look()

    async def _look(self) -> None:
        """Look for the costs that are due, and record what came of it."""
        clocks = self._options.clocks
        late = {each.run_id: each for each in await self._queue.late_costs(clocks.wall(), _MOST_DUE)}
        if not late:
            return
        self._looked_at = clocks.monotonic()
        left, settled = set(late), set[str]()
        try:
            for kind in KINDS:
                if left and (kind == KINDS[0] or await self._may_be_generations(left)):
                    async for answers in self._listed(kind, late, left):
                        errors = await self._write([(answer.run_id, answer) for answer in answers])
                        for answer in answers:
                            cost = answer.charged_cost
                            if cost is not None and answer.run_id not in (*errors, *settled):
                                settled.add(answer.run_id)
                                self._options.charge(cost)
        except FloradlError:
            await self._queue.put_late_costs((), settled)
            raise
        again = [next_look(each, clocks.wall()) for run_id, each in late.items() if run_id not in settled]
        going_on = {each.run_id: each for each in again if each is not None}
        await self._queue.put_late_costs(going_on.values(), late.keys() - going_on.keys())
        _log.info("costs_looked_for", runs=len(late), found=len(settled))

    async def _may_be_generations(self, run_ids: Collection[str]) -> bool:
        """Whether one of these may be in the list of generations: they have no technique."""
        for run_id in run_ids:
            run = await self._queue.get(run_id)
            if run is not None and run.technique is None:
                return True
        return False

    async def _listed(
        self, kind: str, late: Mapping[str, LateCost], left: set[str]
    ) -> AsyncGenerator[list[RemoteRun], None]:
        """Yield, page by page, what a list shows of the runs that are `left`, and take them out of these.

        It is read from the newest run on as far as they may be. Raises `FloradlError`, but for a list that is
        refused: that shows none.
        """
        floor = min((late[run_id].created_at or math.inf) for run_id in left) - _CLOCKS_APART
        most_missed = _MOST_MISSED + len(left) // _AT_ONCE
        cursor: str | None = None
        missed, number = 0, 0
        while left and missed < most_missed:
            if number >= _PAGES_AT_ONCE:
                await anyio.sleep(_BETWEEN_PAGES)
            number += 1
            try:
                page = await self._poller.page(kind, cursor)
            except FloradlError as error:
                if not is_refusal(error):
                    raise
                return
            shown = {run.run_id: run for run in page.runs if run.finished and run.run_id in left}
            left -= shown.keys()
            missed = 0 if shown else missed + 1
            if shown:
                yield list(shown.values())
            times = [run.created_at for run in page.runs if run.created_at is not None]
            cursor = page.cursor
            if cursor is None or (times and min(times) < floor):
                return


class TechniqueLookup:
    """Asks for the names of techniques that no list has shown, one by one; keeps them in the queue."""

    def __init__(
        self, flora: FloraClient, names: TechniqueNames, breaker: CircuitBreaker, queue: RunQueue
    ) -> None:
        self._flora = flora
        self._names = names
        self._breaker = breaker
        self._queue = queue

    async def serve(self) -> None:
        """Do it for ever."""
        await _for_ever(self._step)

    async def _step(self) -> None:
        changed = self._names.changed.next()
        if unsaved := self._names.take_unsaved():
            await self._queue.put_technique_names(unsaved)
            await self._queue.note_incomplete(self._names.take_unnamed(unsaved))
        technique = self._names.next_wanted()
        if technique is None:
            await changed.wait()
            return
        await self._breaker.passes()
        try:
            found = await self._flora.technique(technique)
        except PermanentError:
            found = RunNames()
        except TransientError as error:
            if error.code not in {ErrorCode.NOT_FOUND, ErrorCode.FORBIDDEN}:
                self._names.put_off(technique)
                raise
            found = RunNames()
        self._names.keep(technique, found)
        if self._names.next_wanted() is not None:
            await anyio.sleep(_BETWEEN_NAMES)


async def _for_ever(step: Callable[[], Awaitable[None]]) -> None:
    """Take a step after another; where one fails, go on in a minute."""
    while True:
        try:
            await step()
        except FloradlError as error:
            _log.debug("backfill_postponed", message=str(error))
            await anyio.sleep(_AFTER_TROUBLE)
        except Exception:  # noqa: BLE001 - a bug of ours costs a name or a cost, and no run
            _log.exception("bug")
            await anyio.sleep(_AFTER_TROUBLE)
