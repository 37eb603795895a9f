"""Whether a file is still what its sidecar says: there, of that size, with that SHA-256.

Files of a folder are read past the page cache, so that verifying a large library does not push out what
others work with. In a store `quick` is one listing, and no request for each file.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from floradl.clock import unix_seconds
from floradl.errors import TransientError
from floradl.fs.folders import FolderFd, NotRegularFileError, open_folder, open_plain
from floradl.fs.names import SafeName, stored_path
from floradl.library.base import LibraryStore, StoredFile
from floradl.library.folder import FolderLibrary
from floradl.models import SavedOutput
from floradl.portability import drop_cached, mark_sequential

_CHUNK = 1 << 20
_DROP_EVERY = 64 << 20  # bytes, after which the page cache may drop them
_COARSE, _FINE = 2.0, 0.01  # seconds: FAT cuts times down to 2 s, and sidecars to 1 ms


class FileVerdict(StrEnum):
    """What a look at one file gave."""

    SOUND = "sound"
    MISSING = "missing"
    DAMAGED = "damaged"
    FOREIGN = "foreign"  # a sidecar of somebody else's, where others may write: it does not count
    UNREADABLE = "unreadable"  # this user may not read it: nothing is known about its bytes


class FileReport(Struct, frozen=True):
    """The verdict, and for a person what is wrong."""

    verdict: FileVerdict
    message: str = ""


SOUND = FileReport(FileVerdict.SOUND)
_MISSING = FileReport(FileVerdict.MISSING, "it is not there")
_OTHER_BYTES = FileReport(FileVerdict.DAMAGED, "its bytes are not those that its sidecar says (SHA-256)")
_IN_THE_WAY = FileReport(FileVerdict.DAMAGED, "a link, or something else that is no file, stands there")


def _other_size(size: int, output: SavedOutput) -> FileReport:
    message = f"it has {size:,} bytes, and its sidecar says {output.bytes or 0:,}"
    return FileReport(FileVerdict.DAMAGED, message)


class VerifyStoppedError(Exception):
    """Verification is to stop."""


_USES = 256  # of a folder that is kept open: then it is looked again whether the library is there


class _LastFolder:
    """The folder that a thread opened last, open until it lets go of it."""

    def __init__(self, parts: tuple[SafeName, ...], folder: FolderFd) -> None:
        self.parts = parts
        self.folder = folder.dup()
        self.uses = 0

    def __del__(self) -> None:
        os.close(self.folder)


class StoreListing:
    """All files of a store by path, listed once, when it is first asked. Threads may share it."""

    def __init__(self, library: LibraryStore) -> None:
        self._library = library
        self._lock = threading.Lock()
        self._files: dict[str, StoredFile] | None = None

    def __call__(self) -> Mapping[str, StoredFile]:
        """Return them. Raises as `LibraryStore.listing`."""
        with self._lock:
            if self._files is None:
                self._files = {file.path: file for file in self._library.listing()}
            return self._files


class FileVerifier(Protocol):
    """Looks at files. Threads may share it."""

    def examine(self, output: SavedOutput, completed_at: str | None) -> FileReport:
        """Compare the file of an output that has a path with what its sidecar says.

        Quickly: its bytes are only read where its time, or its ETag in a store, says that it was written to
        since. Raises `ServicePausedError` where the library is gone, and `VerifyStoppedError`.
        """


def file_verifier(
    library: LibraryStore,
    report: Callable[[int], None],
    stop: threading.Event,
    *,
    quick: bool,
    listed: StoreListing | None = None,
) -> FileVerifier:
    """Return what looks at the files of `library` until `stop` is set.

    `report` is called with the bytes read, or passed over. `listed` serves to look quickly at a store.
    """
    if isinstance(library, FolderLibrary):
        return _FolderVerifier(library, report, stop, quick=quick)
    return _StoreVerifier(library, report, stop, (listed or StoreListing(library)) if quick else None)


def _is_another(found: StoredFile, output: SavedOutput) -> bool:
    """Whether a file in a store is another version than the one that was saved, as far as both are known."""
    return bool(found.etag) and output.stored_etag not in {None, found.etag}


class _StoreVerifier:
    """Looks at files through the library's door."""

    def __init__(
        self,
        library: LibraryStore,
        report: Callable[[int], None],
        stop: threading.Event,
        listed: StoreListing | None,
    ) -> None:
        self._library = library
        self._report = report
        self._stop = stop
        self._listed = listed

    def examine(self, output: SavedOutput, completed_at: str | None) -> FileReport:
        del completed_at  # a store gives no file another time
        if self._stop.is_set():
            raise VerifyStoppedError
        try:
            return self._hash(output) if self._listed is None else self._look(output, self._listed())
        except TransientError as error:
            return FileReport(FileVerdict.UNREADABLE, f"whether it is sound is not known: {error}")

    def _look(self, output: SavedOutput, listed: Mapping[str, StoredFile]) -> FileReport:
        path = output.path or ""
        found = listed.get(path)
        if found is None or found.size != output.bytes:  # it may have been saved since the listing was made
            found = self._library.stat(path)
        if found is not None and found.size == output.bytes and _is_another(found, output):
            return self._hash(output)  # as it is once a bucket was copied
        self._report(output.bytes or 0)
        if found is None:
            return _MISSING
        return SOUND if found.size == output.bytes else _other_size(found.size, output)

    def _hash(self, output: SavedOutput) -> FileReport:
        file = self._library.open_file(output.path or "")
        if file is None:
            return _MISSING
        digest, size = hashlib.sha256(), 0
        with file:
            while data := file.read(_CHUNK):
                if self._stop.is_set():
                    raise VerifyStoppedError
                digest.update(data)
                size += len(data)
                self._report(len(data))
        if size != output.bytes:
            return _other_size(size, output)
        return SOUND if output.sha256 in {None, digest.hexdigest()} else _OTHER_BYTES


