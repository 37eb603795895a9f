"""What of a library a search shows: outputs page by page, how they are laid out, what narrows it further."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from msgspec import Struct

from floradl.index.search_words import match_query
from floradl.index.tables import IndexFile

_MOST_VALUES: Final = 200
_KEPT: Final = 48  # answers
_FILTERS: Final = ("kind", "technique", "project", "label")
_CURSOR: Final = re.compile(r"([0-9]{1,8})\.(-?[0-9]{1,17})\.([0-9]{1,17})")
_ORDER: Final = "day DESC, at DESC, id DESC"
_FEW: Final = 10_000  # runs that a search found: up to there their outputs are looked up one by one
_COLUMNS: Final = (
    "runs.run_id, o.nth, o.output_id, "
    "(SELECT name FROM names WHERE id = runs.technique), "
    "(SELECT name FROM names WHERE id = runs.technique_name), "
    "(SELECT name FROM names WHERE id = runs.label), (SELECT name FROM names WHERE id = runs.project), "
    "names.name, o.path, o.bytes, o.sha256, o.content_type, "
    "o.width, o.height, o.completed_at, o.text, o.day, o.at, o.id"
)
"""Those of `ShownOutput`, and what the next page begins after."""
_JOINED: Final = "outputs o JOIN runs ON runs.id = o.run JOIN names ON names.id = o.kind"
_T = TypeVar("_T")


class View(Struct, frozen=True):
    """What to show: outputs of runs in which all words of `q` begin a word, of any of the values named.

    An empty filter means all. `since` is unix seconds.
    """

    q: str = ""
    kind: tuple[str, ...] = ()
    technique: tuple[str, ...] = ()
    project: tuple[str, ...] = ()
    label: tuple[str, ...] = ()
    since: float | None = None


class ShownOutput(Struct, frozen=True):
    """One output on disk, and what of its run stands beside it. Sizes are in pixels and bytes."""

    run_id: str
    nth: int
    output_id: str
    technique: str | None
    technique_name: str | None
    label: str | None
    project: str | None
    kind: str
    path: str
    bytes: int | None
    sha256: str | None
    content_type: str | None
    width: int | None
    height: int | None
    completed_at: str | None
    text: str | None


class Page(Struct, frozen=True):
    """Some outputs in their order; `cursor` leads to those that follow, None where none do."""

    outputs: list[ShownOutput]
    total: int
    cursor: str | None


class Day(Struct, frozen=True):
    """The outputs of a day (`2026-11-29`): how many, and 100 times width / height of each, with commas."""

    day: str
    count: int
    ratios: str


class Layout(Struct, frozen=True):
    """All that places the outputs of a view, and how many have which value, by filter."""

    total: int
    days: list[Day]
    facets: dict[str, list[tuple[str, int]]]


class Views:
    """Reads views from `file`. Blocking; any thread may use it. Raises as `IndexFile.reading`."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file
        self._kept: OrderedDict[tuple[object, ...], Any] = OrderedDict()
        self._kept_of = -1
        self._lock = threading.Lock()

    def page(self, view: View, limit: int, cursor: str | None = None) -> Page:
        """Return up to `limit` outputs, the newest first.

        `cursor` is that of an earlier page, or `@N` for the N-th output on, from 0. Raises `ValueError` for
        anything else.
        """
        skip, after = _begin(cursor)
        with self._file.reading() as db:
            shown = _Shown(db, view, whole=False)
            total = self._remembered(("total", view), shown.count)
            rows = shown.rows(limit + 1, skip, after)
        last = ".".join(map(str, rows[limit - 1][-3:])) if len(rows) > limit else None
        return Page([ShownOutput(*row[:-3]) for row in rows[:limit]], total, last)

    def of_runs(self, run_ids: Sequence[str], most: int) -> list[ShownOutput]:
        """Return up to `most` outputs of these runs, run by run."""
        found: list[ShownOutput] = []
        query = f"SELECT {_COLUMNS} FROM {_JOINED} WHERE runs.run_id = ? ORDER BY o.nth"  # noqa: S608 - ours
        with self._file.reading() as db:
            for run_id in run_ids[:most]:
                found += [ShownOutput(*row[:-3]) for row in db.execute(query, (run_id,))]
        return found[:most]

    def layout(self, view: View) -> Layout:
        """Return how the outputs of a view are laid out, and what it could be narrowed to."""
        return self._remembered(("layout", view), lambda: self._layout(view))

    def _layout(self, view: View) -> Layout:
        with self._file.reading() as db:
            shown = _Shown(db, view, whole=True)
            days = shown.days()
            facets = {name: shown.facet(name) for name in _FILTERS}
        return Layout(sum(day.count for day in days), days, facets)

    def _remembered(self, key: tuple[object, ...], ask: Callable[[], _T]) -> _T:
        """Return the last answer to the same question, unless the index changed since."""
        version = self._file.version()
        with self._lock:
            if version != self._kept_of:
                self._kept.clear()
                self._kept_of = version
            if key in self._kept:
                self._kept.move_to_end(key)
                known: _T = self._kept[key]
                return known
        answer = ask()
        with self._lock:
            if version == self._kept_of:
                self._kept[key] = answer
                while len(self._kept) > _KEPT:
                    self._kept.popitem(last=False)
        return answer


