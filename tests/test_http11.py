"""Bodies that go around h11, and what becomes of their connections."""

from __future__ import annotations

import mmap
import socket
import ssl
import threading
from collections.abc import Callable
from itertools import accumulate

import httpx
import pytest
from clients import client
from loopback import OK, Certificate, Server, read_head
from studio import TEST_TIMEOUT
from wire import answer

from floradl.net.bandwidth import BandwidthLimiter, RateSchedule
from floradl.net.client import MediaClient
from floradl.net.http11 import pieces
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy

LARGE = bytes(range(256)) * 4000  # more than one buffer full


class Talking(Server):
    """Speaks with each client as `talk` says; it is given the number of the connection, from 1 on."""

    def __init__(self, talk: Callable[[socket.socket, int], None], tls: ssl.SSLContext | None = None) -> None:
        super().__init__(tls=tls)
        self._talk = talk

    def talk(self, connection: socket.socket) -> None:
        self._talk(connection, self.connections)


def media(limits: PoolLimits = PoolLimits(connect=5.0, read=5.0)) -> MediaClient:  # noqa: B008 - it is frozen
    return client(UrlPolicy(["127.0.0.1"]), limits=limits)


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}/"


def collect(response: httpx.Response, received: bytearray) -> None:
    for piece in pieces(response):
        received.extend(piece)


# --- the bytes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1000, 256 << 10, (256 << 10) + 1, len(LARGE)])
def test_a_body_arrives_byte_for_byte(size: int) -> None:
    body = LARGE[:size]
    with Server(lambda _: answer(body)) as server, media() as http:
        assert http.get(url(server)).content == body
        with http.stream("GET", url(server)) as response:
            assert b"".join(bytes(piece) for piece in pieces(response)) == body


def test_pieces_end_where_pages_end() -> None:
    with (
        Server(lambda _: answer(LARGE)) as server,
        media() as http,
        http.stream("GET", url(server)) as response,
    ):
        ends = list(accumulate(len(piece) for piece in pieces(response)))
    assert ends[0] % mmap.PAGESIZE  # what came with the head
    assert any(end % mmap.PAGESIZE == 0 for end in ends[1:-1])


def test_a_piece_that_is_kept_for_too_long_says_so_instead_of_lying() -> None:
    with Server(lambda _: answer(LARGE)) as server, media() as http:
        with http.stream("GET", url(server)) as response:
            kept = [piece for piece in pieces(response) if isinstance(piece, memoryview)]
        assert len(kept) > 1
        for piece in kept:
            with pytest.raises(ValueError, match="released"):
                bytes(piece)


def test_a_piece_cannot_be_used_after_its_answer_was_closed() -> None:
    with Server(lambda _: answer(LARGE)) as server, media() as http:
        with http.stream("GET", url(server)) as response:
            body = pieces(response)
            while not isinstance(piece := next(body), memoryview):
                pass  # what came with the head
            assert bytes(piece) in LARGE
        with pytest.raises(ValueError, match="released"):
            bytes(piece)


def test_what_httpx_reads_may_be_kept() -> None:
    with Server(lambda _: answer(LARGE)) as server, media() as http:
        with http.stream("GET", url(server)) as response:
            kept = list(response.iter_raw())
        assert b"".join(kept) == LARGE


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_came_before_the_connection_broke_is_handed_out_first(
    scheme: str, certificate: Certificate, tls: dict[str, str]
) -> None:
    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(answer(LARGE)[:-1])  # and no goodbye, which under TLS is an error of its own

    with (
        Talking(talk, certificate.server if scheme == "https" else None) as server,
        client(UrlPolicy(["127.0.0.1"]), tls) as http,
        http.stream("GET", f"{scheme}://127.0.0.1:{server.port}/") as response,
    ):
        received = bytearray()
        with pytest.raises(httpx.TransportError):
            collect(response, received)
        assert received == LARGE[:-1]


