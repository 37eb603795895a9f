"""HTTP clients that connect only where their `Guard` lets them.

Each request is checked by its URL, and each connection by the address it goes to (`network`). Through
a proxy only the first can be: the proxy looks names up. Nothing is followed, stored or added on the
way: no redirects (`redirect_target` says where one leads), cookies, netrc, or credentials of a URL.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from floradl.errors import ErrorCode, PermanentError
from floradl.net.bodies import AsyncBody, SyncBody, translated
from floradl.net.guard import Guard
from floradl.net.leases import Leases
from floradl.net.network import AsyncBackend, OpenStreams, Resolve, SyncBackend
from floradl.net.pools import Limits, PoolMaker
from floradl.net.throttle import Throttle

__all__ = ["Guard", "Limits", "MediaClient", "open_async_client", "open_client", "redirect_target"]


class MediaClient(httpx.Client):
    """An `httpx.Client` whose open connections can be shut. May be used from several threads."""

    def __init__(self, transport: SyncTransport, *, user_agent: str, limits: Limits) -> None:
        # Range requests need the bytes as they are stored, and an inflated bomb needs memory: identity.
        headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        # httpx looks at where a redirect leads even if it does not follow, and has other errors for it.
        hooks = {"response": [redirect_target]}
        super().__init__(transport=transport, headers=headers, event_hooks=hooks, **_common(limits))
        self._abort = transport.abort

    def abort(self) -> None:
        """Shut all connections, for good; call it from any thread, any number of times.

        Threads that read or write, through httpx or on the response's own socket, get an error at once
        (`httpx.TransportError`, `OSError`, or the end of the data before its time); so does each new
        request. One that is looking a name up or connecting goes on until `Limits.connect` at most.
        """
        self._abort()


def open_client(
    guard: Guard,
    *,
    user_agent: str,
    limits: Limits | None = None,
    environ: Mapping[str, str] = os.environ,
    throttle: Throttle | None = None,
) -> MediaClient:
    """Return a client for media: it sends no credentials to anyone. Close it (it is a context manager).

    `throttle` caps what all its connections together read, and is stopped when they are shut. Proxies and
    certificates are those that `environ` names. Its requests raise `PermanentError` for what `guard` refuses,
    else `httpx.TransportError`, whose messages hold no more of the URL than its host. Raises `ConfigError`
    for a proxy or certificate file in `environ` that cannot be used.
    """
    limits = limits or Limits()
    transport = SyncTransport(guard, limits, environ, throttle)
    return MediaClient(transport, user_agent=user_agent, limits=limits)


def open_async_client(
    guard: Guard,
    *,
    base_url: str,
    headers: Mapping[str, str],
    limits: Limits | None = None,
    environ: Mapping[str, str] = os.environ,
) -> httpx.AsyncClient:
    """Return a client for an API: `headers`, with the key, go out with each request.

    Hence `guard` should allow the host of `base_url` only. Otherwise as `open_client`; `base_url` is
    checked, and refused with `PermanentError`.
    """
    guard.check(base_url)
    limits = limits or Limits()
    transport = AsyncTransport(guard, limits, environ)
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers, **_common(limits))


def redirect_target(response: httpx.Response) -> httpx.URL | None:
    """Return where `response` sends its reader, `None` if it is no redirect (RFC 9110 section 15.4).

    A relative `Location` is resolved against the URL that was asked (section 10.2.2), and a fragment
    dropped. The target is not checked: `Guard.check` it, which also refuses a step down to http.
    Raises `PermanentError`: `HTTP_ERROR` where it names no target or several, `BAD_URL` for no URL.
    """
    if response.status_code not in {301, 302, 303, 307, 308}:
        return None
    locations = response.headers.get_list("location")
    host = response.url.host
    if len(set(locations)) != 1:
        found = "without saying where to" if not locations else "to several places"
        raise PermanentError(f"{host} redirects (HTTP {response.status_code}) {found}", ErrorCode.HTTP_ERROR)
    try:
        target = response.url.join(locations[0]).copy_with(fragment=None)
        _ = target.host  # read now, because httpx will: only then does it say that a name is none
        return target
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise PermanentError(f"{host} redirects to what is no URL", ErrorCode.BAD_URL) from None


class SyncTransport(httpx.BaseTransport):
    """What is under `open_client`."""

    def __init__(
        self, guard: Guard, limits: Limits, environ: Mapping[str, str], throttle: Throttle | None = None
    ) -> None:
        self._guard = guard
        self._streams = OpenStreams(throttle)
        maker = PoolMaker(self._make, limits, environ, guard)
        self._leases = Leases(partial(maker.new, connections=1), limits.connections, limits.idle)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`. Raises `PermanentError`, `httpx.TransportError`."""
        self._guard.check(request.url)
        said = partial(translated, request.url.host)
        waits = request.extensions.get("timeout", {})
        with said():
            lease = self._leases.take(request.url, waits.get("pool"))
            try:
                response = lease.pool.handle_request(_core_request(request))
            except BaseException:
                self._leases.give_back(lease)
                raise
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=SyncBody(
                response,
                said,
                partial(self._leases.give_back, lease),
                waits.get("read"),
                direct=request.method == "GET",
            ),
            extensions=response.extensions,
        )

    def abort(self) -> None:
        """Shut all connections: see `MediaClient.abort`."""
        self._streams.abort()

    def close(self) -> None:
        """Close all connections; one that is still in use is shut, and closed by whoever uses it."""
        self._streams.abort()  # first, so that what is given back from now on is not kept
        self._leases.close()

    def _make(self, resolve: Resolve, **options: Any) -> httpcore.ConnectionPool:
        return httpcore.ConnectionPool(network_backend=SyncBackend(resolve, self._streams), **options)


class AsyncTransport(httpx.AsyncBaseTransport):
    """What is under `open_async_client`."""

    def __init__(self, guard: Guard, limits: Limits, environ: Mapping[str, str]) -> None:
        self._guard = guard
        self._connections = limits.connections
        self._maker = PoolMaker(self._make, limits, environ, guard)
        self._pools: dict[tuple[str, bool], httpcore.AsyncConnectionPool] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`. Raises `PermanentError`, `httpx.TransportError`."""
        self._guard.check(request.url)
        said = partial(translated, request.url.host)
        with said():
            response = await self._pool(request.url).handle_async_request(_core_request(request))
        return httpx.Response(
            response.status,
            headers=response.headers,
            stream=AsyncBody(response, said),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            await pool.aclose()

    def _pool(self, url: httpx.URL) -> httpcore.AsyncConnectionPool:
        way = self._maker.way(url)
        if way not in self._pools:
            self._pools[way] = self._maker.new(url, self._connections)
        return self._pools[way]

    def _make(self, resolve: Resolve, **options: Any) -> httpcore.AsyncConnectionPool:
        return httpcore.AsyncConnectionPool(network_backend=AsyncBackend(resolve), **options)


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


def _common(limits: Limits) -> dict[str, Any]:
    """Return what both clients are made with."""
    return {
        "timeout": httpx.Timeout(limits.read, connect=limits.connect),
        "follow_redirects": False,
        "trust_env": False,  # proxies and certificates are this module's, and nothing else is wanted
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),  # takes none, sends none
    }
