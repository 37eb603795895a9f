"""The interface of the library: all that the stages know of it.

Every call blocks, and is safe from several threads and beside another process. Errors: `ServicePausedError`
(the disk is full, gone or read-only: all runs wait), `FolderError` (one folder is: its outputs wait),
`TransientError` (a retry may succeed), `PermanentError` (a person must fix it). Writes are on disk on return,
or when `LibraryStore.together` returns.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, BinaryIO, NamedTuple, Protocol, Self, TypeAlias, TypeVar

from msgspec import Struct

from floradl.fs import durable
from floradl.library import sidecar as sidecars
from floradl.library.path_plan import PathPlan, UnnamedOutput
from floradl.library.sidecar import Sidecar
from floradl.library.template import SIDECARS, Template
from floradl.models import AttemptNotes, OutputKind, QueuedRun, Reference, RemoteOutput, SavedOutput

if TYPE_CHECKING:
    from floradl.library.named_files import NamedFiles

T = TypeVar("T")

Steps: TypeAlias = durable.Steps[T]
"""Work for `together` that yields before it waits for its place, while other work goes on."""
completed = durable.completed


class Sink(Protocol):
    """Where the bytes of one output are appended, and kept if the attempt ends early.

    One attempt owns it from `open` until `__exit__`, which may be repeated.
    """

    size: int
    """How many bytes it holds. A writer through `fileno` sets it."""

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
        """Remove its bytes, which are damaged. Safe to repeat."""
        ...

    def free_space(self) -> int:
        """Return how many bytes its disk has left, room that is reserved for it among them."""
        ...

    def reserve(self, size: int) -> None:
        """Have its disk keep room for `size` bytes until `__exit__`, where it can do so at once."""
        ...

    def fileno(self) -> int | None:
        """Return a descriptor that another process may write to; None where there is none."""
        ...


class NotKeptError(Exception):
    """These bytes were sent on, and cannot be read any more."""


class StreamingSink(ABC):
    """A sink that sends on what is written to it, instead of keeping it for later: one of an object store.

    While `is_sent` is false it holds all, and does what any `Sink` does. From then on `read` gives only the
    first and the last `KEPT` bytes, else it raises `NotKeptError`; `truncate` takes 0 alone, which gives up
    what was sent, and for any other size does so and raises `TransientError`. A later attempt of the same
    process may append (`resume_point`); a lost process begins anew. Nothing has a name before `publish`.
    """

    KEPT = 512 << 10
    """Bytes at either end."""

    is_sent = False
    digests: object | None = None
    """For who writes: its running checksums of all `size` bytes, which reading back could not give."""

    ext: str | None = None
    """The extension under which they are sent, once they are; `publish` has no other then."""

    @abstractmethod
    def expect(self, total: int | None, extension: Callable[[], str]) -> None:
        """Say before the first write how many bytes will come, if that is known.

        `extension` returns the file's extension from what the sink holds. Without it all is kept in memory.
        """


class ResumePoint(NamedTuple):
    """What an earlier attempt left: `size` bytes of the version `validator`, empty for no validator."""

    validator: str
    size: int


class DownloadTarget(Protocol):
    """Where one output goes, as a download sees it in this process or a worker."""

    kind: OutputKind

    @property
    def notes(self) -> AttemptNotes:
        """What earlier attempts noted."""
        ...

    def note(self, notes: AttemptNotes) -> None:
        """Keep `notes` for the next attempt."""
        ...

    def held(self) -> AbstractContextManager[None]:
        """Keep its folder open meanwhile; for one thread.

        Raises where it is not writable, before any request is sent. Translates disk errors, those of a worker
        too.
        """
        ...

    def resume_point(self) -> ResumePoint | None:
        """Return where to continue, None for the beginning. A restart loses only a `StreamingSink`'s."""
        ...

    def open(self, validator: str) -> Sink:
        """Open the sink of the version `validator`; remove those of other versions.

        Raises `TransientError` while another process has it open.
        """
        ...


class StoredText(Struct, frozen=True):
    """A saved text: its path, and size and SHA-256 of its UTF-8."""

    path: str
    bytes: int
    sha256: str
    stored_etag: str | None = None


class Destination(DownloadTarget, Protocol):
    """Where one output goes in a library: a sink while it arrives, a path afterwards.

    Paths are relative to the library, with `/`, and no two outputs share one, nor one that differs in case
    only. In a store, where such names are two objects, that holds for those that this process knows of.
    """

    has_descriptors: bool
    """Whether its sinks have a `fileno`."""

    stored_etag: str | None
    """The store's own version of what was published last; None where it gives none."""

    def prepare(self, sink: Sink, mtime: float | None) -> None:  # noqa: ARG002 - a folder has use for them
        """Begin with what takes time about `publish`, which follows with the same `mtime`; optional."""
        return

    def publish(self, sink: Sink, ext: str, sha256: str, mtime: float | None) -> str:
        """Give `sink`, whose hash is `sha256`, its final name; return that path.

        `ext` is `.png` or the like; `mtime` is unix seconds. A file with this name and these bytes is
        adopted unless it is another output's; any other stays, and the next free name is taken. The same
        bytes twice give the same path. Of a run that is retried the file that its sidecar names is adopted,
        too, whatever it is called.
        """
        ...

    def write_text(self, text: str, mtime: float | None) -> StoredText:
        """Save `text` whole, as UTF-8 in a `.txt` file, as `publish` does."""
        return completed(self.text_written(text, mtime))

    def text_written(self, text: str, mtime: float | None) -> Steps[StoredText]:
        """As `write_text`, in steps for `LibraryStore.together`."""
        data = text.encode("utf-8", "replace")
        sha256 = hashlib.sha256(data).hexdigest()
        with self.open("") as sink:
            sink.truncate(0)
            sink.write(data)
            self.prepare(sink, mtime)
            yield
            path = self.publish(sink, ".txt", sha256, mtime)
            return StoredText(path, len(data), sha256, self.stored_etag)


