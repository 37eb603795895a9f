"""Which files sidecars name: a file with the bytes and the name of an output is adopted where it is nobody's.

That is asked only where another output's file may have the name, as by a template like `{label}`; where that
may be another run's, all sidecars are read once. Of their paths only hashes are kept: there may be millions.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from contextlib import suppress
from threading import Lock
from typing import Final

from floradl.errors import FloradlError
from floradl.fs.names import fold
from floradl.library.base import LibraryStore
from floradl.library.sidecar import Sidecar, by_key
from floradl.models import QueuedRun, RemoteOutput

_MANY: Final = 100_000  # files


class NamedFiles:
    """What the sidecars of `library` name, and the runs that are under way have. Thread-safe.

    `tells_runs_apart`: no two runs' files can have one name, so that only a run's own are looked at.
    """

    def __init__(self, library: LibraryStore, *, tells_runs_apart: bool) -> None:
        self._library = library
        self._is_own_business = tells_runs_apart
        self._lock = Lock()
        self._read: array[int] | None = None  # sorted
        self._since: set[int] | None = None  # what came since reading began; None before

    def is_anothers(self, path: str, run: QueuedRun, output: RemoteOutput) -> bool:
        """Whether the file at `path` is another output's. Raises as `LibraryStore.scan`."""
        if (own := self._library.find_sidecar(run.reference)) is not None:
            keys = [key for key, each in by_key(own.outputs).items() if each.path == path]
            if keys:
                return output.key not in keys
        folded = fold(path)
        with suppress(FloradlError):  # before the sidecars: a run that ends meanwhile has one by then
            for at, owner in self._library.under_way().items():
                if fold(at) == folded and owner != (run.run_id, output.key):
                    return True
        if self._is_own_business:
            return False
        key = hash(folded)
        with self._lock:
            read, since = self._current()
            place = bisect_left(read, key)
            return key in since or (place < len(read) and read[place] == key)

    def note(self, sidecar: Sidecar) -> None:
        """Take in a sidecar that is written now."""
        if self._since is not None:  # without the lock: whoever reads all sidecars has that for long
            self._since.update(map(_key, _paths(sidecar)))

    def _current(self) -> tuple[array[int], set[int]]:
        since = self._since
        if self._read is None or since is None:
            self._since = since = set()
            named = (_paths(each.sidecar) for each in self._library.scan() if each.sidecar is not None)
            self._read = array("q", sorted({_key(path) for paths in named for path in paths}))
        elif len(since) > _MANY:
            self._since = set()
            self._read = array("q", sorted({*self._read, *since}))
        return self._read, since


def _paths(sidecar: Sidecar) -> Iterable[str]:
    return [output.path for output in sidecar.outputs if output.path is not None]


def _key(path: str) -> int:
    return hash(fold(path))
