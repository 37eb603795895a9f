"""HTTP clients that connect only where their `UrlPolicy` lets them.

Each request is checked by its URL, and each connection by the address it goes to (`network`). Through
a proxy only the first can be: the proxy looks names up. Nothing is followed, stored or added on the
way: no redirects (`redirect_target` says where one leads), cookies, netrc, or credentials of a URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from floradl.net.bandwidth import ReadLimit
from floradl.net.bodies import AsyncBody, pieces
from floradl.net.client import MediaClient, SyncTransport
from floradl.net.connect import AsyncBackend
from floradl.net.errors import map_errors, refuse_proxy_answer
from floradl.net.pool import PoolLimits
from floradl.net.proxies import Route, Routes
from floradl.net.request_url import redirect_target
from floradl.net.url_policy import UrlPolicy


def new_pool(route: Route, limits: PoolLimits) -> httpcore.AsyncConnectionPool:
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


__all__ = [
    "MediaClient",
    "PoolLimits",
    "UrlPolicy",
    "open_async_client",
    "open_client",
    "pieces",
    "redirect_target",
]


def open_client(
    url_policy: UrlPolicy,
    *,
    user_agent: str,
    limits: PoolLimits | None = None,
    environ: Mapping[str, str] = os.environ,
    bandwidth: ReadLimit | None = None,
) -> MediaClient:
    """Return a client for media: it sends no credentials to anyone. Close it (it is a context manager).

    `throttle` caps what all its connections together read, and is stopped when they are shut. Proxies and
    certificates are those that `environ` names. Its requests raise `PermanentError` for what `guard` refuses,
    else `httpx.TransportError`, whose messages hold no more of the URL than its host. Raises `ConfigError`
    for a proxy or certificate file in `environ` that cannot be used.
    """
    limits = limits or PoolLimits()
    transport = SyncTransport(url_policy, limits, environ, bandwidth)
    return MediaClient(transport, user_agent=user_agent, limits=limits)


def open_async_client(
    url_policy: UrlPolicy,
    *,
    base_url: str,
    headers: Mapping[str, str],
    limits: PoolLimits | None = None,
    environ: Mapping[str, str] = os.environ,
) -> httpx.AsyncClient:
    """Return a client for an API: `headers`, with the key, go out with each request.

    Hence `guard` should allow the host of `base_url` only. Otherwise as `open_client`; `base_url` is
    checked, and refused with `PermanentError`.
    """
    url_policy.check(base_url)
    limits = limits or PoolLimits()
    transport = AsyncTransport(url_policy, limits, environ)
    return httpx.AsyncClient(
        transport=transport,
        base_url=base_url,
        headers=headers,
        timeout=httpx.Timeout(limits.read, connect=limits.connect),
        follow_redirects=False,
        trust_env=False,  # proxies and certificates are this module's, and nothing else is wanted
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # takes none, sends none
    )


class AsyncTransport(httpx.AsyncBaseTransport):
    """What is under `open_async_client`."""

    def __init__(self, url_policy: UrlPolicy, limits: PoolLimits, environ: Mapping[str, str]) -> None:
        self._url_policy = url_policy
        self._limits = limits
        self._routes = Routes(environ, url_policy)
        self._pools: dict[tuple[str, bool], httpcore.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`. Raises `PermanentError`, `httpx.TransportError`."""
        self._url_policy.check(request.url)
        proxy = self._routes.proxy_of(request.url)
        said = partial(map_errors, request.url.host, proxy)
        with said():
            response = await self._pool(request.url).handle_async_request(_core_request(request))
        answer = httpx.Response(
            response.status,
            headers=response.headers,
            stream=AsyncBody(response, said),
            extensions=response.extensions,
        )
        if request.url.scheme == "http":
            try:
                with said():
                    refuse_proxy_answer(answer, proxy)
            except httpx.ProxyError:
                await answer.aclose()
                raise
        return answer

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        way = self._routes.key(url)
        if way not in self._pools:
            self._pools[way] = new_pool(self._routes.of(url), self._limits)
        return self._pools[way]


def _core_request(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        request.method,
        httpcore.URL(
            scheme=url.raw_scheme,
            host=url.raw_host.removesuffix(b"."),  # the name as certificates have it (RFC 6066 section 3)
            port=url.port,
            target=url.raw_path,
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )
