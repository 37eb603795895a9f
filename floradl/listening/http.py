"""One request, one answer, and the connection ends: as little HTTP as webhooks and scrapers need.

A public address may be scanned, flooded and dripped at, so everything is bounded: the head, the body, the
time for each. The protocol itself (RFC 9112) is h11's, which floradl's client has aboard anyway.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import anyio
import h11
import structlog
from anyio.abc import ByteStream
from msgspec import Struct

_MOST_HEAD = 16 << 10  # bytes
_MOST_BODY = 64 << 10
_LINGER = 1.0  # seconds in which what is left of a refused request is taken in, so that the answer arrives
_MOST_LINGERING = 1 << 20
_PIECE = 16 << 10
WITHIN = 5.0
"""Seconds for a whole request, and again for its answer: who is slower is dropped."""

_SERVER = b"floradl"
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Request(Struct, frozen=True):
    """A request. `path` is without its query, `headers` have lower-case names, several of one name joined."""

    method: str
    path: str
    headers: Mapping[str, str] = {}
    body: bytes = b""


class Answer(Struct, frozen=True):
    """An answer; `headers` beside those that every answer has."""

    status: int
    body: bytes = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: Mapping[str, str] = {}

    @classmethod
    def said(cls, status: int, text: str) -> Answer:
        """Make an answer of one line of text."""
        return cls(status, f"{text}\n".encode())


Page = Callable[[Request], Awaitable[Answer]]
"""What answers a request."""


class Site:
    """Pages by method and path; `HEAD` is as `GET`."""

    def __init__(self, pages: Mapping[tuple[str, str], Page]) -> None:
        self._pages = dict(pages)

    async def __call__(self, request: Request) -> Answer:
        """Answer with the page that is asked for, 404 or 405; what goes wrong in one is 500."""
        method = "GET" if request.method == "HEAD" else request.method
        page = self._pages.get((method, request.path))
        if page is not None:
            try:
                return await page(request)
            except Exception:  # noqa: BLE001 - a bug of ours in one answer must not end the listening
                _log.exception("bug", path=request.path)
                return Answer.said(500, "a bug: see floradl's log")
        allowed = sorted({method for method, path in self._pages if path == request.path})
        if allowed:
            return Answer(405, b"", headers={"Allow": ", ".join(allowed)})
        return Answer.said(404, "nothing is here")


class _RefusedError(Exception):
    """The request is not read any further."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.status)
        self.answer = answer


async def converse(stream: ByteStream, page: Page, within: float = WITHIN) -> None:
    """Read one request from `stream`, answer it, and close. Never raises for what the other side does.

    It must come within so many seconds, all of it, and its answer must be taken within as many.
    """
    async with stream:
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream):
            await _converse(stream, page, within)


async def _converse(stream: ByteStream, page: Page, within: float) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_MOST_HEAD)
    try:
        with anyio.fail_after(within):
            request = await _read(connection, stream)
    except TimeoutError:
        answer = Answer.said(408, f"the request did not come within {within:g} s")
    except h11.RemoteProtocolError as error:
        answer = Answer.said(error.error_status_hint, "this is no request that HTTP knows")
    except _RefusedError as error:
        answer = error.answer
    else:
        data = _written(connection, await page(request), head_only=request.method == "HEAD")
        await _send(stream, data, within)
        return
    await _send(stream, _written(connection, answer), within)
    await _linger(stream)


async def _read(connection: h11.Connection, stream: ByteStream) -> Request:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                await stream.send(
                    connection.send(h11.InformationalResponse(status_code=100, headers=[])) or b""
                )
            connection.receive_data(await stream.receive(_PIECE))  # `EndOfStream`: they went
        elif isinstance(event, h11.Request):
            head = event
            if _announced(event) > _MOST_BODY:
                raise _RefusedError(_too_large())
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > _MOST_BODY:
                raise _RefusedError(_too_large())
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return _request(head, bytes(body))
        else:
            raise anyio.EndOfStream


def _announced(head: h11.Request) -> int:
    return next((int(value) for name, value in head.headers if name == b"content-length"), 0)


def _too_large() -> Answer:
    return Answer.said(413, f"a body has {_MOST_BODY >> 10} KiB at most")


def _request(head: h11.Request, body: bytes) -> Request:
    headers: dict[str, str] = {}
    for raw, value in head.headers:
        name, text = raw.decode("ascii"), value.decode("latin-1")
        headers[name] = f"{headers[name]},{text}" if name in headers else text
    path = head.target.decode("ascii").partition("?")[0]
    return Request(head.method.decode("ascii"), path, headers, body)


def _written(connection: h11.Connection, answer: Answer, *, head_only: bool = False) -> bytes:
    headers = [
        (b"Server", _SERVER),
        (b"Content-Type", answer.content_type.encode()),
        (b"Content-Length", b"%d" % len(answer.body)),
        (b"Connection", b"close"),
        *((name.encode(), value.encode()) for name, value in answer.headers.items()),
    ]
    data = connection.send(h11.Response(status_code=answer.status, headers=headers)) or b""
    if not head_only:
        data += connection.send(h11.Data(data=answer.body)) or b""
    return data + (connection.send(h11.EndOfMessage()) or b"")


async def _send(stream: ByteStream, data: bytes, within: float) -> None:
    with anyio.move_on_after(within):
        await stream.send(data)
        await stream.send_eof()


async def _linger(stream: ByteStream) -> None:
    """Take in what they are still sending: a socket closed on unread bytes resets, and the answer is lost."""
    left = _MOST_LINGERING
    with anyio.move_on_after(_LINGER):
        while left > 0:
            left -= len(await stream.receive(_PIECE))
