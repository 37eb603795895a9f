"""Downloads, in this process or a worker's: a few small files here, all else in workers.

The first worker is started when there is use for one, another when each has work for two, up to one for each
core; while this process fetches small files, one core is its own. Workers are ended when nothing was
downloaded for a minute. If none can be started, or one ends early, nothing is lost but speed: this process
downloads by itself. `RemoteDownload` is one transfer in a worker: it opens the part file, records what the
next attempt must know, and closes the part file when the worker has.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from threading import Lock
from typing import TYPE_CHECKING, Final, NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from floradl.download.downloader import DownloadStoppedError, Fetcher, Received, Report
from floradl.errors import TransientError
from floradl.library.base import Destination, DownloadTarget, Sink
from floradl.log import get_logger
from floradl.net.bandwidth import BandwidthLimiter
from floradl.workers.protocol import (
    FROM_FETCH,
    Channel,
    ChannelClosedError,
    FetchDone,
    FetchFailed,
    FetchRequest,
    MessageTooLongError,
    NotesChanged,
    OpenPart,
    PartOpened,
    Progress,
    WorkerSettings,
    error_of,
)

if TYPE_CHECKING:
    from floradl.workers.process import WorkerProcess

_KEPT: Final = 1 / 16  # of a fair share, by who has no use for it now: it can begin at once


class Claim(NamedTuple):
    """One process's `transfers`, and the bytes a second that they have use for, None for all."""

    transfers: int
    demand: float | None


def divide(limit: int, claims: Sequence[Claim]) -> list[int]:
    """Return the bytes a second of each claim, in their order: by transfers, but first by demand."""
    total = sum(claim.transfers for claim in claims)

    def wanted(claim: Claim) -> float:  # for each transfer
        demand = math.inf if claim.demand is None else claim.demand
        return max(demand / claim.transfers, limit / total * _KEPT)

    left, transfers = float(limit), total
    shares = [0.0] * len(claims)
    for place, claim in sorted(enumerate(claims), key=lambda each: wanted(each[1])):
        shares[place] = claim.transfers * min(wanted(claim), left / transfers)
        left -= shares[place]
        transfers -= claim.transfers
    return [int(share + left * claim.transfers / total) for share, claim in zip(shares, claims, strict=True)]


class BandwidthShares:
    """Divides the limit among this process (`bandwidth`) and workers. For one thread at a time."""

    def __init__(self, bandwidth: BandwidthLimiter) -> None:
        self._bandwidth = bandwidth
        self._limit: int | None = None
        self._shares: dict[WorkerProcess, int] = {}

    def update(self, workers: Sequence[WorkerProcess]) -> None:
        """Divide anew by what each process has use for: once a second, and when a worker gets to work."""
        self._limit = self._bandwidth.rate()
        self._shares = dict.fromkeys(workers, 1)
        busy = [worker for worker in workers if worker.busy]
        if self._limit is None:
            busy = []  # there is nothing to divide, nor to be reported for it
        elif busy:
            here = self._bandwidth.transfers
            claims = [Claim(max(here, 1), self._bandwidth.demand() if here else 0)]
            claims += [Claim(worker.busy, worker.demand) for worker in busy]
            self._shares |= zip(busy, divide(self._limit - len(workers), claims)[1:], strict=True)
        self._send(busy)

    def settle(self) -> None:
        """Raise shares that had to wait until another was lowered: when a worker has applied settings."""
        self._send([])

    def _send(self, reporting: Sequence[WorkerProcess]) -> None:
        """Send each worker its rate where that is another, and to those `reporting` in any case.

        One that has not applied the last settings is left alone: should it hang, it is not flooded.
        """
        settled = [worker for worker in self._shares if worker.is_settled]
        wanted = dict.fromkeys(settled, math.inf)
        rates = {worker: worker.rate for worker in self._shares}
        reserved = 0.0
        if self._limit is not None:
            free = max(sum(self._shares.values()) - sum(rates.values()), 0)
            for worker in settled:
                wanted[worker] = min(self._shares[worker], rates[worker] + free)
                free -= max(wanted[worker] - rates[worker], 0)
            reserved = sum(max(rate, wanted.get(worker, 0)) for worker, rate in rates.items())
        self._bandwidth.reserve(reserved)
        for worker, rate in wanted.items():
            if rate != rates[worker] or worker in reporting:
                worker.assign(rate)


