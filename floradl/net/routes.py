"""Which way a URL is asked: through which proxy, with whose addresses, with which certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import lru_cache

import httpx
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.net.addresses import join_port
from floradl.net.guard import Guard, addresses, port_of
from floradl.net.network import Resolve
from floradl.net.proxies import Proxies


class Route(Struct, frozen=True):
    """The way to a site. `resolve` looks up whom to connect to; `tls` is None where nothing speaks TLS."""

    proxy: httpx.Proxy | None
    resolve: Resolve
    tls: ssl.SSLContext | None


class Routes:
    """The ways that one client goes. Raises `ConfigError` for what is wrong in `environ`."""

    def __init__(self, environ: Mapping[str, str], guard: Guard) -> None:
        self._guard = guard
        self._proxies = Proxies(environ)
        self._tls_files = (environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR"))
        if any(self._tls_files):
            _tls_context(*self._tls_files)  # what is wrong with it is said now, not at the first request

    def key(self, url: httpx.URL) -> tuple[str, bool]:
        """Return a key that is the same for all URLs that go the same way."""
        return url.scheme, self._proxies.of(url) is not None

    def proxy_of(self, url: httpx.URL) -> str | None:
        """Return HOST:PORT of the proxy that `url` is asked through; None where it is asked directly."""
        proxy = self._proxies.of(url)
        return None if proxy is None else join_port(proxy.url.host, port_of(proxy.url))

    def of(self, url: httpx.URL) -> Route:
        """Return the way to `url`, which was checked. The first loads the certificates, in about 20 ms."""
        proxy = self._proxies.of(url)
        tls = url.scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        return Route(
            proxy,
            self._guard.resolve if proxy is None else addresses,
            _tls_context(*self._tls_files) if tls else None,
        )


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
            f"read ({error.strerror or error}): mend it, or unset it for the usual ones"
        ) from error
