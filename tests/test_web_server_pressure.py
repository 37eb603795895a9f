"""The small server under pressure: who is slow keeps nobody else without an answer."""

from __future__ import annotations

import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketStream
from callers import GET, HOST, Echo, ask, connected, listening, post, rest
from ports import free_port
from studio import TEST_TIMEOUT, logged, until

from floradl.net.addresses import Endpoint
from floradl.web.http import (
    MOST,
    ClientConnection,
    ClientConnections,
    ConnectionStage,
    HttpRequest,
    HttpResponse,
    Site,
    overdue,
    slowest,
)
from floradl.web.server import WebServer

pytestmark = pytest.mark.anyio

MANY = 60
FEW = 20  # places
HEALTH = b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
HELD = {
    "nothing sent": b"",
    "a head that never ends": b"GET /here HTTP/1.1\r\nHost: x\r\nX: ",
    "a body that never ends": post(b"x" * 1000)[:-900],
    "a chunk that never ends": b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5;x=",
    "half a TLS hello": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
}


@asynccontextmanager
async def crowd(
    port: int, raw: bytes, *, many: int = MANY, host: str = HOST
) -> AsyncIterator[list[SocketStream]]:
    """Connect many times, say `raw` each time, and stay."""
    async with AsyncExitStack() as stack:
        streams = []
        for _ in range(many):
            streams.append(await stack.enter_async_context(await anyio.connect_tcp(host, port)))
            if raw:
                await streams[-1].send(raw)
        yield streams


@pytest.mark.parametrize("raw", HELD.values(), ids=HELD.keys())
async def test_who_is_whole_is_answered_while_hundreds_never_end(raw: bytes) -> None:
    async with listening(Echo(), within=60.0, most=FEW) as port, crowd(port, raw):
        assert (await ask(port, HEALTH)).endswith(b"well")
        assert (await ask(port, post(b"words"))).endswith(b"words")


async def test_more_than_there_are_places_by_default_keep_nobody_waiting() -> None:
    async with listening(Echo(), within=60.0) as port, crowd(port, b"GET /here", many=MOST + 44):
        assert (await ask(port, HEALTH)).endswith(b"well")
        assert (await ask(port, post(b"words"))).endswith(b"words")


async def test_an_address_of_version_6_stands_a_crowd_as_well() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with listening(Echo(), within=60.0, host="::1", most=FEW) as port, crowd(port, b"GET", host="::1"):
        assert (await ask(port, post(b"words"), host="::1")).endswith(b"words")


