"""Where one output goes: its part file while it arrives, its final name afterwards."""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

import msgspec

from floradl.errors import ErrorCode, TransientError
from floradl.fs.durable import LOST, Flush, PartFile, leave
from floradl.fs.folders import FolderFd, open_regular
from floradl.fs.names import SafeName, part_name
from floradl.fs.os_errors import OF_ONE_ENTRY
from floradl.library.base import Destination, ResumePoint, Sink
from floradl.library.open_folders import FolderAt, FolderIndex
from floradl.models import AttemptNotes, OutputKind
from floradl.portability import flush

_NO_VALIDATOR = "00000000"
_MOST_NOTES = 4096  # outputs
_STEP = 1 << 20  # bytes


class AttemptMemory:
    """The notes of attempts for later ones in this process. Thread-safe."""

    def __init__(self) -> None:
        self._notes: OrderedDict[str, AttemptNotes] = OrderedDict()

    def of(self, tag: str) -> AttemptNotes:
        """Return the notes on the output of `tag`."""
        return self._notes.get(tag, _NO_NOTES)

    def keep(self, tag: str, notes: AttemptNotes) -> None:
        """Replace the notes on the output of `tag`; forget the oldest of very many."""
        self._notes.pop(tag, None)
        if notes != _NO_NOTES:
            self._notes[tag] = notes
        while len(self._notes) > _MOST_NOTES:
            with suppress(KeyError):  # another thread was quicker
                self._notes.popitem(last=False)


_NO_NOTES = AttemptNotes()


class OutputPath(msgspec.Struct, frozen=True):
    """What a destination knows of its library.

    `at` opens the folder of a path, and raises where the library is missing. `translated` gives what turns
    disk errors in the folder of a path into ours, as often as it is entered. `flush` returns what puts new
    names on disk. `render` returns the components of the path for an extension and the number of the
    candidate, from 1. `set_aside` gets an open folder, the path of a file in it, and the SHA-256 of its
    successor; it moves the file if that is known to be damaged, and returns whether it did. `memory` has the
    notes of earlier attempts. `is_anothers` says of a path whether it is another output's; `earlier` returns
    that of this output's file, if it is retried and the file has this size and SHA-256.
    """

    at: Callable[[tuple[SafeName, ...]], AbstractContextManager[FolderAt]]
    translated: Callable[[tuple[SafeName, ...]], AbstractContextManager[None]]
    flush: Callable[[], Flush]
    index: FolderIndex
    render: Callable[[str, int], tuple[SafeName, ...]]
    set_aside: Callable[[FolderFd, tuple[SafeName, ...], str], bool]
    memory: AttemptMemory
    is_anothers: Callable[[str], bool]
    earlier: Callable[[int, str], str | None]


class FolderSink(PartFile):
    """A part file of the library. `translated` turns disk errors into ours."""

    def __init__(self, folder: FolderFd, name: SafeName, translated: AbstractContextManager[None]) -> None:
        self._translated = translated
        super().__init__(folder, name)

    def write(self, data: bytes | memoryview) -> None:
        with self._translated:
            super().write(data)

    def read(self, size: int, offset: int) -> bytes:
        with self._translated:
            return super().read(size, offset)

    def truncate(self, size: int) -> None:
        with self._translated:
            super().truncate(size)

    def discard(self) -> None:
        with self._translated:
            super().discard()

    def free_space(self) -> int:
        with self._translated:
            return super().free_space()


