"""Proxies, as the environment names them: HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY.

httpx reads these only where it makes its own transport. The rules are those that curl, Go and httpx
share; where they differ, Go's (golang.org/x/net/http/httpproxy): requests to loopback go directly,
for the proxy's loopback is another machine's.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypeAlias

import httpx
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.net.addresses import canonical_host, join_port, literal
from floradl.net.url_policy import Resolve, UrlPolicy, addresses, port_of

_Network: TypeAlias = IPv4Network | IPv6Network


class Proxies:
    """Which proxy, if any, requests for a URL go through."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read `environ`. Raises `ConfigError` for a proxy that cannot be used; it names the variable."""
        self._bypass = [
            rule for text in re.split(r"[,\s]+", _read(environ, "no_proxy")) if (rule := _Rule.of(text))
        ]
        self._by_scheme = {scheme: _proxy(environ, scheme) for scheme in ("http", "https")}

    def of(self, url: httpx.URL) -> httpx.Proxy | None:
        """Return the proxy for `url` (checked before), or `None` where requests go directly."""
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


class Route(Struct, frozen=True):
    """The way to a site. `resolve` looks up whom to connect to; `tls` is None where nothing speaks TLS."""

    proxy: httpx.Proxy | None
    resolve: Resolve
    tls: ssl.SSLContext | None


class Routes:
    """The ways that one client goes. Raises `ConfigError` for what is wrong in `environ`."""

    def __init__(self, environ: Mapping[str, str], url_policy: UrlPolicy) -> None:
        self._url_policy = url_policy
        self._proxies = Proxies(environ)
        self._tls_files = (environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR"))
        if any(self._tls_files):
            _tls_context(*self._tls_files)  # what is wrong with it is said now, not at the first request

    def proxy_of(self, url: httpx.URL) -> str | None:
        """Return HOST:PORT of the proxy for `url`; None where requests go directly."""
        proxy = self._proxies.of(url)
        return None if proxy is None else join_port(proxy.url.host, port_of(proxy.url))

    def of(self, url: httpx.URL) -> Route:
        """Return the way to `url`, which was checked. The first loads the certificates, in about 20 ms."""
        proxy = self._proxies.of(url)
        tls = url.scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        return Route(
            proxy,
            self._url_policy.resolve if proxy is None else addresses,
            _tls_context(*self._tls_files) if tls else None,
        )


def tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Return what a client trusts that does not speak HTTP. Raises `ConfigError` as `Routes`."""
    return _trusting(environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR"))


@lru_cache(maxsize=8)
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """Return the one context of all clients: the system's wish in SSL_CERT_FILE or _DIR, else certifi's."""
    context = _trusting(cert_file, cert_dir)
    context.set_alpn_protocols(["http/1.1"])
    return context


def _trusting(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    if not cert_file and not cert_dir:
        return httpx.create_ssl_context(trust_env=False)
    name = "SSL_CERT_FILE" if cert_file else "SSL_CERT_DIR"
    try:
        return ssl.create_default_context(cafile=cert_file or None, capath=None if cert_file else cert_dir)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"{name} in the environment is {cert_file or cert_dir!r}, which has no certificates that can be "
            f"read ({error.strerror or error}): fix it, or unset it for the usual ones"
        ) from error
