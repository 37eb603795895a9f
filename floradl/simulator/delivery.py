"""Sending an answer: whole, or only a range of it; as it should be, or broken off, framed wrongly, slowly.

Here are the answers of faults, too. A faulty one is written to the socket without the help (and the checks)
of aiohttp, and its connection is closed afterwards. Framing: RFC 9112, sections 6 and 7.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Literal

import msgspec
from aiohttp import web
from msgspec import Struct

from floradl.simulator.faults import Do, Framing, position
from floradl.simulator.formats import Body, literal

_RANGE = re.compile(r"bytes=(\d*)-(\d*)", re.ASCII)
_TICK = 0.05  # a throttled body is sent in pieces of this many seconds
_BUFFERED = 256 * 1024
_ERRORS: Mapping[int, tuple[str, str]] = {
    400: ("input_validation_error", "The request is invalid."),
    401: ("invalid_api_key", "The API key is invalid or was revoked."),
    402: ("insufficient_credits", "The workspace has not enough credits."),
    403: ("forbidden", "This is not allowed."),
    404: ("not_found", "Not found."),
    409: ("conflict", "The request conflicts with another one."),
    429: ("rate_limited", "Too many requests."),
    500: ("internal_error", "Something went wrong on our side."),
    503: ("service_unavailable", "The service is unavailable for now."),
}
_PAGE = (
    "<!doctype html>\n<html><head><title>{status}</title></head>"
    "<body><h1>{status}</h1><p>The server is having a bad day.</p></body></html>\n"
)

Count = Callable[[int], None]
Event = tuple[int, Literal["stall", "cut", "reset"]]


class StoredBody(Struct, frozen=True):
    """A body as it lies in the store, with the headers that describe it in any answer.

    `overrides` are laid over an answer's headers in the end; `None` removes one.
    """

    body: Body
    etag: str
    last_modified: str
    headers: Mapping[str, str]
    overrides: Mapping[str, str | None] = {}


class StoredAnswer(Struct, frozen=True):
    """A status, headers, and which bytes of the body are sent."""

    status: int
    headers: Mapping[str, str]
    body: Body
    start: int
    stop: int

    @property
    def length(self) -> int:
        """The number of bytes that are sent."""
        return self.stop - self.start


def answer(stored: StoredBody, request: Mapping[str, str], *, beside: int = 0) -> StoredAnswer:
    """Decide on the answer to a GET with the header fields `request` (names in lower case).

    A fault: a range begins `beside` bytes from where it was asked to, and shows that.
    """
    size = stored.body.size
    own = {"Accept-Ranges": "bytes", "ETag": stored.etag, "Last-Modified": stored.last_modified}
    base = laid_over({**own, **stored.headers}, stored.overrides)
    wanted = _RANGE.fullmatch(request.get("range", "").strip())
    if wanted is None or not any(wanted.groups()) or not _unchanged(stored, request.get("if-range")):
        return StoredAnswer(200, base, stored.body, 0, size)
    first, last = wanted.groups()
    if first:
        start, stop = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return StoredAnswer(200, base, stored.body, 0, size)
    else:
        start, stop = max(size - int(last), 0), size
    start = max(start + beside, 0)
    if start >= size or start >= stop:
        return StoredAnswer(416, {**base, "Content-Range": f"bytes */{size}"}, Body(()), 0, 0)
    return StoredAnswer(
        206, {**base, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, stored.body, start, stop
    )


def _unchanged(stored: StoredBody, if_range: str | None) -> bool:
    """Compare as RFC 9110, section 13.1.5 says: strongly."""
    return if_range is None or (
        not if_range.startswith("W/") and if_range in {stored.etag, stored.last_modified}
    )


def laid_over(headers: Mapping[str, str], changes: Mapping[str, str | None]) -> dict[str, str]:
    """Return `headers` with `changes` laid over them, whatever their case; `None` removes one."""
    changed = {name.lower() for name in changes}
    kept = {name: value for name, value in headers.items() if name.lower() not in changed}
    return kept | {name: value for name, value in changes.items() if value is not None}


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
        """Return how `do` wants a body of `length` bytes sent."""
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
    """Send an answer by `delivery`, and close the connection."""
    await _write(transport, _head(answer, delivery))
    at = 0
    for offset, kind in (*delivery.events, (answer.length, "end")):
        if not head_only:
            pieces = _paced(answer, answer.start + at, answer.start + max(offset, at), delivery.rate)
            async for piece in pieces:
                count(len(piece))
                framed = b"%x\r\n%s\r\n" % (len(piece), piece) if delivery.framing == "chunked" else piece
                await _write(transport, framed)
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


async def _paced(answer: StoredAnswer, start: int, stop: int, rate: float | None) -> AsyncIterator[bytes]:
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


def small(
    status: int, content_type: str, body: bytes, headers: Mapping[str, str] | None = None
) -> StoredAnswer:
    """Make an answer with a body that is at hand."""
    return StoredAnswer(
        status, {"Content-Type": content_type, **(headers or {})}, Body((literal(body),)), 0, len(body)
    )


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> StoredAnswer:
    """Make an answer in JSON."""
    return small(status, "application/json", msgspec.json.encode(value), headers)


def error_answer(status: int, code: str, message: str) -> StoredAnswer:
    """Make an answer in FLORA's error envelope."""
    return json_answer({"error": {"code": code, "message": message}}, status)


