"""Queues what the account's history lists, so that runs that were started anywhere are downloaded."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping
from typing import Protocol

import anyio
import msgspec

from floradl.errors import ErrorCode, FloradlError, ServicePausedError, TransientError
from floradl.flora.schema import KINDS, RunPage, polled_technique, run_owner
from floradl.log import get_logger
from floradl.models import Reference, RemoteRun, RunRequest
from floradl.polling.poller import Poller
from floradl.queue.base import RunQueue
from floradl.retry import MAX_BACKOFF, backoff
from floradl.runs.scheduler import Scheduler
from floradl.sources.intake import full
from floradl.wakeups import until_tick

OVERLAP = 3600.0
"""Seconds before the mark that are looked at again: a run may be listed later than it was created."""

_TRIES = 5  # of one page: a backlog of many pages is not begun anew for one error
_BARREN = 3  # pages in a row without a run that was not listed yet: this leads in a circle
_MOST_SEEN = 20_000  # runs whose outputs are remembered, as the lists last showed them
_ROOM_AGAIN = 0.9  # of the runs that may be open: below it lists that were left for want of room are read on
_FORBIDDEN_FOR = 600.0  # seconds after which lists that the key may not read are tried again
_log = get_logger()


class RunLists(Protocol):
    """Gives pages of lists."""

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        """Return a page of the newest runs."""


class TechniqueIds(Protocol):
    """Looks up techniques."""

    async def technique_id(self, name: str) -> str:
        """Return the `tech_…` id of a technique."""


async def pages(lists: RunLists, kind: str) -> AsyncGenerator[RunPage, None]:
    """Yield a list's pages, newest first, each run once. Raises as `FloraClient.page` after some tries."""
    cursor: str | None = None
    cursors: set[str] = set()
    seen: set[str] = set()
    barren = 0
    while barren < _BARREN:
        page = await _page(lists, kind, cursor)
        runs = tuple({run.run_id: run for run in page.runs if run.run_id not in seen}.values())
        seen.update(run.run_id for run in runs)
        barren = 0 if runs else barren + 1
        yield RunPage(runs, page.cursor)
        cursor = page.cursor
        if cursor is None or cursor in cursors:
            return
        cursors.add(cursor)


async def _page(lists: RunLists, kind: str, cursor: str | None) -> RunPage:
    for tries in itertools.count(1):
        try:
            return await lists.page(kind, cursor)
        except TransientError as error:
            if tries == _TRIES or error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}:
                raise
            await anyio.sleep(max(error.retry_after or 0.0, backoff(tries, MAX_BACKOFF)))
    raise AssertionError


class HistoryRange:
    """Down to which moment one list is read. Times are unix seconds of the server's clock.

    A run without a time counts as old as the last one before it that has one. Of a list that has no times
    at all, only the first page is taken the first time, and later what is new.
    """

    def __init__(self, floor: float, *, first: bool) -> None:
        self.floor = floor
        self.newest = 0.0
        self._first = first
        self._last: float | None = None

    @classmethod
    def of(cls, page: RunPage, mark: float | None, since: float, now: float) -> HistoryRange:
        """Return the range of the list that begins with `page`.

        `mark` is the newest time seen before (0 where nothing had one, None where nobody looked), `since` how
        many seconds back the first look goes. `now` is our clock, for a server that shows none.
        """
        now = server_now(page, now)
        return cls(mark - OVERLAP if mark else now - since, first=mark is None)

    def take(self, page: RunPage) -> list[RemoteRun]:
        """Return the runs of the next page that are not too old."""
        kept = []
        for run in page.runs:
            if run.created_at is not None:
                self._last = run.created_at
                self.newest = max(self.newest, run.created_at)
            if self._last is None or self._last >= self.floor:
                kept.append(run)
        return kept

    def goes_on(self, page: RunPage, *, news: bool) -> bool:
        """Whether the page after this one may hold more; `news` is whether this one held anything new."""
        times = [run.created_at for run in page.runs if run.created_at is not None]
        if times:
            return max(times) >= self.floor
        if self._last is not None or not page.runs:
            return True
        return news and not self._first


