"""The library in a folder: the files under their final names, and the sidecars that describe them.

What a sidecar names is on disk. Each use opens the folder anew and checks its marker first, so nothing is
ever written below a mount point whose disk is gone.
"""

from __future__ import annotations

import errno
import hashlib
import io
import itertools
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType

from floradl.errors import ErrorCode, FloradlError, PauseReason, ServicePausedError, TransientError
from floradl.fs.durable import (
    FLUSH_NOW,
    Flush,
    PartBusyError,
    Steps,
    completed,
    flushed_together,
    rename_noreplace,
    write_atomic,
)
from floradl.fs.folders import FolderFd, exists, open_folder, open_regular, open_root, sync_folder
from floradl.fs.mounts import probe
from floradl.fs.names import SafeName, stored_path
from floradl.fs.os_errors import OF_ONE_ENTRY, library_error, translated, unopened
from floradl.fs.permissions import make_above
from floradl.library import scan
from floradl.library.base import LibraryEntry, LibraryStore, StoredFile, T
from floradl.library.destination import AttemptMemory, FolderDestination, OutputPath, same_bytes
from floradl.library.open_folders import FolderAt, FolderIndex, KeptFolders, OpenFolders
from floradl.library.path_plan import PathPlan, UnnamedOutput
from floradl.library.scan import Owners
from floradl.library.sidecar import Sidecar
from floradl.library.sidecar_files import NOT_THERE, SidecarFiles
from floradl.library.template import SIDECARS
from floradl.models import QueuedRun, Reference, RemoteOutput, SavedOutput
from floradl.portability import flush

MARKER = SafeName(".floradl-library")
MOVED = SafeName(".floradl-library-moved")
_LEAST_ROOM = 1 << 20  # bytes
_CREATIONS = 500
_TRANSLATED = 256  # folders whose translation of errors is kept
_TRIAL = SafeName(".floradl-trial.part")


class _Group:
    """Calls of a thread within `together`: what puts their names on disk, and their open folders."""

    def __init__(self, stack: ExitStack) -> None:
        self.stack = stack
        self.flush: Flush = FLUSH_NOW
        self.folders: dict[tuple[SafeName, ...], FolderAt] = {}


class _Shared(AbstractContextManager[FolderAt]):
    """A folder that is open already, for one call within `together`, with its errors translated."""

    __slots__ = ("_found", "_translated")

    def __init__(self, found: FolderAt, translated: AbstractContextManager[None]) -> None:
        self._found = found
        self._translated = translated

    def __enter__(self) -> FolderAt:
        return self._found

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._translated.__exit__(kind, error, trace)