def replacement(do: Do, host: Literal["api", "media"], places: Mapping[str, str]) -> StoredAnswer:
    """Make the answer of `do`; `places` are what stands in braces in a redirect's URL."""
    if do.redirect is not None:
        url = do.redirect
        for name, place in places.items():
            url = url.replace(f"{{{name}}}", place)
        return small(do.status or 302, "text/plain", b"", {"Location": url})
    status = do.status or 200
    if do.html:
        return small(status, "text/html; charset=utf-8", _PAGE.format(status=status).encode())
    if do.body is not None:
        kind = "application/json" if host == "api" else "text/plain; charset=utf-8"
        return small(status, kind, do.body.encode("utf-8", "surrogateescape"))
    code, message = _ERRORS.get(status, ("unknown_error", "Something went wrong on our side."))
    if host == "api":
        return error_answer(status, do.code or code, message)
    xml = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{do.code or code}</Code></Error>"
    return small(status, "application/xml; charset=utf-8", xml.encode())


def bend(body: bytes, do: Do) -> bytes:
    """Return a JSON answer as `do` wants it; one without a run in it comes back as it was."""
    if do.unknown_status or do.missing_field or do.wrong_type or do.set or do.camel_case:
        answer = msgspec.json.decode(body)
        for run in _runs(answer):
            _bend_run(run, do)
        body = msgspec.json.encode(answer)
    if do.cut_json is not None:
        body = body[: position(do.cut_json, len(body))]
    return body


def _runs(answer: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(answer, dict):
        return
    if "run_id" in answer:
        yield answer
    for name in ("technique_runs", "generations"):
        yield from answer.get(name, ())


def _bend_run(run: dict[str, Any], do: Do) -> None:
    if do.unknown_status:
        run["status"] = do.unknown_status
    if do.missing_field:
        _change(run, do.missing_field, msgspec.UNSET)
    if do.wrong_type:
        _change(run, do.wrong_type, {"unexpected": [None]})
    for path, text in do.set.items():
        _change(run, path, _value(text))
    if do.camel_case:
        renamed = {
            re.sub(r"_(\w)", lambda found: found[1].upper(), name): value for name, value in run.items()
        }
        run.clear()
        run.update(renamed)


def _change(holder: Any, path: str, value: Any) -> None:
    """Set `path` to `value`, or remove it; lists on the way are gone through, but by number."""
    name, dot, rest = path.partition(".")
    key: Any = name
    if isinstance(holder, list):
        if not name.isdecimal():
            for item in holder:
                _change(item, path, value)
            return
        key = int(name)
    elif not isinstance(holder, dict):
        return
    with suppress(LookupError):  # a list does not grow
        if dot:
            _change(holder[key], rest, value)
        elif value is msgspec.UNSET:
            del holder[key]
        else:
            holder[key] = value


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
