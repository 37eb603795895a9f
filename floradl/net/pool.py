"""Makes connections, and keeps idle ones for later requests.

A thread that took a connection owns it until it gives it back: no other thread uses or closes it.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Condition, Lock
from typing import Final, TypeAlias

import h11
import httpcore
import httpx
from msgspec import Struct

from floradl.net.addresses import join_port
from floradl.net.http11 import Connection, Fields, Http11Exchange, Timeouts, host_of
from floradl.net.proxies import Route, Routes
from floradl.net.socket_stream import OpenStreams, Stream
from floradl.net.url_policy import Resolve, port_of

_BLOCKING: Final = httpcore.SyncBackend()


def connect(resolve: Resolve, streams: OpenStreams, host: str, port: int, timeout: float | None) -> Stream:
    """Connect to the first address of `host` that answers, within `timeout` seconds in all.

    Each address gets an equal share of the remaining time. Raises as `resolve`, and `httpcore.ConnectError`,
    `httpcore.ConnectTimeout`.
    """
    ends = None if timeout is None else time.monotonic() + timeout
    with _translated():
        found = resolve(host, port, timeout)
    failure: Exception = httpcore.ConnectError("the name has no address")
    for left, address in zip(range(len(found), 0, -1), found, strict=True):
        remaining = None if ends is None else ends - time.monotonic()
        if remaining is not None and remaining <= 0:
            raise httpcore.ConnectTimeout("timed out")
        seconds = None if remaining is None else remaining / left
        try:
            stream = _BLOCKING.connect_tcp(address, port, seconds)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            failure = error
        else:
            return streams.admit(Stream(stream, streams))
    raise failure


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout("the name could not be looked up in time") from error
    except OSError as error:
        raise httpcore.ConnectError(f"the name could not be looked up: {error.strerror or error}") from error


class Connector:
    """Makes the connections of one client, and registers them with `streams`."""

    def __init__(self, routes: Routes, streams: OpenStreams) -> None:
        self._routes = routes
        self._streams = streams

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Connect to the site of `url`, which the URL policy allowed.

        Raises what the URL policy refuses an address with, `httpcore.ProxyError` where a proxy refuses, and
        other errors of httpcore and h11.
        """
        route = self._routes.of(url)
        if route.proxy is None:
            stream = self._connect(route, url, timeouts)
            return Connection(self._secure(stream, route.tls, url, timeouts))
        stream = self._connect(route, route.proxy.url, timeouts)
        try:
            stream = self._secure(stream, route.tls, route.proxy.url, timeouts)
            fields = _proxy_fields(route.proxy)
            if url.scheme == "http":
                return Connection(stream, fields)
            _open_tunnel(stream, url, fields, timeouts)
            return Connection(self._secure(stream, route.tls, url, timeouts))
        except BaseException:
            stream.close()
            raise

    def _connect(self, route: Route, url: httpx.URL, timeouts: Timeouts) -> Stream:
        return connect(route.resolve, self._streams, host_of(url), port_of(url), timeouts.connect)

    def _secure(
        self, stream: Stream, tls: ssl.SSLContext | None, url: httpx.URL, timeouts: Timeouts
    ) -> Stream:
        if url.scheme != "https" or tls is None:
            return stream
        return stream.start_tls(tls, host_of(url), timeouts.connect)


def _proxy_fields(proxy: httpx.Proxy) -> Fields:
    fields = list(proxy.headers.raw)
    if proxy.raw_auth is None:
        return fields
    credentials = base64.b64encode(b":".join(proxy.raw_auth))  # RFC 7617, 2
    return [(b"Proxy-Authorization", b"Basic " + credentials), *fields]


def _open_tunnel(stream: Stream, url: httpx.URL, fields: Fields, timeouts: Timeouts) -> None:
    """CONNECT to the site of `url` through the proxy behind `stream` (RFC 9110, 9.3.6)."""
    target = join_port(host_of(url), port_of(url)).encode("ascii")
    request = h11.Request(
        method=b"CONNECT", target=target, headers=[(b"Host", target), (b"Accept", b"*/*"), *fields]
    )
    head = Http11Exchange(stream, memoryview(bytearray(16 << 10)), timeouts).ask(request, ())
    if not 200 <= head.status_code <= 299:
        reason = head.reason.decode("ascii", errors="ignore")
        raise httpcore.ProxyError(f"{head.status_code} {reason}")


