"""The watch folder: job files in, orders out, and what was read put away.

One owner at a time: `scan`, `accept` and `sweep` are called one after the other, from one worker thread.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from floradl.disk.mounts import is_shared
from floradl.disk.rights import refusal
from floradl.errors import ConfigError, JobError
from floradl.incoming import handin, moving, settled
from floradl.incoming.jobs import described, parse_job
from floradl.incoming.listing import PLACES, Entry, dates, entries, open_place, shown
from floradl.incoming.moving import ChangedError
from floradl.incoming.settled import NotAFileError, Patience, Reading, Stamp, Standing
from floradl.models import Order
from floradl.redaction import redact

_HANDIN_SECONDS = 3600.0  # no hand-in takes that long
_BATCH_BYTES = 8 << 20  # no more than so much is read in one scan, whatever the number of files


class Job(msgspec.Struct, frozen=True):
    """A job file that was read; it stays where it is until `Inbox.accept` is given it."""

    name: str
    orders: tuple[Order, ...]
    stamp: Stamp


class Rejection(msgspec.Struct, frozen=True):
    """A job file moved to `rejected/`. `name` is fit to be shown; `message` begins with the place."""

    name: str
    message: str


class Scan(msgspec.Struct, frozen=True):
    """What one look at the watch folder found.

    `again_in` is after how many seconds a file that is not finished may be; None where there is none. `more`
    says that the look was cut short, and the next should follow at once. `troubles` are messages about the
    folder itself, and about files that could not be moved.
    """

    jobs: tuple[Job, ...] = ()
    rejected: tuple[Rejection, ...] = ()
    again_in: float | None = None
    more: bool = False
    troubles: tuple[str, ...] = ()


class _Findings:
    """A scan in the making."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.rejected: list[Rejection] = []
        self.troubles: list[str] = []
        self.again_in: float | None = None
        self.bytes = 0

    def look_again(self, seconds: float) -> None:
        self.again_in = seconds if self.again_in is None else min(self.again_in, seconds)

    def full(self, limit: int) -> bool:
        return len(self.jobs) + len(self.rejected) >= limit or self.bytes >= _BATCH_BYTES


class _Leaving(msgspec.Struct, frozen=True):
    """A file that is done with, and where it goes."""

    stamp: Stamp
    folder: Path
    note: str | None


