"""Whoever connects to floradl's own server, and a page that answers them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import anyio
from anyio.abc import SocketStream
from ports import free_port
from studio import TEST_TIMEOUT

from floradl.net.addresses import Endpoint
from floradl.web.http import MOST, HttpRequest, HttpResponse, Page, Site
from floradl.web.server import WebServer

HOST = "127.0.0.1"
GET = b"GET /here HTTP/1.1\r\nHost: x\r\n\r\n"


class Echo:
    """Answers with the body it was given; `seen` are the requests. It waits while `hold` says so."""

    def __init__(self) -> None:
        self.seen: list[HttpRequest] = []
        self.at_once = self.most = 0
        self.hold: anyio.Event | None = None

    async def __call__(self, request: HttpRequest) -> HttpResponse:
        self.seen.append(request)
        self.at_once += 1
        self.most = max(self.most, self.at_once)
        if self.hold is not None:
            await self.hold.wait()
        self.at_once -= 1
        return HttpResponse(200, request.body)


async def _well(_request: HttpRequest) -> HttpResponse:
    return HttpResponse(200, b"well")


@asynccontextmanager
async def listening(
    echo: Echo, within: float = 5.0, host: str = HOST, most: int = MOST
) -> AsyncIterator[int]:
    """Listen at a port with `echo` at GET and POST /here; /health has places of its own."""
    port = free_port()
    pages: dict[tuple[str, str], Page] = {
        ("POST", "/here"): echo,
        ("GET", "/here"): echo,
        ("GET", "/health"): _well,
    }
    listener = WebServer(Endpoint(host, port), Site(pages, apart=("/health",)), within=within, most=most)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await connected(port, host)
        yield port
        group.cancel_scope.cancel()


async def connected(port: int, host: str = HOST) -> None:
    with anyio.fail_after(TEST_TIMEOUT):
        while True:
            with suppress(OSError):
                async with await anyio.connect_tcp(host, port):
                    return
            await anyio.sleep(0.01)


async def rest(stream: SocketStream) -> bytes:
    """Return what comes until the connection ends."""
    answer = b""
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        while True:
            answer += await stream.receive()
    return answer


async def ask(port: int, *pieces: bytes, host: str = HOST) -> bytes:
    with anyio.fail_after(TEST_TIMEOUT):
        async with await anyio.connect_tcp(host, port) as stream:
            with suppress(anyio.BrokenResourceError):
                for piece in pieces:
                    await stream.send(piece)
            return await rest(stream)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST /here HTTP/1.1", b"Host: x", b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
