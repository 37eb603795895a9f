"""The watch folder: reads job files into `RunRequest`s, and moves away what was read.

One owner at a time: `scan`, `accept` and `sweep` are called one after the other, from one worker thread.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from floradl.errors import ConfigError, JobError
from floradl.fs.folders import NotRegularFileError
from floradl.fs.mounts import tells_writers
from floradl.fs.permissions import make_above, refusal
from floradl.models import LeftFile, RunRequest
from floradl.redaction import redact
from floradl.sources import archive, file_ready, job_file
from floradl.sources.archive import FileChangedError
from floradl.sources.file_ready import FileState, Reading, SettleTimes, Stamp
from floradl.sources.job_file import described, parse_job
from floradl.sources.scan import PLACES, SECOND_NAME, Entry, dates, entries, open_place, shown

_DROP_SECONDS = 3600.0  # no command takes that long to write a job file
_MOST_REPORTED = 5  # files that `troubles` names one by one
_BATCH_BYTES = 256 << 10  # read in one scan at most, whatever the number of files


class Job(msgspec.Struct, frozen=True):
    """A job file that was read and is not moved yet. `behind`: an older one waits for room (`Inbox.hold`)."""

    name: str
    orders: tuple[RunRequest, ...]
    stamp: Stamp
    mark: LeftFile
    behind: bool = False


class Rejection(msgspec.Struct, frozen=True):
    """A job file moved to `rejected/`. `name` is fit to be shown; `message` begins with the place."""

    name: str
    message: str


class Scan(msgspec.Struct):
    """What one look at the watch folder found; filled by `Inbox`.

    `again_in` is after how many seconds a file that is not finished may be; None where there is none. `more`:
    the look was cut short, and the next should follow at once. `troubles` are messages about the
    folder itself, and about files that could not be moved. `left` are those that were rejected and still lie
    there; `held` counts the jobs that wait for room; `bytes` were read.
    """

    jobs: list[Job] = []
    rejected: list[Rejection] = []
    troubles: list[str] = []
    left: list[LeftFile] = []
    again_in: float | None = None
    more: bool = False
    held: int = 0
    bytes: int = 0


class _Leaving(msgspec.Struct, frozen=True):
    """A file that is done with: as it was read, what to remember it by, and `why` it was rejected."""

    stamp: Stamp
    mark: LeftFile
    why: str | None = None


class Inbox:
    """The watch folder without `queue_file`. What was put away stays `keep` seconds."""

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
        self._deadlines = SettleTimes()
        # Files that are done with but could not be moved, so that they are not acted on twice, and why; those
        # of before the start; and those of either that are gone now.
        self._stuck: dict[str, tuple[_Leaving, str]] = {}
        self._left: dict[str, LeftFile] = {}
        self._gone: list[str] = []
        self._unseen: dict[str, str] = {}
        self._held: dict[str, tuple[Stamp, int]] = {}

    def prepare(self) -> None:
        """Make the folders. Raises `ConfigError` where that fails."""
        for folder in (self._dir, self._accepted, self._rejected):
            if folder != self._dir and _is_unseen(folder):
                continue  # reported when a file is to go there; its content is taken all the same
            try:
                if folder != self._dir and folder.is_symlink():
                    raise ConfigError(f"{folder} is a link, and links are not followed here: remove it")
                make_above(folder)
                folder.mkdir(exist_ok=True)
            except OSError as error:
                why = refusal(folder) if isinstance(error, PermissionError) else error.strerror
                raise ConfigError(
                    f"the watch folder {folder} cannot be made: {why} (queue.watch_dir says where)"
                ) from error
            if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
                raise ConfigError(f"the watch folder {folder} may not be read and written: {refusal(folder)}")

    def recall(self, files: Mapping[str, LeftFile]) -> None:
        """Set which files are done with though they may still lie here, by name."""
        self._left = dict(files)

    def missing(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return those names under which nothing lies here."""
        return tuple(name for name in names if not os.path.lexists(self._dir / name))

    def forgettable(self) -> tuple[str, ...]:
        """Return which of the files that the queue has as done with are gone from here, each once."""
        gone, self._gone = tuple(self._gone), []
        return gone

    @property
    def troubles(self) -> tuple[str, ...]:
        """What is wrong in the folder now, for a person: a message each, of many files the first few."""
        found = [message for _, message in self._stuck.values()] + list(self._unseen.values())
        more = len(found) - _MOST_REPORTED
        return (*found[:_MOST_REPORTED], *([f"and {more:,} more files like these"] if more > 0 else []))

    def scan(self, limit: int = 1000, room: float = math.inf) -> Scan:
        """Read the job files that are finished, the oldest first, and move the bad ones to `rejected/`.

        At most `limit` files are taken; of those that `hold` names, as many as there is `room` for.
        Never raises for what lies in the folder, nor for the folder.
        """
        found = Scan()
        try:
            here = [entry for entry in entries(self._dir) if self._dir / entry.name != self._queue_file]
        except OSError as error:
            return Scan(troubles=[f"the watch folder {self._dir} cannot be read: {error.strerror}"])
        self._leases = tells_writers(self._dir)
        self._keep_only({entry.name for entry in here})
        for entry in here:
            if len(found.jobs) + len(found.rejected) >= limit or found.bytes >= _BATCH_BYTES:
                found.more = True
                break
            stuck = self._stuck.get(entry.name)
            if entry.unseen is not None:
                self._note_unseen(entry.name, entry.unseen, found)
            elif stuck is not None and stuck[0].stamp == entry.stamp:
                self._put_away(stuck[0], noted=True)
            elif (needs := self._needs(entry)) is not None and (found.held or needs > room):
                found.held += 1
            else:
                room -= needs or 0
                self._look_at(entry, found)
        return found

    def hold(self, job: Job, needs: int) -> None:
        """Leave a job where it is until there is room for `needs` runs; it is not read again before."""
        self._held[job.name] = (job.stamp, needs)

    def refuse(self, job: Job, message: str) -> Scan:
        """Move a job that was read to `rejected/`; report it as `scan` does."""
        found = Scan()
        self._reject(job.name, job.stamp, message, found, job.mark.sha256)
        return found

    def accept(self, jobs: Iterable[Job]) -> tuple[str, ...]:
        """Move job files whose runs are recorded to `accepted/`; return what stays. Safe to repeat."""
        troubles = [self._put_away(_Leaving(job.stamp, job.mark), noted=True) for job in jobs]
        return tuple(trouble for trouble in troubles if trouble is not None)

    def sweep(self) -> tuple[str, ...]:
        """Remove what was put away longer ago than `keep`, and litter; return what could not be removed."""
        troubles = []
        oldest = self._wall() - self._keep
        with suppress(OSError):  # the scan reports a folder that cannot be read
            job_file.sweep(self._dir, self._wall() - _DROP_SECONDS)
        for folder in (self._accepted, self._rejected):
            failed: OSError | None = None
            try:
                old = [path.name for path, since in dates(folder) if since < oldest]
                with open_place(folder) as place:
                    for name in old:
                        try:
                            os.unlink(name, dir_fd=place)
                        except FileNotFoundError:
                            pass
                        except OSError as error:  # the next one may go all the same
                            failed = error
            except FileNotFoundError:
                continue  # made when it is needed
            except OSError as error:
                failed = error
            if failed is not None:
                which = f" ({failed.filename!a})" if isinstance(failed.filename, str) else ""
                troubles.append(f"old job files in {folder} cannot be removed: {failed.strerror}{which}")
        return tuple(troubles)

    def _keep_only(self, names: set[str]) -> None:
        self._deadlines.keep(names)
        self._gone += [name for name in self._stuck if name not in names]
        self._stuck = {name: stuck for name, stuck in self._stuck.items() if name in names}
        self._held = {name: held for name, held in self._held.items() if name in names}
        self._unseen = {name: message for name, message in self._unseen.items() if name in names}

    def _note_unseen(self, name: str, why: str, found: Scan) -> None:
        message = (
            f"{shown(name)} in the watch folder cannot be looked at: {why} (another user's mount, or one "
            "whose program is gone: unmount it); all else is taken"
        )
        if self._unseen.get(name) != message:
            found.troubles.append(message)
        self._unseen[name] = message

    def _needs(self, entry: Entry) -> int | None:
        held = self._held.get(entry.name)
        return held[1] if held is not None and held[0] == entry.stamp else None

    def _look_at(self, entry: Entry, found: Scan) -> None:
        self._unseen.pop(entry.name, None)
        if entry.kind is not None:
            # Some make a file's name by a link, and remove the first one a moment later.
            settling = entry.kind == SECOND_NAME
            if not settling or not self._waits(entry.name, entry.stamp, FileState.UNKNOWN, found):
                self._reject(entry.name, entry.stamp, f"this is {entry.kind}: drop the file itself", found)
            return
        if not self._leases and self._waits(entry.name, entry.stamp, FileState.UNKNOWN, found):
            return
        try:
            reading = file_ready.read(self._dir / entry.name, follow=False, leases=self._leases)
        except (FileNotFoundError, NotRegularFileError):
            return  # taken away or replaced in this instant: the next scan sees what it is now
        except BlockingIOError:  # a lease of somebody else's, such as a Samba client's: it is called back now
            self._waits(entry.name, entry.stamp, FileState.WRITING, found)
        except OSError as error:
            # Rights may come a moment after the file, so it gets its time to settle too.
            if not self._waits(entry.name, entry.stamp, FileState.UNKNOWN, found):
                message = f"this file cannot be read: {error.strerror}"
                self._reject(entry.name, entry.stamp, message, found)
        else:
            if not self._waits(entry.name, reading.stamp, reading.state, found):
                self._take(entry.name, reading, found)

    def _take(self, name: str, reading: Reading, found: Scan) -> None:
        found.bytes += len(reading.data or b"")
        stamp = reading.stamp
        if reading.data is None:
            message = (
                f"this file is larger than 1 MiB ({stamp.size:,} bytes): split it, or queue it with "
                "'floradl add -i FILE'"
            )
            self._reject(name, stamp, message, found)
            return
        sha256 = hashlib.sha256(reading.data).hexdigest()
        try:
            orders = parse_job(reading.data, name)
        except JobError as error:
            self._reject(name, stamp, described(error), found, sha256)
            return
        mark = _mark(name, stamp, sha256, refused=False)
        if self._left.get(name) == mark:  # its runs are recorded: only the move is missing
            trouble = self._put_away(_Leaving(stamp, mark), noted=True)
            found.troubles += [trouble] if trouble is not None else []
        else:
            found.jobs.append(Job(name, orders, stamp, mark, found.held > 0))

    def _waits(self, name: str, stamp: Stamp, state: FileState, found: Scan) -> bool:
        seconds = self._deadlines.wait(name, stamp, state, self._monotonic())
        if seconds > 0:
            found.again_in = min(seconds, found.again_in or math.inf)
        return seconds > 0

    def _reject(self, name: str, stamp: Stamp, message: str, found: Scan, sha256: str = "") -> None:
        message = redact(message)  # it quotes what was written, perhaps a signed URL in the wrong place
        mark = _mark(name, stamp, sha256, refused=True)
        known = self._left.get(name) == mark
        trouble = self._put_away(_Leaving(stamp, mark, message), noted=known)
        found.troubles += [trouble] if trouble is not None else []
        if known:
            return
        if name in self._stuck:
            found.left.append(mark)
        found.rejected.append(Rejection(shown(name), message))

    def _put_away(self, leaving: _Leaving, *, noted: bool) -> str | None:
        """Move a file, or remember it (as the queue does if `noted`); return why it stays, the first time."""
        name, note = leaving.mark.name, None
        folder = self._rejected if leaving.mark.refused else self._accepted
        if leaving.why is not None:
            note = (
                f"{shown(name)} was not taken: nothing in it was queued.\n\n{leaving.why}\n\n"
                "Fix it, and drop it into the watch folder again.\n"
            )
        self._held.pop(name, None)
        try:
            archive.put_away(self._dir / name, folder, leaving.stamp, now=self._wall(), note=note)
        except FileChangedError:
            if noted:  # perhaps its rights alone were: the next look decides by its content
                self._left[name] = leaving.mark
            self._stuck.pop(name, None)
            return None
        except FileNotFoundError:
            pass
        except OSError as error:
            known = self._stuck.get(name)
            done = f"was rejected ({leaving.why}), but" if leaving.why else "is done with, but"
            message = (
                f"{shown(name)} {done} cannot be moved to {folder}: {error.strerror} "
                f"({self._remedy(name, error)}); it is not acted on again unless it changes"
            )
            self._stuck[name] = (leaving, message)
            return message if known is None or known[0] != leaving else None
        self._stuck.pop(name, None)
        self._left.pop(name, None)
        if noted:
            self._gone.append(name)
        return None

    def _remedy(self, name: str, error: OSError) -> str:
        if error.errno in {errno.ENOTDIR, errno.ELOOP}:
            return "a link or a file stands in place of that folder: remove it"
        with suppress(OSError):
            above, owner = self._dir.stat(), (self._dir / name).lstat().st_uid
            if above.st_mode & stat.S_ISVTX and os.geteuid() not in {0, owner, above.st_uid}:
                return (
                    "it is another user's, and the folder's sticky bit lets that user alone move it: have it "
                    f"removed, or chmod -t '{self._dir}'"
                )
        return "give this user the rights to the watch folder"


def _is_unseen(folder: Path) -> bool:
    """Whether something stands there that may not even be looked at, such as another user's mount."""
    try:
        folder.lstat()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _mark(name: str, stamp: Stamp, sha256: str, *, refused: bool) -> LeftFile:
    return LeftFile(name, stamp.mtime_ns, stamp.size, sha256, refused)