class Inbox:
    """The watch folder. `keep` is for how many seconds files that were put away stay.

    `queue_file` is left alone, should it lie in the watch folder. `wall` gives unix seconds.
    """

    def __init__(
        self,
        watch_dir: Path,
        *,
        keep: float,
        queue_file: Path | None = None,
        wall: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._dir = watch_dir
        self._accepted, self._rejected = (watch_dir / place for place in PLACES)
        self._queue_file = queue_file
        self._keep = keep
        self._wall = wall
        self._monotonic = monotonic
        self._leases = True
        self._patience = Patience()
        # Files that are done with but could not be moved, so that they are not acted on twice.
        self._stuck: dict[str, _Leaving] = {}

    def prepare(self) -> None:
        """Make the folders. Raises `ConfigError` where that cannot be."""
        for folder in (self._dir, self._accepted, self._rejected):
            if folder != self._dir and folder.is_symlink():
                raise ConfigError(f"{folder} is a link, and links are not followed here: remove it")
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                why = refusal(folder) if isinstance(error, PermissionError) else error.strerror
                raise ConfigError(
                    f"the watch folder {folder} cannot be made: {why} (queue.watch_dir says where)"
                ) from error
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise ConfigError(f"the watch folder {folder} may not be read and written: {refusal(folder)}")

    def scan(self, limit: int = 1000) -> Scan:
        """Read the job files that are finished, the oldest first, and move the bad ones to `rejected/`.

        At most `limit` files are taken. Never raises for what lies in the folder, nor for the folder.
        """
        found = _Findings()
        try:
            here = [entry for entry in entries(self._dir) if self._dir / entry.name != self._queue_file]
        except OSError as error:
            return Scan(troubles=(f"the watch folder {self._dir} cannot be read: {error.strerror}",))
        self._leases = not is_shared(self._dir)
        names = {entry.name for entry in here}
        self._patience.keep(names)
        self._stuck = {name: leaving for name, leaving in self._stuck.items() if name in names}
        more = False
        for entry in here:
            if found.full(limit):
                more = True
                break
            stuck = self._stuck.get(entry.name)
            if stuck is not None and stuck.stamp == entry.stamp:
                self._put_away(entry.name, stuck)
            else:
                self._look_at(entry, found)
        return Scan(
            tuple(found.jobs),
            tuple(found.rejected),
            found.again_in,
            more=more,
            troubles=tuple(found.troubles),
        )

    def accept(self, jobs: Iterable[Job]) -> tuple[str, ...]:
        """Move job files whose runs are durably recorded to `accepted/`; say which could not be moved.

        A file that changed since it was read stays, and is read again by the next scan. Safe to repeat.
        """
        troubles = [self._put_away(job.name, _Leaving(job.stamp, self._accepted, None)) for job in jobs]
        return tuple(trouble for trouble in troubles if trouble is not None)

    def sweep(self) -> tuple[str, ...]:
        """Remove what was put away longer ago than `keep`, and litter; say what could not be removed.

        Safe to repeat.
        """
        troubles = []
        oldest = self._wall() - self._keep
        with suppress(OSError):  # the scan tells of a folder that cannot be read
            handin.sweep(self._dir, self._wall() - _HANDIN_SECONDS)
        for folder in (self._accepted, self._rejected):
            try:
                old = [path.name for path, since in dates(folder) if since < oldest]
                with open_place(folder) as place:
                    for name in old:
                        with suppress(FileNotFoundError):
                            os.unlink(name, dir_fd=place)
            except FileNotFoundError:
                continue  # made when it is needed
            except OSError as error:
                troubles.append(f"old job files in {folder} cannot be removed: {error.strerror}")
        return tuple(troubles)

    def _look_at(self, entry: Entry, found: _Findings) -> None:
        if entry.kind is not None:
            self._reject(entry.name, entry.stamp, f"this is {entry.kind}: drop the file itself", found)
            return
        if not self._leases and self._waits(entry.name, entry.stamp, Standing.UNTOLD, found):
            return
        try:
            reading = settled.read(self._dir / entry.name, follow=False, leases=self._leases)
        except (FileNotFoundError, NotAFileError):
            return  # taken away or replaced in this instant: the next scan sees what it is now
        except BlockingIOError:  # a lease of somebody else's, such as a Samba client's: it is called back now
            self._waits(entry.name, entry.stamp, Standing.WRITING, found)
        except OSError as error:
            # Rights may come a moment after the file, so it gets its time to settle too.
            if not self._waits(entry.name, entry.stamp, Standing.UNTOLD, found):
                message = f"this file cannot be read: {error.strerror}"
                self._reject(entry.name, entry.stamp, message, found)
        else:
            if not self._waits(entry.name, reading.stamp, reading.standing, found):
                self._take(entry.name, reading, found)

    def _take(self, name: str, reading: Reading, found: _Findings) -> None:
        found.bytes += len(reading.data or b"")
        if reading.data is None:
            message = f"this file is larger than 1 MiB ({reading.stamp.size:,} bytes): split it"
            self._reject(name, reading.stamp, message, found)
            return
        try:
            orders = parse_job(reading.data, name)
        except JobError as error:
            self._reject(name, reading.stamp, described(error), found)
        else:
            found.jobs.append(Job(name, orders, reading.stamp))

    def _waits(self, name: str, stamp: Stamp, standing: Standing, found: _Findings) -> bool:
        seconds = self._patience.wait(name, stamp, standing, self._monotonic())
        if seconds > 0:
            found.look_again(seconds)
        return seconds > 0

    def _reject(self, name: str, stamp: Stamp, message: str, found: _Findings) -> None:
        message = redact(message)  # it quotes what was written, perhaps a signed URL in the wrong place
        note = (
            f"{shown(name)} was not taken: nothing in it was queued.\n\n{message}\n\n"
            "Mend it, and drop it into the watch folder again.\n"
        )
        trouble = self._put_away(name, _Leaving(stamp, self._rejected, note))
        if trouble is not None:
            found.troubles.append(trouble)
        found.rejected.append(Rejection(shown(name), message))

    def _put_away(self, name: str, leaving: _Leaving) -> str | None:
        """Move a file that is done with, or remember that it is; say what is in the way, the first time."""
        try:
            moving.put_away(
                self._dir / name, leaving.folder, leaving.stamp, now=self._wall(), note=leaving.note
            )
        except (ChangedError, FileNotFoundError):
            self._stuck.pop(name, None)
            return None
        except OSError as error:
            known = self._stuck.get(name)
            self._stuck[name] = leaving
            if known == leaving:
                return None
            remedy = "give this user the rights to the watch folder"
            if error.errno in {errno.ENOTDIR, errno.ELOOP}:
                remedy = "a link or a file stands in place of that folder: remove it"
            return (
                f"{shown(name)} is done with, but cannot be moved to {leaving.folder}: {error.strerror} "
                f"({remedy})"
            )
        self._stuck.pop(name, None)
        return None
