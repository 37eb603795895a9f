"""Goes through the library for `verify`: which files are looked at, by several threads, and what is wrong.

While it does, a line on a terminal shows how far it is.
"""

from __future__ import annotations

import os
import re
import threading
import time
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TextIO, TypeVar

from msgspec import Struct

from floradl.clock import unix_seconds
from floradl.errors import FloradlError
from floradl.fs.permissions import user_name
from floradl.library.base import LibraryEntry, LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.sidecar import Sidecar
from floradl.library.template import SIDECARS
from floradl.library.verify import FileVerdict, file_verifier
from floradl.models import Reference, SavedOutput
from floradl.sources.scan import is_ignored
from floradl.units import format_clock, format_size

_EVERY = 0.1  # seconds
_WIPE = "\r\x1b[K"
_THREADS = min(4, os.cpu_count() or 1)  # one reads while others hash; more would only make a disk seek
_REQUESTS = 8  # to a store at once
_AHEAD = 64  # files
_AWAKE = 0.5  # seconds until a waiting main thread looks whether it was interrupted
_BESIDE = re.compile(r"(.+)\.(?:damaged(?:-[0-9]+)?|xmp)", re.DOTALL)


class ProgressLine:
    """Counts bytes and files, and shows them on `stream` if that is a terminal. Threads may share it."""

    def __init__(
        self, stream: TextIO, *, shown: bool, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._stream = stream
        self.shown = shown and stream.isatty()
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._started = monotonic()
        self._drawn = 0.0
        self.bytes = 0
        self.total: int | None = None
        """All bytes that there are to look at, as soon as that is known."""

    def add(self, size: int) -> None:
        """Count bytes that were read, or passed over."""
        with self._lock:
            self.bytes += size
            now = self._monotonic()
            if self.shown and now - self._drawn >= _EVERY:
                self._drawn = now
                self._draw(_WIPE + self._line(now))

    def clear(self) -> None:
        """Remove the line, before something else is written."""
        if self.shown:
            with self._lock:
                self._drawn = 0.0
                self._draw(_WIPE)

    def _line(self, now: float) -> str:
        rate = self.bytes / max(now - self._started, 0.001)
        done = format_size(self.bytes)
        if self.total:
            share = min(100 * self.bytes // self.total, 100)
            done = f"{share:3} %  {done} of {format_size(self.total)}"
        left = (self.total - self.bytes) / rate if self.total and rate else 0.0
        rest = f"  {format_clock(int(left))} left" if left > 1 else ""
        return f"verifying  {done}  {format_size(int(rate))}/s{rest}"

    def _draw(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # nobody looks any more
            self.shown = False


_SLOW = 0.001  # seconds that a look takes where a disk or a server is waited for
_AGAIN = 512  # looks, after which it is tried anew how long one takes
_T = TypeVar("_T")


class _Pool(ThreadPoolExecutor):
    """Threads, where `quick` looks turn out to take long: to hand one over costs more than to look."""

    def __init__(self, threads: int, *, quick: bool) -> None:
        super().__init__(threads, "verify")
        self._quick = quick
        self._looks = 0
        self._usual = 0.0  # seconds

    def look(self, work: Callable[..., _T], *arguments: object) -> Future[_T]:
        """Call `work` here and now, or in a thread."""
        if not self._quick:
            return self.submit(work, *arguments)
        self._looks += 1
        if self._looks % _AGAIN == 0:
            self._usual = 0.0
        if self._usual > _SLOW:
            return self.submit(work, *arguments)
        future: Future[_T] = Future()
        began = time.monotonic()
        try:
            future.set_result(work(*arguments))
        except Exception as error:  # noqa: BLE001 - raised to whoever asks for the result
            future.set_exception(error)
        self._usual += (time.monotonic() - began - self._usual) / 16
        return future


class FileFilter(Struct, frozen=True, kw_only=True):
    """What is looked at. No `references`: all runs. `since` (unix seconds) is compared with `finished_at`."""

    references: tuple[Reference, ...] = ()
    since: float | None = None
    quick: bool = False

    @property
    def everything(self) -> bool:
        """Whether no run is left out."""
        return not self.references and self.since is None


class Problem(Struct, frozen=True, kw_only=True):
    """A file that is not as it should be, of the output at `index` of `sidecar`; without these, a sidecar."""

    verdict: FileVerdict
    message: str
    path: str | None = None
    reference: str | None = None
    sidecar: Sidecar | None = None
    index: int = 0

    @property
    def output(self) -> SavedOutput | None:
        """The output whose file it is."""
        return None if self.sidecar is None else self.sidecar.outputs[self.index]


ACCEPTED = "its sidecar says that it was removed"
"""What became of a file that is gone, and accepted to be."""


class VerifyOutcome(Struct, frozen=True):
    """What became of a problem that was to be repaired. `kept_as` is where the damaged file is now."""

    mended: bool
    message: str = ""
    path: str | None = None
    kept_as: str | None = None


def foreign(uid: int) -> str:
    """Return why a sidecar of that user's does not count, and how to fix it."""
    return (
        f"it belongs to {user_name(uid)}, and others than floradl may write there, so it counts for nothing: "
        "give it to the user that floradl runs as (chown) where it is right, or remove it"
    )


class LibraryScan:
    """One walk through the library. `forgotten` are the ids of runs that are not wanted any more."""

    def __init__(
        self, library: LibraryStore, wanted: FileFilter, forgotten: AbstractSet[str], meter: ProgressLine
    ) -> None:
        self._library = library
        self._wanted = wanted
        self._forgotten = forgotten
        self._meter = meter
        self._stop = threading.Event()
        self._examiner = file_verifier(library, meter.add, self._stop, quick=wanted.quick)
        self.runs = self.files = self.passed_over = self.skipped = self.removed = 0
        """How many runs and files were looked at, how many forgotten runs were not, and how many outputs were
        left out on purpose, or removed."""
        self.known = KnownFiles()
        """The files that the sidecars which were read name."""

    def problems(self) -> Iterator[Problem]:
        """Yield what is wrong, in the order of the sidecars. Raises `ServicePausedError`: no library."""
        threads = _THREADS if isinstance(self._library, FolderLibrary) else _REQUESTS
        pool = _Pool(threads + 1, quick=self._wanted.quick)
        try:
            if self._meter.shown:
                pool.submit(self._add_up)
            ahead: deque[Problem | Future[Problem | None]] = deque()
            for found in self._chosen():
                ahead.extend(self._begin(pool, found))
                while len(ahead) > _AHEAD:
                    yield from _done(ahead.popleft())
            for item in ahead:
                yield from _done(item)
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)

    def _begin(
        self, pool: _Pool, found: LibraryEntry | Problem
    ) -> Iterator[Problem | Future[Problem | None]]:
        if isinstance(found, Problem):
            yield found
            return
        if found.foreign is not None:
            yield Problem(verdict=FileVerdict.FOREIGN, path=found.path, message=foreign(found.foreign))
            return
        if (sidecar := found.sidecar) is None:
            message = "this sidecar cannot be read, or something that is not a file stands in its place"
            yield Problem(verdict=FileVerdict.DAMAGED, path=found.path, message=message)
            return
        self.known.add(output.path for output in sidecar.outputs if output.path is not None)
        if sidecar.run_id in self._forgotten:
            self.passed_over += 1
            return
        self.runs += 1
        for index, output in enumerate(sidecar.outputs):
            self.skipped += output.skipped is not None
            if output.removed is not None:  # its file may be there yet, where the removal ended early
                self.removed += 1
            elif output.path is not None:
                self.files += 1
                yield pool.look(self._examine, sidecar, index)

    def _examine(self, sidecar: Sidecar, index: int) -> Problem | None:
        output = sidecar.outputs[index]
        found = self._examiner.examine(output, sidecar.times.completed_at)
        if found.verdict is FileVerdict.SOUND:
            return None
        return Problem(
            verdict=found.verdict,
            message=found.message,
            path=output.path,
            reference=sidecar.reference,
            sidecar=sidecar,
            index=index,
        )

    def _chosen(self) -> Iterator[LibraryEntry | Problem]:
        if not self._wanted.references:
            yield from filter(self._recent, self._library.scan())
        for reference in self._wanted.references:
            if (sidecar := self._library.find_sidecar(reference)) is None:
                message = "it has no sidecar that can be read: it is not done yet, or that was removed"
                yield Problem(verdict=FileVerdict.MISSING, reference=str(reference), message=message)
            elif self._recent(found := LibraryEntry("", sidecar)):
                yield found

    def _recent(self, found: LibraryEntry) -> bool:
        if self._wanted.since is None or found.sidecar is None:
            return True
        finished = unix_seconds(found.sidecar.times.finished_at)
        return finished is None or finished >= self._wanted.since

    def _add_up(self) -> None:
        total = 0
        try:
            if self._wanted.everything and not isinstance(self._library, FolderLibrary):
                # Near enough, and the sidecars are not read once more for it.
                sidecars = f"{SIDECARS}/"
                files = self._library.listing()
                self._meter.total = sum(file.size for file in files if not file.path.startswith(sidecars))
                return
            for found in self._chosen():
                if self._stop.is_set():
                    return
                sidecar = found.sidecar
                if sidecar is not None and sidecar.run_id not in self._forgotten:
                    total += sum(
                        output.bytes or 0
                        for output in sidecar.outputs
                        if output.path is not None and output.removed is None
                    )
        except FloradlError:  # the examination itself meets it too
            return
        self._meter.total = total


def _done(item: Problem | Future[Problem | None]) -> Iterator[Problem]:
    if isinstance(item, Future):
        # Python handles a signal in the main thread, and one that another thread got, or that came right
        # before this one began to wait, does not wake it: Ctrl-C would wait for the end of the file.
        while not item.done():
            wait([item], _AWAKE)
    problem = item if isinstance(item, Problem) else item.result()
    if problem is not None:
        yield problem


class KnownFiles:
    """Paths that sidecars name. Only their hashes are kept: a library may have millions."""

    def __init__(self) -> None:
        self._hashes: set[int] = set()

    def add(self, paths: Iterable[str]) -> None:
        """Add paths that are named."""
        self._hashes.update(_hash(path) for path in paths)

    def __contains__(self, path: str) -> bool:
        return _hash(path) in self._hashes


def unknown_files(
    library: LibraryStore, known: KnownFiles, under_way: Callable[[], Iterable[str]]
) -> list[str]:
    """Return the paths of files that are neither `known` nor `under_way`, their run being open."""
    found = [path for path in library.files() if path not in known and not _is_passed_over(path, known)]
    if not found:
        return []
    since = KnownFiles()  # runs that ended while all that was looked at
    since.add(under_way())  # asked now, when all files that were found were there
    for each in library.scan():
        if each.sidecar is not None:
            since.add(output.path for output in each.sidecar.outputs if output.path is not None)
    return [path for path in found if path not in since]


def _is_passed_over(path: str, known: KnownFiles) -> bool:
    found = _BESIDE.fullmatch(path)
    return is_ignored(path.rpartition("/")[2]) or (found is not None and found[1] in known)


def _hash(path: str) -> int:
    return hash(unicodedata.normalize("NFC", path))  # some file systems give names back in another form