class FolderLibrary(LibraryStore):
    """The library in the folder `root`."""

    def __init__(self, root: Path, paths: PathPlan, owners: Owners | None = None) -> None:
        self.root = root
        self.owners = owners or Owners()
        """Whose sidecars count."""
        self.paths = paths
        self.max_name_bytes = paths.max_name_bytes
        self.index = FolderIndex()
        self._memory = AttemptMemory()
        self._shared = OpenFolders(root, MARKER, self._opened, self.index)
        self.keep_free = 0
        """The minimum free space on its disk, in bytes."""
        self._damaged: dict[str, str] = {}  # path, and the SHA-256 of its successor
        self._kept_as: dict[str, str] = {}
        self._local = threading.local()
        self._sidecars = SidecarFiles(self, self._flush)
        vital = (root, root / SIDECARS)
        self._translated = lru_cache(_TRANSLATED)(
            lambda parts: translated(root, root.joinpath(*parts), vital)
        )
        self._named = self.named_files(paths.template)

    def create(self) -> bool:
        """Make the folder and its marker where they are missing; return whether the library is new.

        Raises `ServicePausedError` where that fails.
        """
        try:
            _make_folders(self.root)
        except OSError as error:
            raise unopened(error, self.root) from error
        try:
            with translated(self.root), open_root(self.root) as root:
                for attempt in itertools.count(1):
                    if exists(root, MARKER):
                        return False
                    try:
                        write_atomic(root, MARKER, b"This folder is a library of floradl. Keep this file.\n")
                        return True
                    except PartBusyError:  # another process makes it at this moment
                        if attempt == _CREATIONS:
                            raise
                        time.sleep(0.01)
                raise AssertionError("counting ended")
        except ServicePausedError:
            raise
        except FloradlError as error:
            raise ServicePausedError(str(error), PauseReason.LIBRARY_MISSING) from error

    @contextmanager
    def open(self) -> Iterator[FolderFd]:
        """Open the library's folder. Raises `ServicePausedError` where it, or its marker, is missing."""
        with self._opened() as root, translated(self.root):
            yield root

    @contextmanager
    def _opened(self) -> Iterator[FolderFd]:
        """As `open`, without translating disk errors."""
        with ExitStack() as stack:
            try:
                root = stack.enter_context(open_root(self.root))
                marked = exists(root, MARKER)
            except OSError as error:
                raise unopened(error, self.root) from error
            if not marked and (successor := _successor(self.root)):
                raise ServicePausedError(
                    f"{self.root} was moved to {successor}: set output.dir to that. To go back to this one: "
                    f"mv '{self.root / MOVED}' '{self.root / MARKER}'",
                    PauseReason.LIBRARY_MISSING,
                )
            if not marked:
                raise ServicePausedError(
                    f"{self.root} does not carry {MARKER}: its disk is not mounted, or it was emptied. "
                    f"Mount it; if it is meant to start anew: touch '{self.root / MARKER}'",
                    PauseReason.LIBRARY_MISSING,
                )
            yield root

    def at(self, parts: tuple[SafeName, ...]) -> AbstractContextManager[FolderAt]:
        """Open the folder `parts`, made where it is missing; once for all calls within `together`.

        Raises as `open`, and where it cannot be written: before anything is requested. Disk errors are
        translated.
        """
        group: _Group | None = getattr(self._local, "group", None)
        found = None if group is None else group.folders.get(parts)
        return self._open_at(parts, group) if found is None else _Shared(found, self._translated(parts))

    @contextmanager
    def _open_at(self, parts: tuple[SafeName, ...], group: _Group | None) -> Iterator[FolderAt]:
        with self._translated(parts):
            if group is None:
                with self._shared.at(parts) as found:
                    _check_writable(found[0])
                    yield found
            else:
                found = group.stack.enter_context(self._shared.at(parts))
                _check_writable(found[0])
                kept: KeptFolders | None = getattr(self._local, "kept", None)
                if kept is not None and parts:  # the library's own folder costs little to open
                    kept.keep(parts, found[0], self._shared)
                group.folders[parts] = found
                yield found

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        with ExitStack() as stack:
            self._local.kept = KeptFolders(stack)
            try:
                yield
            finally:
                del self._local.kept

    def together(self, works: Sequence[Callable[[], T | Steps[T]]]) -> list[T | Exception]:

        def within(work: Callable[[], T | Steps[T]], flush: Flush) -> T | Steps[T]:
            self._local.group.flush = flush
            return work()

        with ExitStack() as stack:
            self._local.group = _Group(stack)
            try:
                outcomes = flushed_together([partial(within, work) for work in works])
            finally:
                del self._local.group
        return [self._ours(outcome) for outcome in outcomes]

    def _ours(self, outcome: T | Exception) -> T | Exception:
        if not isinstance(outcome, OSError | PartBusyError):
            return outcome
        error = library_error(outcome, self.root)
        error.__cause__ = outcome
        return error

    def _flush(self) -> Flush:
        group: _Group | None = getattr(self._local, "group", None)
        return FLUSH_NOW if group is None else group.flush

    def weaknesses(self) -> tuple[str, ...]:
        """See `Capabilities.weaknesses`. Raises as `open`."""
        with self.open() as root:
            return probe(root).weaknesses()

    def others_may_write(self) -> bool:
        """Whether users other than floradl's may write it. Raises as `open`."""
        with self.open() as root:
            return self.owners.others_may_write(root)

    def check_room(self, needed: int = 0) -> None:
        needed = max(needed, _LEAST_ROOM)
        with self.open() as root:
            found = os.fstatvfs(root)
            free = found.f_bavail * found.f_frsize
            if free < needed + self.keep_free or (found.f_files and not found.f_favail):
                raise ServicePausedError(
                    f"{self.root}: {free >> 20} MiB free", PauseReason.DISK_FULL, needed=needed
                )
            _test_write(root)

    def free_space(self) -> int:
        with self.open() as root:
            found = os.fstatvfs(root)
            return found.f_bavail * found.f_frsize

    def destination(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,
        completed_at: float | None,
        created_at: float | None = None,
    ) -> FolderDestination:
        fields = self.paths.fields(UnnamedOutput(run, output, index, (completed_at, created_at)))
        identity = hashlib.sha256(f"{run.run_id}\0{output.key}".encode("utf-8", "surrogatepass"))
        render = self.paths.candidates(fields)
        place = OutputPath(
            self.at,
            self._translated,
            self._flush,
            self.index,
            render,
            self._set_aside,
            self._memory,
            partial(self._is_anothers, run, output),
            partial(self._earlier, run, output),
        )
        return FolderDestination(place, output.kind, identity.hexdigest()[:8], output.nth)

    def _earlier(self, run: QueuedRun, output: RemoteOutput, size: int, sha256: str) -> str | None:
        """Return where a retried run's output is, if it has these bytes."""
        if (path := self.earlier_path(run, output)) is None:
            return None
        try:
            with self.locate(path) as (folder, name):
                return path if same_bytes(folder, name, size, sha256) else None
        except (OSError, ValueError):  # it is gone, or closed to us: then it is saved anew
            return None

    def _set_aside(self, folder: FolderFd, parts: tuple[SafeName, ...], sha256: str) -> bool:
        path = "/".join(parts)
        if self._damaged.get(path) != sha256:
            return False
        for number in itertools.count(1):
            kept = SafeName(f"{parts[-1]}.damaged" + (f"-{number}" if number > 1 else ""))
            if rename_noreplace(folder, parts[-1], kept):
                self._kept_as[path] = "/".join((*parts[:-1], kept))
                return True
        raise AssertionError("counting ended")

    def expect_damaged(self, path: str, sha256: str) -> None:
        self._damaged[path] = sha256

    def kept_as(self, path: str) -> str | None:
        return self._kept_as.get(path)

    def existing(self, outputs: Mapping[str, SavedOutput]) -> dict[str, SavedOutput]:
        return {
            key: output
            for key, output in outputs.items()
            if output.path and self._holds(output.path, output.bytes or 0)
        }

    @contextmanager
    def locate(self, path: str) -> Iterator[tuple[FolderFd, SafeName]]:
        """Open the folder of a file; yield it and the file's name. Raises `OSError`, `ValueError`."""
        *folders, name = stored_path(path)
        with self._opened() as root, open_folder(root, tuple(folders), create=False) as folder:
            yield folder, name

    def _holds(self, path: str, size: int) -> bool:
        with translated(self.root):
            try:
                found = self._status(path)
            except OSError as error:
                if error.errno in OF_ONE_ENTRY:
                    message = f"{self.root / path}: {error.strerror}: whether it is there is not known"
                    raise TransientError(message, ErrorCode.STORAGE) from error
                raise
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == size

    def _status(self, path: str) -> os.stat_result | None:
        """Look at what has a path; None where nothing has. Raises `OSError`."""
        try:
            with self.locate(path) as (folder, name):
                return os.stat(name, dir_fd=folder, follow_symlinks=False)
        except ValueError:
            return None
        except OSError as error:
            if error.errno in NOT_THERE:
                return None
            raise

    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        return self._sidecars.locate(reference)

    def open_file(self, path: str) -> io.BufferedReader | None:
        with translated(self.root):
            try:
                with self.locate(path) as (folder, name):
                    return open_regular(folder, name)
            except OSError as error:
                if error.errno in NOT_THERE:
                    return None
                raise

    def location(self, path: str = "") -> str:
        return str(self.root / path)

    def stat(self, path: str) -> StoredFile | None:
        with translated(self.root):
            found = self._status(path)
        return None if found is None else scan.stored_file(path, found)

    def listing(self, folder: str = "") -> Iterator[StoredFile]:
        return scan.listed_files(self.open, stored_path(folder) if folder else ())

    def move(self, path: str, to: str) -> bool:
        *folders, name = stored_path(to)
        with self.at(tuple(folders)) as (into, _):
            try:
                with self.locate(path) as (folder, old):
                    os.stat(old, dir_fd=folder, follow_symlinks=False)  # before its new name counts as taken
                    with self.index.of(into) as names:
                        is_other = names.existing(name) != name
                    if is_other or not rename_noreplace(folder, old, name, into):
                        return False
                    with self.index.of(folder) as names:
                        names.drop(old)
                    sync_folder(into)
                    sync_folder(folder)
            except FileNotFoundError as error:
                if not _is_regular(into, name):
                    raise TransientError(f"{self.root / path} is gone", ErrorCode.STORAGE) from error
                sync_folder(into)  # whoever renamed it may not have come to that
        self._remove_empty(path)
        return True

    def remove(self, path: str) -> bool:
        with translated(self.root):
            try:
                with self.locate(path) as (folder, name):
                    os.unlink(name, dir_fd=folder)
                    with self.index.of(folder) as names:
                        names.drop(name)
                    sync_folder(folder)
            except OSError as error:
                if error.errno in NOT_THERE:
                    return False
                raise
        self._remove_empty(path)
        return True

    def retire(self, successor: str) -> None:
        with self.open() as root:
            write_atomic(root, MOVED, f"{successor}\n".encode())
            os.unlink(MARKER, dir_fd=root)
            sync_folder(root)

    def _remove_empty(self, path: str) -> None:
        """Remove the folder of what was at `path`, and those above it, as far as they are empty."""
        *folders, _ = stored_path(path)
        with suppress(OSError), self._opened() as root:
            while folders:
                *above, last = folders
                with open_folder(root, tuple(above), create=False) as parent:
                    os.rmdir(last, dir_fd=parent)
                    with self.index.of(parent) as names:
                        names.drop(last)
                folders = above

    def scan(self) -> Iterator[LibraryEntry]:
        return scan.library_entries(self.open, self.owners)

    def files(self) -> Iterator[str]:
        return scan.library_files(self.open)

    def write_companion(
        self, path: str, data: bytes, mtime: float | None, replaces: Callable[[bytes], bool]
    ) -> bool:
        *folders, name = stored_path(path)
        if self.stat(path) is None:
            return False
        from floradl.library.companion_files import write_companion  # noqa: PLC0415 - where it is wanted

        with self.at(tuple(folders)) as (folder, _):
            return write_companion(folder, name, (data, mtime), self._flush(), replaces)

    def write_sidecar(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None) -> str:
        return completed(self.sidecar_written(sidecar, mtime, replacing))

    def sidecar_written(
        self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None
    ) -> Steps[str]:
        if self.companions:
            self.write_companions(sidecar, mtime)
        if self._named is not None:
            self._named.note(sidecar)
        return (yield from self._sidecars.write(sidecar, mtime, replacing))


def _successor(root: Path) -> str | None:
    """Return where `retire` said that the files of a library are now."""
    with suppress(OSError):
        return (root / MOVED).read_bytes()[:4096].decode("utf-8", "replace").strip()
    return None


def _is_regular(folder: FolderFd, name: SafeName) -> bool:
    try:
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _check_writable(folder: FolderFd) -> None:
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder, effective_ids=True):
        read_only = os.fstatvfs(folder).f_flag & os.ST_RDONLY
        number = errno.EROFS if read_only else errno.EACCES
        raise OSError(number, os.strerror(number))


def _test_write(root: FolderFd) -> None:
    """Write and flush a small file: only that detects a full quota, or no free inodes."""
    fd = os.open(
        _TRIAL, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=root
    )
    try:
        os.write(fd, bytes(1 << 16))
        flush(fd)
    finally:
        os.close(fd)
        with suppress(OSError):
            os.unlink(_TRIAL, dir_fd=root)


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, and put their names on disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    make_above(path)
    path.mkdir(exist_ok=True)
    for folder in missing:
        with open_root(folder.parent) as above:
            sync_folder(above)
