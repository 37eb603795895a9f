"""What the account's history lists: pages down to a moment, and how the runs on them are called.

Source: FLORA's OpenAPI document 1.6.0 (`GET /technique-runs`, `GET /generations`: newest first, all
statuses, `meta.next_cursor`; `created_at` without a unit). How long a cursor holds, and whether pages shift
while new runs come, is not published: so a page may repeat what the last one had, and may lead in a circle.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping
from typing import Protocol

import anyio
import msgspec

from floradl.errors import ErrorCode, PassingError
from floradl.flora.wire import Page, belongings
from floradl.models import Reference, RemoteRun
from floradl.timing.policy import MAX_BACKOFF, backoff

KINDS = ("technique_runs", "generations")
OVERLAP = 3600.0
"""Seconds before the mark that are looked at again: a run may be listed later than it was created."""

_TRIES = 5  # of one page: a backlog of many pages is not begun anew for each small trouble
_BARREN = 3  # pages in a row without a run that was not listed yet: this leads in a circle


class Lists(Protocol):
    """What is needed of the API."""

    async def page(self, kind: str, cursor: str | None = None) -> Page:
        """Ask for a page of the newest runs."""
        ...


class Techniques(Protocol):
    """Who knows techniques by their slugs."""

    async def technique_id(self, name: str) -> str:
        """Ask for the `tech_…` id of a technique."""
        ...


async def pages(lists: Lists, kind: str) -> AsyncGenerator[Page, None]:
    """Give the pages of a list, newest first, each run once, until it ends or leads in a circle.

    Small trouble is waited out. Raises as `Flora.page` does.
    """
    cursor: str | None = None
    cursors: set[str] = set()
    seen: set[str] = set()
    barren = 0
    while barren < _BARREN:
        page = await _patiently(lists, kind, cursor)
        runs = tuple({run.run_id: run for run in page.runs if run.run_id not in seen}.values())
        seen.update(run.run_id for run in runs)
        barren = 0 if runs else barren + 1
        yield Page(runs, page.cursor)
        cursor = page.cursor
        if cursor is None or cursor in cursors:
            return
        cursors.add(cursor)


async def _patiently(lists: Lists, kind: str, cursor: str | None) -> Page:
    for tries in itertools.count(1):
        try:
            return await lists.page(kind, cursor)
        except PassingError as error:
            if tries == _TRIES or error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}:
                raise
            await anyio.sleep(max(error.retry_after or 0.0, backoff(tries, MAX_BACKOFF)))
    raise AssertionError


class Reach:
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
    def of(cls, page: Page, mark: float | None, since: float, now: float) -> Reach:
        """Return it for the list that begins with `page`.

        `mark` is the newest that was seen before (0 where nothing had a time, None where nobody looked), and
        `since` how many seconds back the first look goes. `now` is our clock: the server may tell none.
        """
        now = server_now(page, now)
        return cls(mark - OVERLAP if mark else now - since, first=mark is None)

    def take(self, page: Page) -> list[RemoteRun]:
        """Return the runs of the next page that are not too old."""
        kept = []
        for run in page.runs:
            if run.created_at is not None:
                self._last = run.created_at
                self.newest = max(self.newest, run.created_at)
            if self._last is None or self._last >= self.floor:
                kept.append(run)
        return kept

    def goes_on(self, page: Page, *, news: bool) -> bool:
        """Whether the page after this one may hold more; `news` is whether this one held anything new."""
        times = [run.created_at for run in page.runs if run.created_at is not None]
        if times:
            return max(times) >= self.floor
        if self._last is not None or not page.runs:
            return True
        return news and not self._first


def server_now(page: Page, now: float) -> float:
    """Return what time it is at the server (unix seconds), by its own answer; `now` where that is silent."""
    told = (run.created_at + run.age for run in page.runs if run.created_at is not None and run.age)
    return next(told, now)


def workspace_of(page: Page) -> str:
    """Return the workspace that a list is of; empty where that is not told."""
    return next((found.workspace_id for run in page.runs if (found := belongings(run)).workspace_id), "")


class Wanted(msgspec.Struct, frozen=True):
    """Which runs are wanted: all, or those of some projects and techniques.

    `techniques` leads from `tech_…` ids to the names that their runs go by.
    """

    projects: frozenset[str] = frozenset()
    techniques: Mapping[str, str] | None = None

    def references(self, kind: str, runs: Iterable[RemoteRun]) -> Iterator[tuple[RemoteRun, Reference]]:
        """Give those that are wanted, with their names; what is no run id is left out."""
        for run in runs:
            of = belongings(run)
            if self.projects and of.project_id not in self.projects:
                continue
            if kind == KINDS[0] and self.techniques is not None and of.technique_id not in self.techniques:
                continue
            name = (self.techniques or {}).get(of.technique_id or "")
            reference = _reference(run, name, of.technique_id if kind == KINDS[0] else None)
            if reference is not None:
                yield run, reference


async def wanted(api: Techniques, projects: Iterable[str], techniques: Iterable[str]) -> Wanted:
    """Look up which techniques are meant. Raises as `Flora.technique_id` does."""
    names = {name if name.startswith("tech_") else await api.technique_id(name): name for name in techniques}
    return Wanted(frozenset(projects), names or None)


def _reference(run: RemoteRun, name: str | None, technique_id: str | None) -> Reference | None:
    """Return what a run is called: as the user calls its technique, or as its `poll_url` does, or by id."""
    names = [each for each in (name, _polled(run), technique_id) if each is not None]
    for technique in (*names, None):
        try:
            return Reference.of(run.run_id, technique)
        except ValueError:
            continue
    return None


def _polled(run: RemoteRun) -> str | None:
    try:
        reference = Reference.parse(run.poll_url or "")
    except ValueError:
        return None
    return reference.technique if reference.run_id == run.run_id else None