class FolderDestination(Destination):
    """Where one output goes. `tag` (8 hex digits) is unique; `nth` counts outputs of the same id."""

    has_descriptors = True
    stored_etag = None

    def __init__(self, place: OutputPath, kind: OutputKind, tag: str, nth: int) -> None:
        self.kind = kind
        self._place = place
        self._tag = tag
        # Outputs of one run with the same id get different names, in whatever order they are saved.
        self._first = nth
        *folders, self._stem = place.render("", 1)
        self._folders = (*folders,)
        self._held: nullcontext[FolderAt] | None = None

    @property
    def notes(self) -> AttemptNotes:
        return self._place.memory.of(self._tag)

    def note(self, notes: AttemptNotes) -> None:
        self._place.memory.keep(self._tag, notes)

    def resume_point(self) -> ResumePoint | None:
        found: list[ResumePoint] = []
        with self._folder() as (folder, _), self._place.index.of(folder) as names:
            for name in names.parts(self._tag):
                validator = name.removesuffix(".part")[-8:]
                size = _regular_size(folder, name)
                # `open` does not continue one with another stem (of an earlier template).
                if size is not None and name == self._part_name(validator):
                    found.append(ResumePoint("" if validator == _NO_VALIDATOR else validator, size))
        return max(found, key=lambda each: (bool(each[0]), each[1]), default=None)

    def open(self, validator: str) -> FolderSink:
        with self._folder() as (folder, parts):
            name = self._part_name(validator or _NO_VALIDATOR)
            with self._place.index.of(folder) as names:
                for old in names.parts(self._tag):
                    if old != name:
                        with PartFile(folder, old) as part:
                            part.discard()
                names.drop_parts(self._tag)
                names.add_part(self._tag, name)
            return FolderSink(folder, name, self._place.translated(parts))

    def prepare(self, sink: Sink, mtime: float | None) -> None:
        if isinstance(sink, FolderSink):
            with self._folder():
                sink.begin_sync(mtime)

    def publish(self, sink: Sink, ext: str, sha256: str, mtime: float | None) -> str:
        if not isinstance(sink, FolderSink):
            raise TypeError("this sink is another library's")
        with self._folder() as (folder, folders):
            if not sink.lies_in(folder):
                raise TransientError(
                    f"the folder {'/'.join(folders)} was moved while a file arrived in it", ErrorCode.STORAGE
                )
            sink.sync(mtime)
            if sink.has_hole and _sha256(sink) != sha256:
                sink.discard()
                raise TransientError(f"{'/'.join((*folders, self._stem))}: {LOST}", ErrorCode.STORAGE)
            spot = _Spot(folder, folders, self._place.flush())
            if (path := self._place.earlier(sink.size, sha256)) is not None:
                sink.discard()
                spot.flush(spot.folder, leave)
            else:
                path = "/".join((*folders, self._take_name(spot, sink, ext, sha256)))
            self.note(_NO_NOTES)
            with self._place.index.of(folder) as names:
                names.drop_parts(self._tag)
            return path

    def _take_name(self, spot: _Spot, part: PartFile, ext: str, sha256: str) -> SafeName:
        for distinct in itertools.count(self._first):
            *_, name = self._place.render(ext, distinct)
            with self._place.index.of(spot.folder) as names:
                claimed = names.claim(name, self._tag)
            if claimed and part.publish(name, spot.flush):
                return name
            if not claimed:
                continue
            if same_bytes(spot.folder, name, part.size, sha256):
                if not self._place.is_anothers("/".join((*spot.parts, name))):
                    part.discard()
                    spot.flush(spot.folder, leave)
                    return name
            elif self._place.set_aside(spot.folder, (*spot.parts, name), sha256) and part.publish(
                name, spot.flush
            ):
                return name
            with self._place.index.of(spot.folder) as names:
                names.release(name)  # the file's own output may be saved again
        raise AssertionError("counting ended")

    @contextmanager
    def held(self) -> Iterator[None]:
        # Opening the folder costs a dozen system calls.
        with self._folder() as opened:
            self._held = nullcontext(opened)
            try:
                yield
            finally:
                self._held = None

    def _folder(self) -> AbstractContextManager[FolderAt]:
        return self._place.at(self._folders) if self._held is None else self._held

    def _part_name(self, validator: str) -> SafeName:
        return part_name(self._stem, f"{self._tag}-{validator}")


class _Spot(msgspec.Struct, frozen=True):
    """An open folder, its path, and what puts new names in it on disk."""

    folder: FolderFd
    parts: tuple[SafeName, ...]
    flush: Flush


def _regular_size(folder: FolderFd, name: SafeName) -> int | None:
    try:
        found = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno not in OF_ONE_ENTRY:
            raise
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) and found.st_nlink == 1 else None


def _sha256(sink: FolderSink) -> str:
    digest = hashlib.sha256()
    for at in range(0, sink.size, _STEP):
        digest.update(sink.read(_STEP, at))
    return digest.hexdigest()


def same_bytes(folder: FolderFd, name: SafeName, size: int, sha256: str) -> bool:
    """Whether a file has these bytes, which are on disk on return."""
    try:
        file = open_regular(folder, name)
    except OSError:  # another user's, unreadable
        return False
    if file is None:
        return False
    with file:
        if os.fstat(file.fileno()).st_size != size:
            return False
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            return False
        try:
            flush(file.fileno())  # its writer may not have done so
        except OSError:  # its bytes may be in memory only
            return False
        return True
