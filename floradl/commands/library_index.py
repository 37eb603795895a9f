"""The index of the configured library, brought up to date before a command asks it.

Where no sidecar changed, that costs a look at the times of their folders. What reads sidecars is imported
only where some changed.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from floradl.errors import ConfigError, ExposedError
from floradl.fs.permissions import exposure
from floradl.index.finder import Finder
from floradl.index.freshness import is_current, look_took, looked_at, note_told, told_at
from floradl.index.tables import FILE_NAME, IndexDamagedError, IndexFile

if TYPE_CHECKING:
    from floradl.config.settings import Config
    from floradl.index.library_index import LibraryIndex
    from floradl.index.totals import LibraryTotals

HOUR: Final = 3600.0
_MINUTE: Final = 60.0
_SLACK: Final = 1.0  # seconds
_TRIES: Final = 3  # of opening an index: each damaged one is replaced
_PATIENCE: Final = 0.5  # seconds until progress is shown


def index_place(config: Config, environ: Mapping[str, str]) -> Path:
    """Return the folder for index and thumbnails: the state folder, or a cache if that is another user's.

    It is made where it is missing. Raises `ConfigError` where neither can be used.
    """
    state_dir = config.state_dir
    with suppress(OSError, ExposedError):
        if state_dir.exists() and state_dir.stat().st_uid == os.geteuid() and exposure(state_dir) is None:
            return state_dir
        from floradl.queue import folder as state_folder  # noqa: PLC0415 - the first time, or in a container

        if not state_dir.exists():
            state_folder.make(state_dir)
        if state_folder.is_ours(state_dir):
            return state_dir
    import hashlib  # noqa: PLC0415 - for somebody else's library alone

    named = environ.get("XDG_CACHE_HOME", "")
    cache = Path(named) if named.startswith("/") else Path(environ.get("HOME") or Path.home(), ".cache")
    place = cache / "floradl" / hashlib.sha256(os.fsencode(str(config.output.dir))).hexdigest()[:16]
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the index has no place: {place} cannot be made: {error.strerror}") from error
    return place


class CommandIndex:
    """The index as a command asks it. Raises as `LibraryIndex` does."""

    def __init__(self, config: Config, environ: Mapping[str, str]) -> None:
        self._config = config
        self._place = index_place(config, environ)
        self._library = config.output.dir
        self._file = IndexFile(self._place / FILE_NAME, str(self._library))
        self.finder = Finder(self._file)

    @property
    def folder(self) -> Path | None:
        """The library's folder; None where it is in a bucket."""
        return self._library if isinstance(self._library, Path) else None

    def location(self, path: str = "") -> str:
        """Return the full path or URL of a path in the library, or of the library itself."""
        return f"{self._library}/{path}" if path else str(self._library)

    def is_there(self, path: str) -> bool:
        """Whether a file exists; in a bucket each counts as existing, without a request."""
        return self.folder is None or os.path.exists(self.location(path))  # noqa: PTH110 - quick: they may be many

    def totals(self) -> LibraryTotals:
        """Return the sums over the library."""
        from floradl.index.totals import LibraryTotals  # noqa: PLC0415 - see above

        return LibraryTotals(self._file)

    def refresh(self, every: float) -> bool:
        """Bring the index up to date; return whether a sidecar may have been read.

        Each sidecar is looked at where the last such look is more than `every` seconds ago; one that takes
        more than a second is made the more rarely, up to once an hour. A bucket is listed once a minute at
        most; in between what this machine saved is read.
        """
        began, looked = time.time(), looked_at(self._file)
        if self.folder is None:
            every = min(every, _MINUTE)
        elif every > 0:
            every = max(every, min(_MINUTE * look_took(self._file), HOUR))
        thorough = not 0 <= began - looked <= every
        saved: set[str] | None = None
        if not thorough and self.folder is None:
            saved = self._saved_since(max(looked, told_at(self._file)))
        if saved == set() or (
            not thorough and self.folder is not None and is_current(self._file, self.folder)
        ):
            return False
        from floradl.index.library_index import LibraryIndex  # noqa: PLC0415 - see above
        from floradl.library_builder import build_library  # noqa: PLC0415 - see above

        with closing(LibraryIndex(self._place, build_library(self._config))) as index:
            if saved is None:
                self._rebuild(index, thorough=thorough)
            else:
                index.add(saved)
                note_told(self._file, began)
        return True

    def _rebuild(self, index: LibraryIndex, *, thorough: bool) -> None:
        from floradl.commands.progress import CountLine  # noqa: PLC0415 - see above

        line = CountLine(sys.stderr, shown=not self._config.log.quiet, patience=_PATIENCE)
        try:
            index.rebuild(partial(line.show, "reading the library", noun="sidecar"), thorough=thorough)
        finally:
            line.clear()

    def _saved_since(self, moment: float) -> set[str]:
        """Return the sidecars written since `moment`, by the event log of this machine."""
        with closing(SavedSidecars(self._config.state_dir, moment - _SLACK)) as saved:
            return set(saved())

    def close(self) -> None:
        """Close the index's file."""
        self._file.close()


class SavedSidecars:
    """Returns the paths of the sidecars that floradl has written here since `since` or the last call.

    `since` is unix seconds. Blocking.
    """

    def __init__(self, state_dir: Path, since: float) -> None:
        from floradl.queue.event_log import EventReader  # noqa: PLC0415 - of a library in a store alone

        self._events = EventReader(state_dir, since)

    def __call__(self) -> list[str]:
        """Read the event log. Empty where it may not be read: a listing shows these sidecars later."""
        found: list[str] = []
        with suppress(OSError):
            for line in self._events.read():
                with suppress(msgspec.MsgspecError):
                    found.append(msgspec.json.decode(line, type=_Saved).sidecar)
        return found

    def close(self) -> None:
        """Let go of the event log. Safe to repeat."""
        self._events.close()


class _Saved(Struct):
    """An event that names a sidecar."""

    sidecar: str


@contextmanager
def opened_index(config: Config, environ: Mapping[str, str], every: float = HOUR) -> Iterator[CommandIndex]:
    """Open the index, up to date as `refresh` says; replace a damaged one.

    Raises `ConfigError`, and as the library where that is missing.
    """
    index = _refreshed(config, environ, every)
    try:
        yield index
    finally:
        index.close()


def _refreshed(config: Config, environ: Mapping[str, str], every: float) -> CommandIndex:
    for attempt in range(1, _TRIES + 1):
        index = CommandIndex(config, environ)
        try:
            index.refresh(every)
            return index
        except IndexDamagedError:
            index.close()
            if attempt == _TRIES:
                raise
        except BaseException:
            index.close()
            raise
    raise AssertionError("counting ended")
