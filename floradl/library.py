"""The library: a folder that holds the files under their final names, and the sidecars that vouch for them.

It is the truth: what a sidecar names is on disk. Each use opens the folder anew and looks for the marker
in it first, so nothing is ever written below a mount point whose disk is gone.
"""

from __future__ import annotations

import datetime as dt
import errno
import hashlib
import itertools
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from floradl import sidecar as sidecars
from floradl.errors import ErrorCode, PassingError, PausedError, PauseReason, PermanentError
from floradl.files import (
    FolderFd,
    PartBusyError,
    PartFile,
    exists,
    open_folder,
    open_root,
    read_regular,
    sync_folder,
    write_atomic,
)
from floradl.index import FolderIndex
from floradl.models import Kind, QueuedRun, Reference, RemoteOutput
from floradl.names import PART_RESERVE, SafeName, part_name, safe_name, stored_path
from floradl.sidecar import Sidecar
from floradl.template import SIDECARS, UNKNOWN, NameFields, Template

MARKER = SafeName(".floradl-library")
_NO_VALIDATOR = "00000000"
_MAX_SIDECAR = 64 * 1024 * 1024


class Library:
    """The library at `root`. Safe to use from several threads, and beside another process."""

    def __init__(
        self, root: Path, template: Template, folders: Mapping[Kind, str], max_name_bytes: int
    ) -> None:
        self.root = root
        self.template = template
        self._folders = folders
        self.max_name_bytes = max_name_bytes
        self.index = FolderIndex()

    def create(self) -> None:
        """Make the folder and its marker where they are missing: only for a library that is new.

        Raises `PausedError` where that cannot be.
        """
        with self.translating():
            self.root.mkdir(parents=True, exist_ok=True)
            with open_root(self.root) as root:
                if not exists(root, MARKER):
                    write_atomic(root, MARKER, b"This folder is a library of floradl. Keep this file.\n")

    @contextmanager
    def open(self) -> Iterator[FolderFd]:
        """Open the library's folder. Raises `PausedError` where it, or its marker, is missing."""
        with self.translating(), open_root(self.root) as root:
            if not exists(root, MARKER):
                raise PausedError(
                    f"{self.root} does not carry {MARKER}: its disk is not mounted, or it was emptied. "
                    f"Mount it; if it is meant to start anew: touch '{self.root / MARKER}'",
                    PauseReason.LIBRARY_MISSING,
                )
            yield root

    def slot(self, run: QueuedRun, output: RemoteOutput, index: int, completed_at: float | None) -> Slot:
        """Plan where an output goes. `index` counts from 1; `completed_at` is unix seconds."""
        fields = NameFields(
            folder=self._folders[output.kind],
            kind=output.kind,
            type=output.type,
            technique=run.technique,
            run_id=run.run_id,
            output_id=output.output_id,
            index=index,
            label=run.label,
            date=_local_day(completed_at),
        )
        identity = hashlib.sha256(f"{run.run_id}\0{output.key}".encode("utf-8", "surrogatepass"))
        return Slot(self, fields, output.kind, identity.hexdigest()[:8])

    def holds(self, path: str, size: int) -> bool:
        """Whether a regular file of `size` bytes stands under `path`, which a sidecar or journal named."""
        try:
            *folders, name = stored_path(path)
        except ValueError:
            return False
        with self.open() as root:
            try:
                with open_folder(root, tuple(folders), create=False) as folder:
                    found = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except OSError as error:
                if error.errno in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                    return False
                raise
            return stat.S_ISREG(found.st_mode) and found.st_size == size

    def find_sidecar(self, reference: Reference) -> Sidecar | None:
        """Return the sidecar of a run, under whichever technique it was first named by.

        A file that is no readable sidecar counts as none, and is replaced when the run is done.
        """
        with self.open() as root:
            own = self._technique_folder(reference.technique)
            found = self._read_sidecar(root, own, reference.run_id)
            if found is not None:
                return found
            try:
                with open_folder(root, (SafeName(SIDECARS),), create=False) as folder:
                    others = [SafeName(name) for name in os.listdir(folder) if name != own]
            except FileNotFoundError:
                return None
            readings = (self._read_sidecar(root, name, reference.run_id) for name in others)
            return next((reading for reading in readings if reading is not None), None)

    def write_sidecar(self, sidecar: Sidecar, mtime: float | None) -> str:
        """Write a run's sidecar, the last thing of a run; returns its path. Safe to repeat.

        Raises `PassingError` and `PausedError`.
        """
        folders = (SafeName(SIDECARS), self._technique_folder(sidecar.technique))
        with self.open() as root, open_folder(root, folders) as folder:
            plain, twin = self._sidecar_names(sidecar.run_id)
            with self.index.of(folder) as names:
                name = plain if names.claim(plain, sidecar.run_id) else twin
            if name == plain and self._owner(folder, plain) not in {None, sidecar.run_id}:
                name = twin
            write_atomic(folder, name, sidecars.render(sidecar), mtime=mtime)
            return "/".join((*folders, name))

    def _technique_folder(self, technique: str | None) -> SafeName:
        return safe_name(technique, self.max_name_bytes) if technique else SafeName(UNKNOWN)

    def _sidecar_names(self, run_id: str) -> tuple[SafeName, SafeName]:
        """Return the plain name, and that for a run whose id differs from another's in case only."""
        stem = safe_name(run_id, self.max_name_bytes - PART_RESERVE)
        mark = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return SafeName(f"{stem}.json"), SafeName(f"{stem}~{mark}.json")

    def _read_sidecar(self, root: FolderFd, technique: SafeName, run_id: str) -> Sidecar | None:
        try:
            with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                for name in self._sidecar_names(run_id):
                    found = _parse(read_regular(folder, name, _MAX_SIDECAR))
                    if found is not None and found.run_id == run_id:
                        return found
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.ELOOP}:
                raise
        return None

    def _owner(self, folder: FolderFd, name: SafeName) -> str | None:
        found = _parse(read_regular(folder, name, _MAX_SIDECAR))
        return found.run_id if found else None

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Say of the disk's errors what they mean for the work; `OSError` becomes one of our errors."""
        try:
            yield
        except PartBusyError as error:
            raise PassingError(
                "another floradl writes the same file at this moment", ErrorCode.STORAGE, retry_after=2.0
            ) from error
        except OSError as error:
            raise _trouble(error, self.root) from error


