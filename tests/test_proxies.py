from __future__ import annotations

import httpx
import pytest

from floradl.errors import ConfigError
from floradl.net.proxies import Proxies


def through(environ: dict[str, str], url: str = "https://media.flora.ai/x") -> str | None:
    proxy = Proxies(environ).of(httpx.URL(url))
    return None if proxy is None else str(proxy.url)


def test_without_variables_everything_is_asked_directly() -> None:
    assert through({}) is None


@pytest.mark.parametrize(
    ("environ", "https", "http"),
    [
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1", None),
        ({"https_proxy": "http://p:1"}, "http://p:1", None),
        ({"HTTP_PROXY": "http://p:1"}, None, "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "http://p:1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "https://q:2"}, "https://q:2", "http://p:1"),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": "http://q:2"}, "http://q:2", None),
        ({"HTTPS_PROXY": "http://p:1", "https_proxy": ""}, None, None),
        ({"HTTPS_PROXY": "p:3128"}, "http://p:3128", None),
        (
            {"ALL_PROXY": "socks5://p:1", "HTTPS_PROXY": "http://q:2", "HTTP_PROXY": "q:2"},
            "http://q:2",
            "http://q:2",
        ),
        ({"HTTP_PROXY": "http://p:1", "REQUEST_METHOD": "GET"}, None, None),
    ],
)
def test_each_variable_serves_its_scheme(
    environ: dict[str, str], https: str | None, http: str | None
) -> None:
    assert through(environ) == https
    assert through(environ, "http://nas.example/x") == http


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", "https://media.flora.ai/", True),
        ("flora.ai", "https://flora.ai/", True),
        ("flora.ai", "https://media.flora.ai/", True),
        ("FLORA.ai", "https://MEDIA.flora.ai./", True),
        ("flora.ai", "https://evilflora.ai/", False),
        (".flora.ai", "https://media.flora.ai/", True),
        (".flora.ai", "https://flora.ai/", False),
        ("*.flora.ai", "https://media.flora.ai/", True),
        ("flora.ai:8443", "https://flora.ai:8443/", True),
        ("flora.ai:8443", "https://flora.ai/", False),
        ("https://flora.ai", "https://flora.ai/", True),
        ("8.8.8.8", "https://8.8.8.8/", True),
        ("8.8.8.8:443", "https://8.8.8.8/", True),
        ("8.8.8.8:444", "https://8.8.8.8/", False),
        ("8.8.0.0/16", "https://8.8.4.4/", True),
        ("8.8.0.0/16", "https://8.9.4.4/", False),
        ("8.8.0.0/16", "https://media.flora.ai/", False),
        ("[2600::1]", "https://[2600::1]/", True),
        ("[2600::1]:443", "https://[2600::1]/", True),
        ("2600::/16", "https://[2600::1]/", True),
        ("a.example, media.flora.ai", "https://media.flora.ai/", True),
        ("a.example media.flora.ai", "https://media.flora.ai/", True),
        ("a:b:c,[,,", "https://media.flora.ai/", False),
        ("", "https://media.flora.ai/", False),
        ("", "https://127.0.0.1/", True),
        ("", "https://[::1]/", True),
        ("", "https://localhost/", True),
        ("", "https://10.0.0.1/", False),
    ],
)
def test_no_proxy_and_loopback_are_asked_directly(no_proxy: str, url: str, *, direct: bool) -> None:
    assert (through({"ALL_PROXY": "http://p:1", "NO_PROXY": no_proxy}, url) is None) is direct


def test_a_proxys_password_is_kept_for_it_and_shown_to_nobody() -> None:
    proxy = Proxies({"HTTPS_PROXY": "http://me:s3cret@p:1"}).of(httpx.URL("https://media.flora.ai/"))
    assert proxy is not None
    assert proxy.raw_auth == (b"me", b"s3cret")
    assert "s3cret" not in repr(proxy)


@pytest.mark.parametrize(
    "value", ["socks5://me:s3cret@p:1", "http://", "http://me:s3cret@p:x", "ftp://s3cret"]
)
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable_not_its_value(value: str) -> None:
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY in the environment names no proxy") as caught:
        Proxies({"HTTPS_PROXY": value})
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(ConfigError, match=r"^ALL_PROXY "):
        Proxies({"all_proxy": value})