class LibraryEntry(Struct, frozen=True):
    """A file among the sidecars: its path in the library, and its content; None where it is unreadable.

    `foreign` is the id of its user where it is ignored for that, see `scan.Owners`.
    """

    path: str
    sidecar: Sidecar | None
    foreign: int | None = None


def parsed(data: bytes) -> Sidecar | None:
    """Read a sidecar; None where it is none."""
    try:
        return sidecars.read(data)
    except ValueError:
        return None


class StoredFile(Struct, frozen=True):
    """A file of the library as a look from outside shows it.

    `stamp` changes with its content: its time in nanoseconds, or a store's ETag, which is `etag` too.
    """

    path: str
    size: int
    stamp: str
    etag: str | None = None


class LibraryStore(ABC):
    """Published files and their sidecars, which decide what is done.

    Every method raises `ServicePausedError` where the library is missing.
    """

    companions = False
    """Whether XMP is written beside each file, before the sidecar that names it."""

    most_large: int | None = None
    """How many large outputs arrive at once, where there is a limit to that."""

    paths: PathPlan
    """How its files are named."""

    _named: NamedFiles | None = None
    """What tells whose a file is, where outputs can have one name."""

    under_way: Callable[[], Mapping[str, tuple[str, str]]] = staticmethod(dict)
    """Returns the files of runs that go on yet, which no sidecar names: by path the run's id and the output's
    key."""

    def named_files(self, template: Template) -> NamedFiles | None:
        """Return what tells whose a file is; None where by `template` no two outputs can have one name."""
        tells_runs_apart = template.always_names("run_id")
        if tells_runs_apart and template.always_names("output_id", "index"):
            return None
        from floradl.library.named_files import NamedFiles  # noqa: PLC0415 - seldom needed

        return NamedFiles(self, tells_runs_apart=tells_runs_apart)

    @abstractmethod
    def create(self) -> bool:
        """Make the library and its marker where they are missing; return whether it is new."""

    def require(self) -> None:
        """Raise `ServicePausedError` where it is missing, and as `stat`."""
        self.stat(SIDECARS)

    @abstractmethod
    def weaknesses(self) -> tuple[str, ...]:
        """Say what its place does less well than it should, a sentence each."""

    @abstractmethod
    def check_room(self, needed: int = 0) -> None:
        """Raise `ServicePausedError` unless its disk has `needed` bytes beside the minimum free space."""

    def free_space(self) -> int | None:
        """Return how many bytes its disk has left; None where nothing limits it, or that is unknown."""
        return None

    @abstractmethod
    def destination(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,
        completed_at: float | None,
        created_at: float | None = None,
    ) -> Destination:
        """Plan where an output goes. `index` counts from 1; the run's times are unix seconds."""

    def path_of(
        self,
        run: QueuedRun,
        output: RemoteOutput,
        index: int,
        times: tuple[float | None, float | None],
        ext: str,
    ) -> str:
        """Return the first path that an output with the extension `ext` would get, with `/`.

        `times` are when the run completed and was created (unix seconds), `index` counts from 1.
        """
        return self.paths.path(UnnamedOutput(run, output, index, times), ext)

    def _is_anothers(self, run: QueuedRun, output: RemoteOutput, path: str) -> bool:
        """Whether the file at `path` is not this output's but another one's. Raises as `scan`."""
        return self._named is not None and self._named.is_anothers(path, run, output)

    def earlier_path(self, run: QueuedRun, output: RemoteOutput) -> str | None:
        """Return where an output's file is by the sidecar of `run`, if that is retried; None for all else.

        Raises as `locate_sidecar`.
        """
        if not run.force or (sidecar := self.find_sidecar(run.reference)) is None:
            return None
        found = sidecars.by_key(sidecar.outputs).get(output.key)
        return found.path if found is not None else None

    @abstractmethod
    def existing(self, outputs: Mapping[str, SavedOutput]) -> dict[str, SavedOutput]:
        """Return those of `outputs` whose files exist, with the recorded size.

        Raises `TransientError` where one cannot be checked.
        """

    @abstractmethod
    def locate_sidecar(self, reference: Reference) -> tuple[str, Sidecar] | None:
        """Return path and content of a run's sidecar, under whatever technique; None without a valid one.

        Unreadable and foreign ones are not valid.
        """

    def find_sidecar(self, reference: Reference) -> Sidecar | None:
        """Return a run's sidecar, see `locate_sidecar`."""
        found = self.locate_sidecar(reference)
        return found[1] if found else None

    @abstractmethod
    def write_sidecar(self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None) -> str:
        """Write or replace a run's sidecar, after all else of the run; return its path.

        With a technique, it takes the place of one that was written when none was known. `replacing` is the
        one that it was made from: where another one stands by now nothing is written, and `TransientError`
        raised. So it is without `replacing`, where a file that is there would not be named any more: another
        process has saved more of the run.

        Raises `TransientError` in place of `PermanentError`: all else of the run is on disk.
        """

    def sidecar_written(
        self, sidecar: Sidecar, mtime: float | None, replacing: Sidecar | None = None
    ) -> Steps[str]:
        """As `write_sidecar`, in steps for `together`."""
        yield
        return self.write_sidecar(sidecar, mtime, replacing)

    @abstractmethod
    def write_companion(
        self, path: str, data: bytes, mtime: float | None, replaces: Callable[[bytes], bool]
    ) -> bool:
        """Write `data` beside the file at `path`, as `PATH.xmp`; return whether it was written.

        Nothing is written where that file is not there. A companion that stands already is replaced only
        where `replaces` says so of its bytes, and they differ.
        """

    def write_companions(self, sidecar: Sidecar, mtime: float | None) -> int:
        """Write XMP beside the files of a run; return how many. What somebody else has changed stays."""
        from floradl.library import xmp  # noqa: PLC0415 - where it is wanted

        return sum(
            self.write_companion(output.path, xmp.render(sidecar, output), mtime, xmp.is_untouched)
            for output in sidecar.outputs
            if output.path is not None
        )

    @abstractmethod
    def open_file(self, path: str) -> BinaryIO | None:
        """Open a file of the library by its path, for reading and seeking; None where it does not exist.

        It has a descriptor (`fileno`) where its library is on this machine. In a store it is one version of
        the object, read by ranges: reading raises `TransientError` once that was replaced.
        """

    def read(self, path: str) -> bytes | None:
        """Return the bytes of a sidecar, in a store by one request; None where it does not exist.

        Raises as opening and reading it does.
        """
        if (file := self.open_file(path)) is None:
            return None
        with file:
            return file.read()

    def entries(self, paths: Iterable[str]) -> Iterator[LibraryEntry]:
        """Yield the sidecars at `paths`, which a listing of a store has shown; as `scan`."""
        for path in paths:
            if (data := self.read(path)) is not None:
                yield LibraryEntry(path, parsed(data))

    @abstractmethod
    def location(self, path: str = "") -> str:
        """Return the full path or URL of `path`, or of the library."""

    @abstractmethod
    def scan(self) -> Iterator[LibraryEntry]:
        """Yield all sidecars, by technique; one removed meanwhile is left out."""

    @abstractmethod
    def files(self) -> Iterator[str]:
        """Yield the paths of all files except sidecars and hidden ones, by folder and name."""

    @abstractmethod
    def stat(self, path: str) -> StoredFile | None:
        """Look at one file; None where no regular file is there. `path` may be a sidecar's."""

    @abstractmethod
    def listing(self, folder: str = "") -> Iterator[StoredFile]:
        """Yield all files below `folder`, in any order, sidecars too, with as few requests as can be.

        Hidden ones, and those that another process removes meanwhile, are left out.
        """

    @abstractmethod
    def move(self, path: str, to: str) -> bool:
        """Give a file another path; what it is called by then is on disk on return.

        Nothing is replaced: False where `to` is taken, or differs from what is there in case only. It may
        be repeated after a crash: where `path` is gone and `to` is there, that is True as well. In a store
        without renames both may be there for a moment.

        Raises `TransientError` where neither is there.
        """

    @abstractmethod
    def remove(self, path: str) -> bool:
        """Remove a file for good; False where it is gone already. Folders left empty go too."""

    def retire(self, successor: str) -> None:  # noqa: B027 - not every place can be left that way
        """Have it count as missing from now on, if it can be: its files are at the location `successor`."""

    @abstractmethod
    def expect_damaged(self, path: str, sha256: str) -> None:
        """Have bytes of this SHA-256 replace the damaged file at `path`, which is kept beside it."""

    @abstractmethod
    def kept_as(self, path: str) -> str | None:
        """Return the new path of the damaged file of `path`; None if it was not moved."""

    def kept_open(self) -> AbstractContextManager[None]:
        """Have what one `together` of this thread opens be there for the next: for those in close succession.

        A disk cannot be unmounted meanwhile.
        """
        return nullcontext()

    @abstractmethod
    def together(self, works: Sequence[Callable[[], T | Steps[T]]]) -> list[T | Exception]:
        """Do `works`, which use this library; return the result or error of each, in their order.

        Their writes are on disk on return: in a folder one after the other with a few flushes for all, and
        those in `Steps` side by side, in a store several at once.
        """
