"""The result of a run, for people and programs: its sidecar and its files, by full paths.

`get` and `once` write each result as the run ends, `status REF` and `open` look one up.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

import msgspec
from msgspec import Struct

from floradl.commands.exits import Exit
from floradl.commands.streams import Show, tell, write_bytes
from floradl.errors import ConfigError, FloradlError
from floradl.library.base import LibraryStore
from floradl.library.sidecar import Sidecar, by_key, read, render
from floradl.models import QueuedRun, Reference
from floradl.redaction import redact, shown_json
from floradl.runs.events import RunSummary
from floradl.units import format_count

_MOST_OPENED = 5  # files; for more, their folder is opened
_FAILS_WITHIN = 3.0  # seconds: an opener that fails has ended by then
_MOST_NAMED = 5  # runs, in a message
_RUNS = "runs"


class FoundRun(Struct, frozen=True):
    """A run's sidecar: its full path and what it says. `missing` are the files of it that are not there."""

    path: str
    sidecar: Sidecar
    files: tuple[str, ...]
    missing: tuple[str, ...] = ()


def find_run(library: LibraryStore, reference: Reference) -> FoundRun | None:
    """Look a run up in the library; None where it has no sidecar. Blocking. Raises as the library does."""
    located = library.locate_sidecar(reference)
    if located is None:
        return None
    path, sidecar = located
    outputs = by_key(sidecar.outputs)
    there = library.existing(outputs)
    paths = {key: output.path for key, output in outputs.items() if output.path is not None}
    return FoundRun(
        library.location(path),
        sidecar,
        tuple(library.location(path) for key, path in paths.items() if key in there),
        tuple(library.location(path) for key, path in paths.items() if key not in there),
    )


def last_run(library: LibraryStore) -> FoundRun | None:
    """Find the run whose sidecar was written last, of those that have a file; of all where none has.

    None in an empty library. In a store, which does not list by time, all sidecars are read. Blocking. Raises
    likewise.
    """
    if not _is_path(library.location()):
        return _last_finished(library)
    sidecars: list[tuple[int, str]] = []
    with suppress(OSError):
        for folder in os.scandir(library.location(_RUNS)):
            with suppress(OSError):
                sidecars += [
                    (file.stat(follow_symlinks=False).st_ctime_ns, f"{_RUNS}/{folder.name}/{file.name}")
                    for file in os.scandir(folder)
                    if file.name.endswith(".json") and not file.name.startswith(".")
                ]
    newest = None
    for _, path in sorted(sidecars, reverse=True):
        found = _run_of(library, path)
        if found is not None and found.files:
            return found
        newest = newest or found
    return newest


def _is_path(location: str) -> bool:
    """Whether a location is a path; else it is a URL."""
    return location.startswith("/")


def _last_finished(library: LibraryStore) -> FoundRun | None:
    last: dict[bool, Sidecar] = {}  # of those that have a file, and of the others
    for entry in library.scan():
        if (sidecar := entry.sidecar) is not None:
            kind = any(output.path for output in sidecar.outputs)
            if kind not in last or (last[kind].times.finished_at or "") < (sidecar.times.finished_at or ""):
                last[kind] = sidecar
    newest = last.get(True, last.get(False))
    return None if newest is None else find_run(library, Reference.of(newest.run_id, newest.technique))


def _run_of(library: LibraryStore, path: str) -> FoundRun | None:
    if (sidecar := library.open_file(path)) is None:
        return None
    with sidecar, suppress(msgspec.MsgspecError, ValueError):
        named = msgspec.json.decode(sidecar.read(), type=_Named)
        return find_run(library, Reference.of(named.run_id, named.technique))
    return None


class _Named(Struct):
    run_id: str
    technique: str | None = None


class _Shown(Struct, frozen=True):
    """A run's sidecar as one line of JSON, with `files` and `missing`; and the full paths of these."""

    reference: Reference
    line: bytes
    files: Sequence[str]
    missing: Sequence[str]


def _shown(library: LibraryStore, run: QueuedRun, summary: RunSummary | None) -> _Shown:
    found = _read(library, run, summary)
    if found is None:  # a library that went away
        error = {"code": run.error.code, "message": redact(run.error.message)} if run.error else None
        known = {"reference": str(run.reference), "run_id": run.run_id, "label": run.label}
        found = {"schema_version": 1, **known, "result": None, "outputs": [], "error": error}
    gone = _gone(library, found)
    paths = [path for output in found["outputs"] if (path := output.get("path"))]
    files = [library.location(path) for path in paths if path not in gone]
    missing = [library.location(path) for path in paths if path in gone]
    for key, each in (("files", files), ("missing", missing)):
        found[key] = [path.encode("utf-8", "replace").decode() for path in each]
    return _Shown(run.reference, shown_json(msgspec.json.encode(found)) + b"\n", files, missing)


def _gone(library: LibraryStore, found: dict[str, Any]) -> set[str]:
    """Return the missing files of a sidecar; empty where that cannot be found out."""
    with suppress(FloradlError, OSError, msgspec.MsgspecError, ValueError):
        outputs = by_key(read(msgspec.json.encode(found)).outputs)
        there = library.existing(outputs)
        return {each.path for key, each in outputs.items() if each.path is not None and key not in there}
    return set()


def _read(library: LibraryStore, run: QueuedRun, summary: RunSummary | None) -> dict[str, Any] | None:
    with suppress(FloradlError, OSError, msgspec.MsgspecError):
        if summary is not None and (file := library.open_file(summary.sidecar)) is not None:
            with file:
                return msgspec.json.decode(file.read(), type=dict[str, Any])
        if (located := library.locate_sidecar(run.reference)) is not None:
            return msgspec.json.decode(render(located[1]), type=dict[str, Any])
    return None


