"""The library's door: what the stages know of the place where files are kept.

All of it blocks, and is safe to use from several threads and beside another process. It raises our errors:
`ServicePausedError` (the disk is full, gone or read-only: all runs wait), `FolderError` (one folder is, and
what goes there waits), `TransientError` (a later try may succeed), `PermanentError` (it will not, until
somebody fixes it). What was written is on disk on return, or when `Library.together` returns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO, NamedTuple, Protocol, Self, TypeVar

from msgspec import Struct

from floradl.library.sidecar import Sidecar
from floradl.models import AttemptNotes, OutputKind, QueuedRun, Reference, RemoteOutput, SavedOutput

T = TypeVar("T")


class Sink(Protocol):
    """Where the bytes of one output arrive: appended, and kept if the attempt ends early.

    It is one attempt's alone from `open` on until it is left (`with`, or `__exit__`, which may be repeated).
    """

    size: int
    """How many bytes it holds. Who wrote through `fileno` sets it."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc_info: object) -> None: ...

    def write(self, data: bytes | memoryview) -> None:
        """Append all of `data`. Raises `ServicePausedError` where the disk is full."""
        ...

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset` on."""
        ...

    def truncate(self, size: int) -> None:
        """Drop what follows the first `size` bytes. Raises `TransientError` where there are fewer."""
        ...

    def discard(self) -> None:
        """Remove what it holds, which is not to be trusted. Safe to repeat."""
        ...

    def free_space(self) -> int:
        """Return how many bytes its disk has left."""
        ...

    def fileno(self) -> int | None:
        """Return a descriptor that another process may write to; None where there is none."""
        ...


class ResumePoint(NamedTuple):
    """What an earlier attempt left: `size` bytes of the version `validator`, empty where none was named."""

    validator: str
    size: int


class DownloadTarget(Protocol):
    """One output's place as a download sees it, in this process or another."""

    kind: OutputKind

    @property
    def notes(self) -> AttemptNotes:
        """What earlier attempts left to know."""
        ...

    def note(self, notes: AttemptNotes) -> None:
        """Let the next attempt know this."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keep the way to it open meanwhile; for one thread.

        Raises where nothing can be written there, before anything is asked of the network. An error of the
        disk that another process reports is raised as ours.
        """
        ...

    def resume_point(self) -> ResumePoint | None:
        """Return where to continue, None at the beginning. It survives a restart."""
        ...

    def open(self, validator: str) -> Sink:
        """Open the sink of the version `validator`; what was held of other versions goes.

        Raises `TransientError` where another process is at it.
        """
        ...


class StoredText(Struct, frozen=True):
    """A text that was saved: its path, and size and SHA-256 of its UTF-8."""

    path: str
    bytes: int
    sha256: str


class Destination(DownloadTarget, Protocol):
    """One output's place in a library: a sink while it arrives, a path afterwards.

    Paths are relative to the library, with `/`, and no two outputs share one, nor one that differs in case
    only.
    """

    has_descriptors: bool
    """Whether its sinks have a `fileno`."""

    def publish(self, sink: Sink, ext: str, sha256: str, mtime: float | None) -> str:
        """Put what `sink` holds, whose hash is `sha256`, under its final name; return that path.

        `ext` is `.png` or the like; `mtime` is unix seconds. A file that has this name and these bytes is
        adopted; any other is left alone, and the next free name is taken. Publishing the same bytes twice
        gives the same path.
        """
        ...

    def write_text(self, text: str, mtime: float | None) -> StoredText:
        """Save `text` whole, as UTF-8 in a `.txt` file, as `publish` does."""
        data = text.encode("utf-8", "replace")
        sha256 = hashlib.sha256(data).hexdigest()
        with self.open("") as sink:
            sink.truncate(0)
            sink.write(data)
            return StoredText(self.publish(sink, ".txt", sha256, mtime), len(data), sha256)


class LibraryEntry(Struct, frozen=True):
    """A file among the sidecars: its path in the library, and what it says; None where it is unreadable.

    `foreign` is the user whose it is where that makes it count for nothing, see `owners`.
    """

    path: str
    sidecar: Sidecar | None
    foreign: int | None = None


class Library(ABC):
    """Files under their final names, and the sidecars that vouch for them: the truth about what is done.

    Everything raises `ServicePausedError` where the library is missing.
    """

    @abstractmethod
    def check_room(self, needed: int = 0) -> None:
        """Raise `ServicePausedError` unless its disk takes `needed` bytes beside what is to stay free."""

    @abstractmethod
    def destination(
        self, run: QueuedRun, output: RemoteOutput, index: int, completed_at: float | None
    ) -> Destination:
        """Plan where an output goes. `index` counts from 1; `completed_at` is unix seconds."""

    @abstractmethod
    def existing(self, outputs: Mapping[str, SavedOutput]) -> dict[str, SavedOutput]:
        """Return those of `outputs` whose files are there, of the size that was recorded.

        Raises `TransientError` where one cannot be looked at.
        """

    @abstractmethod
    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        """Return path and content of a run's sidecar, whatever technique it was first named by.

        What is no readable sidecar, or one that counts for nothing, is none.
        """

    def find_sidecar(self, reference: Reference) -> Sidecar | None:
        """Return a run's sidecar, see `locate_sidecar`."""
        found = self.locate_sidecar(reference)
        return found[1] if found else None

    @abstractmethod
    def write_sidecar(self, sidecar: Sidecar, mtime: float | None) -> str:
        """Write a run's sidecar, the last thing of a run; return its path. Safe to repeat.

        The last one stands. Raises `TransientError` for `PermanentError`: all else of the run is on disk.
        """

    @abstractmethod
    def open_file(self, path: str) -> BinaryIO | None:
        """Open a file that a sidecar or the queue named, with a descriptor; None where none stands there."""

    @abstractmethod
    def location(self, path: str = "") -> str:
        """Return what people and other programs find `path` by, or the library."""

    @abstractmethod
    def scan(self) -> Iterator[LibraryEntry]:
        """Read all sidecars, by technique; one that goes meanwhile is left out."""

    @abstractmethod
    def files(self) -> Iterator[str]:
        """Give the paths of all files but the sidecars and what is hidden, by folder and name."""

    @abstractmethod
    def expect_damaged(self, path: str, sha256: str) -> None:
        """Let bytes of this SHA-256 take the place of the damaged file at `path`, which is kept beside it."""

    @abstractmethod
    def kept_as(self, path: str) -> str | None:
        """Return where the damaged file went that stood at `path`; None where it did not."""

    @abstractmethod
    def together(self, works: Sequence[Callable[[], T]]) -> list[T | Exception]:
        """Do `works`, which call this library, one after the other; return what each gave, or its error.

        What they wrote is on disk on return, at the price of a few flushes rather than some for each.
        """
