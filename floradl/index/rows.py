"""A sidecar -> the index's rows, and those rows taken out again."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Final

from floradl.clock import unix_seconds
from floradl.index.dimensions import Size
from floradl.index.document import OutputDocument, RunDocument
from floradl.index.reading import ReadSidecar, stamp_number
from floradl.index.search_words import separated

_SHOWN_TEXT: Final = 300  # characters
_WIDEST: Final = 10_000  # hundredths
_AT_ONCE: Final = 400  # names of sidecars in a question

_RUN: Final = f"INSERT INTO runs VALUES ({','.join('?' * 19)})"  # noqa: S608 - ours
_OUTPUT: Final = f"INSERT INTO outputs VALUES ({','.join('?' * 20)})"  # noqa: S608 - ours
_ABSENT: Final = "INSERT INTO absent VALUES (?, ?, ?, ?, ?, ?, ?)"


def put_in(db: sqlite3.Connection, sidecars: Iterable[ReadSidecar]) -> None:
    """Put runs in, each in place of what the index had of it."""
    reads = list({read.document.run_id: read for read in sidecars}.values())
    for run in _known(db, reads):
        _delete(db, run)
    names = _Names(db)
    (last,) = db.execute("SELECT max(id) FROM runs").fetchone()
    rows = _Rows()
    for key, read in enumerate(reads, (last or 0) + 1):
        _add(rows, names, key, read)
    db.executemany(_RUN, rows.runs)
    db.executemany("INSERT INTO words (rowid, said) VALUES (?, ?)", rows.words)
    db.executemany(_OUTPUT, rows.outputs)
    db.executemany(_ABSENT, rows.absent)
    db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?, ?)", rows.meta)


def take_out(db: sqlite3.Connection, files: Iterable[tuple[str, str]]) -> int:
    """Take out the runs of these sidecars (folder and name); return how many there were."""
    found = _of_files(db, list(files))
    for run in found:
        _delete(db, run)
    return len(found)


class _Rows:
    """What is put in, table by table."""

    def __init__(self) -> None:
        self.runs: list[tuple[object, ...]] = []
        self.words: list[tuple[int, str]] = []
        self.outputs: list[tuple[object, ...]] = []
        self.absent: list[tuple[object, ...]] = []
        self.meta: list[tuple[int | None, int, int]] = []


def _add(rows: _Rows, names: _Names, key: int, read: ReadSidecar) -> None:
    run = read.document
    finished = _milliseconds(run.times.completed_at) or _milliseconds(run.times.finished_at)
    at = finished or read.written
    error = run.error or next((each.error for each in run.outputs if each.error), None)
    technique, project, label = names.id(run.technique), names.id(run.project), names.id(run.label)
    rows.runs.append(
        (
            *(key, run.run_id, read.folder, read.file, *read.stamp),
            *(technique, names.id(run.technique_id), names.id(run.technique_name)),
            *(project, names.id(run.project_id), names.id(run.model_id), label, names.id(run.result)),
            *((names.id(error.code), error.message) if error else (None, None)),
            *(run.cost, at, _day(at) // 100),
        )
    )
    rows.words.append((key, separated(run.words())))
    rows.meta += [
        (names.id(name), names.id(value) or 0, key) for name, value in run.meta_texts.items() if name
    ]
    for nth, output in enumerate(run.outputs):
        kind, size = names.id(output.kind), read.sizes.get(nth)
        if output.path is None:
            whose = (key, nth, kind, output.output_id)
            rows.absent.append((*whose, output.bytes, output.sha256, output.why_absent))
            continue
        moment = finished or _milliseconds(output.downloaded_at) or at
        shape = 100 if size is None else min(max(100 * size[0] // size[1], 1), _WIDEST)
        places = (None, key, nth, _day(moment), moment, shape, kind, technique, project, label)
        rows.outputs.append((*places, *_told(output, run, size)))


def _told(output: OutputDocument, run: RunDocument, size: Size | None) -> tuple[object, ...]:
    text = output.text[:_SHOWN_TEXT] if output.text else None
    known = (output.output_id, output.path, output.bytes, output.sha256, output.content_type)
    etag = stamp_number(output.stored_etag) if output.stored_etag else None
    return (*known, *(size or (None, None)), run.times.completed_at, text, etag)


def _known(db: sqlite3.Connection, reads: Sequence[ReadSidecar]) -> set[int]:
    """Return the rows that these take the place of."""
    if db.execute("SELECT 1 FROM runs LIMIT 1").fetchone() is None:
        return set()
    found = set(_of_files(db, [(read.folder, read.file) for read in reads]))
    for start in range(0, len(reads), _AT_ONCE):
        ids = [read.document.run_id for read in reads[start : start + _AT_ONCE]]
        marks = ",".join("?" * len(ids))
        found.update(key for (key,) in db.execute(f"SELECT id FROM runs WHERE run_id IN ({marks})", ids))  # noqa: S608 - marks
    return found


def _of_files(db: sqlite3.Connection, files: Sequence[tuple[str, str]]) -> list[int]:
    by_folder: dict[str, list[str]] = {}
    for folder, file in files:
        by_folder.setdefault(folder, []).append(file)
    found: list[int] = []
    for folder, names in by_folder.items():
        for start in range(0, len(names), _AT_ONCE):
            some = names[start : start + _AT_ONCE]
            query = f"SELECT id FROM runs WHERE folder = ? AND file IN ({','.join('?' * len(some))})"  # noqa: S608 - marks
            found += [key for (key,) in db.execute(query, (folder, *some))]
    return found


def _delete(db: sqlite3.Connection, run: int) -> None:
    for table, column in _OF_A_RUN:
        db.execute(f"DELETE FROM {table} WHERE {column} = ?", (run,))  # noqa: S608 - ours


_OF_A_RUN: Final = (
    ("outputs", "run"),
    ("absent", "run"),
    ("meta", "run"),
    ("words", "rowid"),
    ("runs", "id"),
)


class _Names:
    """The numbers that stand for names in rows."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[str, int] = {}

    def id(self, name: str | None) -> int | None:
        if not name:
            return None
        if (known := self._known.get(name)) is not None:
            return known
        made = self._db.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
        key = made.lastrowid if made.rowcount else None
        if key is None:
            (key,) = self._db.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
        self._known[name] = key
        return key


def _milliseconds(text: str | None) -> int | None:
    seconds = unix_seconds(text)
    return None if seconds is None else int(seconds * 1000)


def _day(moment: int) -> int:
    """Return the day, as the number 20261129, on which people here had that moment."""
    try:
        day = dt.datetime.fromtimestamp(moment / 1000)  # noqa: DTZ006 - see above
    except (OverflowError, ValueError, OSError):
        return 19700101
    return day.year * 10_000 + day.month * 100 + day.day
