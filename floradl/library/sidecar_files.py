"""The sidecars of a library in a folder: found by their runs, written under names that no other run has."""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Protocol

from floradl.errors import ErrorCode, PermanentError, TransientError
from floradl.fs.durable import FLUSH_NOW, Flush, Steps, atomic_write, rename_noreplace
from floradl.fs.folders import FolderFd, open_folder, sync_folder
from floradl.fs.names import PART_RESERVE, SafeName, safe_name
from floradl.fs.os_errors import OF_ONE_ENTRY
from floradl.library import sidecar as sidecars
from floradl.library.open_folders import FolderAt, FolderIndex
from floradl.library.scan import Owners
from floradl.library.sidecar import Sidecar, by_key
from floradl.library.template import SIDECARS, UNKNOWN
from floradl.models import Reference, SavedOutput

NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG})
"""Of a path at which nothing of ours is."""


class LibraryFolder(Protocol):
    """The library in a folder, as far as its sidecars need it."""

    root: Path
    owners: Owners
    index: FolderIndex
    max_name_bytes: int

    def open(self) -> AbstractContextManager[FolderFd]:
        """Open it."""

    def at(self, parts: tuple[SafeName, ...], /) -> AbstractContextManager[FolderAt]:
        """Open a folder in it, made where it is missing."""

    def existing(self, outputs: Mapping[str, SavedOutput], /) -> dict[str, SavedOutput]:
        """Return those whose files are there."""

    def locate(self, path: str, /) -> AbstractContextManager[tuple[FolderFd, SafeName]]:
        """Open the folder of a file; give it and the file's name."""


