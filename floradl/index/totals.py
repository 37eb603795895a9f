"""What a library holds and cost, added up: what `stats` and `costs` ask.

Costs are added as decimals, as the sidecars write them: a cent is a cent over a million runs.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final

from msgspec import Struct

from floradl.index.tables import IndexFile

COST_GROUPS: Final = ("technique", "project", "month", "label", "model")
_RUNS: Final = "runs INDEXED BY runs_in_order"
_OUTPUTS: Final = "outputs INDEXED BY outputs_in_order"
_LARGEST: Final = f"""
SELECT path, bytes, run_id, (SELECT name FROM names WHERE names.id = runs.technique)
  FROM (SELECT id AS large FROM {_OUTPUTS} WHERE bytes IS NOT NULL ORDER BY bytes DESC, id LIMIT 10)
  JOIN outputs ON outputs.id = large JOIN runs ON runs.id = run ORDER BY bytes DESC, path
"""  # noqa: S608 - ours


class CostGroup(Struct, frozen=True):
    """What runs cost in USD: of `unknown` ones it is not known. `name` is None for those without one."""

    name: str | None
    runs: int
    unknown: int
    usd: Decimal


class Amount(Struct, frozen=True):
    """Files of one kind, technique or month (`2026-11`), or of all. `name` is None for those without one."""

    name: str | None
    outputs: int
    bytes: int


class LargeFile(Struct, frozen=True):
    """A file at `path` in the library, and the run that made it."""

    path: str
    bytes: int
    run_id: str
    technique: str | None


class LibraryStats(Struct, frozen=True):
    """What a library holds. `results` and `failures` (by code) count runs, `absent` outputs by reason.

    `grown` is what came since each of the moments that were asked for.
    """

    total: Amount
    runs: int
    results: dict[str, int]
    failures: dict[str, int]
    absent: dict[str, int]
    kinds: list[Amount]
    techniques: list[Amount]
    months: list[Amount]
    grown: list[Amount]
    largest: list[LargeFile]


class LibraryTotals:
    """Adds up what `file` holds. Blocking. Raises as `IndexFile.reading`."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file

    def costs(self, by: str, since: float | None = None) -> list[CostGroup]:
        """Return what runs cost `by` one of `COST_GROUPS`, the dearest first; months in their order.

        Only runs that ended `since` then count (unix seconds).
        """
        if by not in COST_GROUPS:
            raise ValueError(by)
        where, values = ("", ()) if since is None else ("WHERE finished >= ?", (int(since * 1000),))
        # Runs of the same price are added together.
        query = f"SELECT {by}, cost, count(*) FROM {_RUNS} {where} GROUP BY 1, 2"  # noqa: S608 - ours
        sums: dict[int | None, _Sum] = {}
        with self._file.reading() as db:
            for key, cost, count in db.execute(query, values):
                sums.setdefault(key, _Sum()).add(cost, count)
            named = _months(sums) if by == "month" else _names(db, sums)
        groups = [CostGroup(named.get(key), each.runs, each.unknown, each.usd) for key, each in sums.items()]
        if by == "month":
            return sorted(groups, key=lambda group: group.name or "")
        return sorted(groups, key=lambda group: (-group.usd, -group.runs, group.name or "\U0010ffff"))

    def stats(self, moments: tuple[float, ...]) -> LibraryStats:
        """Return what there is, and what came since each of `moments` (unix seconds)."""
        with self._file.reading() as db:
            months = _grouped(db, "day / 100")
            of_month = _months([key for key, *_ in months])
            return LibraryStats(
                total=Amount(None, *_amount(db)),
                runs=db.execute("SELECT count(*) FROM runs").fetchone()[0],
                results=_counted(db, f"result, count(*) FROM {_RUNS}"),
                failures=_counted(db, f"error_code, count(*) FROM {_RUNS} WHERE error_code IS NOT NULL"),
                absent=dict(db.execute("SELECT why, count(*) FROM absent GROUP BY 1 ORDER BY 1")),
                kinds=_with_names(db, _grouped(db, "kind")),
                techniques=_with_names(db, _grouped(db, "technique")),
                months=sorted(
                    (Amount(of_month[key], *more) for key, *more in months), key=lambda m: m.name or ""
                ),
                grown=[Amount(None, *_amount(db, moment)) for moment in moments],
                largest=[LargeFile(*row) for row in db.execute(_LARGEST)],
            )


class _Sum:
    """What some runs cost."""

    def __init__(self) -> None:
        self.runs = self.unknown = 0
        self.usd = Decimal(0)

    def add(self, cost: float | None, count: int) -> None:
        self.runs += count
        if cost is None:
            self.unknown += count
        else:
            self.usd += Decimal(repr(cost)) * count


_Group = tuple[int | None, int, int]


def _grouped(db: sqlite3.Connection, key: str) -> list[_Group]:
    """Return numbers and bytes of outputs by `key`, the most bytes first."""
    query = f"SELECT {key}, count(*), coalesce(sum(bytes), 0) FROM {_OUTPUTS} GROUP BY 1 ORDER BY 3 DESC, 1"  # noqa: S608 - ours
    return db.execute(query).fetchall()


def _amount(db: sqlite3.Connection, since: float = -math.inf) -> tuple[int, int]:
    where, values = ("", ()) if since == -math.inf else ("WHERE at >= ?", (int(since * 1000),))
    query = f"SELECT count(*), coalesce(sum(bytes), 0) FROM {_OUTPUTS} {where}"  # noqa: S608 - ours
    found: tuple[int, int] = db.execute(query, values).fetchone()
    return found


def _counted(db: sqlite3.Connection, what: str) -> dict[str, int]:
    rows = db.execute(f"SELECT {what} GROUP BY 1").fetchall()
    named = _names(db, [key for key, _ in rows])
    counts = {named[key]: count for key, count in rows}
    return dict(sorted(counts.items(), key=lambda each: (-each[1], each[0])))


def _with_names(db: sqlite3.Connection, rows: Sequence[_Group]) -> list[Amount]:
    named = _names(db, [key for key, *_ in rows])
    return [Amount(named.get(key), *more) for key, *more in rows]


def _names(db: sqlite3.Connection, keys: Iterable[int | None]) -> dict[int | None, str]:
    wanted = str([key for key in keys if key is not None])
    return dict(
        db.execute("SELECT id, name FROM names WHERE id IN (SELECT value FROM json_each(?))", (wanted,))
    )


def _months(keys: Iterable[int | None]) -> dict[int | None, str]:
    """Return `2026-11` for 202611."""
    return {key: f"{key // 100:04}-{key % 100:02}" for key in keys if key is not None}
