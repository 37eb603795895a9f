"""Many small GETs in one thread, against real servers on loopback."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from queue import SimpleQueue
from typing import Any

import httpx
import pytest
from clients import QUICK
from loopback import OK, Certificate, Server, read_head, trap
from studio import TEST_TIMEOUT, wait_until
from wire import answer, chunked, unframed

from floradl.errors import ErrorCode, PermanentError
from floradl.net import url_policy
from floradl.net.client import HttpTransport
from floradl.net.http11 import Connection, Timeouts
from floradl.net.multi_client import MultiClient
from floradl.net.plain_exchange import NotPlainError, SmallAnswer, SmallRequest
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy

MIB = 1 << 20
LOCAL = ["127.0.0.1", "localhost", "::1"]


class Tokens:
    """Lets `most` transfers be under way at once; `out` are."""

    def __init__(self, most: int = 1000) -> None:
        self.most = most
        self.out = 0
        self._lock = threading.Lock()

    def take_now(self) -> bool:
        with self._lock:
            if self.out >= self.most:
                return False
            self.out += 1
            return True

    def release(self) -> None:
        with self._lock:
            self.out -= 1


class Clock:
    """Stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Many:
    """A client for many, what its requests ended with, and what it shares."""

    def __init__(
        self,
        *,
        tokens: Tokens | None = None,
        policy: UrlPolicy | None = None,
        limits: PoolLimits = QUICK,
        environ: dict[str, str] | None = None,
        clock: Callable[[], float] | None = None,
        transport: Any = None,
    ) -> None:
        self.tokens = tokens or Tokens()
        self.policy = policy or UrlPolicy(LOCAL)
        self.transport = transport or HttpTransport(self.policy, limits, environ or {})
        clocks = {} if clock is None else {"monotonic": clock}
        self.client = MultiClient(self.transport, {"User-Agent": "test"}, limits, self.tokens, **clocks)
        self.reports: list[tuple[bytes, int]] = []
        self.begun: list[str] = []
        self._ended: SimpleQueue[tuple[str, SmallAnswer | Exception]] = SimpleQueue()

    def ask(self, url: str, begin: Callable[[], None] | None = None) -> None:
        parsed = url_policy.parse(url)

        def note() -> None:
            self.begun.append(parsed.path)
            if begin is not None:
                begin()

        def progress(so_far: SmallAnswer, total: int) -> None:
            self.reports.append((bytes(so_far.body), total))

        self.client.send(SmallRequest(parsed, {}, note, progress, partial(self._end, parsed.path)))

    def _end(self, path: str, result: SmallAnswer | Exception) -> None:
        self._ended.put((path, result))

    def next(self, *, take: bool = True) -> SmallAnswer | Exception:
        """Return what the next request ended with; take care of it where it is an answer."""
        return self.named(take=take)[1]

    def named(self, *, take: bool = True) -> tuple[str, SmallAnswer | Exception]:
        path, result = self._ended.get(timeout=TEST_TIMEOUT)
        if take and isinstance(result, SmallAnswer):
            self.client.taken(result)
        return path, result

    def body(self) -> bytes:
        result = self.next()
        assert isinstance(result, SmallAnswer), result
        assert result.error is None
        assert result.status_code == 200
        return bytes(result.body)

    @property
    def count(self) -> int:
        return self._ended.qsize()

    @property
    def is_all_told(self) -> bool:
        return self._ended.empty()


@contextmanager
def many(**parts: Any) -> Iterator[Many]:
    """Open a client for many; in the end it has given all tokens back."""
    opened = Many(**parts)
    try:
        yield opened
    finally:
        opened.client.close()
        if isinstance(opened.transport, HttpTransport):
            opened.transport.close()
    assert opened.tokens.out == 0


def at(server: Server, path: str = "/") -> str:
    return f"http://127.0.0.1:{server.port}{path}"


def echo(head: bytes) -> bytes:
    """Answer with the path."""
    return answer(head.split(b" ", 2)[1])


class Talk(Server):
    """Speaks with each client as `script` says, which gets the number of the connection, from 1 on."""

    def __init__(self, script: Callable[[socket.socket, int], None], **parts: Any) -> None:
        super().__init__(**parts)
        self._script = script

    def talk(self, connection: socket.socket) -> None:
        self._script(connection, self.connections)


