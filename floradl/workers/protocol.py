"""The channels between the daemon and a worker, and the messages that go over them.

One channel is there as long as the worker, for its settings; each transfer has one of its own. To a worker go
`WorkerSettings`, `FetchRequest` and `PartOpened`; from it come `SettingsApplied`, `OpenPart`, `Progress`,
`NotesChanged`, and at last `FetchDone` or `FetchFailed`. No message is sent for a single read.
"""

from __future__ import annotations

import os
import socket
import traceback
from contextlib import suppress
from threading import Lock
from typing import Final, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, msgpack

from floradl.download.downloader import DownloadLimits, DownloadStoppedError, TypeCheck
from floradl.errors import (
    ErrorCode,
    ExpiredUrlError,
    OverLimitError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.durable import PartBusyError
from floradl.models import AttemptNotes, OutputKind
from floradl.portability import message_pair, receive_message, send_message

_LONGEST: Final = 128 << 10  # bytes of a message: all fields of an answer fit, h11 takes 100 KiB of them
_M = TypeVar("_M")


class ChannelClosedError(Exception):
    """The other process ended, or sent what is no message of this version."""


class MessageTooLongError(Exception):
    """A message that no channel takes."""


class Channel:
    """One end of a pair of sockets (`SOCK_SEQPACKET`, unix(7); a stream where there are none).

    Several threads may send while one receives; any may `cut`.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._space = bytearray(_LONGEST)
        self._sending = Lock()  # on a stream, two that send at once would mix their bytes

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return one end, and the socket to make the other of."""
        ours, theirs = message_pair()
        return cls(ours), theirs

    def send(self, message: Struct, fd: int | None = None) -> None:
        """Send `message`, and the open file `fd` with it.

        Raises `ChannelClosedError`, and `MessageTooLongError`, with nothing sent, for what is too long or
        holds a text that is no Unicode.
        """
        try:
            data = msgpack.encode(message)
        except UnicodeEncodeError as error:  # half a surrogate pair, out of somebody's JSON
            raise MessageTooLongError from error
        if len(data) > _LONGEST:
            raise MessageTooLongError
        try:
            with self._sending:
                send_message(self._socket, data, fd)
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self, decoder: msgpack.Decoder[_M]) -> tuple[_M, int | None]:
        """Wait for a message; return it, and the file that came with it, which is now the caller's to close.

        Raises `ChannelClosedError`.
        """
        try:
            size, fd = receive_message(self._socket, self._space)
        except OSError as error:
            raise ChannelClosedError from error
        try:
            return decoder.decode(memoryview(self._space)[:size]), fd
        except msgspec.MsgspecError as error:  # nothing, which is the end, or a message of another version
            if fd is not None:
                os.close(fd)
            raise ChannelClosedError from error

    def cut(self) -> None:
        """End every wait on this channel, on either side. From any thread; safe to repeat."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end. Safe to repeat."""
        self._socket.close()


class WorkerSettings(Struct, frozen=True, tag=True):
    """To a worker, first of all and after each change: what holds from now on, for what is under way too.

    How it presents itself and the longest silence in seconds (both as they are at first), where it may
    connect (see `UrlPolicy`), what a transfer may take, how many connections it has at once, and its share of
    the bandwidth in bytes a second, None for no limit.
    """

    user_agent: str
    stall_timeout: float
    trusted_private_hosts: tuple[str, ...]
    media_hosts: tuple[str, ...]
    limits: DownloadLimits
    connections: int
    rate: int | None = None


class SettingsApplied(Struct, frozen=True, tag=True):
    """From a worker, for each `WorkerSettings`: they hold now.

    `version` is the floradl that it runs; `demand` the bytes a second that it has use for, see
    `BandwidthLimiter.demand`.
    """

    version: str
    demand: float | None


