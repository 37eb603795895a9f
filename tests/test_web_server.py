"""The small server that webhooks and scrapers meet: bounded, whoever comes."""

from __future__ import annotations

import socket
from contextlib import suppress

import anyio
import pytest
from callers import GET, HOST, Echo, ask, connected, listening, post, rest
from studio import TEST_TIMEOUT, logged, until

from floradl.net.addresses import Endpoint
from floradl.web.http import HttpRequest, HttpResponse, Site
from floradl.web.server import WebServer

pytestmark = pytest.mark.anyio


async def test_a_request_gets_its_answer_and_the_connection_ends() -> None:
    async with listening(Echo()) as port:
        answer = await ask(port, post(b"words"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert b"connection: close" in head.lower()
    assert body == b"words"


async def test_a_body_may_come_in_chunks_and_pieces() -> None:
    head = b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with listening(Echo()) as port:
        answer = await ask(port, head[:20], head[20:], b"3\r\nwor\r\n", b"2\r\nds\r\n0\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nwords")


async def test_the_page_sees_path_and_headers_and_no_query() -> None:
    echo = Echo()
    async with listening(echo) as port:
        await ask(
            port, b"GET /here?token=1 HTTP/1.1\r\nHost: x\r\nFlora-Signature: a\r\nFLORA-SIGNATURE: b\r\n\r\n"
        )
    assert echo.seen[0].path == "/here"
    assert echo.seen[0].headers["flora-signature"] == "a,b"


async def test_head_has_the_length_and_no_body() -> None:
    async with listening(Echo()) as port:
        answer = await ask(port, GET.replace(b"GET", b"HEAD"))
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\n")


async def test_who_asks_before_sending_the_body_is_told_to_go_on() -> None:
    async with listening(Echo()) as port, await anyio.connect_tcp(HOST, port) as stream:
        head, body = post(b"words", b"Expect: 100-continue").split(b"\r\n\r\n")
        await stream.send(head + b"\r\n\r\n")
        assert (await stream.receive()).startswith(b"HTTP/1.1 100")
        await stream.send(body)
        assert (await rest(stream)).endswith(b"words")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [(b"GET /elsewhere", b"404"), (b"DELETE /here", b"405"), (b"GET /here", b"200")],
)
async def test_a_page_is_found_by_method_and_path(request_line: bytes, status: bytes) -> None:
    async with listening(Echo()) as port:
        answer = await ask(port, request_line + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 " + status)


async def test_64_kib_are_taken() -> None:
    async with listening(Echo()) as port:
        answer = await ask(port, post(b"x" * 65536))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_longer_body_is_refused_and_the_answer_arrives() -> None:
    echo = Echo()
    async with listening(echo) as port:
        announced = await ask(port, post(b"x" * 400_000))
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        unannounced = await ask(
            port, b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", chunk, chunk
        )
    assert announced.startswith(b"HTTP/1.1 413")
    assert unannounced.startswith(b"HTTP/1.1 413")
    assert echo.seen == []


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 50 + b"\r\n\r\n",  # TLS
        b"GET /here\r\n\r\n",
        b"GET /here HTTP/1.1\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n",
        b"GET /here HTTP/1.1\r\n\r\n",
        b"GET /here HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 60_000 + b"\r\n\r\n",
        b"POST /here HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_what_is_no_request_gets_a_refusal_and_reaches_no_page(raw: bytes) -> None:
    echo = Echo()
    async with listening(echo) as port:
        assert (await ask(port, raw)).startswith(b"HTTP/1.1 4")
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
    assert len(echo.seen) == 1


async def test_a_slow_sender_is_dropped() -> None:
    echo = Echo()
    async with listening(echo, within=0.3) as port, await anyio.connect_tcp(HOST, port) as stream:
        with anyio.fail_after(TEST_TIMEOUT), suppress(anyio.BrokenResourceError):
            for letter in post(b"x" * 60_000)[:200]:
                await stream.send(bytes([letter]))
                await anyio.sleep(0.02)
        with anyio.fail_after(TEST_TIMEOUT):
            assert (await rest(stream)).startswith((b"HTTP/1.1 408", b""))
    assert echo.seen == []


async def test_who_sends_nothing_is_dropped() -> None:
    async with listening(Echo(), within=0.2) as port, await anyio.connect_tcp(HOST, port) as stream:
        with anyio.fail_after(TEST_TIMEOUT):
            assert (await rest(stream)).startswith(b"HTTP/1.1 408")


async def test_who_does_not_take_the_answer_is_dropped() -> None:
    class Much(Echo):
        async def __call__(self, request: HttpRequest) -> HttpResponse:
            await super().__call__(request)
            return HttpResponse(200, b"x" * 50_000_000)

    async with listening(Much(), within=0.3) as port, await anyio.connect_tcp(HOST, port) as stream:
        await stream.send(GET)
        await anyio.sleep(0.6)
        with anyio.fail_after(TEST_TIMEOUT):
            assert len(await rest(stream)) < 50_000_000


async def test_who_hangs_up_costs_nothing() -> None:
    echo = Echo()
    async with listening(echo) as port:
        for cut in (0, 5, len(post(b"words")) - 1):
            async with await anyio.connect_tcp(HOST, port) as stream:
                await stream.send(post(b"words")[:cut] or b"P")
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
    assert len(echo.seen) == 1


async def test_more_at_once_than_there_are_places_wait_and_are_all_answered() -> None:
    echo = Echo()
    echo.hold = anyio.Event()
    answers: list[bytes] = []

    async def one(port: int) -> None:
        answers.append(await ask(port, GET))

    async with listening(echo) as port, anyio.create_task_group() as group:
        for _ in range(150):
            group.start_soon(one, port)
        await until(lambda: echo.at_once >= 60)
        await anyio.sleep(0.2)
        assert echo.at_once <= 64
        echo.hold.set()
    assert len(answers) == 150
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert echo.most <= 64


async def test_a_bug_in_a_page_is_500_and_the_next_one_is_answered() -> None:
    class Broken(Echo):
        async def __call__(self, request: HttpRequest) -> HttpResponse:
            if not self.seen:
                self.seen.append(request)
                raise LookupError("ours")
            return await super().__call__(request)

    async with listening(Broken()) as port:
        with logged() as logs:
            assert (await ask(port, GET)).startswith(b"HTTP/1.1 500")
        assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
    assert [log["event"] for log in logs] == ["bug"]


async def test_a_port_that_is_taken_is_said_once_and_had_as_soon_as_it_is_free() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port: int = taken.getsockname()[1]
        listener = WebServer(Endpoint(HOST, port), Site({("GET", "/here"): Echo()}), again=0.05)
        async with anyio.create_task_group() as group:
            with logged() as logs:
                group.start_soon(listener.serve)
                await until(lambda: listener.trouble)
                await anyio.sleep(0.3)
            assert [log["event"] for log in logs] == ["not_listening"]
            assert "another program has it" in logs[0]["message"]
            taken.close()
            await connected(port)
            assert (await ask(port, GET)).startswith(b"HTTP/1.1 200")
            assert listener.trouble is None
            group.cancel_scope.cancel()


async def test_an_address_of_another_machine_is_said_to_be_one() -> None:
    listener = WebServer(Endpoint("192.0.2.1", 8787), Site({}), again=0.05)
    async with anyio.create_task_group() as group:
        group.start_soon(listener.serve)
        await until(lambda: listener.trouble)
        group.cancel_scope.cancel()
    assert "no such address" in (listener.trouble or "")


async def test_it_listens_where_it_is_told_and_nowhere_else() -> None:
    async with listening(Echo()) as port:
        with pytest.raises(OSError, match="connect"):
            await anyio.connect_tcp("127.0.0.2", port)


async def test_it_listens_at_an_ipv6_address() -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with listening(Echo(), host="::1") as port:
        assert (await ask(port, GET, host="::1")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8787", "127.0.0.1", 8787),
        ("[::1]:1", "::1", 1),
        ("localhost:65535", "localhost", 65535),
        ("0.0.0.0:80", "0.0.0.0", 80),
    ],
)
async def test_an_endpoint_is_read_and_written_alike(text: str, host: str, port: int) -> None:
    endpoint = Endpoint.parse(text)
    assert (endpoint.host, endpoint.port, str(endpoint)) == (host, port, text)


@pytest.mark.parametrize("text", ["8787", ":8787", "127.0.0.1", "::1:80", "h:0", "h:65536", "http://h:1", ""])
async def test_what_is_no_endpoint_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"\d+\.\d+\.\d+\.\d+:\d+"):
        Endpoint.parse(text)
