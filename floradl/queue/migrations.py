"""The SQLite file: reading its rows, bringing an older schema up to date, finding whether it is damaged."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from floradl.errors import ConfigError, ErrorCode
from floradl.models import LeftFile, OutputKind, QueuedRun, RunFailure, RunNames, RunState, SavedOutput

LOST: Final = (
    "a new one is filled from the library's sidecars and the job files in inbox/accepted/; not known any "
    "more are unfinished runs that came by webhook, by sync or longer than queue.keep ago (queue them anew), "
    "what was forgotten longer than queue.keep ago, and how long runs take"
)
"""What a queue that is filled anew does not know; for messages."""

_THOROUGH: Final = 64 << 20  # bytes; up to there each row is held against its indexes: a second or two
_CODES: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_FORMAT")

_NO_NAMES: Final = RunNames()
_OF_RETRY: Final = ";"  # between the kinds of a run and those of its last retry

_FIRST_COLUMNS: Final = (
    "run_id, technique, label, state, queued_at, detected_at, waited, tries, progress, error, fresh"
)
COLUMNS: Final = f"{_FIRST_COLUMNS}, kinds, meta, names"
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
            force=bool(row[10]),
            kinds=_known_kinds(row[11].partition(_OF_RETRY)[0]) if row[11] else (),
            meta=msgspec.json.decode(row[12], type=dict[str, str]) if row[12] else {},
            names=msgspec.json.decode(row[13], type=RunNames) if row[13] else RunNames(),
            retry_kinds=_known_kinds(row[11].partition(_OF_RETRY)[2]) if row[11] else (),
        )
    except (ValueError, TypeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"the row of run {row[0]!a} is malformed") from error


def row_of(run: QueuedRun) -> tuple[Any, ...]:
    """Return a run as a row, in the order of `COLUMNS`; what is empty is NULL."""
    row = list(msgspec.structs.astuple(run))
    row[9] = None if run.error is None else msgspec.json.encode(run.error).decode()
    row[11] = kinds_column(run.kinds, row.pop())
    row[12] = msgspec.json.encode(run.meta).decode() if run.meta else None
    row[13] = None if run.names == _NO_NAMES else msgspec.json.encode(run.names).decode()
    return tuple(row)


def kinds_column(kinds: tuple[OutputKind, ...], of_retry: tuple[OutputKind, ...]) -> str | None:
    """Return a run's kinds, and behind them those of its last retry, as their column has them."""
    return " ".join(kinds) + (_OF_RETRY + " ".join(of_retry) if of_retry else "") or None


def _known_kinds(text: str) -> tuple[OutputKind, ...]:
    """Read kinds; one that only a newer floradl knows is left out."""
    known = set(OutputKind)
    return tuple(OutputKind(kind) for kind in text.split() if kind in known)


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