class _FolderVerifier:
    """Looks at files of a folder."""

    def __init__(
        self, library: FolderLibrary, report: Callable[[int], None], stop: threading.Event, *, quick: bool
    ) -> None:
        self._library = library
        self._report = report
        self._stop = stop
        self._quick = quick
        self._last = threading.local()

    def examine(self, output: SavedOutput, completed_at: str | None) -> FileReport:
        if self._stop.is_set():
            raise VerifyStoppedError
        try:
            fd = self._open(output.path or "")
        except FileNotFoundError:
            return _MISSING
        except NotRegularFileError:
            return _IN_THE_WAY
        except PermissionError as error:
            return FileReport(FileVerdict.UNREADABLE, f"this user may not read it ({error.strerror})")
        except OSError as error:
            with self._library.open():  # where the disk is gone, the file may be well
                pass
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                return _IN_THE_WAY
            return FileReport(FileVerdict.DAMAGED, f"it cannot be opened: {error.strerror}")
        try:
            return self._look(fd, output, completed_at)
        except OSError as error:
            with self._library.open():
                pass
            return FileReport(FileVerdict.DAMAGED, f"it cannot be read: {error.strerror}")
        finally:
            os.close(fd)

    def _open(self, path: str) -> int:
        """Open a file; the folder of the last one that was there is at hand, where it is the same."""
        *folders, name = stored_path(path)
        parts = tuple(folders)
        last: _LastFolder | None = getattr(self._last, "folder", None)
        if last is not None and last.parts == parts and last.uses < _USES:
            last.uses += 1
            with suppress(OSError, NotRegularFileError):
                return open_plain(name, os.O_RDONLY, folder=last.folder)
        return self._open_anew(parts, name)

    def _open_anew(self, parts: tuple[SafeName, ...], name: SafeName) -> int:
        failed: OSError | NotRegularFileError | None = None
        with self._library.open() as root:
            try:
                with open_folder(root, parts, create=False) as folder:
                    self._last.folder = _LastFolder(parts, folder)
                    return open_plain(name, os.O_RDONLY, folder=folder)
            except (OSError, NotRegularFileError) as error:
                # The file's own: outside it would be taken for the whole disk's.
                failed = error
        raise failed

    def _look(self, fd: int, output: SavedOutput, completed_at: str | None) -> FileReport:
        found = os.fstat(fd)
        if found.st_size != output.bytes:
            self._report(output.bytes or 0)
            return _other_size(found.st_size, output)
        if self._quick and _untouched(found.st_mtime, output.downloaded_at, completed_at):
            self._report(found.st_size)
            return SOUND
        if output.sha256 is not None and self._hash(fd) != output.sha256:
            return _OTHER_BYTES
        return SOUND

    def _hash(self, fd: int) -> str:
        digest = hashlib.sha256()
        buffer = memoryview(bytearray(_CHUNK))
        done = dropped = 0
        mark_sequential(fd)
        while size := os.readv(fd, [buffer]):
            if self._stop.is_set():
                raise VerifyStoppedError
            digest.update(buffer[:size])
            done += size
            self._report(size)
            if done - dropped >= _DROP_EVERY:
                drop_cached(fd, dropped, done - dropped)
                dropped = done
        drop_cached(fd, dropped)
        return digest.hexdigest()


def _untouched(mtime: float, downloaded_at: str | None, completed_at: str | None) -> bool:
    """Whether a file's time is one that floradl gave it: when the run completed, or until it was saved."""
    completed, saved = unix_seconds(completed_at), unix_seconds(downloaded_at)
    since = (completed or 0.0) - _COARSE
    return any(until is not None and since <= mtime <= until + _FINE for until in (completed, saved))
