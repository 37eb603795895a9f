"""What happened, for other programs: one JSON object a line, in the state folder, appended and rotated.

It is not a record: nothing is decided by it, so it is not flushed to the disk, and a full disk costs lines.
Who holds the state folder writes it; anybody who may read that folder reads it meanwhile.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, BinaryIO, Final, TypeAlias

import anyio
import msgspec
from anyio import to_thread

from floradl.clock import rfc3339
from floradl.log import get_logger
from floradl.models import QueuedRun, Result, RunState, SavedOutput
from floradl.queue.folder import EVENT_FILES
from floradl.redaction import are_harmless, redact, shown_json

SCHEMA_VERSION: Final = 1
_LARGEST = 16 << 20  # bytes of a file, until the next one begins
_AT_ONCE = 1000  # events in one write
_GATHER = 0.02  # seconds in which what happens is written together
_GATHER_MORE = 0.1  # the same while there is always something: a write costs a thread a turn
_RESULTS = {
    RunState.DONE: Result.COMPLETE,
    RunState.PARTIAL: Result.PARTIAL,
    RunState.FAILED: Result.FAILED,
}
_log = get_logger()


class Event(StrEnum):
    """What can happen; a list that only grows."""

    RUN_ACCEPTED = "run_accepted"
    RUN_COMPLETED = "run_completed"
    OUTPUT_SAVED = "output_saved"
    RUN_FINISHED = "run_finished"
    JOB_REJECTED = "job_rejected"
    HOOK_FAILED = "hook_failed"
    PAUSED = "paused"
    RESUMED = "resumed"


_Waiting: TypeAlias = tuple[float, Event, str | None, dict[str, Any]]


class EventLog:
    """Writes events. For the event loop's thread; `serve` must be running.

    A file of `largest` bytes is followed by a new one; `wall` returns unix seconds.
    """

    def __init__(
        self, state_dir: Path, largest: int = _LARGEST, wall: Callable[[], float] = time.time
    ) -> None:
        self._paths = [state_dir / name for name in EVENT_FILES]
        self._largest = largest
        self._wall = wall
        self._waiting: deque[_Waiting] = deque()  # added here and taken by another thread
        self._news = anyio.Event()
        self._fd = -1
        self._lost = False
        self._paused: str | None = None

    def accepted(self, run_ids: Iterable[str]) -> None:
        """Record that runs are open from now on."""
        for run_id in run_ids:
            self._add(Event.RUN_ACCEPTED, run_id)

    def completed(self, run: QueuedRun, outputs: int) -> None:
        """Record that a run was seen to be completed at FLORA, with so many outputs."""
        self._add(Event.RUN_COMPLETED, run.run_id, **_names(run), outputs=outputs)

    def saved(self, run: QueuedRun, output: SavedOutput) -> None:
        """Record that an output is on disk."""
        facts = {"output_id": output.output_id, "kind": output.kind, "path": output.path}
        self._add(Event.OUTPUT_SAVED, run.run_id, **_names(run), **facts, bytes=output.bytes)

    def finished(self, run: QueuedRun, sidecar: str | None, files: int, size: int) -> None:
        """Record how a run ended, its sidecar's path in the library, and what is new: files, and bytes.

        `sidecar` is None where the library had all of it already.
        """
        error = {"code": run.error.code, "message": run.error.message} if run.error else None
        facts = {"result": _RESULTS.get(run.state), "sidecar": sidecar, "files": files, "bytes": size}
        self._add(Event.RUN_FINISHED, run.run_id, **_names(run), **facts, error=error)

    def rejected(self, file: str, message: str) -> None:
        """Record that a job file was refused, and why."""
        self._add(Event.JOB_REJECTED, None, file=file, message=message)

    def hook_failed(self, hook: str, run_id: str | None, message: str, *, final: bool) -> None:
        """Record that a hook failed in a new way, or (`final`) is not tried again for this run."""
        self._add(Event.HOOK_FAILED, run_id, hook=hook, message=message, final=final)

    def pause(self, reason: str | None, message: str = "") -> None:
        """Record the pause that holds now, None for no pause; nothing where that is known already."""
        before, self._paused = self._paused, reason
        if reason is None and before is not None:
            self._add(Event.RESUMED, None, reason=before)
        elif reason is not None and reason != before:
            self._add(Event.PAUSED, None, reason=reason, message=message)

    def _add(self, event: Event, run_id: str | None, **facts: Any) -> None:
        self._waiting.append((self._wall(), event, run_id, facts))
        self._news.set()

    async def serve(self) -> None:
        """Write what is added, for ever; what comes within a moment is written together."""
        written = -math.inf
        while True:
            await self._news.wait()
            follows = anyio.current_time() - written < _GATHER_MORE
            await anyio.sleep(_GATHER_MORE if follows else _GATHER)
            self._news = anyio.Event()
            await to_thread.run_sync(self._write)
            written = anyio.current_time()

    async def aclose(self) -> None:
        """Write what is left, and close the file; nobody adds anything any more, and `serve` has ended."""
        self._write()  # here: whoever stops may be cancelled already
        self._close()

    def _write(self) -> None:
        try:
            while self._waiting:
                some = [self._waiting.popleft() for _ in range(min(len(self._waiting), _AT_ONCE))]
                lines = b"".join(map(_line, some))
                _write_all(self._open(), lines)
                if os.fstat(self._fd).st_size >= self._largest:
                    self._rotate()
            self._lost = False
        except OSError as error:
            self._close()
            self._waiting.clear()
            if not self._lost:
                message = f"{self._paths[0]} cannot be written ({error.strerror}): some events are missing"
                _log.warning("events_lost", message=message)
            self._lost = True

    def _open(self) -> int:
        """Return the newest file; another one where it was removed or replaced meanwhile."""
        path = self._paths[0]
        if self._fd >= 0 and not _is_at(os.fstat(self._fd), path):
            self._close()
        if self._fd < 0:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._fd = os.open(path, flags, 0o644)  # for this user alone to write, whatever the umask gives
            size = os.fstat(self._fd).st_size
            if size and os.pread(self._fd, 1, size - 1) != b"\n":  # cut short by a crash, or a full disk
                os.write(self._fd, b"\n")
        return self._fd

    def _rotate(self) -> None:
        self._close()
        for older, newer in zip(self._paths[::-1], self._paths[-2::-1], strict=False):
            with suppress(FileNotFoundError):
                newer.replace(older)

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _names(run: QueuedRun) -> dict[str, Any]:
    return {"reference": str(run.reference), "label": run.label}


def _line(event: _Waiting) -> bytes:
    at, name, run_id, facts = event
    line: dict[str, Any] = {"schema_version": SCHEMA_VERSION, "at": rfc3339(at), "event": name}
    line["run_id"] = run_id
    line |= facts
    texts = [value for value in line.values() if isinstance(value, str)]
    plain = all(map(str.isascii, texts)) and are_harmless(texts)
    if not plain or dict in map(type, facts.values()):
        line = {key: _safe(value) for key, value in line.items()}
    return shown_json(msgspec.json.encode(line)) + b"\n"


def _safe(value: Any) -> Any:
    # What others named may hold a key, a URL, or half a character.
    if isinstance(value, str):
        text = redact(value)
        return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()
    return {key: _safe(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _is_at(file: os.stat_result, path: Path) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(file, path.stat())
    return False


class _Head(msgspec.Struct):
    at: str


class Position(msgspec.Struct, frozen=True):
    """A place between two events: a file, by its number on the disk, and how many bytes of it were read."""

    inode: int
    offset: int


class EventReader:
    """Reads events beside whoever writes them; `since` is unix seconds, None for all that are kept."""

    def __init__(self, state_dir: Path, since: float | None) -> None:
        self._paths = [state_dir / name for name in EVENT_FILES]
        self._since = rfc3339(since) or ""
        self._file: BinaryIO | None = None
        self._begun = b""

    def read(self) -> Iterator[bytes]:
        """Yield the lines that came since the last call, the oldest first. Raises `OSError`."""
        try:
            file: BinaryIO | None = self._file or self._oldest()
        except FileNotFoundError:
            return
        while file is not None:
            self._file = file
            yield from self._rest(file)
            if self._place(file) == 0:
                return
            yield from self._rest(file)  # written before it was rotated
            file = self._next(file)

    @property
    def position(self) -> Position | None:
        """How far it has read; None where it has not begun."""
        if self._file is None:
            return None
        return Position(os.fstat(self._file.fileno()).st_ino, self._file.tell() - len(self._begun))

    def go_to(self, position: Position) -> bool:
        """Go on where a reader was, perhaps of another process; False where that file is gone."""
        for path in self._paths:
            with suppress(FileNotFoundError):
                file = path.open("rb")
                found = os.fstat(file.fileno())
                if found.st_ino == position.inode and found.st_size >= position.offset:
                    file.seek(position.offset)
                    self.close()
                    self._file, self._begun = file, b""
                    return True
                file.close()
        return False

    def go_to_end(self) -> None:
        """Pass over all that is there; what comes is read from its beginning. Raises `OSError`."""
        with suppress(FileNotFoundError):
            file = self._paths[0].open("rb")
            file.seek(0, os.SEEK_END)
            self.close()
            self._file, self._begun = file, b""

    def has_more(self) -> bool:
        """Whether something was written since: a look without reading."""
        try:
            newest = self._paths[0].stat()
        except OSError:
            return False
        if self._file is None:
            return True
        found = os.fstat(self._file.fileno())
        return not os.path.samestat(found, newest) or found.st_size > self._file.tell()

    def close(self) -> None:
        """Close the file. Safe to repeat."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _rest(self, file: BinaryIO) -> Iterator[bytes]:
        for data in file:
            line = self._begun + data
            if not line.endswith(b"\n"):
                self._begun = line
                return
            self._begun = b""
            with suppress(msgspec.MsgspecError, ValueError):  # cut short by a crash
                if msgspec.json.decode(line, type=_Head).at >= self._since:
                    yield line

    def _place(self, file: BinaryIO) -> int | None:
        """Return which of the files this is by now; None where it is gone."""
        own = os.fstat(file.fileno())
        places = (number for number, path in enumerate(self._paths) if _is_at(own, path))
        return next(places, None)

    def _next(self, file: BinaryIO) -> BinaryIO | None:
        """Open what follows a file that was rotated; None where nothing was written since."""
        follows: BinaryIO | None = None
        while follows is None:
            place = self._place(file)
            try:
                follows = self._paths[place - 1].open("rb") if place else self._oldest()
            except FileNotFoundError:
                return None
            if place is not None and self._place(file) != place:  # rotated in this moment
                follows.close()
                follows = None
        file.close()
        self._file, self._begun = None, b""
        return follows

    def _oldest(self) -> BinaryIO:
        for path in reversed(self._paths[1:]):
            with suppress(FileNotFoundError):
                return path.open("rb")
        return self._paths[0].open("rb")


def schema_path() -> Path:
    """Return where the events' JSON Schema lies."""
    return Path(__file__).parent / "schemas" / f"event-{SCHEMA_VERSION}.json"
