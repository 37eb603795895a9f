"""Which pages of a list are worth a request. Decides only, and sends none.

A list starts with the newest run, and a run only ever moves down in it. So the last pages say about where a
run will be found next, and a run that they did not show is not looked for there again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol, TypeAlias

from msgspec import Struct

from floradl.errors import ErrorCode, FloradlError, PermanentError, TransientError

_WORTH_A_PAGE = 3  # runs; for fewer, single requests cost FLORA less
_A_BACKLOG = 10  # runs not due of which a page has news; then more are further down
_BLIND = 32  # runs not found yet, for each page in a row that shows none of them
_MOST_PAGES = 100
_MOST_BELOW = 10_000  # runs remembered to be further down
_FAILED_FOR = 30.0  # seconds without requests for a list that failed
_REFUSED_FOR = 600.0  # the same for one that is forbidden
_ONWARD_FOR = 600.0  # seconds for which a cursor is used again

Place: TypeAlias = tuple[int, str | None]
"""The number of a page, from 0 on, and the cursor that opens it."""


def is_refusal(error: FloradlError) -> bool:
    """Whether a list is refused, so that it is of no use to request it again soon."""
    return isinstance(error, PermanentError) or (
        isinstance(error, TransientError) and error.code in {ErrorCode.FORBIDDEN, ErrorCode.NOT_FOUND}
    )


class Runs(Protocol):
    """Some runs, by their ids."""

    def __contains__(self, run_id: str, /) -> bool:
        """Whether a run is among them."""
        ...


class ListQuery(Struct, frozen=True):
    """`due` are the runs that are looked for and not found yet; `waiting` are others of ours.

    `standing`: some have stood in line since the last tick, so others may be due that are not among them.
    """

    due: Collection[str]
    waiting: Runs
    standing: bool = False

    def __contains__(self, run_id: str) -> bool:
        return run_id in self.due or run_id in self.waiting


class PageSummary(Struct, frozen=True):
    """What a page showed: runs that go on, how many were due, how many others of ours have news.

    `cursor` opens the next page.
    """

    open: frozenset[str]
    found: int
    news: int
    cursor: str | None


class ListPlan:
    """What is known of one list, and which of its pages is read next. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._not_before = 0.0
        self._pages: list[frozenset[str]] = []  # the runs that went on, as last shown
        self._below: dict[str, None] = {}  # not found: further down, if anywhere
        self._onward: tuple[float, Place] | None = None  # where reading stopped although it paid, until when
        self._vain = 0  # pages in a row that were of no use

    def begin(self, sought: ListQuery) -> Place | None:
        """Return the page to begin with; None where single requests are better."""
        self._vain = 0
        if self._monotonic() < self._not_before or not self._known_to_pay(0, sought):
            return None
        return 0, None

    def turn(self, place: Place, shown: PageSummary, sought: ListQuery, *, room: bool) -> Place | None:
        """Record what a page showed; return the next one that pays, or None.

        Where there is no `room` for more answers, reading goes on there later.
        """
        number = place[0]
        self._pages += [frozenset()] * (number + 1 - len(self._pages))
        self._pages[number] = shown.open
        for run_id in shown.open & self._below.keys():
            del self._below[run_id]
        self._vain = 0 if shown.found + shown.news else self._vain + 1
        if shown.cursor is None:
            self._onward = None
            return None
        further = (number + 1, shown.cursor)
        if number + 1 >= _MOST_PAGES:
            return None
        if not room and shown.news >= _WORTH_A_PAGE:
            self._onward = (self._monotonic() + _ONWARD_FOR, further)
            return None
        if self._known_to_pay(number + 1, sought) or self._hoped_to_pay(shown, sought):
            return further
        if not room and shown.found:
            self._onward = (self._monotonic() + _ONWARD_FOR, place)
            return None
        return self._left_off(further, sought)

    def end(self, missing: Collection[str]) -> None:
        """Record which runs were not found: they are not looked for there again."""
        if self._onward is not None:
            return  # it was not read to its end
        for run_id in missing:
            self._below[run_id] = None
        while len(self._below) > _MOST_BELOW:
            del self._below[next(iter(self._below))]

    def failed(self, error: FloradlError) -> None:
        """Record that the list is unavailable."""
        self._not_before = self._monotonic() + (_REFUSED_FOR if is_refusal(error) else _FAILED_FOR)

    def lost(self) -> None:
        """Record that a cursor is not valid any more."""
        self._onward = None

    def _new(self, sought: ListQuery) -> int:
        left = set(sought.due) - self._below.keys()
        for page in self._pages:
            if not left:
                break
            left = left - page  # in place it would go through the whole page
        return len(left)

    def _known_to_pay(self, number: int, sought: ListQuery) -> bool:
        """Whether page `number`, or those from there to one with a due run, show enough of ours."""
        new = self._new(sought) if number == 0 else 0  # likely on the newest page
        ours, due = new, new > 0 or (number == 0 and sought.standing)
        if ours >= _WORTH_A_PAGE:
            return True
        further = self._pages[number:]
        if not due and all(page.isdisjoint(sought.due) for page in further):
            return False  # to count the others would cost more than all the rest, with thousands of runs
        for pages, page in enumerate(further, 1):
            ours += sum(run_id in sought for run_id in page)
            due = due or not page.isdisjoint(sought.due)
            if due and ours >= _WORTH_A_PAGE * pages:
                return True
        return False

    def _hoped_to_pay(self, shown: PageSummary, sought: ListQuery) -> bool:
        """Whether the next page is likely to show as many of ours as this one did, or as there must be."""
        missing = sum(run_id not in self._below for run_id in sought.due)
        if self._vain:
            return missing >= _BLIND * self._vain
        return missing >= _WORTH_A_PAGE or shown.news >= _A_BACKLOG

    def _left_off(self, further: Place, sought: ListQuery) -> Place | None:
        """Return where reading stopped earlier, if that is further on and pays."""
        if self._onward is None or len(sought.due) < _WORTH_A_PAGE:
            return None
        until, onward = self._onward
        self._onward = None
        return onward if self._monotonic() < until and onward[0] >= further[0] else None