def _trouble(error: OSError, root: Path) -> PausedError | PassingError | PermanentError:
    what = f"{root}: {error.strerror or error}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return PausedError(f"{what}: make room on the library's disk", PauseReason.DISK_FULL)
    if error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
        return PausedError(
            f"{what}: the library cannot be written; mend its permissions or mount options",
            PauseReason.LIBRARY_READ_ONLY,
        )
    if error.errno in {errno.ENOENT, errno.ENOTCONN, errno.ESTALE, errno.ENODEV}:
        return PausedError(f"{what}: the library's folder is not there", PauseReason.LIBRARY_MISSING)
    if error.errno in {errno.ELOOP, errno.ENOTDIR}:
        return PermanentError(
            f"{what}: a link or a file stands where a folder of the library should be; remove it and retry",
            ErrorCode.STORAGE,
        )
    return PassingError(what, ErrorCode.STORAGE)


def _parse(data: bytes | None) -> Sidecar | None:
    if data is None:
        return None
    try:
        return sidecars.read(data)
    except ValueError:
        return None


class Slot:
    """Where one output goes: its part file while it arrives, its final name afterwards."""

    def __init__(self, library: Library, fields: NameFields, kind: Kind, tag: str) -> None:
        self.kind = kind
        self._library = library
        self._fields = fields
        self._tag = tag

    def leftover(self) -> tuple[str, int] | None:
        """Return validator and size of what an earlier attempt left; the validator is empty for none."""
        with self._opened() as (folder, _, _), self._library.index.of(folder) as names:
            found = names.part(self._tag)
            if found is None:
                return None
            try:
                size = os.stat(found, dir_fd=folder, follow_symlinks=False).st_size
            except FileNotFoundError:
                return None
            validator = found.removesuffix(".part")[-8:]
            return ("" if validator == _NO_VALIDATOR else validator), size

    def open(self, validator: str) -> PartFile:
        """Open the part file for `validator`, and remove one that is for another.

        Raises `PartBusyError` where another process writes it, and the errors of `Library.open`.
        """
        with self._opened() as (folder, _, stem):
            name = part_name(stem, f"{self._tag}-{validator or _NO_VALIDATOR}")
            with self._library.index.of(folder) as names:
                old = names.part(self._tag)
                if old is not None and old != name:
                    with PartFile(folder, old) as part:
                        part.discard()
                names.add_part(self._tag, name)
            return PartFile(folder, name)

    def publish(self, part: PartFile, ext: str, sha256: str, mtime: float | None) -> str:
        """Put `part` on disk under its final name and return that path, relative and with `/`.

        A file that already has this name and these bytes is adopted; any other is left alone, and the
        next free name is taken. Raises `PausedError`, `PassingError`, `PermanentError`.
        """
        with self._opened() as (folder, folders, _):
            part.sync(mtime)
            name = self._take_name(folder, part, ext, sha256)
            with self._library.index.of(folder) as names:
                names.drop_part(self._tag)
            return "/".join((*folders, name))

    def write(self, data: bytes, ext: str, mtime: float | None) -> tuple[str, str]:
        """Write a small file whole; returns its path and SHA-256. Raises as `publish` does."""
        sha256 = hashlib.sha256(data).hexdigest()
        with self._library.translating(), self.open("") as part:
            part.truncate(0)
            part.write(data)
            return self.publish(part, ext, sha256, mtime), sha256

    def _take_name(self, folder: FolderFd, part: PartFile, ext: str, sha256: str) -> SafeName:
        for distinct in itertools.count(1):
            *_, name = self._render(ext, distinct)
            with self._library.index.of(folder) as names:
                claimed = names.claim(name, self._tag)
            if claimed and part.publish(name):
                return name
            if claimed and _same_bytes(folder, name, part.size, sha256):
                part.discard()
                sync_folder(folder)
                return name
        raise AssertionError("counting ended")

    @contextmanager
    def _opened(self) -> Iterator[tuple[FolderFd, tuple[SafeName, ...], SafeName]]:
        *folders, stem = self._render("", 1)
        with self._library.open() as root, open_folder(root, tuple(folders)) as folder:
            yield folder, tuple(folders), stem

    def _render(self, ext: str, distinct: int) -> tuple[SafeName, ...]:
        return self._library.template.render(self._fields, ext, self._library.max_name_bytes, distinct)


def _local_day(seconds: float | None) -> dt.date | None:
    try:
        return dt.datetime.fromtimestamp(seconds).astimezone().date() if seconds else None
    except (ValueError, OverflowError, OSError):  # a year that no calendar knows
        return None


def _same_bytes(folder: FolderFd, name: SafeName, size: int, sha256: str) -> bool:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    except OSError:
        return False
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != size:
            return False
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256