class SidecarFiles:
    """The sidecars in `place`. `flush` returns what puts a new name on disk. Raises as the library does."""

    def __init__(self, place: LibraryFolder, flush: Callable[[], Flush]) -> None:
        self._place = place
        self._flush = flush

    def locate(self, reference: Reference) -> tuple[str, Sidecar] | None:
        """See `LibraryStore.locate_sidecar`."""
        with self._place.open() as root:
            own = self._technique_folder(reference.technique)
            found = self._read(root, own, reference.run_id)
            if found is not None:
                return found
            try:
                with open_folder(root, (SafeName(SIDECARS),), create=False) as folder:
                    others = self._techniques_with(folder, reference.run_id)
            except FileNotFoundError:
                return None
            readings = (self._read(root, name, reference.run_id) for name in others)
            return next((reading for reading in readings if reading is not None), None)

    def write(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None) -> Steps[str]:
        """See `LibraryStore.sidecar_written`."""
        folders = (SafeName(SIDECARS), self._technique_folder(sidecar.technique))
        try:
            with self._place.at(folders) as (folder, there):
                name = self._name(folder, sidecar.run_id)
                data = sidecars.render(sidecar)
                unnamed = sidecar.technique is not None and self._stands_unnamed(folder, sidecar.run_id)
                flush = FLUSH_NOW if unnamed else self._flush()

                def still() -> bool:  # others wait for the file that is to be renamed
                    there = self._place.owners.read(self._place.open, folder, name)
                    found = there.sidecar if there else None
                    if found is None or found.run_id != sidecar.run_id:
                        found = self._unnamed(sidecar.run_id) if unnamed else None
                    return found == replacing if replacing is not None else not self._gives_up(found, sidecar)

                yield from atomic_write(folder, name, data, mtime=mtime, flush=flush, still=still)
                if unnamed:
                    self._remove_unnamed(sidecar.run_id)
                return "/".join((*there, name))
        except PermanentError as error:
            raise TransientError(str(error), error.code) from error

    def _stands_unnamed(self, folder: FolderFd, run_id: str) -> bool:
        """Whether a sidecar of a run may stand where those of no technique do; `folder` is beside it."""
        return any(os.access(f"../{UNKNOWN}/{name}", os.F_OK, dir_fd=folder) for name in self._names(run_id))

    def _remove_unnamed(self, run_id: str) -> None:
        """Remove the sidecar of a run from where those of no technique are: another has its place."""
        with self._place.open() as root:
            found = self._read(root, SafeName(UNKNOWN), run_id)
        if found is None or found[1].technique is not None:
            return
        with suppress(FileNotFoundError), self._place.locate(found[0]) as (folder, name):
            os.unlink(name, dir_fd=folder)
            sync_folder(folder)

    def _unnamed(self, run_id: str) -> Sidecar | None:
        with self._place.open() as root:
            found = self._read(root, SafeName(UNKNOWN), run_id)
        return found[1] if found else None

    def _gives_up(self, before: Sidecar | None, after: Sidecar) -> bool:
        """Whether a file that is there and that a sidecar names would be named by none any more."""
        if before is None:
            return False
        paths = {output.path for output in after.outputs}
        lost = {
            key: output
            for key, output in by_key(before.outputs).items()
            if output.path not in paths and output.removed is None
        }
        return bool(self._place.existing(lost))

    def _name(self, folder: FolderFd, run_id: str) -> SafeName:
        """Return the name to write to; rename an invalid or foreign sidecar that has it."""
        plain, twin = self._names(run_id)
        with self._place.index.of(folder) as names:
            claimed = names.claim(plain, run_id)
        there = self._place.owners.read(self._place.open, folder, plain)
        found = there.sidecar if there else None
        if found is not None and found.run_id == run_id:
            return plain
        if found is not None or not claimed:
            return twin
        if there is None or (there.counts and not there.data):
            return plain
        why = "unreadable" if there.counts else "foreign"
        try:
            for number in itertools.count(1):
                kept = SafeName(f"{plain}.{why}" + (f"-{number}" if number > 1 else ""))
                if rename_noreplace(folder, plain, kept):
                    break
        except PermissionError:  # a sticky folder forbids it
            return twin
        return plain

    def _technique_folder(self, technique: str | None) -> SafeName:
        return safe_name(technique, self._place.max_name_bytes) if technique else SafeName(UNKNOWN)

    def _names(self, run_id: str) -> tuple[SafeName, SafeName]:
        """Return the plain name, and that for a run whose id differs from another's in case only."""
        stem = safe_name(run_id, self._place.max_name_bytes - PART_RESERVE)
        mark = hashlib.sha256(run_id.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        return SafeName(f"{stem}.json"), SafeName(f"{stem}~{mark}.json")

    def _read(self, root: FolderFd, technique: SafeName, run_id: str) -> tuple[str, Sidecar] | None:
        try:
            with open_folder(root, (SafeName(SIDECARS), technique), create=False) as folder:
                for name in self._names(run_id):
                    there = self._place.owners.read(self._place.open, folder, name)
                    found = there.sidecar if there else None
                    if found is not None and found.run_id == run_id:
                        return f"{SIDECARS}/{technique}/{name}", found
        except OSError as error:
            if error.errno == errno.EACCES and self._place.owners.closed_by(root, technique) is not None:
                return None  # another user's, which is ignored
            if error.errno in OF_ONE_ENTRY:  # it is unknown whether this run is done; others are not affected
                place = self._place.root / SIDECARS / technique
                raise TransientError(
                    f"{place}: {error.strerror}: the sidecar of {run_id} cannot be read; fix its rights, "
                    "or unmount what covers it",
                    ErrorCode.STORAGE,
                ) from error
            if error.errno not in NOT_THERE:
                raise
        return None

    def _techniques_with(self, folder: FolderFd, run_id: str) -> list[SafeName]:
        """Return the folders that may hold a run's sidecar, unopened: there may be hundreds."""
        plain, twin = self._names(run_id)
        return [
            SafeName(name)
            for name in os.listdir(folder)
            if os.access(f"{name}/{plain}", os.F_OK, dir_fd=folder)
            or os.access(f"{name}/{twin}", os.F_OK, dir_fd=folder)
        ]
