"""The queue file: a file of runs that is the user's own. It is read when it changed, and never written.

A change shows in its inode, size and times. Times are coarse (FAT counts in 2 s, others in a clock's
ticks), so a file that was written a moment before it was read is read again at the next look.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from floradl.errors import JobError
from floradl.fs.folders import NotRegularFileError
from floradl.fs.mounts import tells_writers
from floradl.models import RunRequest
from floradl.sources import file_ready
from floradl.sources.file_ready import SettleTimes, Stamp
from floradl.sources.job_file import described, parse_queue

_COARSEST = 2.0  # seconds between two times that a file system tells apart


class QueueReading(msgspec.Struct, frozen=True):
    """One look: `orders` is None where nothing new was read, `again_in` is in seconds."""

    orders: tuple[RunRequest, ...] | None = None
    error: str | None = None
    again_in: float | None = None


class QueueFile:
    """Reads one queue file. A missing one is an empty one. `wall` gives unix seconds."""

    def __init__(
        self,
        path: Path,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._monotonic = monotonic
        self._wall = wall
        self._deadlines = SettleTimes()
        self._seen: Stamp | None = None
        self._sure = False  # whether whatever is written after that look gives the file another stamp
        self._sha256: bytes | None = None
        self._error: str | None = None

    def read(self) -> QueueReading:
        """Read the file if it changed since the last time. Never raises; blocks for a file's read only."""
        looked_at = self._wall()
        try:
            stamp = Stamp.of(self._path.stat())
            if stamp == self._seen and self._sure:
                return QueueReading(error=self._error)
            reading = file_ready.read(self._path, follow=True, leases=tells_writers(self._path))
        except FileNotFoundError:
            self._seen, self._sha256, self._error = None, None, None
            return QueueReading()
        except NotRegularFileError:
            return self._broken("this is not a regular file")
        except BlockingIOError:  # somebody else's lease: it is called back now
            return QueueReading(error=self._error, again_in=0.1)
        except OSError as error:
            return self._broken(f"it cannot be read: {error.strerror}")
        wait = self._deadlines.wait(self._path.name, reading.stamp, reading.state, self._monotonic())
        if wait > 0:
            return QueueReading(error=self._error, again_in=wait)
        self._seen = reading.stamp
        self._sure = reading.stamp.mtime_ns / 1e9 <= looked_at - _COARSEST
        if reading.data is None:
            self._sha256 = None
            return self._broken(f"it is larger than 1 MiB ({reading.stamp.size:,} bytes)")
        return self._parse(reading.data)

    def _parse(self, data: bytes) -> QueueReading:
        known, self._sha256 = self._sha256, hashlib.sha256(data).digest()
        if self._sha256 == known:
            return QueueReading(error=self._error)
        try:
            orders = parse_queue(data)
        except JobError as error:
            return self._broken(described(error))
        self._error = None
        return QueueReading(orders)

    def _broken(self, message: str) -> QueueReading:
        self._sha256 = None
        self._error = f"the queue file {self._path} is broken, its last good content counts: {message}"
        return QueueReading(error=self._error)
