"""The index's file: its tables, and connections to it. What it holds can be read again from the library."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from queue import LifoQueue
from threading import Lock, RLock
from typing import Final

from floradl.errors import ConfigError, FloradlError, TransientError

FILE_NAME: Final = "index.sqlite3"
_VERSION: Final = 3  # of the tables: a file with another one is made anew
_READERS: Final = 3
_WAIT: Final = 20.0  # seconds, for another process that writes
_CACHE_KIB: Final = 4096

# All that a view is laid out and filtered by is in `outputs_in_order`, and all that runs are counted by in
# `runs_in_order`, so that the wide rows are read for what is shown alone. Numbers stand for `names`.
_TABLES: Final = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE folders (name TEXT PRIMARY KEY, mtime_ns INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE names (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE runs (
  id INTEGER PRIMARY KEY, run_id TEXT NOT NULL UNIQUE, folder TEXT NOT NULL, file TEXT NOT NULL,
  mtime_ns INTEGER NOT NULL, size INTEGER NOT NULL,
  technique INTEGER, technique_id INTEGER, technique_name INTEGER, project INTEGER, project_id INTEGER,
  model INTEGER, label INTEGER, result INTEGER NOT NULL, error_code INTEGER, error_message TEXT,
  cost REAL, finished INTEGER, month INTEGER
);
CREATE INDEX runs_by_file ON runs (folder, file);
CREATE INDEX runs_in_order ON runs (
  finished DESC, id DESC, month, result, technique, technique_id, technique_name, project, project_id,
  model, label, error_code, cost
);
CREATE TABLE meta (
  key INTEGER NOT NULL, value INTEGER NOT NULL, run INTEGER NOT NULL, PRIMARY KEY (key, value, run)
) WITHOUT ROWID;
CREATE INDEX meta_by_run ON meta (run);
CREATE TABLE outputs (
  id INTEGER PRIMARY KEY, run INTEGER NOT NULL, nth INTEGER NOT NULL,
  day INTEGER NOT NULL, at INTEGER NOT NULL,
  ratio INTEGER NOT NULL, kind INTEGER NOT NULL, technique INTEGER, project INTEGER, label INTEGER,
  output_id TEXT NOT NULL, path TEXT NOT NULL, bytes INTEGER, sha256 TEXT, content_type TEXT,
  width INTEGER, height INTEGER, completed_at TEXT, text TEXT, etag INTEGER
);
CREATE INDEX outputs_in_order
  ON outputs (day DESC, at DESC, id DESC, ratio, run, kind, technique, project, label, bytes);
CREATE INDEX outputs_by_run ON outputs (run, kind);
CREATE TABLE absent (
  run INTEGER NOT NULL, nth INTEGER NOT NULL, kind INTEGER NOT NULL, output_id TEXT NOT NULL,
  bytes INTEGER, sha256 TEXT, why TEXT NOT NULL, PRIMARY KEY (run, nth)
) WITHOUT ROWID;
CREATE INDEX absent_by_sha256 ON absent (sha256) WHERE sha256 IS NOT NULL;
CREATE VIRTUAL TABLE words USING fts5 (said, tokenize = "unicode61 remove_diacritics 2", prefix = '1 2 3');
"""

# Their values come in no order: put in run by run, each is a page that is written anew.
_SCATTERED: Final = {
    "outputs_by_path": "CREATE INDEX outputs_by_path ON outputs (path)",
    "outputs_by_sha256": "CREATE INDEX outputs_by_sha256 ON outputs (sha256)",
}


class IndexDamagedError(FloradlError):
    """The index's file was damaged, and is removed: whoever opens it anew has it filled from the library."""


def look_into(path: Path, root: str) -> sqlite3.Connection | None:
    """Open the index at `path` to read it; None where there is none of the library at `root`.

    Nothing is made or removed, whatever it is.
    """
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", _WAIT, isolation_level=None, uri=True)
    except sqlite3.Error:
        return None
    with suppress(sqlite3.Error):
        if is_index_of(db, root):
            return db
    db.close()
    return None


