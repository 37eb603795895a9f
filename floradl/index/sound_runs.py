"""Which runs of a store are as their sidecars say, from a listing and the index: for who looks quickly.

A sidecar whose ETag and size are those that the index read is the one that it read, so that what it says is
known without a request. Whatever is not certain here is left to be read.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from msgspec import Struct

from floradl.index.reading import stamp_number
from floradl.index.tables import look_into
from floradl.library.base import StoredFile
from floradl.library.template import SIDECARS

_FILES = "SELECT run, path, bytes, etag FROM outputs ORDER BY run"
_ABSENT = "SELECT run, why, count(*) FROM absent GROUP BY 1, 2 ORDER BY 1"


class SoundRun(Struct, frozen=True):
    """A run whose sidecar is at `sidecar`, and its files, which are there: paths, and their bytes together.

    `skipped` and `removed` are how many outputs were left out, or removed.
    """

    sidecar: str
    run_id: str
    paths: tuple[str, ...]
    bytes: int
    skipped: int
    removed: int


def sound_runs(index: Path, location: str, listed: Mapping[str, StoredFile]) -> Iterator[SoundRun]:
    """Yield the runs that are as `listed`, by path; none without an index of the library at `location`."""
    db = look_into(index, location)
    if db is None:
        return
    with closing(db):
        try:
            yield from _sound(db, listed)
        except sqlite3.Error:  # what it did not tell is read
            return


def _sound(db: sqlite3.Connection, listed: Mapping[str, StoredFile]) -> Iterator[SoundRun]:
    db.execute("BEGIN")  # all of the same moment
    files = groupby(db.execute(_FILES), itemgetter(0))
    absent = groupby(db.execute(_ABSENT), itemgetter(0))
    next_files, next_absent = next(files, None), next(absent, None)
    for key, run_id, folder, file, number, size in db.execute(
        "SELECT id, run_id, folder, file, mtime_ns, size FROM runs ORDER BY id"
    ):
        of_run: list[tuple[int, str, int | None, int | None]] = []
        why: dict[str, int] = {}
        if next_files is not None and next_files[0] == key:
            of_run, next_files = list(next_files[1]), next(files, None)
        if next_absent is not None and next_absent[0] == key:
            why = {reason: count for _, reason, count in next_absent[1]}
            next_absent = next(absent, None)
        sidecar = f"{SIDECARS}/{folder}/{file}"
        if _is_version(listed.get(sidecar), size, number) and all(
            _is_version(listed.get(path), of_file, etag) for _, path, of_file, etag in of_run
        ):
            yield SoundRun(
                sidecar,
                run_id,
                tuple(path for _, path, *_ in of_run),
                sum(of_file or 0 for _, _, of_file, _ in of_run),
                why.get("skipped", 0),
                why.get("removed", 0),
            )


def _is_version(found: StoredFile | None, size: int | None, number: int | None) -> bool:
    """Whether an object is the one of this size and number of its ETag, as far as that is known."""
    if found is None or found.size != size:
        return False
    return number is None or not found.etag or stamp_number(found.stamp) == number
