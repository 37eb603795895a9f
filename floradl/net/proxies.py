"""Proxies, as the environment names them: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY.

httpx reads these only where it makes its own transport. The rules are those that curl, Go and httpx
share; where they differ, Go's (golang.org/x/net/http/httpproxy): what is at loopback is asked directly,
for the proxy's loopback is another machine's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

import httpx
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.net.addresses import canonical_host, literal
from floradl.net.guard import port_of

_Network: TypeAlias = IPv4Network | IPv6Network


class Proxies:
    """Which proxy, if any, a URL is asked through."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read `environ`. Raises `ConfigError` for a proxy that cannot be used; it names the variable."""
        self._bypass = [
            rule for text in re.split(r"[,\s]+", _read(environ, "no_proxy")) if (rule := _Rule.of(text))
        ]
        self._by_scheme = {scheme: _proxy(environ, scheme) for scheme in ("http", "https")}

    def of(self, url: httpx.URL) -> httpx.Proxy | None:
        """Return the proxy for `url` (checked before), or `None` where it is asked directly."""
        proxy = self._by_scheme[url.scheme]
        if proxy is None:
            return None
        host, port = canonical_host(url.raw_host.decode("ascii")), port_of(url)
        ip = literal(host)
        if host == "localhost" or (ip is not None and ip.is_loopback):
            return None
        return None if any(rule.match(host, port) for rule in self._bypass) else proxy


class _Rule(Struct, frozen=True):
    """One entry of NO_PROXY: `*`, `host` (and below), `.host` (only below), an address, a network."""

    host: str
    port: int | None = None
    network: _Network | None = None

    @classmethod
    def of(cls, text: str) -> _Rule | None:
        """Read one entry; one that means nothing is skipped, as all who read this variable do."""
        text = text.lower().rpartition("://")[2]
        try:
            return cls("", None, ip_network(text.strip("[]"), strict=False))
        except ValueError:
            pass
        match = re.fullmatch(r"(?:\[(?P<six>[^]]+)\]|(?P<host>[^:]+))(?::(?P<port>[0-9]{1,5}))?", text)
        if match is None:
            return None
        port = int(match["port"]) if match["port"] else None
        host = (match["six"] or match["host"]).removesuffix(".")
        ip = literal(host)
        return cls(host[1:] if host.startswith("*.") else host, port, None if ip is None else ip_network(ip))

    def match(self, host: str, port: int) -> bool:
        if self.port is not None and self.port != port:
            return False
        if self.network is not None:
            ip = literal(host)
            return ip is not None and ip in self.network
        if self.host in {"*", host}:
            return True
        return host.endswith(self.host if self.host.startswith(".") else "." + self.host)


def _read(environ: Mapping[str, str], name: str) -> str:
    # Lower case first, even when it is empty: that is how one is switched off for a single command.
    return environ.get(name, environ.get(name.upper(), "")).strip()


def _proxy(environ: Mapping[str, str], scheme: str) -> httpx.Proxy | None:
    names = [f"{scheme}_proxy", "all_proxy"]
    if scheme == "http" and "REQUEST_METHOD" in environ:
        names.pop(0)  # under CGI, HTTP_PROXY is what a visitor's header `Proxy:` says (CVE-2016-5385)
    name, value = next(((name, value) for name in names if (value := _read(environ, name))), ("", ""))
    if not value:
        return None
    try:
        proxy = httpx.Proxy(value if "://" in value else f"http://{value}")
    except (ValueError, httpx.InvalidURL):
        proxy = None
    if proxy is None or proxy.url.scheme not in {"http", "https"} or not proxy.url.host:
        # The value may hold a password, so it is not repeated.
        raise ConfigError(
            f"{name.upper()} in the environment names no proxy that can be used: "
            "write http://HOST:PORT or https://HOST:PORT (SOCKS is not supported)"
        )
    return proxy
