"""A proxy that says no: it is named, with what to set, and everything waits until it says yes.

The last tests are made with a real Squid, where it is installed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import anyio
import httpx
import pytest
from clients import SITE, api_client, client
from loopback import Certificate, ConnectProxy, Server
from studio import TEST_TIMEOUT, Home, wait_until
from wire import Bench

from floradl.errors import ApiUnavailableError, ErrorCode, TransientError
from floradl.flora.client import FloraClient
from floradl.flora.rate_limit import RateLimiter
from floradl.models import Reference
from floradl.net.errors import CertificateError, ProxyRefusedError
from floradl.net.url_policy import UrlPolicy

REFUSALS = [
    (b"407 Proxy Authentication Required", "NAME:PASSWORD@127.0.0.1:{port} in HTTPS_PROXY"),
    (b"403 Forbidden", "NO_PROXY"),
]
SQUID = shutil.which("squid") or "/usr/sbin/squid"
needs_squid = pytest.mark.skipif(not Path(SQUID).exists(), reason="needs Squid")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize(("status", "remedy"), REFUSALS)
def test_a_proxy_that_refuses_a_media_host_is_named_with_what_to_set(
    tmp_path: Path, status: bytes, remedy: str
) -> None:
    with ConnectProxy(status=status) as proxy:
        environ = {"HTTPS_PROXY": f"http://me:s3cret@127.0.0.1:{proxy.port}"}
        with Bench(tmp_path, environ=environ) as bench, pytest.raises(TransientError) as caught:
            bench.fetch("https://media.flora.ai/o.png?s=1")
        message = str(caught.value)
        assert message.startswith("the media host cannot be reached: media.flora.ai: the proxy refused")
        assert status.decode() in message
        assert f"the proxy is 127.0.0.1:{proxy.port}" in message
        assert remedy.format(port=proxy.port) in message
    assert caught.value.code is ErrorCode.NETWORK
    assert "s3cret" not in message


@pytest.mark.anyio
@pytest.mark.parametrize(("status", "remedy"), REFUSALS)
async def test_a_proxy_that_refuses_the_api_is_named_with_what_to_set(status: bytes, remedy: str) -> None:
    with ConnectProxy(status=status) as proxy:
        error = await asked_through(f"http://me:s3cret@127.0.0.1:{proxy.port}", "https://app.flora.ai/api/v1")
        assert f"the proxy is 127.0.0.1:{proxy.port}" in str(error)
        assert remedy.format(port=proxy.port) in str(error)
    assert "s3cret" not in str(error)


@pytest.mark.anyio
async def test_a_proxy_that_is_not_there_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    error = await asked_through(f"http://127.0.0.1:{port}", "https://app.flora.ai/api/v1")
    assert f"through the proxy 127.0.0.1:{port}" in str(error)


async def asked_through(proxy: str, base_url: str) -> ApiUnavailableError:
    url_policy = UrlPolicy([SITE])
    environ = {"HTTPS_PROXY": proxy, "HTTP_PROXY": proxy}
    with api_client(base_url, url_policy, environ) as api:
        flora = FloraClient(api, lambda: "sk_test_0123456789abcdef", RateLimiter(lambda: 0.0))
        with pytest.raises(ApiUnavailableError) as caught, anyio.fail_after(TEST_TIMEOUT):
            await flora.run(Reference("run_a"))
    return caught.value


@pytest.mark.anyio
async def test_a_forwarding_proxy_that_wants_a_login_is_no_answer_of_floras() -> None:
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    with Server(lambda _: refusal) as proxy:
        error = await asked_through(f"http://127.0.0.1:{proxy.port}", f"http://{SITE}/api/v1")
        assert f"NAME:PASSWORD@127.0.0.1:{proxy.port}" in str(error)
        with (
            client(UrlPolicy([SITE]), {"HTTP_PROXY": f"http://127.0.0.1:{proxy.port}"}) as http,
            pytest.raises(ProxyRefusedError, match="407 Proxy Authentication Required"),
        ):
            http.get(f"http://{SITE}/o.png")


@pytest.mark.anyio
async def test_a_proxy_that_opens_tls_is_told_with_what_to_set(
    certificate: Certificate, tmp_path: Path
) -> None:
    with Server(tls=certificate.server) as server, ConnectProxy(server.port) as proxy:
        url = f"http://127.0.0.1:{proxy.port}"
        error = await asked_through(url, "https://app.flora.ai/api/v1")
        assert "SSL_CERT_FILE" in str(error)
        assert f"through the proxy 127.0.0.1:{proxy.port}" in str(error)
        with client(UrlPolicy(), {"HTTPS_PROXY": url}) as http, pytest.raises(CertificateError):
            http.get("https://media.flora.ai/")
        with (
            Bench(tmp_path, environ={"HTTPS_PROXY": url}) as bench,
            pytest.raises(TransientError, match="SSL_CERT_FILE"),
        ):
            bench.fetch("https://media.flora.ai/o.png")


def test_a_proxy_without_trouble_of_its_own_is_not_blamed() -> None:
    with (
        Server(lambda _: b"HTTP/1.1 407 X\r\nContent-Length: 0\r\n\r\n") as server,
        client(UrlPolicy(["127.0.0.1"])) as http,
    ):
        assert http.get(f"http://127.0.0.1:{server.port}/").status_code == 407


# --- with Squid -----------------------------------------------------------------------------------------


@contextmanager
def squid(*rules: str) -> Iterator[int]:
    """Run Squid, with a login `me` and `s3cret` where `rules` ask for one; gives its port."""
    with tempfile.TemporaryDirectory(prefix="floradl-squid-") as folder:
        yield from _squid(Path(folder), *rules)


def _squid(folder: Path, *rules: str) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    helper = folder / "helper"
    helper.write_text(
        '#!/bin/sh\nwhile read line; do [ "$line" = "me s3cret" ] && echo OK || echo ERR; done\n'
    )
    helper.chmod(0o755)
    lines = [
        f"http_port 127.0.0.1:{port}",
        f"pid_filename {folder}/squid.pid",
        f"cache_log {folder}/cache.log",
        "access_log none",
        "cache deny all",
        "shutdown_lifetime 0 seconds",
        "pinger_enable off",
        f"auth_param basic program {helper}",
        *rules,
    ]
    if os.geteuid() == 0:
        folder.chmod(0o777)  # Squid becomes a user of its own, and has its files here
    config = folder / "squid.conf"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "out").open("wb") as out:
        process = subprocess.Popen([SQUID, "-N", "-f", str(config)], stdout=out, stderr=out)
    try:
        wait_until(lambda: process.poll() is not None or listens(port))
        if process.poll() is not None:
            pytest.skip(f"Squid does not start: {(folder / 'out').read_text()[-300:]}")
        yield port
    finally:
        process.kill()
        process.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@needs_squid
def test_squid_wants_a_login(tmp_path: Path) -> None:
    rules = ("acl known proxy_auth REQUIRED", "http_access allow known", "http_access deny all")
    with squid(*rules) as port:
        home = Home(tmp_path, None, FLORA_API_KEY="sk_test_0123456789abcdef")
        home.environ["HTTPS_PROXY"] = f"http://me:wr0ng@127.0.0.1:{port}"
        done = home.run("check")
        assert (
            "FAIL  proxy: app.flora.ai: the proxy refused (407 Proxy Authentication Required): the proxy is "
            f"127.0.0.1:{port} -> it wants a name and a password"
        ) in done.stdout
        with home.daemon():
            home.drop("t/run_a")
            (trouble,) = wait_until(lambda: home.events("run_trouble"))
            assert home.status()["paused"] is None
            assert home.status()["counts"]["failed"] == 0
        assert f"the proxy is 127.0.0.1:{port}" in trouble["message"]
        assert "NAME:PASSWORD@" in trouble["message"]
        said = done.stdout + done.stderr + (home.path / "daemon.log").read_text()
        assert "wr0ng" not in said


@needs_squid
def test_squid_refuses_a_port() -> None:
    rules = ("acl usual port 443", "http_access deny CONNECT !usual", "http_access allow all")
    with (
        squid(*rules) as port,
        client(UrlPolicy(), {"HTTPS_PROXY": f"http://127.0.0.1:{port}"}) as http,
    ):
        with pytest.raises(ProxyRefusedError, match=r"403 Forbidden\): the proxy is .* NO_PROXY"):
            http.get("https://media.flora.ai:8443/o.png")
        with pytest.raises(httpx.ProxyError, match=r"50[0-9] .*is it the right one"):
            http.get("https://nobody.example/o.png")
