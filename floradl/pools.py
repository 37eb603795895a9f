"""Connection pools, one for each way: https, http, and either through a proxy."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping
from functools import lru_cache
from threading import Lock
from typing import Generic, TypeVar

import httpcore
import httpx
from msgspec import Struct

from floradl.errors import ConfigError
from floradl.guard import Guard, addresses
from floradl.network import Resolve
from floradl.proxies import Proxies

_Pool = TypeVar("_Pool")


class Limits(Struct, frozen=True, kw_only=True):
    """How long a client waits, in seconds, and how many connections it has.

    `connect` covers the look-up, and all addresses that are tried; the TLS handshake has as long again.
    `read` is the longest silence while an answer is read, and also bounds writing and the wait for a
    free connection. `connections` is the most at once, for each of https, http and a proxy; all may be
    kept when idle, for `idle` seconds.
    """

    connect: float = 5.0
    read: float = 30.0
    connections: int = 16
    idle: float = 30.0


class Pools(Generic[_Pool]):
    """The pools of one client, each made when it is first needed: to load certificates takes 20 ms.

    `make(resolve, **options)` makes a pool. Raises `ConfigError` for what is wrong in `environ`.
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
        self._pools: dict[tuple[str, bool], _Pool] = {}
        self._lock = Lock()

    def of(self, url: httpx.URL) -> _Pool:
        """Return the pool for `url`, which was checked."""
        proxy = self._proxies.of(url)
        with self._lock:
            key = (url.scheme, proxy is not None)
            if key not in self._pools:
                self._pools[key] = self._new(url.scheme, proxy)
            return self._pools[key]

    def drain(self) -> list[_Pool]:
        """Return all pools, for closing, and forget them."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        return pools

    def _new(self, scheme: str, proxy: httpx.Proxy | None) -> _Pool:
        resolve: Resolve = self._guard.resolve if proxy is None else addresses
        tls = scheme == "https" or (proxy is not None and proxy.url.scheme == "https")
        context = _tls_context(*self._tls_files) if tls else None
        return self._make(
            resolve,
            ssl_context=context,
            proxy=None if proxy is None else _core_proxy(proxy, context),
            max_connections=self._limits.connections,
            max_keepalive_connections=self._limits.connections,
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
