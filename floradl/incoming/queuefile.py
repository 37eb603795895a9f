"""The queue file: a file of runs that is the user's own. It is read when it changed, and never written."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from floradl.disk.mounts import is_shared
from floradl.errors import JobError
from floradl.incoming import settled
from floradl.incoming.jobs import described, parse_queue
from floradl.incoming.settled import NotAFileError, Patience, Stamp
from floradl.models import Order


class QueueReading(msgspec.Struct, frozen=True):
    """One look at the queue file.

    `orders` is None where nothing new was read: the last good content stays. `error` is what is wrong with
    the file now, until it is mended. `again_in` is after how many seconds to look at a file again.
    """

    orders: tuple[Order, ...] | None = None
    error: str | None = None
    again_in: float | None = None


class QueueFile:
    """Reads one queue file. A missing one is an empty one."""

    def __init__(self, path: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._monotonic = monotonic
        self._patience = Patience()
        self._seen: Stamp | None = None
        self._error: str | None = None

    def read(self) -> QueueReading:
        """Read the file if it changed since the last time. Never raises; blocks for a file's read only."""
        try:
            stamp = Stamp.of(self._path.stat())
            if stamp == self._seen:
                return QueueReading(error=self._error)
            reading = settled.read(self._path, follow=True, leases=not is_shared(self._path))
        except FileNotFoundError:
            self._seen, self._error = None, None
            return QueueReading()
        except NotAFileError:
            return self._broken("this is no regular file")
        except BlockingIOError:  # somebody else's lease: it is called back now
            return QueueReading(error=self._error, again_in=0.1)
        except OSError as error:
            return self._broken(f"it cannot be read: {error.strerror}")
        wait = self._patience.wait(self._path.name, reading.stamp, reading.standing, self._monotonic())
        if wait > 0:
            return QueueReading(error=self._error, again_in=wait)
        self._seen = reading.stamp
        if reading.data is None:
            return self._broken(f"it is larger than 1 MiB ({reading.stamp.size:,} bytes)")
        try:
            orders = parse_queue(reading.data)
        except JobError as error:
            return self._broken(described(error))
        self._error = None
        return QueueReading(orders)

    def _broken(self, message: str) -> QueueReading:
        self._error = f"the queue file {self._path} is broken, its last good content counts: {message}"
        return QueueReading(error=self._error)