def test_hundreds_of_requests_each_get_their_own_answer() -> None:
    with Server(echo) as one, Server(echo) as other, many(tokens=Tokens(16)) as clients:
        for nth in range(400):
            clients.ask(at(one if nth % 3 else other, f"/{nth}"))
        ended = [clients.named() for _ in range(400)]
    bodies = {path: bytes(got.body) for path, got in ended if isinstance(got, SmallAnswer)}
    assert bodies == {f"/{nth}": f"/{nth}".encode() for nth in range(400)}
    assert one.connections + other.connections <= 2 * 16


def test_no_more_requests_are_under_way_than_there_are_tokens() -> None:
    under_way, most = [0], [0]
    lock, gate = threading.Lock(), threading.Barrier(3, timeout=TEST_TIMEOUT)

    def slow(head: bytes) -> bytes:
        with lock:
            under_way[0] += 1
            most[0] = max(most[0], under_way[0])
        gate.wait()
        with lock:
            under_way[0] -= 1
        return echo(head)

    with Server(slow) as server, many(tokens=Tokens(3)) as clients:
        for nth in range(12):
            clients.ask(at(server, f"/{nth}"))
        for _ in range(12):
            clients.body()
    assert most == [3]


def test_a_kept_connection_serves_one_request_after_the_other() -> None:
    with Server(echo) as server, many() as clients:
        for nth in range(5):
            clients.ask(at(server, f"/{nth}"))
            assert clients.body() == f"/{nth}".encode()
        assert server.connections == 1


def test_bytes_beyond_an_answer_are_not_taken_for_the_next_one() -> None:
    smuggled = answer(b"another's bytes")

    def script(connection: socket.socket, _: int) -> None:
        while head := read_head(connection):
            first = head.startswith(b"GET /first ")
            connection.sendall(answer(bytes(100_000)) + smuggled if first else echo(head))

    with Talk(script) as server, many(tokens=Tokens(1)) as clients:
        clients.ask(at(server, "/first"))
        clients.ask(at(server, "/second"))
        assert clients.body() == bytes(100_000)
        assert clients.body() == b"/second"