async def test_who_does_not_take_the_answer_keeps_nobody_waiting() -> None:
    class Much(Echo):
        async def __call__(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse(200, b"x" * (8 << 20) if request.method == "GET" else request.body)

    async with listening(Much(), within=60.0, most=FEW) as port, crowd(port, GET):
        assert (await ask(port, post(b"words"))).endswith(b"words")


async def test_who_is_sent_away_is_told_to_come_again() -> None:
    async with listening(Echo(), within=60.0, most=FEW) as port, crowd(port, b"GET /h") as streams:
        with anyio.fail_after(TEST_TIMEOUT):
            assert (await rest(streams[0])).startswith(b"HTTP/1.1 503")


async def test_health_is_answered_while_every_other_page_is_held_up() -> None:
    echo = Echo()
    echo.hold = anyio.Event()
    async with listening(echo) as port, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(ask, port, GET)
        await until(lambda: echo.at_once == 64)
        assert (await ask(port, HEALTH)).endswith(b"well")
        echo.hold.set()


async def test_health_is_answered_while_more_wait_for_a_page_than_there_are_places() -> None:
    echo = Echo()
    echo.hold = anyio.Event()
    async with listening(echo, most=80) as port, crowd(port, GET, many=100):
        await until(lambda: echo.at_once == 64)
        assert (await ask(port, HEALTH)).endswith(b"well")
        echo.hold.set()


async def test_who_stops_sending_after_the_request_is_answered() -> None:
    async with listening(Echo()) as port, await anyio.connect_tcp(HOST, port) as stream:
        await stream.send(post(b"words"))
        await stream.send_eof()
        assert (await rest(stream)).endswith(b"words")


async def test_a_connection_that_would_be_kept_is_ended() -> None:
    async with listening(Echo()) as port:
        answer = await ask(port, post(b"words", b"Connection: keep-alive"))
    assert b"connection: close" in answer.lower()


async def test_of_requests_sent_at_once_the_first_is_answered_whole() -> None:
    echo = Echo()
    async with listening(echo) as port:
        answer = await ask(port, post(b"x" * 60_000), *[post(b"y" * 60_000)] * 5)
    assert answer.endswith(b"\r\n\r\n" + b"x" * 60_000)
    assert len(echo.seen) == 1


async def test_a_body_in_chunks_with_long_extensions_is_refused() -> None:
    echo = Echo()
    head = b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"1;" + b"e" * 15_000 + b"\r\nx\r\n"
    async with listening(echo) as port:
        assert (await ask(port, head, *[chunk] * 60)).startswith(b"HTTP/1.1 413")
    assert echo.seen == []


async def test_thousands_of_headers_are_read_or_refused() -> None:
    async with listening(Echo()) as port:
        taken = await ask(port, b"GET /here HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 3000 + b"\r\n")
        refused = await ask(port, b"GET /here HTTP/1.1\r\nHost: x\r\n" + b"a:b\r\n" * 30_000 + b"\r\n")
    assert taken.startswith(b"HTTP/1.1 200")
    assert refused.startswith(b"HTTP/1.1 4")


# Descriptors


@contextmanager
def without_descriptors() -> Iterator[None]:
    """Let this process open nothing while the block lasts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(path.name) for path in Path("/proc/self/fd").iterdir())
    taken = [socket.socket() for _ in range(highest)]  # what is free below the highest
    lowest = min(one.fileno() for one in taken)
    for one in taken:
        one.close()
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_spell_without_descriptors_loses_no_place_and_no_caller() -> None:
    echo, port = Echo(), free_port()
    listener = WebServer(Endpoint(HOST, port), Site({("GET", "/here"): echo}), again=3600.0)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await connected(port)
        for _ in range(3):
            await until(lambda: len(listener._visits) == 0)
            caller = socket.socket()
            caller.settimeout(TEST_TIMEOUT)
            with logged() as logs, without_descriptors():
                await anyio.to_thread.run_sync(caller.connect, (HOST, port))
                caller.sendall(GET)
                listener._starved_at = -1e9
                await until(logs.__len__)
            assert [log["event"] for log in logs] == ["accept_failed"]
            assert "LimitNOFILE" in logs[0]["message"]
            assert (await anyio.to_thread.run_sync(caller.recv, 100)).startswith(b"HTTP/1.1 200")
            caller.close()
        group.cancel_scope.cancel()


async def test_a_spell_without_descriptors_sends_the_slowest_away() -> None:
    port = free_port()
    listener = WebServer(Endpoint(HOST, port), Site({("GET", "/here"): Echo()}), within=3600.0)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await connected(port)
        await until(lambda: len(listener._visits) == 0)
        async with await anyio.connect_tcp(HOST, port) as slow:
            await until(lambda: len(listener._visits) == 1)
            caller = socket.socket()
            caller.settimeout(TEST_TIMEOUT)
            with without_descriptors():
                await anyio.to_thread.run_sync(caller.connect, (HOST, port))
                caller.sendall(GET)
                assert (await rest(slow)).startswith(b"HTTP/1.1 503")
            answer = await anyio.to_thread.run_sync(caller.recv, 100)
            caller.close()
        assert answer.startswith(b"HTTP/1.1 200")
        group.cancel_scope.cancel()


# Who goes: pure


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def visit(clock: Clock, stage: ConnectionStage, since: float) -> ClientConnection:
    one = ClientConnection(clock)
    one.stage, one.since = stage, since
    return one


async def test_a_head_has_one_second_under_pressure_and_a_body_two() -> None:
    clock = Clock()
    head, body = visit(clock, ConnectionStage.HEAD, 0.0), visit(clock, ConnectionStage.BODY, 0.0)
    assert overdue([head, body], 0.9) == []
    assert overdue([head, body], 1.0) == [head]
    assert overdue([body, head], 2.0) == [head, body]


async def test_the_slowest_for_what_it_does_goes_first() -> None:
    clock = Clock()
    body, head, answering = (
        visit(clock, ConnectionStage.BODY, 0.0),
        visit(clock, ConnectionStage.HEAD, 0.4),
        visit(clock, ConnectionStage.ANSWERING, 0.0),
    )
    assert slowest([answering, body, head], 0.5) is body
    assert slowest([answering, body, head], 0.9) is head
    assert slowest([answering], 100.0) is None


async def test_a_whole_request_is_sent_away_only_after_it_waited_a_second() -> None:
    clock = Clock()
    queued = visit(clock, ConnectionStage.QUEUED, 0.0)
    assert slowest([queued], 0.9) is None
    assert slowest([queued], 1.0) is queued


async def test_the_slow_stay_while_there_is_room() -> None:
    clock = Clock()
    visits = ClientConnections(clock, most=300)
    first = visits.admit()
    for _ in range(100):
        clock.now += 0.1
        visits.admit()
    assert len(visits) == 101
    for _ in range(60):
        visits.admit()
    assert first.sent_away
    assert len(visits) < 100