def server_now(page: RunPage, now: float) -> float:
    """Return the server's time (unix seconds) by its own answer; `now` where that shows none."""
    shown = (run.created_at + run.age for run in page.runs if run.created_at is not None and run.age)
    return next(shown, now)


def workspace_of(page: RunPage) -> str:
    """Return the workspace of a list; empty where that is unknown."""
    return next((found.workspace_id for run in page.runs if (found := run_owner(run)).workspace_id), "")


class RunFilter(msgspec.Struct, frozen=True):
    """Which runs are wanted: all, or those of some projects and techniques (`tech_…` id -> name to use)."""

    projects: frozenset[str] = frozenset()
    techniques: Mapping[str, str] | None = None

    def references(self, kind: str, runs: Iterable[RemoteRun]) -> Iterator[tuple[RemoteRun, Reference]]:
        """Yield those that are wanted, with their names; what is not a run id is left out."""
        for run in runs:
            of = run_owner(run)
            if self.projects and of.project_id not in self.projects:
                continue
            if kind == KINDS[0] and self.techniques is not None and of.technique_id not in self.techniques:
                continue
            name = (self.techniques or {}).get(of.technique_id or "")
            reference = _reference(run, name, of.technique_id if kind == KINDS[0] else None)
            if reference is not None:
                yield run, reference


async def wanted(api: TechniqueIds, projects: Iterable[str], techniques: Iterable[str]) -> RunFilter:
    """Look up which techniques are meant. Raises as `FloraClient.technique_id` does."""
    names = {name if name.startswith("tech_") else await api.technique_id(name): name for name in techniques}
    return RunFilter(frozenset(projects), names or None)


def _reference(run: RemoteRun, name: str | None, technique_id: str | None) -> Reference | None:
    """Name a run: as the user calls its technique, as its `poll_url` does, or by id."""
    names = [each for each in (name, polled_technique(run), technique_id) if each is not None]
    for technique in (*names, None):
        try:
            return Reference.of(run.run_id, technique)
        except ValueError:
            continue
    return None


class HistoryOptions(msgspec.Struct, frozen=True):
    """What is synced, from `since` seconds back, each `interval` seconds, up to `max_open` open runs."""

    kinds: tuple[str, ...]
    projects: tuple[str, ...]
    techniques: tuple[str, ...]
    since: float
    interval: float
    max_open: int


class _FullError(TransientError):
    """As many runs are open as may be."""