def test_bytes_beyond_an_answer_under_tls_are_not_taken_for_the_next_one(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    # One record: what is decrypted already is in no socket that a selector could look at.
    def script(connection: socket.socket, _: int) -> None:
        while head := read_head(connection):
            if head.startswith(b"GET /first "):
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n")
                gate.wait(TEST_TIMEOUT)
                connection.sendall(b"/first!" + answer(b"another's bytes"))
            else:
                connection.sendall(echo(head))

    gate = threading.Event()
    with Talk(script, tls=certificate.server) as server, many(tokens=Tokens(1), environ=tls) as clients:
        clients.ask(f"https://127.0.0.1:{server.port}/first")
        clients.ask(f"https://127.0.0.1:{server.port}/second")
        gate.set()
        assert clients.body() == b"/first!"
        assert clients.body() == b"/second"


def test_a_kept_connection_that_the_server_closes_without_an_answer_is_made_anew_once() -> None:
    def script(connection: socket.socket, nth: int) -> None:
        while head := read_head(connection):
            if nth == 1 and head.startswith(b"GET /second "):
                return
            connection.sendall(echo(head))

    with Talk(script) as server, many() as clients:
        clients.ask(at(server, "/first"))
        assert clients.body() == b"/first"
        clients.ask(at(server, "/second"))
        assert clients.body() == b"/second"
        assert clients.begun == ["/first", "/second"]
        assert server.connections == 2


def test_a_new_connection_that_is_closed_without_an_answer_ends_the_request() -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_head(connection)

    with Talk(script) as server, many() as clients:
        clients.ask(at(server))
        assert isinstance(clients.next(), httpx.ReadError)
        assert server.connections == 1


def test_an_answer_that_breaks_off_comes_as_far_as_it_came() -> None:
    with (
        Talk(
            lambda connection, _: connection.sendall(read_head(connection) and answer(b"abc", length=9))
        ) as server,
        many() as clients,
    ):
        clients.ask(at(server))
        result = clients.next()
    assert isinstance(result, SmallAnswer)
    assert bytes(result.body) == b"abc"
    assert isinstance(result.error, httpx.ReadError)


def test_an_answer_that_tls_ends_without_a_goodbye_is_broken(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_head(connection)
        connection.sendall(answer(b"abc", length=9))

    with Talk(script, tls=certificate.server) as server, many(environ=tls) as clients:
        clients.ask(f"https://127.0.0.1:{server.port}/")
        result = clients.next()
    assert isinstance(result, SmallAnswer)
    assert bytes(result.body) == b"abc"
    assert isinstance(result.error, httpx.ReadError)


def test_tls_is_reused_as_plain_connections_are(certificate: Certificate, tls: dict[str, str]) -> None:
    with Server(echo, tls=certificate.server) as server, many(environ=tls) as clients:
        for nth in range(4):
            clients.ask(f"https://127.0.0.1:{server.port}/{nth}")
            assert clients.body() == f"/{nth}".encode()
        assert server.connections == 1


def test_a_host_that_says_nothing_is_given_up() -> None:
    clock = Clock()
    with Server(lambda _: None) as server, many(clock=clock, limits=PoolLimits(read=30.0)) as clients:
        clients.ask(at(server))
        assert server.asked.wait(TEST_TIMEOUT)
        clock.now += 29.0
        clock.now += 2.0
        assert isinstance(clients.next(), httpx.ReadTimeout)


def test_a_refusal_comes_with_its_status_and_fields() -> None:
    refusal = answer(b"later", "Retry-After: 7", status="429 Too Many Requests")
    with Server(lambda _: refusal) as server, many() as clients:
        clients.ask(at(server))
        result = clients.next()
    assert isinstance(result, SmallAnswer)
    assert (result.status_code, result.headers["retry-after"], result.body) == (429, "7", b"")


@pytest.mark.parametrize(
    "odd",
    [
        b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        answer(b"", "Location: /else", status="302 Found"),
        answer(b"ab", "Content-Length: 2"),
        answer(b"ab", "Content-Length: 3"),
        answer(b"ab", "Transfer-Encoding: chunked"),
        chunked(b"ab"),
        unframed(b"ab"),
        answer(b"ab", "Content-Encoding: gzip"),
        answer(b"", length=8 * MIB + 1),
        answer(b"ab", length=-2),
        OK.replace(b"HTTP/1.1", b"HTTP/2"),
        OK.replace(b"Content-Length: 2", b"Content-Length : 2"),
        OK.replace(b"\r\n\r\n", b"\r\n folded\r\n\r\n"),
        OK.replace(b"\r\n", b"\n"),
        OK.replace(b"\r\n\r\n", b"\n\n"),
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20_000,
        b"A" * 200_000,
    ],
    ids=lambda data: data[:60].decode("ascii").replace("\r\n", "|").replace("\n", "_"),
)
def test_what_is_no_plain_answer_is_left_to_others(odd: bytes) -> None:
    with Server(lambda _: odd) as server, many(limits=PoolLimits(read=300.0)) as clients:
        clients.ask(at(server))
        assert isinstance(clients.next(), NotPlainError)


def test_a_site_whose_answers_are_not_plain_is_left_alone_for_ten_minutes() -> None:
    clock = Clock()
    with Server(lambda _: chunked(b"ab")) as server, many(clock=clock) as clients:
        url = url_policy.parse(at(server))
        assert clients.client.reads(url)
        clients.ask(at(server))
        assert isinstance(clients.next(), NotPlainError)
        assert not clients.client.reads(url)
        clock.now += 601.0
        assert clients.client.reads(url)


@pytest.mark.parametrize("end", [b"", b"x", b"\0"])
def test_a_field_of_blanks_costs_no_time(end: bytes) -> None:
    flood = OK.replace(b"\r\n\r\n", b"\r\nX: " + b" " * 50_000 + end + b"\r\n\r\n")
    with Server(lambda _: flood) as server, many(limits=PoolLimits(read=300.0)) as clients:
        clients.ask(at(server))
        assert isinstance(clients.next(), NotPlainError if end == b"\0" else SmallAnswer)


def test_an_answer_in_http_1_0_is_read_and_its_connection_not_kept() -> None:
    with Server(lambda _: OK.replace(b"HTTP/1.1", b"HTTP/1.0")) as server, many() as clients:
        for _ in range(2):
            clients.ask(at(server))
            assert clients.body() == b"ok"
        assert server.connections == 2


def test_an_address_of_ipv6_stands_in_brackets_in_host() -> None:
    with Server(address="::1") as server, many() as clients:
        clients.ask(f"http://[::1]:{server.port}/a?b=c")
        assert clients.body() == b"ok"
    assert server.heads[0].startswith(f"GET /a?b=c HTTP/1.1\r\nHost: [::1]:{server.port}\r\n".encode())


def test_what_begin_raises_prevents_the_request() -> None:
    def refuse() -> None:
        raise ValueError("not now")

    with trap() as listener, many() as clients:
        clients.ask(f"http://127.0.0.1:{listener.getsockname()[1]}/", refuse)
        result = clients.next()
    assert isinstance(result, ValueError)


def test_a_connection_that_cannot_be_made_ends_its_request(closed_port: int) -> None:
    with many() as clients:
        clients.ask(f"http://127.0.0.1:{closed_port}/")
        assert isinstance(clients.next(), httpx.ConnectError)


def test_a_request_that_waits_is_judged_by_the_policy_that_holds_when_it_is_sent() -> None:
    tokens = Tokens(0)
    with trap() as listener, many(tokens=tokens) as clients:
        clients.ask(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        clients.policy.change(LOCAL, ["elsewhere.example"])
        tokens.most = 1
        clients.client.wake()
        result = clients.next()
    assert isinstance(result, PermanentError)
    assert result.code is ErrorCode.HOST_REFUSED


def test_after_a_change_no_kept_connection_serves() -> None:
    with Server(echo) as server, many() as clients:
        for _ in range(2):
            clients.ask(at(server))
            clients.body()
            clients.client.change(16)
        assert server.connections == 2


def test_a_connection_in_use_during_a_change_is_not_kept() -> None:
    changed = threading.Event()

    def wait(head: bytes) -> bytes:
        assert changed.wait(TEST_TIMEOUT)
        return echo(head)

    with Server(wait) as server, many() as clients:
        clients.ask(at(server))
        assert server.asked.wait(TEST_TIMEOUT)
        clients.client.change(16)
        changed.set()
        clients.body()
        clients.ask(at(server))
        clients.body()
        assert server.connections == 2


def test_a_slow_answer_is_reported_each_second_as_far_as_it_came() -> None:
    more = threading.Event()

    def script(connection: socket.socket, _: int) -> None:
        read_head(connection)
        connection.sendall(answer(b"abc", length=6))
        assert more.wait(TEST_TIMEOUT)
        connection.sendall(b"def")

    clock = Clock()
    with Talk(script) as server, many(clock=clock, limits=PoolLimits(read=300.0)) as clients:
        clients.ask(at(server))

        def reported() -> bool:
            clock.now += 1.0
            return bool(clients.reports)

        wait_until(reported)
        assert clients.reports[-1] == (b"abc", 6)
        more.set()
        assert clients.body() == b"abcdef"


def test_no_more_bodies_are_held_than_memory_is_for() -> None:
    with Server(lambda _: answer(bytes(8 * MIB))) as server, many(limits=PoolLimits(read=60)) as clients:
        for nth in range(16):
            clients.ask(at(server, f"/{nth}"))
        held = [clients.next(take=False) for _ in range(3)]
        for _ in range(13):
            assert clients.is_all_told
            clients.client.taken(held.pop(0))  # type: ignore[arg-type]
            held.append(clients.next(take=False))
        for each in held:
            clients.client.taken(each)  # type: ignore[arg-type]


def test_bodies_that_take_long_give_way_to_those_that_wait_for_memory() -> None:
    def script(connection: socket.socket, _: int) -> None:
        while head := read_head(connection):
            slow = b"/slow" in head
            connection.sendall(answer(b"begun", length=8 * MIB - head[10]) if slow else answer(bytes(1000)))

    clock = Clock()
    with Talk(script) as server, many(clock=clock, limits=PoolLimits(read=9000)) as clients:
        for nth in range(3):
            clients.ask(at(server, f"/slow/{nth}"))

        def reported() -> bool:
            clock.now += 1.0
            return len({total for _, total in clients.reports}) == 3

        wait_until(reported)
        clients.ask(at(server, "/quick"))

        def gave_way() -> bool:
            clock.now += 1.0
            return clients.count == 4

        wait_until(gave_way)
        ended = [clients.named() for _ in range(4)]
    assert ended[-1][0] == "/quick"
    assert [type(result) for _, result in ended] == 3 * [NotPlainError] + [SmallAnswer]


def test_a_large_answer_that_waits_for_memory_is_not_overtaken() -> None:
    with (
        Server(lambda head: answer(bytes(8 * MIB if b"/large" in head else MIB))) as server,
        many(limits=PoolLimits(read=60)) as clients,
    ):
        for nth in range(20):
            clients.ask(at(server, f"/{nth}"))
        held = [clients.next(take=False) for _ in range(20)]
        clients.ask(at(server, "/large"))
        wait_until(lambda: clients.client._parked)
        clients.ask(at(server, "/late"))
        wait_until(lambda: len(clients.client._parked) == 2)  # there is room for the late one, and it waits
        for each in held:
            clients.client.taken(each)  # type: ignore[arg-type]
        assert {clients.named()[0] for _ in range(2)} == {"/large", "/late"}


def test_nothing_is_sent_while_many_answers_are_not_taken_care_of() -> None:
    with Server(echo) as server, many(tokens=Tokens(1)) as clients:
        for nth in range(108):
            clients.ask(at(server, f"/{nth}"))
        held = [clients.next(take=False) for _ in range(96)]
        assert len(server.heads) == 96
        for each in held:
            assert isinstance(each, SmallAnswer)
            clients.client.taken(each)
        for _ in range(12):
            clients.body()


class Stuck:
    """Connects when it is let."""

    def __init__(self) -> None:
        self.dialing, self.let = threading.Semaphore(0), threading.Event()
        self.closed = threading.Semaphore(0)

    def check(self, url: httpx.URL) -> None: ...

    def proxy_of(self, url: httpx.URL) -> None: ...

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection:  # noqa: ARG002
        self.dialing.release()
        assert self.let.wait(TEST_TIMEOUT)
        near, far = socket.socketpair()
        far.close()
        closed = self.closed

        class Made:
            direct_socket = near

            def close(self) -> None:
                near.close()
                closed.release()

        return Connection(Made())  # type: ignore[arg-type]


def test_closing_ends_every_request_wherever_it_is() -> None:
    stuck = Stuck()
    with many(transport=stuck, tokens=Tokens(12)) as clients:
        for nth in range(20):  # some are being connected, some wait for that, and some for a token
            clients.ask(f"http://host.example/{nth}")
        for _ in range(8):
            assert stuck.dialing.acquire(timeout=TEST_TIMEOUT)
        clients.client.close()
        assert [type(clients.next()) for _ in range(20)] == 20 * [httpx.ReadError]
        assert clients.is_all_told
        stuck.let.set()
        for _ in range(8):  # what is connected too late is closed
            assert stuck.closed.acquire(timeout=TEST_TIMEOUT)


def test_an_end_that_comes_right_before_the_thread_looks_is_not_overlooked() -> None:
    # The moment between two looks cannot be hit from outside: there the client ends itself.
    def refuse() -> None:
        raise ValueError("not now")

    with many() as clients:
        take_in = clients.client._take_in

        def end_first() -> None:
            with clients.client._lock:
                clients.client._stopped = True
                clients.client._wake()
            take_in()

        clients.client._take_in = end_first  # type: ignore[method-assign]
        clients.ask("http://127.0.0.1:1/", refuse)
        assert isinstance(clients.next(), ValueError)
        thread = clients.client._thread
        assert thread is not None
        thread.join(10)
        assert not thread.is_alive()


def test_what_is_sent_after_the_end_ends_at_once() -> None:
    with many() as clients:
        clients.client.close()
        clients.ask("http://127.0.0.1:1/")
        assert isinstance(clients.next(), httpx.ReadError)


def test_an_abort_ends_what_is_under_way_with_what_came() -> None:
    def script(connection: socket.socket, _: int) -> None:
        read_head(connection)
        connection.sendall(answer(b"abc", length=9))
        came.set()
        connection.recv(1)

    came = threading.Event()
    clock = Clock()
    with Talk(script) as server, many(clock=clock, limits=PoolLimits(read=300.0)) as clients:
        clients.ask(at(server))
        assert came.wait(TEST_TIMEOUT)

        def reported() -> bool:
            clock.now += 1.0
            return bool(clients.reports)

        wait_until(reported)
        clients.transport.abort()
        result = clients.next()
    assert isinstance(result, SmallAnswer)
    assert bytes(result.body) == b"abc"
    assert isinstance(result.error, httpx.ReadError)


def test_after_an_abort_nothing_is_connected() -> None:
    with trap() as listener, many() as clients:
        clients.transport.abort()
        clients.ask(f"http://127.0.0.1:{listener.getsockname()[1]}/")
        # The system may complete the connection; nothing is sent over it, and it is closed.
        assert isinstance(clients.next(), httpx.ConnectError)
        with listener.accept()[0] as accepted:
            assert accepted.recv(1) == b""
