"""What is said between the daemon and a worker."""

from __future__ import annotations

import os
import socket
import traceback
from contextlib import suppress
from typing import Final, Self, TypeAlias, TypeVar

import msgspec
from msgspec import Struct, msgpack

from floradl.download.downloader import DownloadLimits, DownloadStoppedError, TypeCheck
from floradl.errors import (
    ErrorCode,
    ExpiredUrlError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.durable import PartBusyError
from floradl.models import AttemptNotes, OutputKind

_MOST: Final = 128 << 10  # bytes of one message: all fields of an answer have room, h11 takes 100 KiB of them
_ONE_FD: Final = socket.CMSG_SPACE(4)
_M = TypeVar("_M")


class ChannelClosedError(Exception):
    """The other side is gone, or says what nobody understands."""


class MessageTooLongError(Exception):
    """A message that no line takes."""


class Channel:
    """One end of a pair of sockets (`SOCK_SEQPACKET`, unix(7)). One thread may send while another receives.

    `cut` may come from any.
    """

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._space = bytearray(_MOST)
        self._encoder = msgspec.msgpack.Encoder()

    @classmethod
    def pair(cls) -> tuple[Self, socket.socket]:
        """Return one end, and the socket to make the other of."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(ours), theirs

    def send(self, message: msgspec.Struct, fd: int | None = None) -> None:
        """Send `message`, and the open file `fd` with it.

        Raises `ChannelClosedError`, and `MessageTooLongError` for what is too long, or is no text that can be
        written down; nothing was sent then.
        """
        try:
            data = self._encoder.encode(message)
        except UnicodeEncodeError as error:  # half a surrogate pair, out of somebody's JSON
            raise MessageTooLongError from error
        if len(data) > _MOST:
            raise MessageTooLongError
        try:
            if fd is None:
                self._socket.sendall(data)
            else:
                socket.send_fds(self._socket, [data], [fd])
        except OSError as error:
            raise ChannelClosedError from error

    def receive(self, decoder: msgspec.msgpack.Decoder[_M]) -> tuple[_M, int | None]:
        """Wait for a message; return it, and the file that came with it, which is now the caller's to close.

        Raises `ChannelClosedError`.
        """
        try:
            size, extra, flags, _ = self._socket.recvmsg_into([self._space], _ONE_FD, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            raise ChannelClosedError from error
        fd = next((int.from_bytes(data[:4], "little") for *_, data in extra), None)
        if not size or flags & socket.MSG_TRUNC:
            if fd is not None:
                os.close(fd)
            raise ChannelClosedError
        try:
            return decoder.decode(memoryview(self._space)[:size]), fd
        except msgspec.MsgspecError as error:  # whoever speaks so is not of this version
            if fd is not None:
                os.close(fd)
            raise ChannelClosedError from error

    def cut(self) -> None:
        """Let nobody wait on this line any more, on either side. From any thread; safe to repeat."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end. Safe to repeat."""
        self._socket.close()


class WorkerConfig(Struct, frozen=True, tag=True):
    """To a worker, first of all: how it presents itself, and the longest silence, in seconds."""

    user_agent: str
    stall_timeout: float


class WorkerSettings(Struct, frozen=True, tag=True):
    """To a worker: what holds from now on, for what is under way too.

    Where it may connect (see `UrlPolicy`), what a transfer may take, how many connections it has at once, and
    whether there is a cap, so that it has to ask for each turn at reading.
    """

    trusted_private_hosts: tuple[str, ...]
    media_hosts: tuple[str, ...]
    limits: DownloadLimits
    connections: int
    capped: bool


class SettingsApplied(Struct, frozen=True, tag=True):
    """From a worker, for each `WorkerSettings`: they hold now. `version` is the floradl that it is."""

    version: str


class NewChannel(Struct, frozen=True, tag=True):
    """To a worker, with a socket: one more line, for one transfer at a time."""


class FetchRequest(Struct, frozen=True, tag=True):
    """To a worker: fetch `url`. `validator` and `size` are those of the leftover, `notes` the slot's."""

    url: str
    kind: OutputKind
    validator: str
    size: int
    notes: AttemptNotes = AttemptNotes()


class Note(Struct, frozen=True, tag=True):
    """From a worker: what the next attempt is to know."""

    notes: AttemptNotes


class OpenPart(Struct, frozen=True, tag=True):
    """From a worker: the part file for `validator` is needed now."""

    validator: str


class PartOpened(Struct, frozen=True, tag=True):
    """To a worker, with the part file that it asked for."""


class PartRefused(Struct, frozen=True, tag=True):
    """To a worker: there is no part file; the transfer ends."""


class DiscardPart(Struct, frozen=True, tag=True):
    """From a worker: the part file's bytes are not to be trusted."""


class ReadWanted(Struct, frozen=True, tag=True):
    """From a worker: so many bytes would be read now, and where there is a cap it waits for its turn."""

    bytes: int


class ReadGranted(Struct, frozen=True, tag=True):
    """To a worker: so many may be read."""

    bytes: int


class ReadReturned(Struct, frozen=True, tag=True):
    """From a worker: so many of a turn did not come."""

    bytes: int


class BytesArrived(Struct, frozen=True, tag=True):
    """From a worker, now and then: how many bytes are there, of how many."""

    bytes: int
    total: int | None


class FetchDone(Struct, frozen=True, tag=True):
    """From a worker, which has let go of the part file: it is whole, has `size` bytes, and is this."""

    size: int
    finding: TypeCheck


class FetchFailed(Struct, frozen=True, tag=True):
    """From a worker, which has let go of the part file: what `error_of` makes an error of."""

    sort: str
    message: str
    code: str = ""
    retry_after: float | None = None
    errno: int | None = None
    needed: int = 0


ToErrand: TypeAlias = FetchRequest | PartOpened | PartRefused | ReadGranted
FromErrand: TypeAlias = (
    Note | OpenPart | DiscardPart | ReadWanted | ReadReturned | BytesArrived | FetchDone | FetchFailed
)
ToWorker: TypeAlias = WorkerConfig | WorkerSettings | NewChannel

TO_ERRAND: Final[msgpack.Decoder[ToErrand]] = msgpack.Decoder(ToErrand)
FROM_ERRAND: Final[msgpack.Decoder[FromErrand]] = msgpack.Decoder(FromErrand)
FROM_WORKER: Final[msgpack.Decoder[SettingsApplied]] = msgpack.Decoder(SettingsApplied)
TO_WORKER: Final[msgpack.Decoder[ToWorker]] = msgpack.Decoder(ToWorker)


def failed_by(error: BaseException) -> FetchFailed:
    """Write `error` down, as far as it means something on the other side; any other is a bug of ours."""
    match error:
        case ExpiredUrlError():
            return FetchFailed("expired", str(error), error.code)
        case TransientError():
            return FetchFailed("passing", str(error), error.code, retry_after=error.retry_after)
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
    """Return the error that `failed` was written down from."""
    match failed.sort:
        case "expired":
            return ExpiredUrlError(failed.message, ErrorCode(failed.code))
        case "passing":
            return TransientError(failed.message, ErrorCode(failed.code), retry_after=failed.retry_after)
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
    bug = RuntimeError("a bug showed in a worker")
    bug.add_note(failed.message)
    return bug
