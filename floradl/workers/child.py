"""What stands, in a worker, for things that are not there: each asks for it over the line."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from floradl import __version__
from floradl.download.downloader import Downloader, DownloadLimits, DownloadStoppedError
from floradl.fs.durable import AppendedFile
from floradl.library.base import ResumePoint
from floradl.models import AttemptNotes
from floradl.net.bandwidth import ActiveClock
from floradl.net.client import open_client
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.workers.protocol import (
    TO_ERRAND,
    TO_WORKER,
    BytesArrived,
    Channel,
    ChannelClosedError,
    DiscardPart,
    FetchDone,
    FetchRequest,
    NewChannel,
    Note,
    OpenPart,
    PartOpened,
    ReadGranted,
    ReadReturned,
    ReadWanted,
    SettingsApplied,
    ToErrand,
    WorkerConfig,
    WorkerSettings,
    failed_by,
)

_TELL_EVERY = 0.2  # seconds between two words about one transfer


class RemoteSink:
    """The place of one output, see `DownloadTarget`: it is the daemon who knows where that is."""

    def __init__(self, fetch_request: FetchRequest, line: Channel) -> None:
        self.kind = fetch_request.kind
        self.notes = fetch_request.notes
        self._fetch_request = fetch_request
        self._line = line

    def held(self) -> AbstractContextManager[None]:
        """Return nothing to do: the folder is held where it is known."""
        return nullcontext()

    def note(self, notes: AttemptNotes) -> None:
        """Let the next attempt, in whatever process, know this."""
        self.notes = notes
        self._line.send(Note(notes))

    def resume_point(self) -> ResumePoint | None:
        """Return validator and size of what an earlier attempt left."""
        request = self._fetch_request
        return ResumePoint(request.validator, request.size) if request.size else None

    def open(self, validator: str) -> RemotePart:
        """Ask for the part file. Raises `DownloadStoppedError` where there is none, whatever the reason."""
        self._line.send(OpenPart(validator))
        answer, fd = self._line.receive(TO_ERRAND)
        if not isinstance(answer, PartOpened) or fd is None:
            raise DownloadStoppedError
        return RemotePart(fd, self._line)


class RemotePart(AppendedFile):
    """A part file that was opened elsewhere."""

    def __init__(self, fd: int, line: Channel) -> None:
        super().__init__(fd, "the part file")
        self._line = line

    def discard(self) -> None:
        """Have it removed."""
        self._line.send(DiscardPart())


class ProgressReporter:
    """Tells now and then how far a transfer is."""

    def __init__(self, line: Channel, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._line = line
        self._monotonic = monotonic
        self._told_at = monotonic()

    def __call__(self, received: int, total: int | None) -> None:
        """Hear of every step."""
        now = self._monotonic()
        if now - self._told_at >= _TELL_EVERY:
            self._told_at = now
            self._line.send(BytesArrived(received, total))


class RemoteRateLimit:
    """The cap on all transfers, see `net.bandwidth.ReadLimit`: each turn is requested over the channel."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._capped = False
        self._lines = threading.local()
        self._lock = threading.Lock()
        self._waiting = 0
        self._time = ActiveClock(monotonic)

    def serve(self, line: Channel) -> None:
        """Ask for the turns of this thread over `line`."""
        self._lines.line = line

    def change(self, *, capped: bool) -> None:
        """Ask for turns from now on, or do not."""
        self._capped = capped

    def stop(self) -> None:
        """Hold nobody back any more."""
        self._capped = False

    def limits(self) -> bool:
        """Whether there may be a limit now."""
        return self._capped

    def active_clock(self) -> float:
        """Return monotonic seconds, without those in which a transfer of this worker waited for a turn."""
        with self._lock:
            return self._time.now()

    def admit(self, most: int) -> int:
        """Wait for a turn; return how many bytes may be read now."""
        if not self._capped:
            return most
        line: Channel = self._lines.line
        with self._held():
            line.send(ReadWanted(most))
            answer: ToErrand = line.receive(TO_ERRAND)[0]
        return min(answer.bytes, most) if isinstance(answer, ReadGranted) else most

    def give_back(self, unread: int) -> None:
        """Put back bytes that were allowed and not read."""
        if unread > 0 and self._capped:
            line: Channel = self._lines.line
            line.send(ReadReturned(unread))

    @contextmanager
    def _held(self) -> Iterator[None]:
        self._note(1)
        try:
            yield
        finally:
            self._note(-1)

    def _note(self, change: int) -> None:
        with self._lock:
            self._waiting += change
            self._time.note(held=self._waiting > 0)


_NOWHERE = ()


def run(control: int) -> None:
    """Serve the daemon that holds the other end of the socket `control`, until it closes it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it is the daemon who is told, and who tells
    line = Channel(socket.socket(fileno=control))
    try:
        terms, _ = line.receive(TO_WORKER)
        if isinstance(terms, WorkerConfig):
            _Worker(terms).serve(line)
    except ChannelClosedError:
        return


class _Worker:
    def __init__(self, terms: WorkerConfig) -> None:
        self._url_policy = UrlPolicy(_NOWHERE, _NOWHERE)
        self._cap = RemoteRateLimit()
        self._stop = threading.Event()
        self._client = open_client(
            self._url_policy,
            user_agent=terms.user_agent,
            limits=PoolLimits(read=terms.stall_timeout),
            bandwidth=self._cap,
        )
        self._downloader = Downloader(
            self._client, self._url_policy, DownloadLimits(None, 0, 0.0), self._stop, self._cap.active_clock
        )

    def serve(self, control: Channel) -> None:
        """Do as `control` says until it ends."""
        try:
            while True:
                message, fd = control.receive(TO_WORKER)
                match message:
                    case WorkerSettings():
                        self._heed(message)
                        control.send(SettingsApplied(__version__))
                    case NewChannel() if fd is not None:
                        line = Channel(socket.socket(fileno=fd))
                        threading.Thread(target=self._errands, args=(line,), daemon=True).start()
                    case _:
                        raise AssertionError(message)
        finally:
            self._stop.set()
            self._client.abort()

    def _heed(self, rules: WorkerSettings) -> None:
        self._url_policy.change(rules.trusted_private_hosts, rules.media_hosts)
        self._client.change(rules.connections)
        self._downloader.change(rules.limits)
        self._cap.change(capped=rules.capped)

    def _errands(self, line: Channel) -> None:
        self._cap.serve(line)
        try:
            while True:
                fetch_request, fd = line.receive(TO_ERRAND)
                if fd is not None:
                    os.close(fd)
                if isinstance(fetch_request, FetchRequest):
                    self._do(fetch_request, line)
        except ChannelClosedError:
            return
        finally:
            line.close()

    def _do(self, fetch_request: FetchRequest, line: Channel) -> None:
        try:
            with self._downloader.fetch(
                fetch_request.url, RemoteSink(fetch_request, line), ProgressReporter(line)
            ) as received:
                done = FetchDone(received.sink.size, received.finding)
        except ChannelClosedError:
            raise
        except BaseException as error:  # noqa: BLE001 - told to whoever waits for this errand
            line.send(failed_by(error))
        else:
            line.send(done)
