"""Thumbnails: made once, one at a time, by a process of low priority; kept in a folder that may be deleted.

They are made in the order that they were asked for; what nobody waits for any more, since the page was
scrolled on, is left out.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Final, Protocol, TypeGuard

import anyio
from anyio import to_thread

from floradl.errors import FloradlError
from floradl.gallery.pace import Pace
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.local_file import with_descriptor
from floradl.log import get_logger
from floradl.redaction import BUCKET_VARIABLES

THUMBNAILS: Final = "thumbnails"
"""The folder for them, beside the index."""

_NAME: Final = re.compile("[0-9a-f]{64}")
_MOST_WAITING: Final = 1000
_MOST_BYTES: Final = 1 << 20  # of a thumbnail
_TIME: Final = 120.0  # seconds for one: it works when nobody else does
_TRY_AGAIN: Final = 86_400.0  # seconds after which what had no thumbnail is tried again
_MOST_COPIED: Final = (64 << 20, 16 << 20)  # bytes of a picture, of a film
_TOUCH_AFTER: Final = 86_400.0  # seconds after which it is noted again that a thumbnail was looked at
_UNFINISHED: Final = 3600.0  # seconds after which nobody is at work on a file any more
_LOOK_EVERY, _LOOKS = 60.0, 60  # seconds between looks at how much was made; so many until a sweep
_LOW: Final = 0.9  # of the room, to which a sweep goes
_GROWN: Final = 0.05  # of the room, after which there is a sweep before its time
_BLOCK: Final = 512  # bytes, as stat(2) counts them
_IDLE: Final = 60.0  # seconds without work, after which the process ends
_SECRETS: Final = ("FLORA", "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", *BUCKET_VARIABLES)
_log = get_logger()


def is_sha256(text: str | None) -> TypeGuard[str]:
    """Whether `text` is a SHA-256 as sidecars have it, and so a name of a file that leads nowhere else."""
    return text is not None and _NAME.fullmatch(text) is not None


class Opens(Protocol):
    """Opens the file that has a SHA-256; None where none is there, or it cannot be shown as a picture."""

    def __call__(self, sha256: str) -> BinaryIO | None:
        """Blocking. Raises `FloradlError`, `OSError`."""


def open_shown(library: LibraryStore, path: str, kind: str) -> BinaryIO | None:
    """Open a picture or film for a `Maker`; None where it is not there, or too large to be brought here.

    Of a long film in a store its beginning and its end are enough. Raises as the library does.
    """
    file = library.open_file(path)
    if file is None or isinstance(library, FolderLibrary):
        return file
    most = _MOST_COPIED[kind == "video"]
    if kind != "video" and file.seek(0, os.SEEK_END) > most:
        file.close()
        return None
    file.seek(0)
    return with_descriptor(file, most)


class ThumbnailCache:
    """Thumbnails on disk, below `place`, by the SHA-256 of what they show. Blocking.

    They take about `room` bytes of the disk: beyond, those go first that were not looked at for longest.
    """

    def __init__(self, place: Path, room: int) -> None:
        self._place = place
        self._room = room
        self._grown = 0

    def get(self, sha256: str) -> bytes | None:
        """Return it; empty where none could be made lately; None where none was made yet."""
        path = self._path(sha256)
        try:
            made = path.read_bytes()
            age = abs(time.time() - path.stat().st_mtime)
        except OSError:
            return None
        # By then there may be an ffmpeg, or a decoder for such files.
        if not made and age > _TRY_AGAIN:
            return None
        if made and age > _TOUCH_AFTER:  # not the time of access: many disks are mounted without
            with suppress(OSError):
                os.utime(path)
        return made

    def put(self, sha256: str, made: bytes) -> None:
        """Keep it; a full disk only costs the keeping."""
        path = self._path(sha256)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_bytes(made)
                temporary.replace(path)
                self._grown += len(made) + _BLOCK
            except OSError:
                temporary.unlink(missing_ok=True)

    @property
    def has_grown(self) -> bool:
        """Whether so much was put in since the last sweep that another one is due."""
        return self._grown > self._room * _GROWN

    def sweep(self) -> None:
        """Remove what is too much, and what was never made to its end. Takes a while where there are many."""
        self._grown = 0
        kept = sorted(self._files(), reverse=True)
        total = sum(size for _, size, _ in kept)
        if total <= self._room:
            return
        while kept and total > self._room * _LOW:
            _, size, path = kept.pop()
            with suppress(OSError):
                os.unlink(path)  # noqa: PTH108 - a text it is: there may be a hundred thousand
            total -= size

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """Yield when each thumbnail was last looked at, the bytes of the disk that it takes, and its path."""
        for folder in self._place.glob("??"):
            with suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    with suppress(OSError):  # it went meanwhile
                        status = entry.stat(follow_symlinks=False)
                        if entry.name.startswith(".") and time.time() - status.st_mtime > _UNFINISHED:
                            os.unlink(entry.path)  # noqa: PTH108 - as above
                        elif entry.name.endswith(".webp"):
                            yield status.st_mtime, (status.st_blocks + 1) * _BLOCK, entry.path

    def _path(self, sha256: str) -> Path:
        return self._place / sha256[:2] / f"{sha256}.webp"


class _Wanted:
    """A thumbnail that somebody waits for."""

    def __init__(self) -> None:
        self.done = anyio.Event()
        self.made: bytes | None = None
        self.waiting = 0


class Thumbnails:
    """Gives thumbnails out of `cache`, or has them made of what `opens` opens, as fast as `pace` allows.

    `serve` must be running.
    """

    def __init__(self, cache: ThumbnailCache, opens: Opens, environ: Mapping[str, str], pace: Pace) -> None:
        self._cache = cache
        self._opens = opens
        self._pace = pace
        self._maker = Maker(environ)
        self._waiting: OrderedDict[str, _Wanted] = OrderedDict()
        self._making: tuple[str, _Wanted] | None = None
        self._work = anyio.Event()

    async def get(self, sha256: str) -> bytes | None:
        """Return a thumbnail as WebP; empty where there can be none; None where too many wait.

        Cancel it where nobody waits for it any more.
        """
        if not is_sha256(sha256):
            return b""
        kept = await to_thread.run_sync(self._cache.get, sha256)
        if kept is not None:
            return kept
        if self._making is not None and self._making[0] == sha256:
            wanted = self._making[1]
        else:
            wanted = self._waiting.setdefault(sha256, _Wanted())
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popitem(last=False)[1].done.set()
        self._work.set()
        wanted.waiting += 1
        try:
            await wanted.done.wait()
        finally:
            wanted.waiting -= 1
            if not wanted.waiting and self._waiting.get(sha256) is wanted:
                del self._waiting[sha256]
        return wanted.made

    async def tidy(self) -> None:
        """Keep the cache within its room, for ever: beside what is asked for, never before an answer."""
        while True:
            await to_thread.run_sync(self._cache.sweep)
            for _ in range(_LOOKS):
                await anyio.sleep(_LOOK_EVERY)
                if self._cache.has_grown:
                    break

    async def serve(self) -> None:
        """Make what is asked for, for ever."""
        try:
            while True:
                while self._waiting:
                    self._making = sha256, wanted = self._waiting.popitem(last=False)
                    begun = anyio.current_time()
                    wanted.made = await to_thread.run_sync(self._make, sha256)
                    took = anyio.current_time() - begun
                    self._making = None
                    wanted.done.set()
                    if rest := await to_thread.run_sync(self._pace.rest, took):
                        await anyio.sleep(rest)
                self._work = anyio.Event()
                with anyio.move_on_after(_IDLE) as scope:
                    await self._work.wait()
                if scope.cancelled_caught:
                    await to_thread.run_sync(self._maker.end)
                    await self._work.wait()
        finally:
            self._maker.end()

    def _make(self, sha256: str) -> bytes | None:
        if (kept := self._cache.get(sha256)) is not None:  # somebody asked just before it was made
            return kept
        try:
            file = self._opens(sha256)
            if file is None:
                return b""
            with file:
                made = self._maker.make(file)
        except (FloradlError, OSError) as error:  # it may be there again later
            _log.warning("thumbnail_failed", message=str(error))
            return None
        if made is not None:
            self._cache.put(sha256, made)
        return made


class Maker:
    """The process that makes thumbnails, started when there is one to make. For one thread at a time."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = {name: value for name, value in environ.items() if not name.startswith(_SECRETS)}
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None

    def make(self, file: BinaryIO) -> bytes | None:
        """Return a thumbnail; empty where the file has the process run out of processor time, memory or luck.

        None where it did not come in time: perhaps others had the processor.
        """
        channel = self._started()
        try:
            socket.send_fds(channel, [b"t"], [file.fileno()])
            size = int.from_bytes(_received(channel, 4), "big")
            return _received(channel, size) if size <= _MOST_BYTES else b""
        except TimeoutError:
            self.end()
            return None
        except (OSError, EOFError):
            self.end()
            return b""

    def _started(self) -> socket.socket:
        if self._channel is not None and self._process is not None and self._process.poll() is None:
            return self._channel
        self.end()
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(_TIME)
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this very program
                [sys.executable, "-P", "-m", "floradl.gallery.thumbnailer", str(theirs.fileno())],
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                process_group=0,
            )
        return self._channel

    def end(self) -> None:
        """End the process, and what it started."""
        channel, self._channel = self._channel, None
        process, self._process = self._process, None
        if channel is not None:
            channel.close()
        if process is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _received(channel: socket.socket, size: int) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        part = channel.recv(size - len(parts))
        if not part:
            raise EOFError
        parts += part
    return bytes(parts)