class ResultWriter:
    """Writes what `show` says of runs to standard output as they end, from a thread of its own.

    So no reader holds the work up.
    A reader that went away ends the writing, not the work; any other error is raised by `close`.
    """

    def __init__(self, show: Show) -> None:
        self._json = show is Show.JSON
        self._ended: queue.SimpleQueue[tuple[QueuedRun, RunSummary | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._error: OSError | None = None
        self._incomplete: list[Reference] = []

    def open(self, library: LibraryStore) -> None:
        """Begin to write; the runs' files are in `library`."""
        self._thread = threading.Thread(target=self._serve, args=(library,), name="results", daemon=True)
        self._thread.start()

    def finished(self, run: QueuedRun, summary: RunSummary | None) -> None:
        """Write a run that has ended."""
        self._ended.put((run, summary))

    def close(self) -> None:
        """Write the rest. Raises `OSError` where standard output refused a part. Blocking."""
        if self._thread is not None:
            self._ended.put(None)
            self._thread.join()
            self._thread = None
        if self._error is not None and not isinstance(self._error, BrokenPipeError):
            raise self._error

    def report_missing(self) -> Exit:
        """Say on stderr of which runs files are gone; return the exit code for that. Only when closed."""
        if not self._incomplete:
            return Exit.OK
        first = " ".join(map(str, self._incomplete[:_MOST_NAMED]))
        more = len(self._incomplete) - _MOST_NAMED
        others = f" (and {more:,} more)" if more > 0 else ""
        tell(
            f"floradl: files of {format_count(len(self._incomplete), 'run')} are gone from the library; "
            f"'floradl verify --repair --missing {first}'{others} brings them back, "
            "and 'floradl retry REF' downloads a run anew"
        )
        return Exit.FAILED

    def _serve(self, library: LibraryStore) -> None:
        more = True
        while more:
            batch = [self._ended.get()]
            with suppress(queue.Empty):
                while batch[-1] is not None:
                    batch.append(self._ended.get_nowait())
            more = batch[-1] is not None
            lines = [_shown(library, *ended) for ended in batch if ended is not None]
            self._incomplete += [each.reference for each in lines if each.missing]
            if self._error is None and lines:
                try:
                    write_bytes(sys.stdout, self._bytes(lines))
                except (OSError, ValueError) as error:
                    self._error = error if isinstance(error, OSError) else BrokenPipeError()

    def _bytes(self, lines: Iterable[_Shown]) -> bytes:
        if self._json:
            return b"".join(each.line for each in lines)
        return b"".join(os.fsencode(path) + b"\n" for each in lines for path in each.files)


@contextmanager
def written(show: Show) -> Iterator[ResultWriter]:
    """Yield a writer, and close it at the end."""
    writer = ResultWriter(show)
    try:
        yield writer
    except BaseException:
        with suppress(OSError):
            writer.close()
        raise
    writer.close()


def open_run(
    library: LibraryStore, reference: Reference | None, environ: Mapping[str, str], stream: TextIO
) -> Exit:
    """Show the files of a run (None: the last one) as `open_files` does. Raises `ConfigError` for none."""
    try:
        found = last_run(library) if reference is None else find_run(library, reference)
    except FloradlError as error:
        raise ConfigError(str(error)) from error
    if found is None and reference is None:
        raise ConfigError(f"the library {library.location()} holds no run yet")
    if found is None:
        raise ConfigError(
            f"{reference} is not in the library {library.location()}: 'floradl get {reference}'"
        )
    return open_files(found, environ, stream)


def open_files(found: FoundRun, environ: Mapping[str, str], stream: TextIO) -> Exit:
    """Show a run's files with the desktop's opener; where there is none write their paths to `stream`.

    Raises `ConfigError` for a run without files.
    """
    if not found.files:
        why = (
            f": {found.sidecar.error.code}: {redact(found.sidecar.error.message)}"
            if found.sidecar.error
            else ""
        )
        gone = f" (not there any more: {found.missing[0]})" if found.missing else ""
        raise ConfigError(f"{found.sidecar.reference} has no files to show{why}{gone}")
    opener = _opener(environ) if _is_path(found.files[0]) else None  # a desktop opens no s3://
    wanted = found.files if len(found.files) <= _MOST_OPENED else (str(Path(found.files[0]).parent),)
    if opener is None or not all(_started([*opener, path], environ) for path in wanted):
        write_bytes(stream, b"".join(os.fsencode(path) + b"\n" for path in found.files))
    return Exit.OK


def _opener(environ: Mapping[str, str]) -> Sequence[str] | None:
    import shutil  # noqa: PLC0415 - for this command alone

    name = "open" if sys.platform == "darwin" else "xdg-open"
    if name == "xdg-open" and not (environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        return None  # without a desktop it would take over the terminal
    program = shutil.which(name, path=environ.get("PATH"))
    return None if program is None else [program]


def _started(command: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Start an opener; return whether it seems to have taken the file."""
    import subprocess  # noqa: PLC0415 - for this command alone

    safe = {name: value for name, value in environ.items() if not name.startswith("FLORA")}
    nowhere = subprocess.DEVNULL
    try:
        process = subprocess.Popen(  # noqa: S603 - the desktop's own
            command, stdin=nowhere, stdout=nowhere, stderr=nowhere, env=safe, start_new_session=True
        )
    except OSError as error:
        tell(f"floradl: {command[0]} could not be started: {error.strerror}")
        return False
    try:
        code = process.wait(_FAILS_WITHIN)
    except subprocess.TimeoutExpired:
        return True  # a viewer that stays
    if code:
        tell(f"floradl: {command[0]} cannot show {command[-1]} (it ended with exit code {code})")
    return code == 0
