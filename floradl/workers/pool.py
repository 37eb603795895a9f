"""Who fetches what: this process a few small files, workers all else.

The first worker is started when there is use for one, a second when the first has work for two, and so on,
one a core at most. They go home when nothing was fetched for a while. Where one cannot be had, or ends before
its time, nothing is lost but speed: this process fetches by itself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Final

import msgspec
import structlog

from floradl.download.downloader import DownloadStoppedError, Fetcher, Received, Report
from floradl.errors import TransientError
from floradl.library.base import Destination, DownloadTarget, Sink
from floradl.net.bandwidth import ReadLimit
from floradl.workers.process import WorkerProcess
from floradl.workers.protocol import (
    FROM_ERRAND,
    BytesArrived,
    Channel,
    ChannelClosedError,
    DiscardPart,
    FetchDone,
    FetchFailed,
    FetchRequest,
    FromErrand,
    MessageTooLongError,
    Note,
    OpenPart,
    PartOpened,
    PartRefused,
    ReadGranted,
    ReadReturned,
    ReadWanted,
    WorkerConfig,
    WorkerSettings,
    error_of,
)


class RemoteDownload:
    """One transfer that a worker makes.

    `begun` says whether the worker was heard of since, and `leaves_line` whether its line is still good.
    """

    def __init__(self, target: DownloadTarget, report: Report, cap: ReadLimit) -> None:
        self._target = target
        self._report = report
        self._cap = cap
        self._sink: Sink | None = None
        self._trouble: BaseException | None = None
        self.begun = False
        self.leaves_line = True

    def run(self, line: Channel, url: str) -> Received:
        """Have the worker at the other end of `line` fetch `url`, see `Downloader.fetch`.

        Raises what that does, `ChannelClosedError` where the worker ended, and `MessageTooLongError` where
        `url` is nothing that can be told it.
        """
        with self._target.held():
            validator, size = self._target.resume_point() or ("", 0)
            line.send(FetchRequest(url, self._target.kind, validator, size, self._target.notes))
            self.leaves_line = False
            try:
                return self._listen(line)
            except BaseException:
                if self._sink is not None:
                    self._sink.__exit__()
                raise

    def _listen(self, line: Channel) -> Received:
        while True:
            message, fd = line.receive(FROM_ERRAND)
            self.begun = True
            if fd is not None:
                os.close(fd)  # none is ever sent in this direction
            match message:
                case FetchDone():
                    self.leaves_line = True
                    return self._received(message)
                case FetchFailed():
                    self.leaves_line = True
                    raise self._trouble or error_of(message)
                case _:
                    self._help(line, message)

    def _help(self, line: Channel, message: FromErrand) -> None:
        match message:
            case OpenPart(validator):
                self._open(line, validator)
            case Note(notes):
                self._target.note(notes)
            case DiscardPart():
                if self._sink is not None:
                    self._sink.discard()
            case BytesArrived(received, total):
                self._report(received, total)
            case ReadWanted(most):
                line.send(ReadGranted(self._cap.admit(most)))
            case ReadReturned(unread):
                self._cap.give_back(unread)

    def _open(self, line: Channel, validator: str) -> None:
        """Open the part file and hand it over; what stands in the way is raised once the worker let go."""
        try:
            if self._sink is not None:  # the worker has let go of it, and wants another, or the same anew
                self._sink.__exit__()
            self._sink = sink = self._target.open(validator)
        except Exception as error:  # noqa: BLE001 - raised when the worker has answered
            self._trouble = error
            line.send(PartRefused())
        else:
            line.send(PartOpened(), sink.fileno())

    def _received(self, done: FetchDone) -> Received:
        sink = self._sink
        if sink is None:
            raise AssertionError("a download was done without a sink")
        sink.size = done.size
        self._report(done.size, done.size)
        return Received(sink, done.finding)


_HERE: Final = 3  # small files that are fetched here at once, before a worker is worth its memory
_SHARE: Final = 2  # transfers that each worker has before another is started
_MOST: Final = 4  # workers
_IDLE: Final = 60.0  # seconds
_PATIENCE: Final = 3  # workers in a row that ended without having fetched anything
_WITHOUT: Final = 600.0  # seconds without workers after that
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Machine(msgspec.Struct, frozen=True):
    """Where workers run: on how many cores, with which environment; `monotonic` gives seconds."""

    cores: int
    environ: Mapping[str, str]
    monotonic: Callable[[], float] = time.monotonic


class WorkerPool:
    """Fetches, see `Fetcher`, from any number of threads. `here` is who does so in this process."""

    def __init__(
        self, here: Fetcher, cap: ReadLimit, terms: WorkerConfig, rules: WorkerSettings, machine: Machine
    ) -> None:
        self._here = here
        self._cap = cap
        self._terms = terms
        self._rules = rules
        self._machine = machine
        self._most = min(machine.cores, _MOST) if machine.cores > 1 else 0
        self._lock = Lock()
        self._workers: list[WorkerProcess] = []
        self._gone: list[WorkerProcess] = []  # whose processes are to be seen to their end
        self._few = 0
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
        """Fetch `url`, here or elsewhere: as `Downloader.fetch`."""
        lent = self._lend(destination)
        if lent is None:
            try:
                return self._here.fetch(url, destination, report)
            finally:
                self._left()
        transfer = RemoteDownload(destination, report, self._cap)
        try:
            return self._send(*lent, transfer, url)
        except MessageTooLongError:
            pass
        except ChannelClosedError:
            if self._halted:
                raise DownloadStoppedError from None
            if transfer.begun:
                raise TransientError("the process that fetched it ended before its time") from None
        return self._here.fetch(url, destination, report)

    def _send(self, worker: WorkerProcess, line: Channel, transfer: RemoteDownload, url: str) -> Received:
        """Have `worker` make `transfer`, and take `line` back. Raises as that does."""
        try:
            worker.get_ready()
            received = transfer.run(line, url)
            self._failures = 0
        except ChannelClosedError:
            self._lost(worker)
            raise
        finally:
            with self._lock:
                worker.take_back(line, good=transfer.leaves_line)
                self._used_at = self._machine.monotonic()
        return received

    def change(self, rules: WorkerSettings) -> None:
        """Let `rules` hold from now on."""
        with self._lock:
            self._rules = rules
            for worker in self._workers:
                worker.change(rules)

    def halt(self) -> None:
        """End all transfers of workers at once, for good; their part files stay. Safe to repeat."""
        with self._lock:
            self._halted = True
            for worker in self._workers:
                worker.halt()

    def rest(self) -> None:
        """Let the workers go where nothing was fetched for a minute. To be called now and then; blocking."""
        with self._lock:
            idle = not any(worker.busy for worker in self._workers)
            if idle and self._machine.monotonic() - self._used_at >= _IDLE:
                self._dismiss()
            gone, self._gone = self._gone, []
        _end(gone)

    def close(self) -> None:
        """Halt, and see all workers to their end; blocking. Safe to repeat."""
        self.halt()
        with self._lock:
            self._dismiss()
            gone, self._gone = self._gone, []
        _end(gone)

    def _dismiss(self) -> None:
        self._gone += self._workers
        self._workers = []

    def _lend(self, destination: Destination) -> tuple[WorkerProcess, Channel] | None:
        """Choose a worker for a download; None where it is to be made here, which `_left` ends."""
        with self._lock:
            can_share = destination.has_descriptors and not self._halted
            worker = self._choose(large=destination.kind.is_large) if can_share else None
            if worker is None:
                self._few += 1
                return None
            self._used_at = self._machine.monotonic()
            return worker, worker.lend()

    def _choose(self, *, large: bool) -> WorkerProcess | None:
        wanted = self._workers or self._few >= _HERE or (large and self._rules.connections > 1)
        if wanted and len(self._workers) < self._most and all(w.busy >= _SHARE for w in self._workers):
            self._hire()
        # A large file is worth the wait for a worker that is coming up; a small one is here before.
        able = [worker for worker in self._workers if large or worker.is_up]
        return min(able, key=lambda worker: worker.busy, default=None)

    def _hire(self) -> None:
        if self._machine.monotonic() < self._not_before:
            return
        try:
            self._workers.append(WorkerProcess(self._terms, self._rules, self._machine.environ))
        except OSError as error:
            self._failed(error.strerror or str(error))

    def _failed(self, why: str) -> None:
        """Note that a worker could not be had, or was of no use: after a few we do without for a while."""
        self._failures += 1
        if self._failures >= _PATIENCE:
            self._failures = 0
            self._not_before = self._machine.monotonic() + _WITHOUT
            _log.warning(
                "no_workers",
                message=f"processes that fetch cannot be had ({why}): for {_WITHOUT / 60:.0f} minutes all is "
                "fetched by this one, which is slower; after an upgrade of floradl a restart mends that",
            )

    def _lost(self, worker: WorkerProcess) -> None:
        with self._lock:
            if worker in self._workers and not self._halted:
                self._workers.remove(worker)
                self._gone.append(worker)
                worker.halt()
                self._failed("they end before their time")

    def _left(self) -> None:
        with self._lock:
            self._few -= 1


def _end(workers: list[WorkerProcess]) -> None:
    for worker in workers:
        worker.halt()  # all at once, and only then one after the other
    for worker in workers:
        worker.end()
