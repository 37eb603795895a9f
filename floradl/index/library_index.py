"""`LibraryIndex`: every sidecar of a library in one searchable file, kept current one run at a time.

The library is the truth. What is here may be behind it for a moment: whether a run is done is not asked here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from msgspec import Struct

from floradl.index.freshness import compared_at, note_compared, note_looked
from floradl.index.reading import (
    SidecarFolder,
    Stamp,
    is_sidecar,
    list_sidecars,
    list_store,
    list_techniques,
    list_written,
    open_reader,
)
from floradl.index.rows import put_in, take_out
from floradl.index.tables import FILE_NAME, IndexFile
from floradl.index.views import Views
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.template import SIDECARS

_BATCH: Final = 500  # runs that are put in at a time: others read and write in between
_RUN: Final = (
    "SELECT folder, file, (SELECT name FROM names WHERE names.id = result) FROM runs WHERE run_id = ?"
)
_BATCH_OF_MANY: Final = 5_000  # each page is written once a batch, and again when the log is merged
_NAMED: Final = 400  # sidecars in a question
_MANY: Final = 20_000  # runs to put in, from which their files are sorted into the index at the end
_SURE: Final = (
    "sure:"  # and a folder's name: of what time (ctime) its sidecars are that were written to since
)
_COMPARED: Final = 86_400.0  # seconds, after which all are compared: a clock that was wrong hides a change
_RACY_NS: Final = 2_000_000_000  # a folder that changed so lately may change again at the same moment


class IndexedRun(Struct, frozen=True):
    """Where a run's sidecar is, relative to the library with `/`, and how the run ended."""

    run_id: str
    path: str
    result: str


class IndexedFile(Struct, frozen=True):
    """A file that an output names. `path` is relative to the library with `/`."""

    run_id: str
    path: str
    kind: str
    bytes: int | None
    sha256: str | None


class Changes(Struct, frozen=True):
    """What became of the index: the runs that were put in, and how many sidecars were taken out."""

    run_ids: list[str]
    taken_out: int
    listed: int = 0
    """How many sidecars a store was found to have."""


