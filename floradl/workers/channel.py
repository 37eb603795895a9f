"""A line to a worker: whole messages in both directions, some with an open file."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Final, Self, TypeVar

import msgspec

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
