"""Rows of the SQLite file as values, and what both who writes and who only looks reads of it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import msgspec

from floradl.errors import ErrorCode
from floradl.models import LeftFile, QueuedRun, RunFailure, RunState, SavedOutput

COLUMNS: Final = (
    "run_id, technique, label, state, queued_at, detected_at, waited, tries, progress, error, fresh"
)
"""Those of a run, in the order in which `run_of` reads them."""


def run_of(row: tuple[Any, ...]) -> QueuedRun:
    """Read a run. Raises `sqlite3.DatabaseError` for a row that no floradl wrote: the file is damaged."""
    try:
        return QueuedRun(
            run_id=row[0],
            technique=row[1],
            label=row[2],
            state=RunState(row[3]),
            queued_at=row[4],
            detected_at=row[5],
            waited=row[6],
            tries=row[7],
            progress=row[8],
            error=_failure(row[9]) if row[9] else None,
            fresh=bool(row[10]),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"the row of run {row[0]!a} is malformed") from error


def _failure(text: str) -> RunFailure:
    """Read a failure; a code that only a newer floradl knows becomes the most general one."""
    try:
        return msgspec.json.decode(text, type=RunFailure)
    except msgspec.ValidationError:
        raw = msgspec.json.decode(text)
        return RunFailure(ErrorCode.RUN_FAILED, f"{raw['code']}: {raw['message']}")


def select_runs(db: sqlite3.Connection, where: str, values: tuple[object, ...]) -> Iterator[QueuedRun]:
    """Read the runs that `where`, a clause of ours, is true of."""
    for row in db.execute(f"SELECT {COLUMNS} FROM runs {where}", values):  # noqa: S608 - ours
        yield run_of(row)


def select_run(db: sqlite3.Connection, run_id: str) -> QueuedRun | None:
    """Read one run; None where it is unknown."""
    return next(select_runs(db, "WHERE run_id = ?", (run_id,)), None)


def count_states(db: sqlite3.Connection) -> dict[RunState, int]:
    """Count the runs by state."""
    found = dict(db.execute("SELECT state, count(*) FROM runs GROUP BY state"))
    return {state: found.get(state.value, 0) for state in RunState}


def select_saved(db: sqlite3.Connection, run_id: str) -> dict[str, SavedOutput]:
    """Read the outputs recorded for an unfinished run, by key."""
    rows = db.execute("SELECT output_key, output FROM saved WHERE run_id = ?", (run_id,))
    found = {}
    for key, output in rows:
        with suppress(msgspec.ValidationError):  # a newer floradl's: fetched again, and adopted
            found[key] = msgspec.json.decode(output, type=SavedOutput)
    return found


def select_left_files(db: sqlite3.Connection) -> dict[str, LeftFile]:
    """Read the job files that are done with and may still lie where they were, by name."""
    rows = db.execute("SELECT name, mtime_ns, size, sha256, refused FROM left_files")
    return {
        (name := os.fsdecode(row[0])): LeftFile(name, row[1], row[2], row[3], bool(row[4])) for row in rows
    }
