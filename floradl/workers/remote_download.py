"""One transfer by a worker, seen from the daemon: the slot, the report and the cap are here."""

from __future__ import annotations

import os

from floradl.download.downloader import FileSink, Received, Report
from floradl.fs.durable import PartFile
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

    def __init__(self, slot: FileSink[PartFile], report: Report, cap: ReadLimit) -> None:
        self._slot = slot
        self._report = report
        self._cap = cap
        self._part: PartFile | None = None
        self._trouble: BaseException | None = None
        self.begun = False
        self.leaves_line = True

    def run(self, line: Channel, url: str) -> Received[PartFile]:
        """Have the worker at the other end of `line` fetch `url`, see `Downloader.fetch`.

        Raises what that does, `ChannelClosedError` where the worker ended, and `MessageTooLongError` where
        `url` is nothing that can be told it.
        """
        with self._slot.held():
            validator, size = self._slot.leftover() or ("", 0)
            line.send(FetchRequest(url, self._slot.kind, validator, size, self._slot.notes))
            self.leaves_line = False
            try:
                return self._listen(line)
            except BaseException:
                if self._part is not None:
                    self._part.__exit__()
                raise

    def _listen(self, line: Channel) -> Received[PartFile]:
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
                self._slot.note(notes)
            case DiscardPart():
                if self._part is not None:
                    self._part.discard()
            case BytesArrived(received, total):
                self._report(received, total)
            case ReadWanted(most):
                line.send(ReadGranted(self._cap.admit(most)))
            case ReadReturned(unread):
                self._cap.give_back(unread)

    def _open(self, line: Channel, validator: str) -> None:
        """Open the part file and hand it over; what stands in the way is raised once the worker let go."""
        try:
            if self._part is not None:  # the worker has let go of it, and wants another, or the same anew
                self._part.__exit__()
            self._part = part = self._slot.open(validator)
        except Exception as error:  # noqa: BLE001 - raised when the worker has answered
            self._trouble = error
            line.send(PartRefused())
        else:
            line.send(PartOpened(), part.fd)

    def _received(self, done: FetchDone) -> Received[PartFile]:
        part = self._part
        if part is None:
            raise AssertionError("a transfer was done without a part file")
        part.size = done.size
        self._report(done.size, done.size)
        return Received(part, done.finding)
