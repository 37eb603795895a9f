"""What tells that the SQLite file is damaged, and not its disk or a call at fault."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from floradl.queue.migrations import MIGRATIONS
from floradl.queue.rows import COLUMNS

LOST: Final = (
    "a new one is filled from the library's sidecars and the job files in inbox/accepted/; not known any "
    "more are unfinished runs that came by webhook, by sync or longer than queue.keep ago (queue them anew), "
    "what was forgotten longer than queue.keep ago, and how long runs take"
)
"""What a journal that is filled anew does not know; for messages."""

_THOROUGH: Final = 64 << 20  # bytes; up to there each row is held against its indexes: a second or two
_CODES: Final = ("SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_IOERR_SHORT_READ", "SQLITE_FORMAT")


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
        db.execute(f"SELECT {COLUMNS}, changed_at FROM runs LIMIT 0")  # noqa: S608 - names only
    return None
