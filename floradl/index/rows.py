"""A sidecar -> the index's rows, and those rows taken out again."""

from __future__ import annotations

import datetime as dt
import re
import sqlite3
from collections.abc import Iterable
from typing import Final

from floradl.clock import unix_seconds
from floradl.index.dimensions import Size
from floradl.index.document import OutputDocument, RunDocument
from floradl.index.reading import ReadSidecar

_SHOWN_TEXT: Final = 300  # characters
_WIDEST: Final = 10_000  # hundredths
# Scripts without spaces between words: each character counts as a word.
_WITHOUT_SPACES: Final = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])"
)

_RUN: Final = f"INSERT INTO runs VALUES ({','.join('?' * 15)})"  # noqa: S608 - ours
_OUTPUT: Final = f"INSERT INTO outputs VALUES ({','.join('?' * 19)})"  # noqa: S608 - ours


def separated(text: str) -> str:
    """Return `text` as it is searched: with spaces between characters that stand for words."""
    return text if text.isascii() else _WITHOUT_SPACES.sub(r" \1 ", text)


def put_in(db: sqlite3.Connection, sidecars: Iterable[ReadSidecar]) -> None:
    """Put runs in, each in place of what the index had of it."""
    names = _Names(db)
    for read in sidecars:
        run = read.document
        earlier = db.execute(
            "SELECT id FROM runs WHERE run_id = ? OR (folder = ? AND file = ?)",
            (run.run_id, read.folder, read.file),
        ).fetchall()
        for (known,) in earlier:
            _delete(db, known)
        finished = _milliseconds(run.times.completed_at) or _milliseconds(run.times.finished_at)
        at = finished or read.written
        error = run.error
        row = db.execute(
            _RUN,
            (
                *(None, run.run_id, read.folder, read.file, *read.stamp),
                *(run.technique, run.technique_name, run.project, run.label, run.result),
                *((error.code, error.message) if error else (None, None)),
                *(run.cost, at),
            ),
        )
        key = row.lastrowid or 0
        db.execute("INSERT INTO words (rowid, said) VALUES (?, ?)", (key, separated(run.words())))
        whole = tuple(names.id(name) for name in (run.technique, run.project, run.label))
        db.executemany(
            _OUTPUT,
            [
                (
                    None,
                    key,
                    nth,
                    *_moment(output, finished, at),
                    *_shape(read.sizes.get(nth)),
                    kind,
                    *whole,
                    *told,
                )
                for nth, output in enumerate(run.outputs)
                if output.path is not None
                for kind in (names.id(output.kind),)
                for told in (_told(output, run, read.sizes.get(nth)),)
            ],
        )


def take_out(db: sqlite3.Connection, files: Iterable[tuple[str, str]]) -> int:
    """Take out the runs of these sidecars (folder and name); return how many there were."""
    count = 0
    for folder, file in list(files):
        where = "SELECT id FROM runs WHERE folder = ? AND file = ?"
        for (run,) in db.execute(where, (folder, file)).fetchall():
            _delete(db, run)
            count += 1
    return count


def _delete(db: sqlite3.Connection, run: int) -> None:
    db.execute("DELETE FROM outputs WHERE run = ?", (run,))
    db.execute("DELETE FROM words WHERE rowid = ?", (run,))
    db.execute("DELETE FROM runs WHERE id = ?", (run,))


class _Names:
    """The numbers that stand for names in rows."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[str, int] = {}

    def id(self, name: str | None) -> int | None:
        if not name:
            return None
        if name not in self._known:
            self._db.execute("INSERT OR IGNORE INTO names (name) VALUES (?)", (name,))
            found: tuple[int] = self._db.execute("SELECT id FROM names WHERE name = ?", (name,)).fetchone()
            self._known[name] = found[0]
        return self._known[name]


def _milliseconds(text: str | None) -> int | None:
    seconds = unix_seconds(text)
    return None if seconds is None else int(seconds * 1000)


def _moment(output: OutputDocument, finished: int | None, at: int) -> tuple[int, int]:
    """Return the day, as the number 20261129, and the moment that an output stands under."""
    moment = finished or _milliseconds(output.downloaded_at) or at
    try:
        day = dt.datetime.fromtimestamp(moment / 1000)  # noqa: DTZ006 - the day of people here
    except (OverflowError, ValueError, OSError):
        return 19700101, 0
    return day.year * 10_000 + day.month * 100 + day.day, moment


def _shape(size: Size | None) -> tuple[int]:
    return (100,) if size is None else (min(max(100 * size[0] // size[1], 1), _WIDEST),)


def _told(output: OutputDocument, run: RunDocument, size: Size | None) -> tuple[object, ...]:
    text = output.text[:_SHOWN_TEXT] if output.text else None
    known = (output.output_id, output.path, output.bytes, output.sha256, output.content_type)
    return (*known, *(size or (None, None)), run.times.completed_at, text)