class _Shown:
    """The outputs of a view, as they are while the connection reads; `whole`: most of them are looked at."""

    def __init__(self, db: sqlite3.Connection, view: View, *, whole: bool) -> None:
        self._db = db
        self._view = view
        self._table, self._order, self._hit = "outputs INDEXED BY outputs_in_order", _ORDER, ""
        if view.q.strip():
            self._search(match_query(view.q), whole=whole)

    def _search(self, query: str, *, whole: bool) -> None:
        """Keep in memory what matches: all else is asked of that. It ends with this reading."""
        hits = self._count("words WHERE said MATCH ?", query)
        if hits > _FEW and hits == self._count("runs"):
            return  # one letter, perhaps, which each of them has
        self._db.execute("CREATE TEMP TABLE hits (run INTEGER PRIMARY KEY)")
        self._db.execute("INSERT INTO hits SELECT rowid FROM words WHERE said MATCH ?", (query,))
        if hits > _FEW and not whole:
            self._hit = "run IN (SELECT run FROM hits)"
            return
        source = (
            "hits CROSS JOIN outputs INDEXED BY outputs_by_run ON outputs.run = hits.run"
            if hits <= _FEW
            else "outputs INDEXED BY outputs_in_order WHERE run IN (SELECT run FROM hits)"
        )
        columns = "id, day, at, ratio, kind, technique, project, label"
        self._db.execute(f"CREATE TEMP TABLE found (seq INTEGER PRIMARY KEY, {columns})")
        self._db.execute(f"INSERT INTO found SELECT NULL, {columns} FROM {source} ORDER BY {_ORDER}")  # noqa: S608
        self._table, self._order = "found", "seq"

    def _count(self, source: str, *values: str) -> int:
        found: tuple[int] = self._db.execute(f"SELECT count(*) FROM {source}", values).fetchone()  # noqa: S608
        return found[0]

    def count(self) -> int:
        """Count them."""
        where, values = self._where()
        found: tuple[int] = self._db.execute(f"SELECT count(*) FROM {self._table} {where}", values).fetchone()  # noqa: S608
        return found[0]

    def rows(self, most: int, skip: int, after: tuple[int, ...] | None) -> list[tuple[Any, ...]]:
        """Read up to `most` of them, `skip` from the first on, or those that follow `after`."""
        where, values = self._where(after=after)
        ids = f"SELECT id FROM {self._table} {where} ORDER BY {self._order} LIMIT ? OFFSET ?"  # noqa: S608
        order = "o.day DESC, o.at DESC, o.id DESC"
        query = f"SELECT {_COLUMNS} FROM {_JOINED} WHERE o.id IN ({ids}) ORDER BY {order}"  # noqa: S608
        return self._db.execute(query, (*values, most, skip)).fetchall()

    def days(self) -> list[Day]:
        """Lay them out."""
        where, values = self._where()
        inner = f"SELECT day, ratio FROM {self._table} {where} ORDER BY {self._order}"  # noqa: S608
        query = f"SELECT day, count(*), group_concat(ratio) FROM ({inner}) GROUP BY day ORDER BY day DESC"  # noqa: S608
        return [Day(_date(day), count, ratios) for day, count, ratios in self._db.execute(query, values)]

    def facet(self, name: str) -> list[tuple[str, int]]:
        """Count the values of one filter, among what all others let through."""
        where, values = self._where(without=name)
        where = f"{where} {'AND' if where else 'WHERE'} {name} IS NOT NULL"
        inner = (
            f"SELECT {name} AS value, count(*) AS n FROM {self._table} {where} "  # noqa: S608
            f"GROUP BY 1 ORDER BY 2 DESC LIMIT {_MOST_VALUES}"
        )
        query = (
            f"SELECT names.name, found.n FROM ({inner}) found JOIN names ON names.id = found.value "  # noqa: S608
            "ORDER BY found.n DESC, names.name"
        )
        return self._db.execute(query, values).fetchall()

    def _where(self, without: str = "", after: tuple[int, ...] | None = None) -> tuple[str, list[object]]:
        """Return the condition, and its values; `without` one filter."""
        where = [self._hit] if self._hit else []
        values: list[object] = []
        for name in _FILTERS:
            wanted = getattr(self._view, name)
            if wanted and name != without:
                marks = ",".join("?" * len(wanted))
                where.append(f"{name} IN (SELECT names.id FROM names WHERE names.name IN ({marks}))")  # noqa: S608
                values += wanted
        if self._view.since is not None:
            where.append("at >= ?")
            values.append(int(self._view.since * 1000))
        if after is not None:
            where.append("(day, at, id) < (?, ?, ?)")
            values += after
        return f"WHERE {' AND '.join(where)}" if where else "", values


def _begin(cursor: str | None) -> tuple[int, tuple[int, ...] | None]:
    """Return how many to skip, and after which to begin."""
    if cursor is None:
        return 0, None
    if cursor.startswith("@") and cursor[1:].isdecimal() and len(cursor) < 12:
        return int(cursor[1:]), None
    if (after := _CURSOR.fullmatch(cursor)) is not None:
        return 0, tuple(int(part) for part in after.groups())
    raise ValueError("the cursor is neither one of a page's nor @N")


def _date(day: int) -> str:
    return f"{day // 10_000:04}-{day // 100 % 100:02}-{day % 100:02}"