class HistorySync:
    """Reads the lists, and queues what is new; safe to repeat. `wall` gives unix seconds."""

    def __init__(
        self,
        options: HistoryOptions,
        techniques: TechniqueIds,
        poller: Poller,
        queue: RunQueue,
        scheduler: Scheduler,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._techniques = techniques
        self._poller = poller
        self._queue = queue
        self._scheduler = scheduler
        self._wall = wall
        self._wanted: RunFilter | None = None
        self._unsure: set[str] = set()
        self._seen: dict[str, frozenset[str]] = {}  # the outputs that were compared with the sidecar
        self._full = False
        self._hurried = anyio.Event()
        self._met: object = None
        self.trouble: str | None = None
        """Why the lists cannot be read now; None while they can."""

    async def serve(self) -> None:
        """Read the lists for ever."""
        while True:
            met = await self.look()
            self._hurried = anyio.Event()
            delay = until_tick(time.monotonic(), self._options.interval)
            if isinstance(met, TransientError) and met.code is ErrorCode.FORBIDDEN:
                delay = max(delay, _FORBIDDEN_FOR)
            with anyio.move_on_after(delay):
                await self._hurried.wait()

    def hurry(self) -> None:
        """Read them at once: something outside was fixed."""
        self._hurried.set()

    async def look(self) -> FloradlError | None:
        """Queue what is new in all lists; return what prevented it. A refused key pauses everything."""
        options = self._options
        try:
            if self._full and self._scheduler.open_runs > options.max_open * _ROOM_AGAIN:
                raise self._no_room()  # not each run that ends is worth reading the lists anew
            self._full = False
            if self._wanted is None:
                self._wanted = await wanted(self._techniques, options.projects, options.techniques)
            for kind in options.kinds:
                await self._read(kind, self._wanted)
        except FloradlError as error:
            self._note(error)
            return error
        self._note(None)
        return None

    async def _read(self, kind: str, wants: RunFilter) -> None:
        reach: HistoryRange | None = None
        mark, workspace, now = None, "", self._wall()
        first, below = True, False
        async for page in pages(self._poller, kind):
            if reach is None:
                workspace, now = workspace_of(page), server_now(page, now)
                mark = await self._queue.sync_mark(kind, workspace)
                reach = HistoryRange.of(page, mark, self._options.since, now)
            news = await self._submit(kind, list(wants.references(kind, reach.take(page))))
            below, first = below or (news and not first), False
            if not reach.goes_on(page, news=news):
                break
        if below and kind not in self._unsure:
            # Pages may shift while they are read, and hide a run: what was new below the first is read twice.
            self._unsure.add(kind)
            return
        self._unsure.discard(kind)
        # A time that lies ahead is none: it would hide all that comes.
        newest = max(mark or 0.0, min(reach.newest, now) if reach else 0.0)
        if newest != mark:
            await self._queue.set_sync_mark(kind, workspace, newest)

    async def _submit(self, kind: str, found: list[tuple[RemoteRun, Reference]]) -> bool:
        """Record what is new; return whether anything was. What the list shows counts as an answer."""
        orders = [RunRequest(reference) for _, reference in found]
        room = self._scheduler.open_runs < self._options.max_open
        if not room and any(await self._queue.count_new([orders], retry_failed=False)):
            # How far the list was read is not recorded, so that nothing is passed over.
            self._full = True
            raise self._no_room()
        if touched := set(await self._queue.submit(orders, self._wall(), retry_failed=False)):
            await self._poller.add_answered(run for run, _ in found if run.run_id in touched)
            _log.info("history_queued", kind=kind, runs=len(touched))
        await self._reopen([(run, reference) for run, reference in found if run.run_id not in touched])
        return bool(touched)

    async def _reopen(self, found: list[tuple[RemoteRun, Reference]]) -> None:
        """Reopen runs that ended here, and have outputs by now that their sidecars do not name."""
        lacking: dict[str, RemoteRun] = {}
        for run, reference in found:
            outputs = frozenset(output.key for output in run.outputs)
            if not run.finished or not outputs or self._seen.get(run.run_id) == outputs:
                continue
            if await self._scheduler.lacks(reference, outputs):
                lacking[run.run_id] = run
            self._seen.pop(run.run_id, None)
            self._seen[run.run_id] = outputs
            if len(self._seen) > _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
        if not lacking:
            return
        again = await self._queue.reopen(lacking, self._wall())
        await self._poller.add_answered(lacking[run_id] for run_id in again)
        for run_id in again:
            _log.info("outputs_added", run=run_id, outputs=len(lacking[run_id].outputs))

    def _no_room(self) -> _FullError:
        return _FullError(full(self._scheduler.open_runs, self._options.max_open), ErrorCode.STORAGE)

    def _note(self, error: FloradlError | None) -> None:
        """Log once that the lists cannot be read, and once that they can again."""
        met = (type(error), getattr(error, "code", None)) if error is not None else None
        if isinstance(error, ServicePausedError):
            self._scheduler.hold(error)
        elif error is not None and met != self._met:
            _log.warning("sync_trouble", message=str(error))
        elif error is None:
            self._scheduler.lift()
            if self._met is not None:
                _log.info("sync_again")
        self._met = met
        reading = "is not read on" if isinstance(error, _FullError) else "cannot be read"
        self.trouble = None if error is None else f"the account's history {reading}: {error}"