class RemoteDownload:
    """One transfer in a worker. `begun` is whether the worker has sent anything for it."""

    def __init__(self, target: DownloadTarget, report: Report) -> None:
        self._target = target
        self._report = report
        self._sink: Sink | None = None
        self._error: Exception | None = None
        self._discard = False
        self.begun = False

    def run(self, worker: WorkerProcess, url: str) -> Received:
        """Have `worker` fetch `url`, see `Downloader.fetch`.

        Raises what that does, `ChannelClosedError` where the worker ended, and `MessageTooLongError` where
        `url` does not fit into a message.
        """
        target = self._target
        with target.held():
            validator, size = target.resume_point() or ("", 0)
            noted = target.notes
            try:
                with worker.transfer(FetchRequest(url, target.kind, validator, size, noted)) as channel:
                    return self._follow(channel)
            except BaseException as error:
                # One that was found wrong just before the worker was killed would look right the next time.
                wrong = isinstance(error, ChannelClosedError) and target.notes.disagreed != noted.disagreed
                with self._sink or nullcontext() as sink:
                    if sink and (wrong or self._discard):
                        sink.discard()
                raise

    def _follow(self, channel: Channel) -> Received:
        while True:
            message, fd = channel.receive(FROM_FETCH)
            self.begun = True
            if fd is not None:
                os.close(fd)  # none is ever sent in this direction
            match message:
                case OpenPart(validator):
                    self._open(channel, validator)
                case NotesChanged(notes):
                    self._target.note(notes)
                case Progress(received, total):
                    self._report(received, total)
                case FetchDone(size, finding) if self._sink is not None:
                    self._sink.size = size
                    self._report(size, size)
                    return Received(self._sink, finding)
                case FetchFailed():
                    self._discard = message.discard
                    raise self._error or error_of(message)

    def _open(self, channel: Channel, validator: str) -> None:
        """Open the part file and hand it over; an error is raised once the worker has ended the transfer."""
        try:
            if self._sink is not None:  # the worker has closed it, and needs another, or the same anew
                self._sink.__exit__()
                self._sink = None
            self._sink = sink = self._target.open(validator)
        except Exception as error:  # noqa: BLE001 - raised when the worker has answered
            self._error = error
            channel.send(PartOpened())
        else:
            channel.send(PartOpened(), sink.fileno())


_FEW: Final = 3  # small files that are downloaded here at once, before a worker is worth its memory
_SHARE: Final = 2  # transfers that each worker has before another is started
_MOST: Final = 4  # workers
_IDLE: Final = 60.0  # seconds
_FAILURES: Final = 3  # workers in a row that ended without having downloaded anything
_WITHOUT: Final = 600.0  # seconds without workers after that
_log = get_logger()


class Machine(Struct, frozen=True):
    """Where workers run: on how many cores, with which environment; `monotonic` gives seconds.

    `needs_core` says whether this process itself has much to do.
    """

    cores: int
    environ: Mapping[str, str]
    needs_core: Callable[[], bool] = lambda: False
    monotonic: Callable[[], float] = time.monotonic