class LibraryIndex:
    """The index of `library`, in the folder `place`. Blocking; any thread may use it.

    `views` answers searches. Raises `ConfigError` where its file cannot be opened.
    """

    def __init__(self, place: Path, library: LibraryStore) -> None:
        self._library = library
        self._file = IndexFile(place / FILE_NAME, library.location())
        self.views = Views(self._file)

    def close(self) -> None:
        """Close its file."""
        self._file.close()

    def run(self, run_id: str) -> IndexedRun | None:
        """Find a run; None where no sidecar names it."""
        with self._file.reading() as db:
            row = db.execute(_RUN, (run_id,)).fetchone()
        return IndexedRun(run_id, f"{SIDECARS}/{row[0]}/{row[1]}", row[2]) if row else None

    def by_sha256(self, sha256: str) -> list[IndexedFile]:
        """Find the files with these bytes, wherever a sidecar names them; the last one first."""
        return self._files("sha256 = ?", sha256)

    def by_path(self, path: str) -> IndexedFile | None:
        """Find the file that an output has at `path`; None where none names it."""
        return next(iter(self._files("path = ?", path)), None)

    def _files(self, where: str, value: str) -> list[IndexedFile]:
        columns = "runs.run_id, outputs.path, names.name, outputs.bytes, outputs.sha256"
        joined = "outputs JOIN runs ON runs.id = outputs.run JOIN names ON names.id = outputs.kind"
        query = f"SELECT {columns} FROM {joined} WHERE outputs.{where} ORDER BY outputs.at DESC LIMIT 100"  # noqa: S608
        with self._file.reading() as db:
            return [IndexedFile(*row) for row in db.execute(query, (value,))]

    def add(self, paths: Iterable[str]) -> Changes:
        """Read these sidecars (paths in the library) again.

        One that is gone is taken out. Raises as `Library`, and as `IndexFile.writing`.
        """
        named: dict[str, list[str]] = {}
        for path in sorted(set(paths)):
            match path.split("/"):
                case [top, folder, file] if top == SIDECARS and is_sidecar(file):
                    named.setdefault(folder, []).append(file)
        found = []
        gone = []
        with ExitStack() as stack:
            reader = open_reader(self._library, stack, {})
            for folder, files in named.items():
                for file, read in zip(files, reader.read(folder, files), strict=True):
                    if read is None:
                        gone.append((folder, file))
                    else:
                        found.append(read)
        if not found and not gone:
            return Changes([], 0)
        with self._file.writing() as db:
            count = take_out(db, gone)
            put_in(db, found)
        return Changes([read.document.run_id for read in found], count)

    def rebuild(
        self, progress: Callable[[int, int], None] | None = None, *, thorough: bool = False
    ) -> Changes:
        """Bring the index up to the library; only folders and sidecars that changed are read.

        `thorough` looks at each sidecar, also where the time of its folder stands: it may have been written
        to in place. `progress` hears how many of how many sidecars are read. Raises as `add`; what was read
        until then stays.
        """
        began = time.time()
        compares = thorough and not 0 <= began - compared_at(self._file) <= _COMPARED
        if isinstance(self._library, FolderLibrary):
            there, works = self._look_at_folder(self._library, thorough=thorough, compares=compares)
        else:
            there, works = self._look_at_store()
        took = time.time() - began
        with self._file.reading() as db:
            named = {name for (name,) in db.execute("SELECT folder FROM runs UNION SELECT name FROM folders")}
        run_ids: list[str] = []
        taken_out = self._drop_folders(named - set(there))
        total = sum(len(work.files) for work in works)
        if many := total > _MANY and total > self._count():
            self._file.put_off_scattered()
        at_once = _BATCH_OF_MANY if many else _BATCH
        done = 0
        for work in works:
            for start in range(0, len(work.files), at_once):
                batch = work.files[start : start + at_once]
                with ExitStack() as stack:
                    reader = open_reader(self._library, stack, work.stamps)
                    found = [read for read in reader.read(work.folder, batch) if read is not None]
                with self._file.writing() as db:
                    put_in(db, found)
                run_ids += [read.document.run_id for read in found]
                done += len(batch)
                if progress is not None:
                    progress(done, total)
            with self._file.writing() as db:
                taken_out += take_out(db, [(work.folder, file) for file in work.gone])
                if work.mtime_ns and time.time_ns() - work.mtime_ns > _RACY_NS:
                    db.execute("INSERT OR REPLACE INTO folders VALUES (?, ?)", (work.folder, work.mtime_ns))
                    sure = f"{_SURE}{work.folder}", str(work.sure_ns)
                    db.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", sure)
        self._file.catch_up_scattered()
        if thorough or not named or not isinstance(self._library, FolderLibrary):
            note_looked(self._file, began, took)
        if compares or not named:
            note_compared(self._file, began)
        return Changes(run_ids, taken_out, sum(there.values()))

    def _count(self) -> int:
        with self._file.reading() as db:
            found: tuple[int] = db.execute("SELECT count(*) FROM runs").fetchone()
        return found[0]

    def _look_at_folder(
        self, library: FolderLibrary, *, thorough: bool, compares: bool
    ) -> tuple[dict[str, int], list[_Work]]:
        """Return the techniques' folders, and what is to be read of those that changed."""
        there = list_techniques(library)
        with self._file.reading() as db:
            known: dict[str, int] = dict(db.execute("SELECT name, mtime_ns FROM folders"))
            kept = db.execute("SELECT key, value FROM about WHERE key >= ? AND key < 'sure;'", (_SURE,))
            sure = {key.removeprefix(_SURE): int(value) for key, value in kept}
        works = []
        for folder in there:
            # Where its time stands, what was written to in place shows by its own.
            if thorough and not compares and folder in known and folder in sure:
                written = list_written(library, folder, known[folder], sure[folder])
                if written is not None:
                    works.append(self._compare_written(folder, written))
                    continue
            listed = list_sidecars(library, folder, None if thorough else known.get(folder))
            if listed is not None:
                works.append(self._compare(folder, listed.mtime_ns, listed.stamps, listed.sure_ns))
        return dict.fromkeys(there, 0), works

    def _compare_written(self, folder: str, written: SidecarFolder) -> _Work:
        """As `_compare`, of a folder in which the others are as they were."""
        stamps, known = written.stamps, dict[str, Stamp]()
        names = list(stamps)
        with self._file.reading() as db:
            for start in range(0, len(names), _NAMED):
                some = names[start : start + _NAMED]
                marks = ",".join("?" * len(some))
                query = f"SELECT file, mtime_ns, size FROM runs WHERE folder = ? AND file IN ({marks})"  # noqa: S608
                known |= {
                    file: (mtime_ns, size) for file, mtime_ns, size in db.execute(query, (folder, *some))
                }
        files = [name for name, stamp in stamps.items() if known.get(name) != stamp]
        return _Work(folder, written.mtime_ns, files, [], {}, written.sure_ns)

    def _look_at_store(self) -> tuple[dict[str, int], list[_Work]]:
        """Return how many sidecars each technique has, and what is to be read of them."""
        listed = list_store(self._library)
        works = [self._compare(folder, 0, stamps) for folder, stamps in listed.items()]
        changed = [work for work in works if work.files or work.gone]
        return {folder: len(stamps) for folder, stamps in listed.items()}, changed

    def _drop_folders(self, names: set[str]) -> int:
        count = 0
        for name in names:
            with self._file.writing() as db:
                count += take_out(db, db.execute("SELECT folder, file FROM runs WHERE folder = ?", (name,)))
                db.execute("DELETE FROM folders WHERE name = ?", (name,))
                db.execute("DELETE FROM about WHERE key = ?", (f"{_SURE}{name}",))
        return count

    def _compare(self, folder: str, mtime_ns: int, stamps: dict[str, Stamp], sure_ns: int = 0) -> _Work:
        with self._file.reading() as db:
            rows = db.execute("SELECT file, mtime_ns, size FROM runs WHERE folder = ?", (folder,))
            known = {file: (mtime_ns, size) for file, mtime_ns, size in rows}
        # The newest first: people look at those first.
        files = [name for name, stamp in stamps.items() if known.get(name) != stamp]
        files.sort(key=lambda name: stamps[name][0], reverse=True)
        # A folder's are looked at once more: what is kept of a million sidecars is much.
        paths = {} if mtime_ns else {f"{SIDECARS}/{folder}/{name}": stamps[name] for name in files}
        gone = [name for name in known if name not in stamps]
        return _Work(folder, mtime_ns, files, gone, paths, sure_ns)


class _Work(Struct, frozen=True):
    """What is to be read, and what is gone, of a technique's folder of that time (0 in a store).

    `stamps` are those of what is to be read, by path. `sure_ns` is that of `SidecarFolder`.
    """

    folder: str
    mtime_ns: int
    files: list[str]
    gone: list[str]
    stamps: dict[str, Stamp]
    sure_ns: int = 0
