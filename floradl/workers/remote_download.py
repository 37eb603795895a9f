"""One download by a worker, seen from the daemon: the target, the report and the rate limit are here."""

from __future__ import annotations

import os

from floradl.download.downloader import Received, Report
from floradl.library.base import DownloadTarget, Sink
from floradl.net.bandwidth import ReadLimit
from floradl.workers.channel import Channel
from floradl.workers.protocol import (
    FROM_ERRAND,
    BytesArrived,
    DiscardPart,
    FetchDone,
    FetchFailed,
    FetchRequest,
    FromErrand,
    Note,
    OpenPart,
    PartOpened,
    PartRefused,
    ReadGranted,
    ReadReturned,
    ReadWanted,
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
