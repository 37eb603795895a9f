"""How httpcore's connection pools are made: through which proxy, with which certificates and limits."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Generic, TypeVar

import httpcore
import httpx
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.net.guard import Guard, addresses
from floradl.net.network import Resolve
from floradl.net.proxies import Proxies

_Pool = TypeVar("_Pool")


class Limits(Struct, frozen=True, kw_only=True):
    """How long a client waits, in seconds, and how many connections it has.

    `connect` covers the look-up, and all addresses that are tried; the TLS handshake has as long again.
    `read` is the longest silence while an answer is read, and also bounds writing and the wait for a
    free connection. `connections` is the most at once, those included that are kept when idle, for `idle`
    seconds.
    """

    connect: float = 5.0
    read: float = 30.0
    connections: int = 16
    idle: float = 30.0


class PoolMaker(Generic[_Pool]):
    """Makes the pools of one client: each for one way, which is https or http, through a proxy or not.

    `make(resolve, **options)` makes httpcore's pool. Raises `ConfigError` for what is wrong in `environ`.
    """

    def __init__(
        self, make: Callable[..., _Pool], limits: Limits, environ: Mapping[str, str], guard: Guard
    ) -> None:
        self._make = make
        self._limits = limits
        self._guard = guard
        self._proxies = Proxies(environ)
        self._tls_files = (environ.get("SSL_CERT_FILE"), environ.get("SSL_CERT_DIR"))
        if any(self._tls_files):
            _tls_context(*self._tls_files)  # what is wrong with it is said now, not at the first request

    def way(self, url: httpx.URL) -> tuple[str, bool]:
        """Return a key that is the same for all URLs that a pool made for `url` can serve."""
        return url.scheme, self._proxies.of(url) is not None

    def new(self, url: httpx.URL, connections: int) -> _Pool:
        """Make a pool for `url`, which was checked. The first loads the certificates, in about 20 ms."""
        proxy = self._proxies.of(url)
        resolve: Resolve = self._guard.resolve if proxy is None else addresses
        tls = url.scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        context = _tls_context(*self._tls_files) if tls else None
        return self._make(
            resolve,
            ssl_context=context,
            proxy=None if proxy is None else _core_proxy(proxy, context),
            max_connections=connections,
            max_keepalive_connections=connections,
            keepalive_expiry=self._limits.idle,
        )


def _core_proxy(proxy: httpx.Proxy, context: ssl.SSLContext | None) -> httpcore.Proxy:
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme,
        host=proxy.url.raw_host,
        port=proxy.url.port,
        target=proxy.url.raw_path,
    )
    own_tls = context if proxy.url.scheme == "https" else None
    return httpcore.Proxy(url, auth=proxy.raw_auth, headers=proxy.headers.raw, ssl_context=own_tls)


@lru_cache(maxsize=8)
def _tls_context(cert_file: str | None, cert_dir: str | None) -> ssl.SSLContext:
    """Return the one context of all clients: the system's wish in SSL_CERT_FILE or _DIR, else certifi's."""
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
