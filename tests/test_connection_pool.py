from __future__ import annotations

import threading

import httpx
import pytest
from clients import client
from loopback import OK, Server, trap
from studio import TEST_TIMEOUT

from floradl.errors import PermanentError
from floradl.net.http11 import Timeouts
from floradl.net.pool import ConnectionPool, Connector, PoolLimits
from floradl.net.proxies import Routes
from floradl.net.socket_stream import OpenStreams
from floradl.net.url_policy import UrlPolicy


def test_threads_that_outnumber_the_connections_share_them_in_peace() -> None:
    with (
        Server() as one,
        Server() as other,
        client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(connections=4)) as http,
    ):
        texts: list[str] = []
        urls = [f"http://127.0.0.1:{server.port}/" for server in (one, one, one, other)]

        def work() -> None:
            texts.extend(http.get(urls[i % 4]).text for i in range(60))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert texts == ["ok"] * 480


def test_a_kept_connection_serves_one_request_after_the_other() -> None:
    with Server() as server, client(UrlPolicy(["127.0.0.1"])) as http:
        for _ in range(5):
            http.get(f"http://127.0.0.1:{server.port}/")
        assert server.connections == 1


def test_a_connection_is_not_kept_beyond_its_idle_time() -> None:
    with Server() as server, client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(idle=0.0)) as http:
        for _ in range(2):
            http.get(f"http://127.0.0.1:{server.port}/")
        assert server.connections == 2


def test_a_connection_that_the_server_closed_is_not_used_again() -> None:
    answer = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with Server(lambda _: answer) as server, client(UrlPolicy(["127.0.0.1"])) as http:
        for _ in range(2):
            assert http.get(f"http://127.0.0.1:{server.port}/").text == "ok"
        assert server.connections == 2


def test_a_kept_connection_makes_room_for_one_to_another_site() -> None:
    with (
        Server() as one,
        Server() as other,
        client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(connections=1)) as http,
    ):
        http.get(f"http://127.0.0.1:{one.port}/")
        assert not one.left.is_set()
        http.get(f"http://127.0.0.1:{other.port}/")
        assert one.left.wait(TEST_TIMEOUT)
        assert not other.left.is_set()


def test_where_all_connections_are_in_use_the_wait_for_one_ends() -> None:
    with (
        Server() as server,
        client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(connections=1, read=0.1)) as http,
    ):
        url = f"http://127.0.0.1:{server.port}/"
        with (
            http.stream("GET", url),
            pytest.raises(httpx.PoolTimeout, match=r"^127\.0\.0\.1: no connection was free"),
        ):
            http.get(url)
        assert http.get(url).text == "ok"


def test_a_request_that_fails_or_is_refused_gives_its_connection_back() -> None:
    refused = UrlPolicy(["127.0.0.1"], resolver=lambda _host, _port: ["10.0.0.1"])
    with Server(lambda _: b"nonsense\r\n\r\n") as bad, Server() as good, trap() as listener:
        port = listener.getsockname()[1]
        with client(refused, limits=PoolLimits(connections=1, read=0.5)) as http:
            for _ in range(3):
                with pytest.raises(httpx.RemoteProtocolError):
                    http.get(f"http://127.0.0.1:{bad.port}/")
                with pytest.raises(PermanentError):
                    http.get(f"https://public.example:{port}/")
            assert http.get(f"http://127.0.0.1:{good.port}/").text == "ok"


def test_an_answer_that_is_closed_unread_gives_its_connection_back() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    with (
        Server(lambda _: half) as server,
        client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(connections=1)) as http,
    ):
        for _ in range(3):
            with http.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
                response.close()
        assert server.connections == 3


def test_a_client_that_is_closed_leaves_no_connection() -> None:
    with Server() as server:
        with client(UrlPolicy(["127.0.0.1"])) as http:
            http.get(f"http://127.0.0.1:{server.port}/")
            assert not server.left.is_set()
        assert server.left.wait(TEST_TIMEOUT)


def test_a_client_that_is_closed_while_a_body_is_read_ends_that_too() -> None:
    half = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok"
    with Server(lambda _: half) as server:
        http = client(UrlPolicy(["127.0.0.1"]))
        with http.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
            http.close()
            with pytest.raises(httpx.TransportError):
                response.read()
        assert server.left.wait(TEST_TIMEOUT)


def test_a_body_that_is_complete_after_its_client_was_closed_leaves_no_connection() -> None:
    with Server() as server:
        http = client(UrlPolicy(["127.0.0.1"]))
        with http.stream("GET", f"http://127.0.0.1:{server.port}/") as response:
            http.close()
            # It came with the head, and was read with it: the connection could serve another request.
            assert response.read() == b"ok"
            sock = response.extensions["network_stream"].get_extra_info("socket")
        assert sock.fileno() == -1


def test_a_good_connection_that_comes_back_after_the_end_is_not_kept() -> None:
    with Server() as server:
        leases = ConnectionPool(Connector(Routes({}, UrlPolicy(["127.0.0.1"])), OpenStreams()), 1, 30.0)
        request = httpx.Request("GET", f"http://127.0.0.1:{server.port}/")
        pooled = leases.take(request.url, 5.0)
        connection = leases.connected(pooled, request.url, Timeouts.of(request))
        exchange, _ = connection.ask(request)
        assert b"".join(exchange.body()) == b"ok"
        assert connection.is_free()
        leases.close()
        leases.give_back(pooled)
        assert server.left.wait(TEST_TIMEOUT)


def test_connections_that_were_made_before_a_change_serve_nobody_after_it() -> None:
    with Server() as server, client(UrlPolicy(["127.0.0.1"])) as http:
        url = f"http://127.0.0.1:{server.port}/"
        http.get(url)
        with http.stream("GET", url) as response:
            http.change(4)
            response.read()
        http.get(url)
        assert server.connections == 2
