from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from pathlib import Path

import anyio
import httpx
import pytest
from clients import QUICK, SITE, api_client, client, resolve_to
from loopback import Certificate, Server, in_own_network, trap

from floradl.errors import ConfigError, PermanentError
from floradl.net.pool import PoolLimits
from floradl.net.url_policy import UrlPolicy


@pytest.mark.parametrize(
    "url",
    [
        "https://127.0.0.1:{}/",
        "http://127.0.0.1:{}/",
        "https://0.0.0.0:{}/",
        "https://[::ffff:127.0.0.1]:{}/",
        "https://[64:ff9b::127.0.0.1]:{}/",
        "https://2130706433:{}/",
        "https://0x7f000001:{}/",
        "https://0177.0.0.1:{}/",
        "https://127.1:{}/",
        "https://127。0。0。1:{}/",
        "https://localhost:{}/",
        "https://public.example@127.0.0.1:{}/",
        "https://user:secret@public.example:{}/",
        "http://public.example:{}/",
    ],
)
@pytest.mark.parametrize("proxied", [False, True])
def test_no_connection_is_made_to_a_private_address_however_it_is_spelled(url: str, *, proxied: bool) -> None:
    url_policy = UrlPolicy(resolver=lambda _host, _port: ["127.0.0.1", "::1", "10.0.0.1"])
    with trap() as listener, trap() as proxy:
        port = listener.getsockname()[1]
        environ = {"ALL_PROXY": f"http://127.0.0.1:{proxy.getsockname()[1]}"} if proxied else {}
        # httpx itself reads 0177.0.0.1 as nothing at all.
        with client(url_policy, environ) as http, pytest.raises((PermanentError, httpx.InvalidURL)):
            http.get(url.format(port))


def test_no_connection_is_made_to_a_name_at_private_addresses_only() -> None:
    url_policy = UrlPolicy(resolver=lambda _host, _port: ["127.0.0.1", "10.0.0.1"])
    with (
        trap() as listener,
        client(url_policy) as http,
        pytest.raises(PermanentError, match="is at a private address"),
    ):
        http.get(f"https://public.example:{listener.getsockname()[1]}/")


@pytest.mark.root
def test_a_resolver_that_changes_its_answer_is_asked_once_and_never_leads_inside(
    certificate: Certificate,
) -> None:
    public, asked = "93.184.216.34", []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return [public] if len(asked) == 1 else ["127.0.0.1"]

    def work() -> None:
        with Server(address=public, tls=certificate.server) as server, trap(port=server.port):
            with client(UrlPolicy(resolver=resolver), {"SSL_CERT_FILE": str(certificate.file)}) as http:
                assert http.get(f"https://public.example:{server.port}/").text == "ok"
                assert asked == ["public.example"]
            with (
                client(UrlPolicy(resolver=resolver)) as http,
                pytest.raises(PermanentError, match="private address"),
            ):
                http.get(f"https://public.example:{server.port}/")

    in_own_network(work, public)


