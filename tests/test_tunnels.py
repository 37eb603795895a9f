"""What goes through proxies, beyond the first request."""

from __future__ import annotations

import httpx
import pytest
from clients import SITE, client
from loopback import Certificate, ConnectProxy, Server
from wire import answer

from floradl.errors import PermanentError
from floradl.net.url_policy import UrlPolicy

LARGE = bytes(range(256)) * 4000


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_tunnel_serves_one_request_after_the_other(
    scheme: str, certificate: Certificate, tls: dict[str, str]
) -> None:
    proxy_tls = certificate.server if scheme == "https" else None
    with (
        Server(lambda _: answer(LARGE), tls=certificate.server) as server,
        ConnectProxy(server.port, tls=proxy_tls) as proxy,
        client(UrlPolicy(), tls | {"HTTPS_PROXY": f"{scheme}://127.0.0.1:{proxy.port}"}) as http,
    ):
        for _ in range(3):
            assert http.get("https://public.example/").content == LARGE
        assert (proxy.connections, server.connections) == (1, 1)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bytes_beyond_a_body_end_their_tunnel(
    scheme: str, certificate: Certificate, tls: dict[str, str]
) -> None:
    proxy_tls = certificate.server if scheme == "https" else None
    with (
        Server(lambda _: answer(LARGE) + answer(b"another output"), tls=certificate.server) as server,
        ConnectProxy(server.port, tls=proxy_tls) as proxy,
        client(UrlPolicy(), tls | {"HTTPS_PROXY": f"{scheme}://127.0.0.1:{proxy.port}"}) as http,
    ):
        for _ in range(2):
            assert http.get("https://public.example/").content == LARGE
        assert server.connections == 2


def test_a_tunnel_to_an_address_names_it_in_brackets(certificate: Certificate, tls: dict[str, str]) -> None:
    with (
        ConnectProxy(status=b"502 Bad Gateway", tls=certificate.server) as proxy,
        client(UrlPolicy(), tls | {"HTTPS_PROXY": f"https://127.0.0.1:{proxy.port}"}) as http,
        pytest.raises(httpx.ProxyError, match="502 Bad Gateway"),
    ):
        http.get("https://[2606:2800:220:1::34]/")
    assert proxy.heads[0].startswith(b"CONNECT [2606:2800:220:1::34]:443 HTTP/1.1\r\n")
    assert b"\r\nHost: [2606:2800:220:1::34]:443\r\n" in proxy.heads[0]


def test_a_proxy_that_forwards_gets_its_password_and_keeps_its_connection() -> None:
    with (
        ConnectProxy() as proxy,
        client(UrlPolicy([SITE]), {"HTTP_PROXY": f"http://me:s3cret@127.0.0.1:{proxy.port}"}) as http,
    ):
        for _ in range(2):
            assert http.get(f"http://{SITE}.:8080/x?sig=1").text == "ok"
        assert proxy.connections == 1
    for head in proxy.heads:
        assert head.startswith(b"GET http://site.example:8080/x?sig=1 HTTP/1.1\r\n")
        assert b"\r\nProxy-Authorization: Basic bWU6czNjcmV0\r\n" in head


@pytest.mark.parametrize("host", ["nas.lan", "x.corp", "x.home.arpa", "x.intranet", "x.localhost"])
def test_a_name_of_a_private_network_is_not_asked_of_a_proxy_unless_it_is_trusted(
    host: str, certificate: Certificate, tls: dict[str, str]
) -> None:
    with Server(tls=certificate.server) as server, ConnectProxy(server.port) as proxy:
        environ = tls | {"HTTPS_PROXY": f"http://127.0.0.1:{proxy.port}"}
        with client(UrlPolicy(), environ) as http, pytest.raises(PermanentError, match="private network"):
            http.get(f"https://{host}/")
        assert proxy.heads == []
        with (
            client(UrlPolicy([host]), environ) as http,
            pytest.raises(httpx.ConnectError, match="certificate"),
        ):
            http.get(f"https://{host}/")
        assert proxy.heads[0].startswith(f"CONNECT {host}:443 ".encode())
