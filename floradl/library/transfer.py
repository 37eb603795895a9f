"""Copies a library into another one, whatever the two are kept in, and checks each copy by its SHA-256.

Files come first, sidecars last, each under the path that it has. What is there already is checked, and not
copied again: a copy that was killed goes on where it was.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Final

from msgspec import Struct

from floradl.clock import unix_seconds
from floradl.errors import ErrorCode, FloradlError, ServicePausedError, TransientError
from floradl.library.base import Destination, LibraryStore, StoredFile
from floradl.library.moved_files import sha256_of
from floradl.library.relayout import extension_of, run_of
from floradl.library.sidecar import by_key
from floradl.library.template import SIDECARS
from floradl.models import QueuedRun, RemoteOutput

_CHUNK: Final = 1 << 20
_THREADS: Final = 4
_TRIES: Final = 3
_WINDOW: Final = 256  # files that are handed to the threads at a time
_ROUNDS: Final = 5  # over what came while all else was copied
_OTHERS: Final = "run_floradl-copy"  # under this run's name arrives what no sidecar names


class Failure(Struct, frozen=True):
    """A file that could not be copied, or is not what it should be."""

    path: str
    message: str


class Copied(Struct):
    """How far it is: files and bytes that are there and were checked, and what failed."""

    files: int = 0
    bytes: int = 0
    failures: list[Failure] = []


class _File(Struct, frozen=True):
    """A file to copy: what its sidecar says of it, if one names it, and where the other library puts it."""

    stored: StoredFile
    sha256: str | None
    destination: Callable[[], Destination]


class Copier:
    """Copies `source` to `target`. `report` gets what was done so far."""

    def __init__(
        self, source: LibraryStore, target: LibraryStore, report: Callable[[Copied], None] = lambda _: None
    ) -> None:
        self._source = source
        self._target = target
        self._report = report
        self._there: dict[str, int] = {}
        self._stamps: dict[str, str] = {}
        self.done = Copied()

    def copy(self) -> Copied:
        """Copy all, and what came meanwhile. Raises `ServicePausedError` where either is gone, or full."""
        self._there = {file.path: file.size for file in self._target.listing()}
        for _ in range(_ROUNDS):
            files = {file.path: file for file in self._source.listing() if self._is_new(file)}
            if not files:
                return self.done
            self._copy_all(self._named(files), _THREADS)
            # One after the other: they arrive in one folder, which goes with the last file in it.
            self._copy_all(self._others(file for file in files.values() if not _is_sidecar(file)), 1)
            self._copy_all(self._others(file for file in files.values() if _is_sidecar(file)), 1)
        return self.done

    def _is_new(self, file: StoredFile) -> bool:
        return self._stamps.get(file.path) != file.stamp

    def _named(self, files: dict[str, StoredFile]) -> Iterator[_File]:
        """Yield what sidecars name. One that is not there is a failure."""
        for entry in self._source.scan():
            if (sidecar := entry.sidecar) is None or entry.path not in files:
                continue
            run, times = run_of(sidecar, sidecar.technique), sidecar.times
            moments = unix_seconds(times.completed_at), unix_seconds(times.created_at)
            for index, (key, output) in enumerate(by_key(sidecar.outputs).items(), 1):
                if output.path is None:
                    continue
                if output.path not in files:
                    if output.removed is None and output.path not in self._stamps:
                        self._fail(output.path, "it is not there, and its sidecar names it")
                    continue
                nth = 1 if key == output.output_id else int(key[len(output.output_id) + 1 :])
                remote = RemoteOutput(output.output_id, output.type, output.url or "", nth)

                def planned(
                    run: QueuedRun = run,
                    remote: RemoteOutput = remote,
                    index: int = index,
                    moments: tuple[float | None, float | None] = moments,
                ) -> Destination:
                    return self._target.destination(run, remote, index, *moments)

                yield _File(files[output.path], output.sha256, planned)

    def _others(self, files: Iterable[StoredFile]) -> Iterator[_File]:
        """Yield what no sidecar names, such as the sidecars themselves."""
        for file in files:
            if not self._is_new(file):
                continue
            name = hashlib.sha256(file.path.encode("utf-8", "surrogatepass")).hexdigest()[:24]
            remote = RemoteOutput(name, "other", "")
            run = QueuedRun(run_id=_OTHERS, queued_at=0.0)

            def planned(run: QueuedRun = run, remote: RemoteOutput = remote) -> Destination:
                return self._target.destination(run, remote, 1, None)

            yield _File(file, None, planned)

    def _copy_all(self, files: Iterator[_File], threads: int) -> None:
        with ThreadPoolExecutor(threads, "copy") as pool:
            while batch := list(islice(files, _WINDOW)):
                for file, failed in zip(batch, pool.map(self._tried, batch), strict=True):
                    self._stamps[file.stored.path] = file.stored.stamp
                    if isinstance(failed, ServicePausedError):
                        pool.shutdown(cancel_futures=True)
                        raise failed
                    if failed is not None:
                        self._fail(file.stored.path, str(failed))
                    else:
                        self.done.files += 1
                        self.done.bytes += file.stored.size
                    self._report(self.done)

    def _fail(self, path: str, message: str) -> None:
        self.done.failures.append(Failure(path, message))

    def _tried(self, file: _File) -> FloradlError | None:
        for attempt in range(1, _TRIES + 1):
            try:
                self._copy(file)
                return None
            except TransientError as error:  # a folder may have gone while another thread opened it
                if attempt == _TRIES:
                    return error
            except FloradlError as error:
                return error
        raise AssertionError("counting ended")

    def _copy(self, file: _File) -> None:
        path, size = file.stored.path, file.stored.size
        if path in self._there:
            if self._there[path] == size and self._is_same(file):
                return
            if not _is_sidecar(file.stored):
                raise TransientError("another file has this path there already", ErrorCode.STORAGE)
            self._target.remove(path)  # what it said before
        sha256 = self._send(file)
        if file.sha256 is not None and sha256 != file.sha256:
            raise TransientError("its bytes are not those that its sidecar says (SHA-256)", ErrorCode.STORAGE)
        if sha256_of(self._target, path) != sha256:
            raise TransientError("its copy has other bytes (SHA-256)", ErrorCode.STORAGE)
        self._there[path] = size

    def _is_same(self, file: _File) -> bool:
        sha256 = file.sha256 or sha256_of(self._source, file.stored.path)
        return sha256 is not None and sha256 == sha256_of(self._target, file.stored.path)

    def _send(self, file: _File) -> str:
        """Write a file to the other library, under the same path; return its SHA-256."""
        path = file.stored.path
        opened = self._source.open_file(path)
        if opened is None:
            raise TransientError("it was removed meanwhile", ErrorCode.STORAGE)
        digest = hashlib.sha256()
        destination = file.destination()
        with opened, destination.open("") as sink:
            sink.truncate(0)
            try:
                while chunk := opened.read(_CHUNK):
                    digest.update(chunk)
                    sink.write(chunk)
            except OSError as error:
                raise TransientError(f"it cannot be read: {error.strerror}", ErrorCode.STORAGE) from error
            sha256 = digest.hexdigest()
            put = destination.publish(sink, extension_of(path).lower(), sha256, _mtime(file.stored))
        if put != path and not self._target.move(put, path):
            self._target.remove(put)
            raise TransientError("another file has this path there already", ErrorCode.STORAGE)
        return sha256


def _is_sidecar(file: StoredFile) -> bool:
    return file.path.startswith(f"{SIDECARS}/")


def _mtime(file: StoredFile) -> float | None:
    """Return a file's time in unix seconds; None from a store, whose stamp is none."""
    return int(file.stamp) / 1e9 if file.etag is None and file.stamp.isdigit() else None
