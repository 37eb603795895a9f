"""Sending an answer: as it should be, or broken off, framed wrongly, slowly.

A faulty answer is written to the socket here, without the help (and the checks) of aiohttp, and its
connection is closed afterwards. Framing: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from http import HTTPStatus
from typing import Literal

from aiohttp import web
from msgspec import Struct

from floradl.simulator.faults import Do, Framing, position
from floradl.simulator.ranges import StoredAnswer

_TICK = 0.05  # a throttled body is sent in pieces of this many seconds
_BUFFERED = 256 * 1024

Count = Callable[[int], None]
Event = tuple[int, Literal["stall", "cut", "reset"]]


class AnswerDelivery(Struct, frozen=True):
    """How an answer's body is sent. Offsets are in bytes of what is sent; `rate` is in bytes a second."""

    rate: float | None = None
    framing: Framing = "length"
    wrong_length: int = 0
    events: tuple[Event, ...] = ()
    stall_for: float | None = None

    @property
    def plain(self) -> bool:
        """Whether this is what a sound server does."""
        return self.framing == "length" and not self.wrong_length and not self.events

    @classmethod
    def of(cls, do: Do | None, length: int, rate: float | None = None) -> AnswerDelivery:
        """Read from `do` how a body of `length` bytes is sent."""
        if do is None:
            return cls(rate=rate)
        places: tuple[tuple[str | int | None, Literal["stall", "cut", "reset"]], ...] = (
            (do.stall_after, "stall"),
            (do.cut_after, "cut"),
            (do.reset_after, "reset"),
        )
        events = tuple((at, kind) for place, kind in places if (at := position(place, length)) is not None)
        return cls(do.drip or rate, do.framing, do.wrong_length, tuple(sorted(events)), do.stall_for)


class Sent(web.StreamResponse):
    """Stands for an answer that is on the wire already: aiohttp has nothing left to send."""

    def __init__(self) -> None:
        super().__init__()
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


async def send_plain(
    request: web.Request, answer: StoredAnswer, rate: float | None, count: Count
) -> web.StreamResponse:
    """Send an answer as it is. `count` is called with the bytes of each piece, before it leaves."""
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = answer.length
    await response.prepare(request)
    try:
        if request.method != "HEAD":
            async for piece in _paced(answer, answer.start, answer.stop, rate):
                count(len(piece))
                await response.write(piece)
        await response.write_eof()
    except ConnectionError:
        pass  # the client left
    return response


async def send_raw(
    transport: asyncio.Transport,
    answer: StoredAnswer,
    delivery: AnswerDelivery,
    count: Count,
    *,
    head_only: bool = False,
) -> None:
    """Send an answer as `delivery` says, and close the connection."""
    await _write(transport, _head(answer, delivery))
    at = 0
    for offset, kind in (*delivery.events, (answer.length, "end")):
        if not head_only:
            pieces = _paced(answer, answer.start + at, answer.start + max(offset, at), delivery.rate)
            async for piece in pieces:
                count(len(piece))
                await _write(transport, _framed(piece, delivery.framing))
        at = max(offset, at)
        if kind == "stall":
            await _drained(transport, 0)
            await asyncio.sleep(delivery.stall_for) if delivery.stall_for else await asyncio.Event().wait()
        elif kind == "cut":
            transport.close()
            return
        elif kind == "reset":
            await _drained(transport, 0)
            reset(transport)
            return
    if delivery.framing == "chunked" and not head_only:
        await _write(transport, b"0\r\n\r\n")
    transport.close()


def reset(transport: asyncio.Transport) -> None:
    """Break the connection off with a TCP reset."""
    connection: socket.socket | None = transport.get_extra_info("socket")
    if connection is not None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _head(answer: StoredAnswer, delivery: AnswerDelivery) -> bytes:
    headers = {name: value for name, value in answer.headers.items() if name.lower() != "content-length"}
    if delivery.framing == "length":
        headers["Content-Length"] = str(max(answer.length + delivery.wrong_length, 0))
    elif delivery.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    headers["Connection"] = "close"
    try:
        phrase = HTTPStatus(answer.status).phrase
    except ValueError:
        phrase = "Unknown"
    lines = [f"HTTP/1.1 {answer.status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("utf-8", "surrogateescape")


def _framed(piece: bytes, framing: Framing) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece) if framing == "chunked" else piece


async def _paced(answer: StoredAnswer, start: int, stop: int, rate: float | None) -> AsyncIterator[bytes]:
    """Yield the bytes from `start` to `stop`, not faster than `rate` bytes a second."""
    if rate is None:
        for chunk in answer.body.chunks(start, stop):
            yield chunk
        return
    step = max(int(rate * _TICK), 1)
    for at in range(start, stop, step):
        end = min(at + step, stop)
        await asyncio.sleep((end - at) / rate)
        yield answer.body.read(at, end)


async def _write(transport: asyncio.Transport, data: bytes) -> None:
    if not transport.is_closing():
        transport.write(data)
        await _drained(transport, _BUFFERED)


async def _drained(transport: asyncio.Transport, limit: int) -> None:
    while (  # noqa: ASYNC110  # aiohttp keeps the flow control of its transports to itself: there is no event
        transport.get_write_buffer_size() > limit and not transport.is_closing()
    ):
        await asyncio.sleep(0.001)
