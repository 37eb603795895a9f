from __future__ import annotations

import socket

import anyio
import httpcore
import httpx
import pytest
from clients import QUICK, SITE, api_client, client, resolve_to
from loopback import OK, Certificate, ConnectProxy, Server, read_head, trap

from floradl.errors import ErrorCode, PermanentError
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy, redirect_target

# --- proxies -----------------------------------------------------------------------------------------


def test_https_goes_through_the_proxy_which_looks_the_name_up(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    def resolver(_host: str, _port: int) -> list[str]:
        raise AssertionError("the proxy looks names up")

    with Server(tls=certificate.server) as server, ConnectProxy(server.port) as proxy:
        environ = tls | {"HTTPS_PROXY": f"http://me:s3cret@127.0.0.1:{proxy.port}"}
        with client(UrlPolicy(resolver=resolver), environ) as http:
            assert http.get("https://public.example/x?sig=1").text == "ok"
        assert proxy.heads[0].startswith(b"CONNECT public.example:443 HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6czNjcmV0\r\n" in proxy.heads[0]
        assert b"Proxy-Authorization" not in server.heads[0]


def test_through_a_proxy_tls_still_checks_the_name(certificate: Certificate, tls: dict[str, str]) -> None:
    with Server(tls=certificate.server) as server, ConnectProxy(server.port) as proxy:
        environ = tls | {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with client(UrlPolicy(), environ) as http, pytest.raises(httpx.ConnectError, match="certificate"):
            http.get("https://other.example/")


def test_plain_http_of_a_trusted_host_goes_through_its_proxy() -> None:
    with (
        ConnectProxy() as proxy,
        client(UrlPolicy([SITE]), {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}) as http,
    ):
        assert http.get(f"http://{SITE}/x").text == "ok"
        assert proxy.heads[0].startswith(b"GET http://site.example/x HTTP/1.1\r\n")


def test_a_host_of_no_proxy_is_asked_directly_under_the_full_guard() -> None:
    with trap() as proxy, Server() as server:
        environ = {"ALL_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}", "NO_PROXY": ".example"}
        with client(resolve_to("127.0.0.1"), environ) as http:
            assert http.get(f"http://{SITE}:{server.port}/").text == "ok"
        refused = UrlPolicy(resolver=lambda _host, _port: ["127.0.0.1"])
        with client(refused, environ) as http, pytest.raises(PermanentError, match="private address"):
            http.get(f"https://public.example:{server.port}/")


def test_a_proxy_that_refuses_is_an_error_that_may_pass() -> None:
    with (
        ConnectProxy(status=b"407 Proxy Authentication Required") as proxy,
        client(UrlPolicy(), {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}) as http,
        pytest.raises(httpx.ProxyError, match=r"^public\.example: the proxy refused \(407 Proxy"),
    ):
        http.get("https://public.example/x?PLANTED")


def test_a_proxy_may_speak_tls_itself(certificate: Certificate, tls: dict[str, str]) -> None:
    with Server(tls=certificate.server) as server, ConnectProxy(server.port, tls=certificate.server) as proxy:
        environ = tls | {"HTTPS_PROXY": f"https://127.0.0.1:{proxy.port}"}
        with client(UrlPolicy(), environ) as http, http.stream("GET", "https://public.example/") as response:
            # Nobody may read the outer socket: it carries the inner connection's ciphertext.
            assert response.extensions["network_stream"].get_extra_info("socket") is None
            assert response.read() == b"ok"


# --- what it sends and keeps -------------------------------------------------------------------------


def test_a_media_client_sends_no_credentials_and_keeps_no_cookies() -> None:
    answer = b"HTTP/1.1 200 OK\r\nSet-Cookie: tracked=1; Path=/\r\nContent-Length: 2\r\n\r\nok"
    with Server(lambda _: answer) as server, client(UrlPolicy(["127.0.0.1"])) as http:
        for _ in range(2):
            http.get(f"http://127.0.0.1:{server.port}/x?sig=1")
        head = server.heads[1].lower()
    assert head.startswith(b"get /x?sig=1 http/1.1\r\n")
    assert b"user-agent: floradl/test\r\n" in head
    assert b"accept-encoding: identity\r\n" in head
    assert b"cookie" not in head
    assert b"authorization" not in head


def test_a_redirect_is_not_followed_and_its_sink_sees_no_key() -> None:
    with Server() as sink:
        answer = (
            f"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:{sink.port}/y\r\nContent-Length: 0\r\n\r\n"
        )
        with Server(lambda _: answer.encode()) as server, client(UrlPolicy(["127.0.0.1"])) as http:
            first = http.get(f"http://127.0.0.1:{server.port}/")
            target = redirect_target(first)
            assert sink.connections == 0
            assert target is not None
            assert http.get(target).text == "ok"
        assert b"authorization" not in sink.heads[0].lower()


def test_a_key_that_no_header_can_carry_is_not_in_the_error() -> None:
    with (
        Server() as server,
        client(UrlPolicy(["127.0.0.1"])) as http,
        pytest.raises(httpx.LocalProtocolError) as caught,
    ):
        http.get(f"http://127.0.0.1:{server.port}/", headers={"Authorization": "Bearer PLANTED\n"})
    assert "PLANTED" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_what_a_server_sends_instead_of_http_is_not_repeated_with_its_query() -> None:
    with (
        Server(lambda _: b"HTTP/1.1 200 OK\r\nLocation https://x/y?PLANTED\r\n\r\n") as server,
        client(UrlPolicy(["127.0.0.1"])) as http,
        pytest.raises(httpx.RemoteProtocolError) as caught,
    ):
        http.get(f"http://127.0.0.1:{server.port}/")
    assert "https://x/y?..." in str(caught.value)
    assert "PLANTED" not in str(caught.value)


def test_silence_in_the_middle_of_a_body_is_a_read_timeout() -> None:
    with (
        Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\nConnection: close\r\n\r\nok") as server,
        client(UrlPolicy(["127.0.0.1"]), limits=PoolLimits(read=0.2)) as http,
        pytest.raises(httpx.ReadTimeout, match=r"^127\.0\.0\.1: no answer within"),
    ):
        http.get(f"http://127.0.0.1:{server.port}/")


def test_a_reset_is_a_read_error() -> None:
    with (
        Resetting() as server,
        client(UrlPolicy(["127.0.0.1"])) as http,
        pytest.raises(httpx.ReadError, match=r"^127\.0\.0\.1: the connection broke"),
    ):
        http.get(f"http://127.0.0.1:{server.port}/")


class Resetting(Server):
    def talk(self, connection: socket.socket) -> None:
        connection.recv(1)  # what is left unread makes `close` a reset


def test_the_responses_own_socket_is_in_reach() -> None:
    with (
        Server() as server,
        client(UrlPolicy(["127.0.0.1"])) as http,
        http.stream("GET", f"http://127.0.0.1:{server.port}/") as response,
    ):
        stream = response.extensions["network_stream"]
        assert isinstance(stream, httpcore.NetworkStream)
        assert stream.get_extra_info("socket").getpeername() == ("127.0.0.1", server.port)


# --- the client for an API ------------------------------------------------------------------------------

KEY = {"Authorization": "Bearer k"}


@pytest.mark.anyio
async def test_the_api_client_sends_its_headers_to_its_host_alone() -> None:
    with Server() as server, Server() as other:
        base = f"http://127.0.0.1:{server.port}/api/v1"
        url_policy = UrlPolicy(
            [f"127.0.0.1:{server.port}"], [f"127.0.0.1:{server.port}"], remedy="only api.base_url is"
        )
        with api_client(base, url_policy, limits=QUICK) as http:
            assert (await http.get("runs/run_1", 100, KEY)).body == b"ok"
            with pytest.raises(PermanentError, match=r"not allowed: only api\.base_url is"):
                await http.get(f"http://127.0.0.1:{other.port}/", 100, KEY)
        assert server.heads[0].startswith(b"GET /api/v1/runs/run_1 HTTP/1.1\r\n")
        assert b"Authorization: Bearer k\r\n" in server.heads[0]
        assert other.connections == 0


@pytest.mark.anyio
async def test_an_api_at_a_private_address_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(PermanentError) as caught:
        api_client("http://127.0.0.1:1/api/v1", UrlPolicy())
    assert caught.value.code is ErrorCode.HOST_REFUSED


@pytest.mark.anyio
async def test_the_api_client_connects_only_where_the_guard_lets_it(closed_port: int) -> None:
    with trap() as listener, Server(address="127.0.0.2") as server:
        url_policy = UrlPolicy(
            [SITE], resolver=lambda host, _: ["127.0.0.1" if host == "evil.example" else "127.0.0.2"]
        )
        with api_client(f"http://{SITE}:{server.port}", url_policy, limits=QUICK) as http:
            assert (await http.get("/x", 100)).body == b"ok"
            with pytest.raises(PermanentError, match="private address"):
                await http.get(f"https://evil.example:{listener.getsockname()[1]}/", 100)
            with pytest.raises(httpx.ConnectError, match=f"^{SITE}: no connection"):
                await http.get(f"http://{SITE}:{closed_port}/", 100)


@pytest.mark.anyio
async def test_the_api_client_knows_proxies_and_tls(certificate: Certificate, tls: dict[str, str]) -> None:
    with Server(tls=certificate.server) as server, ConnectProxy(server.port) as proxy:
        environ = tls | {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with api_client("https://public.example", UrlPolicy(), environ, QUICK) as http:
            assert (await http.get("/x", 100)).body == b"ok"
        assert proxy.heads[0].startswith(b"CONNECT public.example:443 ")


@pytest.mark.anyio
async def test_the_api_client_names_what_failed() -> None:
    with (
        Server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok") as server,
        api_client(f"http://127.0.0.1:{server.port}", limits=PoolLimits(read=0.1)) as http,
        pytest.raises(httpx.ReadTimeout, match=r"^127\.0\.0\.1: no answer within the time limit"),
    ):
        await http.get("/x?PLANTED", 100)


@pytest.mark.anyio
async def test_a_cancelled_api_request_gives_its_thread_and_its_connection_back() -> None:
    with (
        Server(lambda _: None) as server,
        api_client(f"http://127.0.0.1:{server.port}", limits=PoolLimits(connections=1)) as http,
    ):
        for asked in range(1, 4):  # each has to wait for the place of the one before
            server.asked.clear()
            server.left.clear()
            async with anyio.create_task_group() as group:
                group.start_soon(http.get, "/x", 100)
                assert await anyio.to_thread.run_sync(server.asked.wait, 5)
                group.cancel_scope.cancel()
            assert await anyio.to_thread.run_sync(server.left.wait, 5)
            assert server.connections == asked


@pytest.mark.anyio
async def test_an_api_request_is_repeated_where_the_kept_connection_was_closed_meanwhile() -> None:
    class Closing(Server):
        def talk(self, connection: socket.socket) -> None:
            read_head(connection)
            connection.sendall(OK)
            read_head(connection)

    with Closing() as server:
        with api_client(f"http://127.0.0.1:{server.port}") as http:
            for _ in range(3):
                assert (await http.get("/x", 100)).body == b"ok"
        assert server.connections == 3


# --- redirects ---------------------------------------------------------------------------------------


def response(status: int, *locations: str, url: str = "https://a.example/b/c?sig=1") -> httpx.Response:
    headers = [("Location", location) for location in locations]
    return httpx.Response(status, headers=headers, request=httpx.Request("GET", url))


@pytest.mark.parametrize("status", [200, 206, 300, 304, 305, 306, 404])
def test_an_answer_that_is_no_redirect_has_no_target(status: int) -> None:
    assert redirect_target(response(status, "https://x.example/")) is None


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://x.example/y?sig=2", "https://x.example/y?sig=2"),
        ("/y", "https://a.example/y"),
        ("y", "https://a.example/b/y"),
        ("../y", "https://a.example/y"),
        ("?sig=2", "https://a.example/b/c?sig=2"),
        ("//x.example/y", "https://x.example/y"),
        ("https://x.example/y#part", "https://x.example/y"),
        ("http://x.example/y", "http://x.example/y"),
    ],
)
def test_a_redirect_leads_where_its_location_says(status: int, location: str, target: str) -> None:
    assert str(redirect_target(response(status, location))) == target


@pytest.mark.parametrize(
    ("locations", "code"),
    [
        ((), ErrorCode.HTTP_ERROR),
        (("https://x.example/", "https://y.example/"), ErrorCode.HTTP_ERROR),
        (("https://x.example/\x01PLANTED",), ErrorCode.BAD_URL),
        (("https://x.example:PLANTED/",), ErrorCode.BAD_URL),
    ],
)
def test_a_redirect_to_nowhere_is_refused(locations: tuple[str, ...], code: ErrorCode) -> None:
    with pytest.raises(PermanentError, match=r"^a\.example redirects") as caught:
        redirect_target(response(302, *locations))
    assert caught.value.code is code
    assert "PLANTED" not in str(caught.value)


@pytest.mark.parametrize(
    "location", ["http://x.example/", "file:///etc/passwd", "https://127.0.0.1/", "https://u@x/"]
)
def test_a_redirect_down_or_inside_is_refused_by_the_check_of_its_target(location: str) -> None:
    target = redirect_target(response(302, location))
    assert target is not None
    with pytest.raises(PermanentError):
        UrlPolicy().check(target)