class WorkerPool:
    """Downloads, see `Fetcher`, from any number of threads.

    `here` downloads in this process; `bandwidth` limits that, and all workers with it.
    """

    def __init__(
        self, here: Fetcher, bandwidth: BandwidthLimiter, settings: WorkerSettings, machine: Machine
    ) -> None:
        self._here = here
        self._bandwidth = bandwidth
        self._shares = BandwidthShares(bandwidth)
        self._settings = settings
        self._machine = machine
        self._lock = Lock()
        self._workers: list[WorkerProcess] = []
        self._dismissed: list[WorkerProcess] = []
        self._failures = 0
        self._not_before = 0.0
        self._used_at = 0.0
        self._halted = False

    @property
    def pids(self) -> list[int]:
        """The processes of the workers."""
        with self._lock:
            return [worker.pid for worker in self._workers]

    def fetch(self, url: str, destination: Destination, report: Report) -> Received:
        """Fetch `url`, in this process or a worker: as `Downloader.fetch`."""
        worker = self._take_worker(destination)
        if worker is None:
            return self._fetch_here(url, destination, report)
        transfer = RemoteDownload(destination, report)
        try:
            worker.wait_until_up()
            received = transfer.run(worker, url)
        except MessageTooLongError:
            pass
        except ChannelClosedError:
            self._drop(worker)
            if self._halted:
                raise DownloadStoppedError from None
            if transfer.begun:
                raise TransientError("the process that downloaded it ended early") from None
        else:
            self._failures = 0
            return received
        finally:
            with self._lock:
                worker.busy -= 1
                self._used_at = self._machine.monotonic()
        return self._fetch_here(url, destination, report)

    def _fetch_here(self, url: str, destination: Destination, report: Report) -> Received:
        with self._bandwidth.transfer():
            return self._here.fetch(url, destination, report)

    def change(self, settings: WorkerSettings) -> None:
        """Let `settings` hold from now on; their rate is the pool's to set."""
        with self._lock:
            self._settings = settings
            for worker in self._workers:
                worker.change(settings)
            self._shares.update(self._workers)

    def halt(self) -> None:
        """End all transfers of workers at once, for good; their part files stay. Safe to repeat."""
        with self._lock:
            self._halted = True
            for worker in self._workers:
                worker.halt()

    def tend(self) -> None:
        """Divide the bandwidth anew, and end workers that were idle for a minute.

        To be called once a second while there are workers; blocking.
        """
        with self._lock:
            idle = not any(worker.busy for worker in self._workers)
            if idle and self._machine.monotonic() - self._used_at >= _IDLE:
                self._dismiss()
            self._shares.update(self._workers)
        self._end_dismissed()

    def close(self) -> None:
        """Halt, and end all workers; blocking. Safe to repeat."""
        self.halt()
        with self._lock:
            self._dismiss()
        self._end_dismissed()

    def _dismiss(self) -> None:
        self._dismissed += self._workers
        self._workers = []

    def _end_dismissed(self) -> None:
        with self._lock:
            dismissed, self._dismissed = self._dismissed, []
        for worker in dismissed:
            worker.halt()  # all at once, and only then one after the other
        for worker in dismissed:
            worker.end()

    def _take_worker(self, destination: Destination) -> WorkerProcess | None:
        """Choose a worker for a download; None where it is to be made here."""
        with self._lock:
            can_share = destination.has_descriptors and not self._halted
            worker = self._choose(large=destination.kind.is_large) if can_share else None
            if worker is not None:
                self._used_at = self._machine.monotonic()
                worker.busy += 1
                if worker.busy == 1:
                    self._shares.update(self._workers)
            return worker

    def _choose(self, *, large: bool) -> WorkerProcess | None:
        few = self._bandwidth.transfers < _FEW
        wanted = self._workers or not few or (large and self._settings.connections > 1)
        if wanted and len(self._workers) < self._most and all(w.busy >= _SHARE for w in self._workers):
            self._start_worker()
        # A large file is worth the wait for a worker that is coming up; a small one is here before.
        able = [worker for worker in self._workers if large or worker.is_up]
        return min(able, key=lambda worker: worker.busy, default=None)

    @property
    def _most(self) -> int:
        """How many workers there may be now."""
        cores = self._machine.cores
        if cores == 1:
            return 0
        return min(cores - self._machine.needs_core(), _MOST)

    def _start_worker(self) -> None:
        if self._machine.monotonic() < self._not_before:
            return
        from floradl.workers.process import WorkerProcess  # noqa: PLC0415 - a few small files need none

        rate = None if self._bandwidth.rate() is None else 1  # until it has a share
        try:
            settings = replace(self._settings, rate=rate)
            self._workers.append(WorkerProcess(settings, self._machine.environ, self._settle))
        except OSError as error:
            self._count_failure(error.strerror or str(error))

    def _settle(self) -> None:
        with self._lock:
            self._shares.settle()

    def _count_failure(self, why: str) -> None:
        """Record that a worker could not start, or was of no use: after a few we do without for a while."""
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._not_before = self._machine.monotonic() + _WITHOUT
            _log.warning(
                "workers_unavailable",
                message=f"processes that download are unavailable ({why}): for {_WITHOUT / 60:.0f} minutes "
                "this one downloads all, which is slower; after an upgrade of floradl, restart it",
            )

    def _drop(self, worker: WorkerProcess) -> None:
        with self._lock:
            if worker in self._workers and not self._halted:
                self._workers.remove(worker)
                self._dismissed.append(worker)
                worker.halt()
                self._shares.update(self._workers)
                self._count_failure("they end early")
