"""How httpcore's connection pools are made for the API's client, and what both clients may take."""

from __future__ import annotations

import httpcore
import httpx
from msgspec import Struct

from floradl.net.network import AsyncBackend
from floradl.net.routes import Route


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


def new_pool(route: Route, limits: Limits) -> httpcore.AsyncConnectionPool:
    """Make a pool whose connections go this way."""
    return httpcore.AsyncConnectionPool(
        network_backend=AsyncBackend(route.resolve),
        ssl_context=route.tls,
        proxy=None if route.proxy is None else _core_proxy(route.proxy, route),
        max_connections=limits.connections,
        max_keepalive_connections=limits.connections,
        keepalive_expiry=limits.idle,
    )


def _core_proxy(proxy: httpx.Proxy, route: Route) -> httpcore.Proxy:
    url = httpcore.URL(
        scheme=proxy.url.raw_scheme,
        host=proxy.url.raw_host,
        port=proxy.url.port,
        target=proxy.url.raw_path,
    )
    own_tls = route.tls if proxy.url.scheme == "https" else None
    return httpcore.Proxy(url, auth=proxy.raw_auth, headers=proxy.headers.raw, ssl_context=own_tls)
