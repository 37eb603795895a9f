"""What runs in a worker: a downloader whose place to write is opened by the daemon."""

from __future__ import annotations

import signal
import socket
import threading
import time
from contextlib import AbstractContextManager, closing, nullcontext, suppress

from msgspec.structs import replace

from floradl import __version__
from floradl.download.downloader import Downloader, DownloadStoppedError
from floradl.fs.durable import AppendedFile
from floradl.library.base import ResumePoint
from floradl.models import AttemptNotes
from floradl.net.bandwidth import BandwidthLimiter, RateSchedule
from floradl.net.client import open_client
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy
from floradl.workers.protocol import (
    TO_FETCH,
    TO_WORKER,
    Channel,
    ChannelClosedError,
    FetchDone,
    FetchFailed,
    FetchRequest,
    NotesChanged,
    OpenPart,
    Progress,
    SettingsApplied,
    ToWorker,
    WorkerSettings,
    failure_of,
)

_REPORT_EVERY = 0.2  # seconds


class RemoteTarget:
    """The place of one output, see `DownloadTarget`: only the daemon knows where that is.

    `discarded` is whether the part file's bytes are not to be trusted.
    """

    def __init__(self, request: FetchRequest, channel: Channel) -> None:
        self.kind = request.kind
        self.notes = request.notes
        self.discarded = False
        self._request = request
        self._channel = channel
        self._report_at = time.monotonic() + _REPORT_EVERY

    def held(self) -> AbstractContextManager[None]:
        """Return nothing to do: the daemon holds the folder open."""
        return nullcontext()

    def note(self, notes: AttemptNotes) -> None:
        """Let the next attempt, in whatever process, know this."""
        self.notes = notes
        self._channel.send(NotesChanged(notes))

    def report(self, received: int, total: int | None) -> None:
        """Report progress, unless that was done just before."""
        now = time.monotonic()
        if now >= self._report_at:
            self._report_at = now + _REPORT_EVERY
            self._channel.send(Progress(received, total))

    def resume_point(self) -> ResumePoint | None:
        """Return validator and size of what an earlier attempt left."""
        request = self._request
        return ResumePoint(request.validator, request.size) if request.size else None

    def open(self, validator: str) -> RemotePart:
        """Ask for the part file. Raises `DownloadStoppedError` where it cannot be opened."""
        self._channel.send(OpenPart(validator))
        fd = self._channel.receive(TO_FETCH)[1]
        if fd is None:
            raise DownloadStoppedError
        return RemotePart(fd, self)


class RemotePart(AppendedFile):
    """A part file that the daemon opened."""

    def __init__(self, fd: int, target: RemoteTarget) -> None:
        super().__init__(fd, "the part file")
        self._target = target

    def discard(self) -> None:
        """Have it removed when the transfer has failed."""
        self._target.discarded = True


def run(control_fd: int) -> None:
    """Serve the daemon that holds the other end of the socket `control_fd`, until it closes that."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # they are for the daemon, which ends its workers itself
    control = Channel(socket.socket(fileno=control_fd))
    with suppress(ChannelClosedError):
        settings, _ = control.receive(TO_WORKER)
        if isinstance(settings, WorkerSettings):
            _Worker(settings).serve(settings, control)


class _Worker:
    def __init__(self, settings: WorkerSettings) -> None:
        self._url_policy = UrlPolicy((), ())
        self._bandwidth = BandwidthLimiter()
        self._stop = threading.Event()
        self._client = open_client(
            self._url_policy,
            user_agent=settings.user_agent,
            limits=PoolLimits(read=settings.stall_timeout),
            bandwidth=self._bandwidth,
        )
        self._downloader = Downloader(
            self._client, self._url_policy, settings.limits, self._stop, self._bandwidth.active_clock
        )

    def serve(self, message: ToWorker, control: Channel) -> None:
        """Handle `message`, and then what comes from `control`, until that is closed."""
        fd: int | None = None
        try:
            while True:
                match message:
                    case WorkerSettings():
                        self._apply(message)
                        control.send(SettingsApplied(__version__, self._bandwidth.demand()))
                    case FetchRequest() if fd is not None:
                        channel = Channel(socket.socket(fileno=fd))
                        threading.Thread(target=self._fetch, args=(message, channel), daemon=True).start()
                    case _:
                        raise AssertionError(message)
                message, fd = control.receive(TO_WORKER)
        finally:
            self._stop.set()
            self._client.abort()

    def _apply(self, settings: WorkerSettings) -> None:
        self._url_policy.change(settings.trusted_private_hosts, settings.media_hosts)
        self._client.change(settings.connections)
        self._downloader.change(settings.limits)
        self._bandwidth.change(None if settings.rate is None else RateSchedule.always(settings.rate))

    def _fetch(self, request: FetchRequest, channel: Channel) -> None:
        target = RemoteTarget(request, channel)
        end: FetchDone | FetchFailed
        try:
            with (
                self._bandwidth.transfer(),
                self._downloader.fetch(request.url, target, target.report) as received,
            ):
                end = FetchDone(received.sink.size, received.finding)
        except BaseException as error:  # noqa: BLE001 - the daemon raises it where it waits for this transfer
            end = replace(failure_of(error), discard=target.discarded)
        with closing(channel), suppress(ChannelClosedError):
            channel.send(end)
