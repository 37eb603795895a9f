"""What happens to the names in a few folders: told by inotify(7), elsewhere by watchfiles.

inotify is read directly where the C library has it, and the reader sleeps until something happens. watchfiles
gathers events in steps, and wakes up at each: a file is seen one to two steps late, and a short step costs a
daemon that has nothing to do. It ends at a name that is not UTF-8, too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import select
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple, Protocol

# <sys/inotify.h>
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x4, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_UNMOUNT, _Q_OVERFLOW, _IGNORED, _ONLYDIR, _ISDIR = 0x2000, 0x4000, 0x8000, 0x0100_0000, 0x4000_0000
_WHOLE, _BEGUN, _GONE = _CLOSE_WRITE | _MOVED_TO, _CREATE | _ATTRIB, _MOVED_FROM | _DELETE
_ENDED = _DELETE_SELF | _MOVE_SELF | _UNMOUNT | _IGNORED
_WATCHED = _WHOLE | _BEGUN | _GONE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
_HEAD = struct.Struct("iIII")  # of an event: watch, mask, cookie, length of the name that follows
_READ_BYTES = 256 << 10  # some thousand events
_WATCHFILES_STEP = 60  # milliseconds; each costs a wake-up, whether something happened or not
_LIMITS: Final[Mapping[int, str]] = {
    errno.EMFILE: "fs.inotify.max_user_instances",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}


class InotifyLimitError(OSError):
    """A limit of the system's on inotify is used up; `limit` is the sysctl's name."""

    def __init__(self, code: int) -> None:
        self.limit = _LIMITS[code]
        super().__init__(code, f"{self.limit} is used up")


class FolderChanges(NamedTuple):
    """What happened since the last look; all empty where nothing did.

    Paths are the folder as it was named, `/`, and the name. `whole`: moved in, or closed by a writer.
    `begun`: made or changed, and perhaps not complete yet. `gone`: deleted or moved away, and not made again.
    `other`: something that concerns no file. `lost`: events were. `ended`: the first folder is deleted, moved
    away or unmounted.
    """

    whole: frozenset[str] = frozenset()
    begun: frozenset[str] = frozenset()
    gone: frozenset[str] = frozenset()
    other: bool = False
    lost: bool = False
    ended: bool = False


NOTHING: Final = FolderChanges()


class FolderEvents(Protocol):
    """A standing watch of some folders, for one thread at a time."""

    def wait(self, seconds: float) -> FolderChanges | None:
        """Wait until something happens, so long at most; None once it is stopped, by `stop` or by itself.

        Raises `OSError`, and what watchfiles raises.
        """

    def stop(self) -> None:
        """Have `wait` return soon, in whatever thread it is."""

    def close(self) -> None:
        """Let go of the folders."""


def watch_folders(folders: Sequence[Path], step: float, tick: float) -> FolderEvents:
    """Watch what happens directly in `folders`; what happens within `step` seconds is told together.

    watchfiles gathers by steps of its own, and its `wait` returns each `tick` seconds, whatever it was asked
    for. Raises `OSError`: an `InotifyLimitError` where a limit is used up.
    """
    if has_inotify():
        return InotifyEvents(folders, step)
    return _WatchfilesEvents(folders, tick)


@cache
def has_inotify() -> bool:
    """Whether this system has inotify(7)."""
    return hasattr(_c_library(), "inotify_init1")


@cache
def _c_library() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


class InotifyEvents:
    """Watches folders by inotify(7). Raises as `watch_folders`."""

    def __init__(self, folders: Iterable[Path], step: float = 0.0) -> None:
        self._step = step
        self._read_at = 0.0
        self._stop, self._stopper = os.pipe()
        self._fd = -1
        # By the number of the watch: two names of one folder have one watch.
        self._folders: dict[int, list[str]] = {}
        try:
            self._fd = _checked(_c_library().inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
            for folder in folders:
                watch = _checked(
                    _c_library().inotify_add_watch(self._fd, os.fsencode(folder), _WATCHED), folder
                )
                self._folders.setdefault(watch, []).append(str(folder))
        except OSError:
            self.close()
            raise
        self._first = next(iter(self._folders))
        self._stopped = select.poll()
        self._stopped.register(self._stop, select.POLLIN)
        self._either = select.poll()
        self._either.register(self._stop, select.POLLIN)
        self._either.register(self._fd, select.POLLIN)

    def wait(self, seconds: float) -> FolderChanges | None:
        """Wait for the next event. One that comes after a quiet `step` is told at once."""
        if (rest := self._read_at + self._step - time.monotonic()) > 0:
            self._stopped.poll(1000 * rest)
            seconds = max(0.0, seconds - rest)
        ready = {fd for fd, _ in self._either.poll(1000 * seconds)}
        if self._stop in ready:
            return None
        if self._fd not in ready:
            return NOTHING
        self._read_at = time.monotonic()
        return self._told(os.read(self._fd, _READ_BYTES))

    def _told(self, data: bytes) -> FolderChanges:
        whole, begun, gone = set[str](), set[str](), set[str]()
        other = lost = ended = False
        at = 0
        while at < len(data):
            watch, mask, _, length = _HEAD.unpack_from(data, at)
            at += _HEAD.size + length
            if mask & _Q_OVERFLOW:
                lost = True
            elif not length or mask & _ISDIR:
                other = True
                ended = ended or (watch == self._first and bool(mask & _ENDED))
            else:
                name = os.fsdecode(data[at - length : at].rstrip(b"\0"))
                for folder in self._folders.get(watch, ()):
                    path = f"{folder}/{name}"
                    if mask & _GONE:
                        whole.discard(path)
                        begun.discard(path)
                        gone.add(path)
                    else:
                        gone.discard(path)
                        (whole if mask & _WHOLE else begun).add(path)
        return FolderChanges(frozenset(whole), frozenset(begun), frozenset(gone), other, lost, ended)

    def stop(self) -> None:
        """Have `wait` return None at once, and from then on."""
        os.write(self._stopper, b".")

    def close(self) -> None:
        """End the watches. Nothing may be waiting any more."""
        for fd in (self._fd, self._stop, self._stopper):
            if fd >= 0:
                os.close(fd)
        self._fd = self._stop = self._stopper = -1


def _checked(result: int, folder: Path | None = None) -> int:
    if result >= 0:
        return result
    code = ctypes.get_errno()
    if code in _LIMITS:
        raise InotifyLimitError(code)
    raise OSError(code, os.strerror(code), *([] if folder is None else [str(folder)]))


class _WatchfilesEvents:
    """Watches folders by watchfiles, where there is no inotify."""

    def __init__(self, folders: Sequence[Path], tick: float) -> None:
        import watchfiles  # noqa: PLC0415 - of use on other systems alone

        self._first = str(folders[0])
        self._change = watchfiles.Change
        self._stop = threading.Event()
        self._events = watchfiles.watch(
            *folders,
            watch_filter=None,
            step=_WATCHFILES_STEP,
            stop_event=None,  # it would be checked at each step
            debounce=_WATCHFILES_STEP,  # a steady stream of files does not hold the wake-up back
            rust_timeout=round(tick * 1000),
            yield_on_timeout=True,
            force_polling=False,
            recursive=False,
            ignore_permission_denied=False,
        )

    def wait(self, seconds: float) -> FolderChanges | None:  # noqa: ARG002 - its tick is given at the start
        """Wait for the next events, or tick."""
        changes = next(self._events, None)
        if changes is None or self._stop.is_set():
            return None
        gone = frozenset(path for change, path in changes if change is self._change.deleted)
        whole = frozenset(path for change, path in changes if change is not self._change.deleted)
        return FolderChanges(whole=whole, gone=gone, ended=self._first in gone)

    def stop(self) -> None:
        """Have `wait` return None at its next tick."""
        self._stop.set()

    def close(self) -> None:
        """End the watch."""
        self._events.close()
