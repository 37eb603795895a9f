from __future__ import annotations

import socket
import threading
from contextlib import suppress

import httpx
import pytest
from clients import SITE, client, resolve_to
from loopback import Certificate, Server, read_head
from studio import TEST_TIMEOUT

from floradl.net.pool import PoolLimits


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("raw", [False, True])
def test_abort_wakes_a_thread_that_waits_for_data(
    scheme: str, certificate: Certificate, tls: dict[str, str], *, raw: bool
) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"
    waiting, ended = threading.Event(), threading.Event()
    received = bytearray()
    with Server(lambda _: head, tls=certificate.server if scheme == "https" else None) as server:
        http = client(resolve_to("127.0.0.1"), tls, PoolLimits(read=10 * TEST_TIMEOUT))

        def work() -> None:
            with http.stream("GET", f"{scheme}://{SITE}:{server.port}/") as response:
                waiting.set()
                try:
                    if raw:
                        sock = response.extensions["network_stream"].get_extra_info("socket")
                        received.extend(sock.recv(9))
                    else:
                        received.extend(response.read())
                except (httpx.TransportError, OSError):
                    pass
                ended.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert waiting.wait(TEST_TIMEOUT)
        http.abort()
        http.abort()
        assert ended.wait(TEST_TIMEOUT)
        thread.join(TEST_TIMEOUT)
        assert received == b""
        with pytest.raises(httpx.ConnectError, match="stopped"):
            http.get(f"{scheme}://{SITE}:{server.port}/")
        http.close()


def test_after_abort_no_ciphertext_is_taken_for_the_body(
    certificate: Certificate, tls: dict[str, str]
) -> None:
    with (
        TwoRecords(tls=certificate.server) as server,
        client(resolve_to("127.0.0.1"), tls) as http,
        http.stream("GET", f"https://{SITE}:{server.port}/") as response,
    ):
        sock = response.extensions["network_stream"].get_extra_info("socket")
        assert server.asked.wait(TEST_TIMEOUT)
        http.abort()
        with suppress(OSError):
            assert sock.recv(9) in {b"", b"plaintext"}
            assert sock.recv(9) == b""


class TwoRecords(Server):
    """Sends head and body in a TLS record each, so that one read takes the head alone."""

    def talk(self, connection: socket.socket) -> None:
        read_head(connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        connection.sendall(b"plaintext")
        self.asked.set()
        connection.recv(1)


def test_abort_wakes_a_thread_that_shakes_hands(tls: dict[str, str]) -> None:
    failed = threading.Event()
    with Silent() as server:
        http = client(resolve_to("127.0.0.1"), tls, PoolLimits(connect=10 * TEST_TIMEOUT))

        def work() -> None:
            with pytest.raises(httpx.ConnectError):
                http.get(f"https://{SITE}:{server.port}/")
            failed.set()

        thread = threading.Thread(target=work)
        thread.start()
        assert server.asked.wait(TEST_TIMEOUT)
        http.abort()
        assert failed.wait(TEST_TIMEOUT)
        thread.join(TEST_TIMEOUT)
        http.close()


class Silent(Server):
    """Takes the first bytes of a TLS handshake, and says nothing."""

    def talk(self, connection: socket.socket) -> None:
        connection.recv(1)
        self.asked.set()
        while connection.recv(65536):
            pass