def is_index_of(db: sqlite3.Connection, root: str) -> bool:
    """Whether a file of SQLite is an index of the library at `root`, with the tables of today."""
    if db.execute("PRAGMA user_version").fetchone() != (_VERSION,):
        return False
    found = db.execute("SELECT value FROM about WHERE key = 'root'").fetchone()
    return bool(found == (root,))


class IndexFile:
    """The open file of an index of the library at `root`; one that is damaged, another's or old is made anew.

    Any thread may use it, and other processes beside this one. Raises `ConfigError` where that fails.
    """

    def __init__(self, path: Path, root: str) -> None:
        self.path = path
        self._root = root
        self._lock = RLock()
        self._observing = Lock()
        self._observer: sqlite3.Connection | None = None
        self._readers: LifoQueue[sqlite3.Connection | None] = LifoQueue()  # each is opened when first used
        for _ in range(_READERS):
            self._readers.put(None)
        try:
            self._writer = self._open()
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(f"{path}: the index of the library cannot be opened: {error}") from error

    def _open(self) -> sqlite3.Connection:
        with suppress(sqlite3.DatabaseError):
            db = self._connect()
            try:
                if is_index_of(db, self._root):
                    return db
            except sqlite3.OperationalError:
                db.close()
                raise  # it is busy, or the disk is full: no reason to throw it away
            except sqlite3.DatabaseError:
                pass
            db.close()
        self._remove()
        db = self._connect()
        with self._transaction(db):
            if not is_index_of(db, self._root):  # another process may have been quicker
                for statement in _TABLES.split(";\n"):
                    db.execute(statement)
                for statement in _SCATTERED.values():
                    db.execute(statement)
                db.execute("INSERT INTO about VALUES ('root', ?)", (self._root,))
                db.execute(f"PRAGMA user_version = {_VERSION}")
        return db

    def _remove(self) -> None:
        for ending in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + ending).unlink(missing_ok=True)

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, _WAIT, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        db.execute("PRAGMA temp_store = MEMORY")
        db.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        return db

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Give a connection to read with, all of the same moment; waits where all are in use.

        Raises `IndexDamagedError`, and `TransientError` where the file cannot be read just now.
        """
        db = self._readers.get()
        try:
            with self._translated():
                db = db or self._connect()
                db.execute("BEGIN")
                try:
                    yield db
                finally:
                    with suppress(sqlite3.Error):
                        db.execute("ROLLBACK")
        finally:
            self._readers.put(db)

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Give the connection to write with; all of the block counts, or nothing. Raises as `reading`."""
        with self._lock, self._translated(), self._transaction(self._writer):
            yield self._writer

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise TransientError(f"{self.path}: the index cannot be used just now: {error}") from error
        except sqlite3.DatabaseError as error:
            self._remove()
            raise IndexDamagedError(f"{self.path}: the index was damaged ({error}): start again") from error

    @contextmanager
    def _transaction(self, db: sqlite3.Connection) -> Iterator[None]:
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            with suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    def put_off_scattered(self) -> None:
        """Do without what finds files by path and bytes, while very many are put in.

        Such a question takes long then. Raises as `writing`.
        """
        with self.writing() as db:
            for name in _SCATTERED:
                db.execute(f"DROP INDEX IF EXISTS {name}")

    def catch_up_scattered(self) -> None:
        """Make what was put off, here or in a process that was killed. Raises as `writing`."""
        with self.reading() as db:
            there = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}
        if missing := _SCATTERED.keys() - there:
            with self.writing() as db:
                for name in sorted(missing):
                    db.execute(_SCATTERED[name].replace("INDEX", "INDEX IF NOT EXISTS", 1))

    def version(self) -> int:
        """Return a number that changes with each change of the file, another process's too."""
        with self._observing, self._translated():  # a connection counts the changes of all others
            self._observer = self._observer or self._connect()
            found: tuple[int] = self._observer.execute("PRAGMA data_version").fetchone()
        return found[0]

    def close(self) -> None:
        """Close all connections; nobody may use it any more."""
        with self._lock, closing(self._writer):
            for db in (self._observer, *(self._readers.get() for _ in range(_READERS))):
                if db is not None:
                    db.close()