def test_bytes_that_came_are_handed_out_although_the_next_keep_us_waiting() -> None:
    go_on = threading.Event()

    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(answer(LARGE)[:-1])
        if go_on.wait(TEST_TIMEOUT):
            connection.sendall(LARGE[-1:])

    with Talking(talk) as server, media(PoolLimits(read=20)) as http:
        received = bytearray()
        with http.stream("GET", url(server)) as response:
            for piece in pieces(response):
                received.extend(piece)
                if len(received) == len(LARGE) - 1:
                    go_on.set()  # only now: a reader that waits for a full buffer never gets here
        assert received == LARGE


def test_a_body_can_be_read_from_the_answers_own_stream() -> None:
    head_is_here = threading.Event()

    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(answer(b"", length=2))
        head_is_here.wait(TEST_TIMEOUT)
        connection.sendall(b"ok")

    with Talking(talk) as server, media() as http, http.stream("GET", url(server)) as response:
        head_is_here.set()
        stream = response.extensions["network_stream"]
        assert stream.read(1, 5.0) + stream.read(9, 5.0) == b"ok"


def test_under_a_cap_each_turn_is_handed_out_as_it_comes() -> None:
    bandwidth = BandwidthLimiter(RateSchedule.always(2_000_000))
    with (
        Server(lambda _: answer(LARGE[:300_000])) as server,
        client(UrlPolicy(["127.0.0.1"]), bandwidth=bandwidth) as http,
        http.stream("GET", url(server)) as response,
    ):
        sizes = [len(piece) for piece in pieces(response)]
    assert sum(sizes) == 300_000
    assert max(sizes) <= 100_000  # the 0.05 s of one turn


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_chunks_of_one_byte_are_a_body() -> None:
    body = LARGE[:100_000]
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    with Server(lambda _: CHUNKED + chunks) as server, media() as http:
        assert http.get(url(server)).content == body


def test_chunks_that_are_little_but_extension_are_given_up() -> None:
    chunk = b"1;x=" + b"e" * 60_000 + b"\r\nx\r\n"
    with (
        Server(lambda _: CHUNKED + chunk * 50 + b"0\r\n\r\n") as server,
        media() as http,
        pytest.raises(httpx.RemoteProtocolError, match="bytes of chunks held"),
    ):
        http.get(url(server))


def test_a_body_that_drips_between_long_extensions_is_given_up() -> None:
    over = threading.Event()

    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(CHUNKED)
        while not over.wait(0.05):
            connection.sendall(b"1;x=" + b"e" * 2000 + b"\r\nx\r\n")

    with Talking(talk) as server, media(PoolLimits(read=0.5)) as http:
        with pytest.raises(httpx.ReadTimeout, match="bytes came"):
            http.get(url(server))
        over.set()


# --- heads -------------------------------------------------------------------------------------------


def test_interim_answers_are_passed_over() -> None:
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + b"HTTP/1.1 100 Continue\r\n\r\n" * 3
    with Server(lambda _: interim + OK) as server, media() as http:
        for _ in range(2):
            assert http.get(url(server)).text == "ok"
        assert server.connections == 1


def test_interim_answers_without_end_are_given_up() -> None:
    with (
        Server(lambda _: b"HTTP/1.1 100 Continue\r\n\r\n" * 100) as server,
        media() as http,
        pytest.raises(httpx.RemoteProtocolError, match="interim"),
    ):
        http.get(url(server))