_SCHEMA = """
CREATE TABLE runs (
    run_id      TEXT PRIMARY KEY,
    technique   TEXT,
    label       TEXT,
    state       TEXT NOT NULL,
    queued_at   REAL NOT NULL,
    detected_at REAL,
    waited      REAL NOT NULL DEFAULT 0,
    tries       INTEGER NOT NULL DEFAULT 0,
    progress    REAL NOT NULL DEFAULT 0,
    error       TEXT,
    fresh       INTEGER NOT NULL DEFAULT 0,
    changed_at  REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX runs_by_state ON runs (state, changed_at);
CREATE TABLE saved (
    run_id     TEXT NOT NULL,
    output_key TEXT NOT NULL,
    output     TEXT NOT NULL,
    PRIMARY KEY (run_id, output_key)
) WITHOUT ROWID;
CREATE TABLE durations (
    id        INTEGER PRIMARY KEY,
    technique TEXT NOT NULL,
    seconds   REAL NOT NULL
);
CREATE INDEX durations_by_technique ON durations (technique, id);
"""
_ANNOUNCEMENTS = """
CREATE TABLE announcements (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    run_id  TEXT NOT NULL,
    sidecar TEXT,
    tries   INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE pauses_told (
    reason  TEXT PRIMARY KEY,
    since   REAL NOT NULL,
    told_at REAL NOT NULL,
    over    INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""
_DELIVERIES = """
CREATE TABLE deliveries (
    id          TEXT PRIMARY KEY,
    received_at REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX deliveries_by_time ON deliveries (received_at);
"""
_SYNCED = """
CREATE TABLE synced (
    kind      TEXT NOT NULL,
    workspace TEXT NOT NULL,
    mark      REAL NOT NULL,
    PRIMARY KEY (kind, workspace)
) WITHOUT ROWID
"""
_LEFT_FILES = """
CREATE TABLE left_files (
    name     BLOB PRIMARY KEY,
    mtime_ns INTEGER NOT NULL,
    size     INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    refused  INTEGER NOT NULL,
    since    REAL NOT NULL
) WITHOUT ROWID
"""
_WISHES = """
ALTER TABLE runs ADD COLUMN kinds TEXT;
ALTER TABLE runs ADD COLUMN meta TEXT;
ALTER TABLE runs ADD COLUMN names TEXT
"""
_LATER = """
CREATE TABLE incomplete (
    run_id TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE late_costs (
    run_id     TEXT PRIMARY KEY,
    look_at    REAL NOT NULL,
    looks      INTEGER NOT NULL,
    created_at REAL
) WITHOUT ROWID;
CREATE INDEX late_costs_by_time ON late_costs (look_at);
CREATE TABLE technique_names (
    technique TEXT PRIMARY KEY,
    names     TEXT NOT NULL
) WITHOUT ROWID
"""
# The first builds of 0.1.0 made a schema 1 without it.
_DURATIONS = """
CREATE TABLE IF NOT EXISTS durations (
    id        INTEGER PRIMARY KEY,
    technique TEXT NOT NULL,
    seconds   REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS durations_by_technique ON durations (technique, id)
"""
MIGRATIONS = (_SCHEMA, _ANNOUNCEMENTS, _DELIVERIES, _SYNCED, _LEFT_FILES, _WISHES, _LATER, _DURATIONS)
"""What leads from each version of the schema to the next, as SQL; from nothing to 1 first."""


def check_readable(db: sqlite3.Connection, path: Path) -> bool:
    """Whether there is a schema yet. Raises `ConfigError` where it is not the one that this floradl knows."""
    version = _version(db, path)
    if 0 < version < len(MIGRATIONS):
        raise ConfigError(
            f"{path} was written by an older floradl: 'floradl migrate' brings it up to date, and so does "
            "the next start of the daemon"
        )
    return version > 0


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Make the schema, or bring it up to date, all or nothing.

    A copy of the old file stays beside it. Raises `ConfigError` where a newer floradl wrote it.
    """
    version = _version(db, path)
    if version == len(MIGRATIONS):
        return
    if version > 0:
        keep_copy(db, path.with_name(f"{path.name}.schema-{version}"))
    db.execute("BEGIN IMMEDIATE")
    try:
        for step in MIGRATIONS[version:]:
            for statement in step.split(";"):
                db.execute(statement)
        db.execute(f"PRAGMA user_version={len(MIGRATIONS)}")
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _version(db: sqlite3.Connection, path: Path) -> int:
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise ConfigError(
            f"{path} was written by a newer floradl (its schema is {version}, this one knows "
            f"{len(MIGRATIONS)}): update floradl, or restore the copy that the newer one kept beside it"
        )
    return version


def keep_copy(db: sqlite3.Connection, copy: Path) -> None:
    """Copy the queue with all that is in its log; a copy under `copy` is always whole."""
    half = copy.with_name(f".{copy.name}.part")
    half.unlink(missing_ok=True)
    with closing(sqlite3.connect(half)) as target:
        db.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")  # so that the copy is one file
    os.replace(half, copy)  # noqa: PTH105 - the same in fewer words


def is_damage(error: BaseException | None) -> bool:
    """Whether `error` is about the file's content, not about its disk or a wrong call."""
    if not isinstance(error, sqlite3.DatabaseError):
        return False
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(_CODES):
        return True
    if name == "SQLITE_ERROR":  # all our SQL is tried, so that the file must be another one
        return str(error).startswith(("no such table", "no such column"))
    # Python's own, for text that is no UTF-8, and that of `run_of`.
    return not name and type(error) in {sqlite3.OperationalError, sqlite3.DatabaseError}


def find_damage(db: sqlite3.Connection, path: Path, *, thorough: bool = False) -> str | None:
    """Say what is wrong with the file that is open as `db`, None where nothing is. Blocking; reads it all.

    With `thorough`, or where it is small, each row is held against its indexes. A newer floradl's schema is
    no damage. Raises `sqlite3.Error`.
    """
    how = "integrity_check" if thorough or path.stat().st_size <= _THOROUGH else "quick_check"
    found = [str(row[0]) for row in db.execute(f"PRAGMA {how}(1)")]
    if found != ["ok"]:
        return " ".join(found[0].split()) if found else "it cannot be checked"
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version == 0:
        tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        return "it is another program's database" if tables else None
    if version <= len(MIGRATIONS):
        columns = COLUMNS if version == len(MIGRATIONS) else _FIRST_COLUMNS
        db.execute(f"SELECT {columns}, changed_at FROM runs LIMIT 0")  # noqa: S608 - names only
    return None