class ResizableSemaphore:
    """A semaphore for threads whose limit may change; a lower one revokes nothing."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._acquired = 0
        self._changed = Condition()

    def acquire(self, timeout: float | None) -> bool:
        """Acquire, waiting up to `timeout` seconds; return False where that was not enough."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._acquired < self._most, timeout):
                return False
            self._acquired += 1
            return True

    def release(self) -> None:
        """Release, and wake one that waits."""
        with self._changed:
            self._acquired -= 1
            self._changed.notify()

    def change(self, most: int) -> None:
        """Set the limit to `most`."""
        with self._changed:
            self._most = most
            self._changed.notify_all()


_Site: TypeAlias = tuple[str, str, int]  # scheme, host, port


class PooledConnection(Struct, eq=False):
    """A slot of the pool, and its connection. Only the thread that took it may use it."""

    connection: Connection | None
    site: _Site
    era: int  # of the pool when it was taken: a later one closes it
    idle_since: float = 0.0


class ConnectionPool:
    """Lends connections, at most `most` at once, and keeps returned ones for `idle` seconds."""

    def __init__(self, connector: Connector, most: int, idle: float) -> None:
        self._connector = connector
        self._most = most
        self._seconds = idle
        self._free = ResizableSemaphore(most)
        self._lock = Lock()
        self._idle: list[PooledConnection] = []  # in the order of return
        self._lent = 0
        self._era = 0
        self._closed = False

    def take(self, url: httpx.URL, timeout: float | None) -> PooledConnection:
        """Lend an idle connection to the site of `url`, or a slot for one. Always `give_back` it.

        Raises `httpcore.PoolTimeout` where none gets free within `timeout` seconds.
        """
        if not self._free.acquire(timeout=timeout):
            raise httpcore.PoolTimeout
        site = (url.scheme, url.host, port_of(url))
        with self._lock:
            self._lent += 1
            oldest = time.monotonic() - self._seconds
            surplus = self._drop(lambda _place, pooled: pooled.idle_since < oldest)
            pooled = next((pooled for pooled in reversed(self._idle) if pooled.site == site), None)
            if pooled is not None:
                self._idle.remove(pooled)
            room, era = self._most - self._lent, self._era
            surplus += self._drop(lambda place, _pooled: place >= room)
        _close(surplus)
        return PooledConnection(None, site, era) if pooled is None else pooled

    def connected(self, pooled: PooledConnection, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Return the connection of `pooled`, a new one unless it is still open.

        Raises as `Connector.dial`.
        """
        kept = pooled.connection
        if kept is not None and kept.is_free():
            return kept
        return self.renewed(pooled, url, timeouts)

    def renewed(self, pooled: PooledConnection, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Replace the connection of `pooled` by a new one. Raises as `Connector.dial`."""
        _close([pooled])
        pooled.connection = made = self._connector.dial(url, timeouts)
        return made

    def give_back(self, pooled: PooledConnection) -> None:
        """Take a connection back, and keep it if it can serve another request."""
        connection = pooled.connection
        good = connection is not None and connection.is_free()
        with self._lock:
            keep = good and not self._closed and pooled.era == self._era
            if connection is not None and keep:
                connection.has_served = True
                pooled.idle_since = time.monotonic()
                self._idle.append(pooled)
            self._lent -= 1
        if not keep:
            _close([pooled])
        self._free.release()

    def change(self, most: int) -> None:
        """Lend `most` at once from now on, and keep no older connection: it may not be allowed now."""
        with self._lock:
            self._most = most
            self._era += 1
            idle, self._idle = self._idle, []
        self._free.change(most)
        _close(idle)

    def close(self) -> None:
        """Close idle connections, and later those given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        _close(idle)

    def _drop(self, unwanted: Callable[[int, PooledConnection], bool]) -> list[PooledConnection]:
        """Remove and return idle ones by age rank, 0 the last returned. The caller holds the lock."""
        places = enumerate(reversed(self._idle))
        dropped = [pooled for place, pooled in places if unwanted(place, pooled)]
        for pooled in dropped:
            self._idle.remove(pooled)
        return dropped


def _close(pool: list[PooledConnection]) -> None:
    for pooled in pool:
        connection, pooled.connection = pooled.connection, None
        if connection is not None:
            connection.close()


class PoolLimits(Struct, frozen=True, kw_only=True):
    """Timeouts of a client, in seconds, and its number of connections.

    `connect` covers the name lookup and all addresses; the TLS handshake gets as long again. `read` is the
    longest silence within an answer; writes and the wait for a free connection have the same. `connections`
    counts idle ones too, which are kept for `idle` seconds.
    """

    connect: float = 5.0
    read: float = 30.0
    connections: int = 16
    idle: float = 30.0

    def timeouts(self) -> dict[str, float | None]:
        """Return the timeouts of one request as httpx has them."""
        return httpx.Timeout(self.read, connect=self.connect).as_dict()