def test_a_head_that_is_too_large_is_refused() -> None:
    fields = b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(200))
    with (
        Server(lambda _: b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n") as server,
        media() as http,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        http.get(url(server))


@pytest.mark.parametrize(
    ("method", "head"),
    [
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n"),
    ],
)
def test_an_answer_that_has_no_body_is_not_waited_for(method: str, head: bytes) -> None:
    with Server(lambda _: head) as server, media() as http:
        for _ in range(2):
            with http.stream(method, url(server)) as response:
                assert response.read() == b""
        assert server.connections == 1


# --- the connection afterwards -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, len(LARGE)])
def test_a_connection_serves_on_after_a_body_that_was_read_to_its_end(size: int) -> None:
    with Server(lambda _: answer(LARGE[:size])) as server, media() as http:
        for _ in range(3):
            assert http.get(url(server)).content == LARGE[:size]
        assert server.connections == 1


@pytest.mark.parametrize("size", [0, 1000, len(LARGE)])
def test_bytes_beyond_a_body_end_its_connection(size: int) -> None:
    with Server(lambda _: answer(LARGE[:size]) + OK) as server, media() as http:
        for _ in range(2):
            assert http.get(url(server)).content == LARGE[:size]
        assert server.connections == 2


def test_bytes_that_come_while_a_connection_is_idle_end_it() -> None:
    late, sent = threading.Event(), threading.Event()

    def talk(connection: socket.socket, _number: int) -> None:
        while read_head(connection):
            connection.sendall(answer(LARGE))
            if late.wait(TEST_TIMEOUT):
                connection.sendall(OK)
                sent.set()

    with Talking(talk) as server, media() as http:
        assert http.get(url(server)).content == LARGE
        late.set()
        assert sent.wait(TEST_TIMEOUT)
        assert http.get(url(server)).content == LARGE
        assert server.connections == 2


@pytest.mark.parametrize(
    "head", [b"HTTP/1.0 200 OK\r\n", b"HTTP/1.1 200 OK\r\nConnection: Close\r\n"], ids=["1.0", "close"]
)
def test_a_connection_that_is_to_be_closed_is_not_used_again(head: bytes) -> None:
    whole = head + b"Content-Length: %d\r\n\r\n" % len(LARGE) + LARGE
    with Server(lambda _: whole) as server, media() as http:
        for _ in range(2):
            assert http.get(url(server)).content == LARGE
        assert server.connections == 2


def test_a_body_that_is_closed_half_read_ends_its_connection() -> None:
    with Server(lambda _: answer(LARGE)) as server, media() as http:
        with http.stream("GET", url(server)) as response:
            next(iter(pieces(response)))
        assert http.get(url(server)).content == LARGE
        assert server.connections == 2


# --- a server that closed meanwhile ------------------------------------------------------------------


def test_a_connection_that_the_server_closed_while_idle_costs_nobody_anything() -> None:
    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)
        connection.sendall(OK)

    with Talking(talk) as server, media() as http:
        for _ in range(3):
            assert http.get(url(server)).text == "ok"
            assert server.left.wait(TEST_TIMEOUT)
            server.left.clear()
        assert server.connections == 3


def closing_at_the_second_request(reply: bytes = b"") -> Callable[[socket.socket, int], None]:
    """Answer the first request of the first connection, and `reply` to the second before it is closed."""

    def talk(connection: socket.socket, number: int) -> None:
        read_head(connection)
        connection.sendall(OK)
        if read_head(connection) and number == 1:
            connection.sendall(reply)

    return talk


def test_a_request_that_met_a_closing_connection_is_sent_anew() -> None:
    with Talking(closing_at_the_second_request()) as server, media() as http:
        assert [http.get(url(server)).text for _ in range(2)] == ["ok", "ok"]
        assert server.connections == 2


def test_a_request_is_not_sent_anew_once_a_byte_of_an_answer_came() -> None:
    with Talking(closing_at_the_second_request(b"H")) as server, media() as http:
        assert http.get(url(server)).text == "ok"
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(url(server))
        assert server.connections == 1


def test_a_request_is_not_sent_anew_where_asking_twice_is_not_asking_once() -> None:
    with Talking(closing_at_the_second_request()) as server, media() as http:
        assert http.get(url(server)).text == "ok"
        with (
            pytest.raises(httpx.RemoteProtocolError, match="without sending"),
            http.stream("POST", url(server)),
        ):
            pass
        assert server.connections == 1


def test_a_request_that_a_new_connection_does_not_answer_is_not_sent_anew() -> None:
    def talk(connection: socket.socket, _number: int) -> None:
        read_head(connection)

    with Talking(talk) as server, media() as http:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending"):
            http.get(url(server))
        assert server.connections == 1


def test_a_request_is_sent_anew_once_only() -> None:
    def talk(connection: socket.socket, number: int) -> None:
        read_head(connection)
        if number == 1:
            connection.sendall(OK)
            read_head(connection)

    with Talking(talk) as server, media() as http:
        assert http.get(url(server)).text == "ok"
        with pytest.raises(httpx.RemoteProtocolError, match="without sending"):
            http.get(url(server))
        assert server.connections == 2