class FetchRequest(Struct, frozen=True, tag=True):
    """To a worker, with the socket of a channel for this transfer: fetch `url`.

    `validator` and `size` are those of the part file that an earlier attempt left, `notes` what it noted.
    """

    url: str
    kind: OutputKind
    validator: str
    size: int
    notes: AttemptNotes = AttemptNotes()


class OpenPart(Struct, frozen=True, tag=True):
    """From a worker: it needs the part file for `validator` now."""

    validator: str


class PartOpened(Struct, frozen=True, tag=True):
    """To a worker, with the part file that it needs; without a file none can be opened: the transfer ends."""


class Progress(Struct, frozen=True, tag=True):
    """From a worker, a few times a second: how many bytes there are, of how many."""

    received: int
    total: int | None


class NotesChanged(Struct, frozen=True, tag=True):
    """From a worker, at once: what the next attempt must know, even if the worker ends now."""

    notes: AttemptNotes


class FetchDone(Struct, frozen=True, tag=True):
    """From a worker that has closed the part file: it is whole, of `size` bytes, and this is what it is."""

    size: int
    finding: TypeCheck


class FetchFailed(Struct, frozen=True, tag=True):
    """From a worker that has closed the part file: the error that `error_of` returns.

    `size` is that of `OverLimitError`; `discard` where the part file's bytes are not to be trusted.
    """

    error: str
    message: str
    code: str = ""
    retry_after: float | None = None
    errno: int | None = None
    needed: int = 0
    size: int | None = None
    discard: bool = False


ToWorker: TypeAlias = WorkerSettings | FetchRequest
FromFetch: TypeAlias = OpenPart | Progress | NotesChanged | FetchDone | FetchFailed

TO_WORKER: Final[msgpack.Decoder[ToWorker]] = msgpack.Decoder(ToWorker)
FROM_WORKER: Final[msgpack.Decoder[SettingsApplied]] = msgpack.Decoder(SettingsApplied)
TO_FETCH: Final[msgpack.Decoder[PartOpened]] = msgpack.Decoder(PartOpened)
FROM_FETCH: Final[msgpack.Decoder[FromFetch]] = msgpack.Decoder(FromFetch)


def failure_of(error: BaseException) -> FetchFailed:
    """Return the message of `error`; one that no transfer raises is a bug, and is sent with its traceback."""
    match error:
        case ExpiredUrlError():
            return FetchFailed("expired", str(error), error.code)
        case TransientError():
            return FetchFailed("transient", str(error), error.code, retry_after=error.retry_after)
        case OverLimitError():
            return FetchFailed("over_limit", str(error), size=error.size)
        case PermanentError():
            return FetchFailed("permanent", str(error), error.code)
        case ServicePausedError():
            return FetchFailed("paused", str(error), error.reason, needed=error.needed)
        case DownloadStoppedError():
            return FetchFailed("stopped", "")
        case PartBusyError():
            return FetchFailed("busy", str(error))
        case OSError():
            return FetchFailed("disk", error.strerror or str(error), errno=error.errno)
    return FetchFailed("bug", "".join(traceback.format_exception(error))[-8_000:])


def error_of(failed: FetchFailed) -> Exception:
    """Return the error that `failure_of` made `failed` of."""
    match failed.error:
        case "expired":
            return ExpiredUrlError(failed.message, ErrorCode(failed.code))
        case "transient":
            return TransientError(failed.message, ErrorCode(failed.code), retry_after=failed.retry_after)
        case "over_limit":
            return OverLimitError(failed.message, failed.size)
        case "permanent":
            return PermanentError(failed.message, ErrorCode(failed.code))
        case "paused":
            return ServicePausedError(failed.message, PauseReason(failed.code), needed=failed.needed)
        case "stopped":
            return DownloadStoppedError()
        case "busy":
            return PartBusyError(failed.message)
        case "disk":
            return OSError(failed.errno, failed.message)
    bug = RuntimeError("a worker hit a bug")
    bug.add_note(failed.message)
    return bug