@pytest.mark.root
def test_of_a_names_addresses_the_public_ones_are_tried_in_turn(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    dead, alive, later = "93.184.216.33", "2606:2800:220:1::34", "93.184.216.35"
    url_policy = UrlPolicy(
        resolver=lambda _host, _port: ["127.0.0.1", "::1", dead, "::ffff:127.0.0.1", alive, later]
    )

    async def ask(url: str, environ: dict[str, str]) -> str:
        with api_client(url, url_policy, environ, QUICK) as http:
            return (await http.get("/", 100)).body.decode()

    def work() -> None:
        with Server(address=alive, tls=certificate.server) as server:
            port, url = server.port, f"https://public.example:{server.port}/"
            with trap("127.0.0.1", port), trap("::1", port), trap(later, port):
                with client(url_policy, tls) as http:
                    assert http.get(url).text == "ok"
                assert anyio.run(ask, url, tls) == "ok"
            assert server.connections == 2

    in_own_network(work, dead, alive, later)


def test_a_kept_connection_needs_no_second_look_up() -> None:
    asked: list[str] = []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["127.0.0.2"]

    with Server() as server, client(UrlPolicy([SITE], resolver=resolver)) as http:
        for _ in range(3):
            assert http.get(f"http://{SITE}:{server.port}/").text == "ok"
        assert server.connections == 1
    assert asked == [SITE]


def test_all_addresses_of_a_trusted_name_are_tried_in_turn() -> None:
    # Each 127.0.0.x is a host of its own; nobody listens at the first two.
    with Server(address="127.0.0.4") as server, trap("127.0.0.5", server.port):
        url_policy = resolve_to("127.0.0.2", "127.0.0.3", "127.0.0.4", "127.0.0.5")
        with client(url_policy) as http:
            assert http.get(f"http://{SITE}:{server.port}/").text == "ok"


def test_an_address_that_does_not_answer_leaves_time_for_the_next() -> None:
    with socket.create_server(("127.0.0.2", 0), backlog=0) as full, Server(port=port_of(full)) as server:
        # A full backlog drops what comes next, as a firewall does.
        waiting = [socket.socket() for _ in range(4)]
        for sock in waiting:
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.2", server.port))
        try:
            started = time.monotonic()
            with client(resolve_to("127.0.0.2", "127.0.0.1"), limits=PoolLimits(connect=4.0)) as http:
                assert http.get(f"http://{SITE}:{server.port}/").text == "ok"  # both within that limit
            assert time.monotonic() - started > 1.6  # the first was given its share
        finally:
            for sock in waiting:
                sock.close()


def port_of(sock: socket.socket) -> int:
    port: int = sock.getsockname()[1]
    return port


def test_where_no_address_answers_the_error_is_one_that_may_pass(closed_port: int) -> None:
    with client(resolve_to("127.0.0.1", "127.0.0.2")) as http, pytest.raises(httpx.ConnectError) as caught:
        http.get(f"http://{SITE}:{closed_port}/x?PLANTED")
    assert str(caught.value).startswith(f"{SITE}: no connection (")
    assert "PLANTED" not in str(caught.value)


def test_a_name_that_nobody_knows_is_an_error_that_may_pass() -> None:
    def resolver(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    said = r"^gone\.example: no connection \(the name could not be looked up: Name or service not known\)$"
    with client(UrlPolicy(resolver=resolver)) as http, pytest.raises(httpx.ConnectError, match=said):
        http.get("https://gone.example/")


def test_a_name_without_addresses_is_an_error_that_may_pass() -> None:
    with (
        client(UrlPolicy(resolver=lambda _host, _port: [])) as http,
        pytest.raises(httpx.ConnectError, match="the name has no address"),
    ):
        http.get("https://gone.example/")


def test_a_look_up_that_hangs_ends_with_the_time_to_connect() -> None:
    hanging = threading.Event()

    def resolver(_host: str, _port: int) -> list[str]:
        hanging.wait(30)
        return []

    with (
        client(UrlPolicy(resolver=resolver), limits=PoolLimits(connect=0.1)) as http,
        pytest.raises(httpx.ConnectTimeout, match=r"^slow\.example: .* looked up in time"),
    ):
        http.get("https://slow.example/")
    hanging.set()


def test_tls_checks_the_name_although_the_connection_goes_to_a_number(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    with Server(tls=certificate.server, address="0.0.0.0") as server:
        url_policy = UrlPolicy(["*"], resolver=lambda _host, _port: ["127.0.0.1"])
        with client(url_policy, tls) as http:
            assert http.get(f"https://{SITE}:{server.port}/").text == "ok"
            assert http.get(f"https://{SITE}.:{server.port}/").text == "ok"
            with pytest.raises(httpx.ConnectError, match=r"other\.example: .*certificate"):
                http.get(f"https://other.example:{server.port}/")
            with pytest.raises(httpx.ConnectError, match="certificate"):
                http.get(f"https://127.0.0.2:{server.port}/")


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Certificate) -> None:
    with (
        Server(tls=certificate.server) as server,
        client(resolve_to("127.0.0.1")) as http,
        pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"),
    ):
        http.get(f"https://{SITE}:{server.port}/")


def test_a_folder_of_certificates_is_read_too(certificate: Certificate, tmp_path: Path) -> None:
    command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(certificate.file)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    shutil.copy(certificate.file, tmp_path / f"{name}.0")
    environ = {"SSL_CERT_DIR": str(tmp_path)}
    with Server(tls=certificate.server) as server, client(resolve_to("127.0.0.1"), environ) as http:
        assert http.get(f"https://{SITE}:{server.port}/").text == "ok"


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_a_certificate_file_that_cannot_be_read_is_a_fault_of_the_set_up(
    content: str | None, tmp_path: Path
) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ConfigError, match=r"^SSL_CERT_FILE in the environment is .*ca\.pem"):
        client(UrlPolicy(), {"SSL_CERT_FILE": str(file)})
