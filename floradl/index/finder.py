"""Runs by what is known of them, the newest first, and files by their bytes: what `find` and `which` ask."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from floradl.index.search_words import match_query, matching
from floradl.index.tables import IndexFile

_FEW: Final = 5000  # runs that a search found: up to there they are looked up one by one
_AT_ONCE: Final = 500  # runs that are read together
_FAILED: Final = ("failed", "partial")


def _name(column: str) -> str:
    return f"(SELECT name FROM names WHERE id = runs.{column})"  # noqa: S608 - ours


_RUN: Final = f"""
SELECT id, run_id, {_name("technique")}, {_name("technique_name")}, {_name("project")}, {_name("label")},
  {_name("model")}, {_name("result")}, {_name("error_code")}, error_message, cost, finished, folder, file,
  mtime_ns, size FROM runs
"""  # noqa: S608
_FILE: Final = (
    "SELECT run, output_id, names.name, path, bytes, sha256, content_type, width, height "
    "FROM outputs JOIN names ON names.id = outputs.kind"
)
_META: Final = (
    "SELECT run, k.name, v.name FROM meta INDEXED BY meta_by_run "
    "JOIN names k ON k.id = key LEFT JOIN names v ON v.id = value"
)


class RunQuery(Struct, frozen=True, kw_only=True):
    """Which runs: all of what is given holds, and of several values of one kind any. Empty means all.

    `q` is searched as `match_query` says. Names are as `matching` says; `techniques` are slugs, `tech_…` ids
    or names, `projects` names or ids. `since` is unix seconds. `failed`: those that failed, in part or whole.
    """

    q: str = ""
    techniques: tuple[str, ...] = ()
    projects: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    meta: tuple[tuple[str, str], ...] = ()
    since: float | None = None
    failed: bool = False


class KnownFile(Struct, frozen=True):
    """A file of a run, at `path` in the library, with `/`. Sizes are in bytes and pixels."""

    output_id: str
    kind: str
    path: str
    bytes: int | None
    sha256: str | None
    content_type: str | None
    width: int | None
    height: int | None


class KnownRun(Struct, frozen=True):
    """A run, its files of the kinds that were asked for, and its sidecar with the stamp that it had.

    `project` is a name, or an id where no answer named it; `cost` is in USD; `finished` in milliseconds.
    """

    run_id: str
    technique: str | None
    technique_name: str | None
    project: str | None
    label: str | None
    model: str | None
    result: str
    error_code: str | None
    error_message: str | None
    cost: float | None
    finished: int
    folder: str
    file: str
    mtime_ns: int
    size: int
    files: list[KnownFile] = []
    meta: dict[str, str] = {}

    @property
    def reference(self) -> str:
        """What a user calls it."""
        return f"{self.technique}/{self.run_id}" if self.technique else self.run_id


class FileOrigin(Struct, frozen=True):
    """A run that made a file: of which output, where the library has it, and else why it has not."""

    run: KnownRun
    output_id: str
    kind: str
    path: str | None
    why_absent: str | None


class Finder:
    """Asks `file`. Blocking. Raises as `IndexFile.reading`."""

    def __init__(self, file: IndexFile) -> None:
        self._file = file

    def runs(self, wanted: RunQuery, most: int | None = None) -> tuple[int, Iterator[KnownRun]]:
        """Return how many runs there are, and up to `most` of them, the newest first."""
        with self._file.reading() as db:
            source, where, values = _narrowed(db, wanted)
            (count,) = db.execute(f"SELECT count(*) FROM {source}{where}", values).fetchone()  # noqa: S608 - ours
            query = f"SELECT id FROM {source}{where} ORDER BY finished DESC, id DESC LIMIT ?"  # noqa: S608 - ours
            ids = [key for (key,) in db.execute(query, (*values, -1 if most is None else most))]
        return count, self._read(ids, wanted.kinds)

    def origins(self, sha256: str) -> list[FileOrigin]:
        """Return who made a file of these bytes; the last run first."""
        found: list[FileOrigin] = []
        with self._file.reading() as db:
            there = db.execute(
                "SELECT run, output_id, names.name, path, NULL FROM outputs "
                "JOIN names ON names.id = kind WHERE sha256 = ?1 "
                "UNION ALL SELECT run, output_id, names.name, NULL, why FROM absent "
                "JOIN names ON names.id = kind WHERE sha256 = ?1 LIMIT 1000",
                (sha256,),
            ).fetchall()
            runs = dict(_runs(db, list({row[0] for row in there})))
            found = [FileOrigin(runs[run], *more) for run, *more in there]
        return sorted(found, key=lambda maker: maker.run.finished, reverse=True)

    def maker_at(self, path: str) -> KnownRun | None:
        """Return the run whose file is at `path` in the library; None where none names it."""
        with self._file.reading() as db:
            row = db.execute("SELECT run FROM outputs WHERE path = ?", (path,)).fetchone()
            return None if row is None else next((run for _, run in _runs(db, row)), None)

    def _read(self, ids: Sequence[int], kinds: tuple[str, ...]) -> Iterator[KnownRun]:
        folded = {kind.casefold() for kind in kinds}
        for start in range(0, len(ids), _AT_ONCE):
            some = ids[start : start + _AT_ONCE]
            with self._file.reading() as db:
                runs = dict(_runs(db, some))
                marks = ",".join("?" * len(some))
                for run, *file in db.execute(f"{_FILE} WHERE run IN ({marks}) ORDER BY run, nth", some):
                    if run in runs and (not folded or file[1] in folded):
                        runs[run].files.append(KnownFile(*file))
                for run, key, value in db.execute(f"{_META} WHERE run IN ({marks})", some):
                    if run in runs:
                        runs[run].meta[key] = value or ""
            yield from (runs[key] for key in some if key in runs)


def _runs(db: sqlite3.Connection, ids: Sequence[int]) -> Iterator[tuple[int, KnownRun]]:
    marks = ",".join("?" * len(ids))
    for key, *row in db.execute(f"{_RUN} WHERE id IN ({marks})", ids):
        yield key, KnownRun(*row)


def _narrowed(db: sqlite3.Connection, wanted: RunQuery) -> tuple[str, str, list[Any]]:
    """Return where the runs are read from, the condition, and its values."""
    source, where, values = "runs INDEXED BY runs_in_order", list[str](), list[Any]()
    if wanted.q.strip():
        query = match_query(wanted.q)
        db.execute("CREATE TEMP TABLE hits (run INTEGER PRIMARY KEY)")
        found = db.execute("INSERT INTO hits SELECT rowid FROM words WHERE said MATCH ?", (query,)).rowcount
        where.append("runs.id IN (SELECT run FROM hits)")
        if found <= _FEW:
            source = "runs NOT INDEXED"
    if wanted.since is not None:
        where.append("finished >= ?")
        values.append(int(wanted.since * 1000))
    for columns, patterns in (
        (("technique", "technique_id", "technique_name"), wanted.techniques),
        (("project", "project_id"), wanted.projects),
        (("label",), wanted.labels),
        (("result",), _FAILED if wanted.failed else ()),
    ):
        if patterns:
            ids = ",".join(map(str, _ids(db, patterns)))
            where.append(f"({' OR '.join(f'{column} IN ({ids})' for column in columns)})")
    if wanted.kinds:
        kinds = ",".join(map(str, _ids(db, wanted.kinds)))
        where.append(f"runs.id IN (SELECT run FROM outputs WHERE kind IN ({kinds}))")  # noqa: S608 - numbers
    for name, value in wanted.meta:
        keys, texts = (",".join(map(str, _ids(db, [each]))) for each in (name, value))
        where.append(f"runs.id IN (SELECT run FROM meta WHERE key IN ({keys}) AND value IN ({texts}))")  # noqa: S608 - numbers
    return source, f" WHERE {' AND '.join(where)}" if where else "", values


def _ids(db: sqlite3.Connection, patterns: Sequence[str]) -> list[int]:
    return matching(db.execute("SELECT id, name FROM names"), patterns)
