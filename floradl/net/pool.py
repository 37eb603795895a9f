"""Connections lent to one request at a time.

Whoever has borrowed a connection has it alone until it is given back: no other thread looks at it, or closes
it, meanwhile.
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
    """Connect to the first address of `host` that answers, all within `timeout` seconds, by blocking.

    Each address has an equal share of the time that those before it left. Raises what `resolve` refuses
    with, `httpcore.ConnectError` or `httpcore.ConnectTimeout`.
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
    """Makes the connections of one client; `streams` keeps an eye on them."""

    def __init__(self, routes: Routes, streams: OpenStreams) -> None:
        self._routes = routes
        self._streams = streams

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Connect to the site of `url`, which was checked.

        Raises what the URL policy refuses with, `httpcore.ProxyError` where a proxy refuses, and otherwise in
        the words of httpcore and h11.
        """
        route = self._routes.of(url)
        if route.proxy is None:
            stream = self._connect(route, url, timeouts)
            return Connection(self._secure(stream, route.tls, url, timeouts))
        stream = self._connect(route, route.proxy.url, timeouts)
        try:
            stream = self._secure(stream, route.tls, route.proxy.url, timeouts)
            fields = _fields(route.proxy)
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


def _fields(proxy: httpx.Proxy) -> Fields:
    fields = list(proxy.headers.raw)
    if proxy.raw_auth is None:
        return fields
    credentials = base64.b64encode(b":".join(proxy.raw_auth))  # RFC 7617, 2
    return [(b"Proxy-Authorization", b"Basic " + credentials), *fields]


def _open_tunnel(stream: Stream, url: httpx.URL, fields: Fields, timeouts: Timeouts) -> None:
    """Have the proxy behind `stream` connect to the site of `url` (RFC 9110, 9.3.6)."""
    target = join_port(host_of(url), port_of(url)).encode("ascii")
    request = h11.Request(
        method=b"CONNECT", target=target, headers=[(b"Host", target), (b"Accept", b"*/*"), *fields]
    )
    head = Http11Exchange(stream, memoryview(bytearray(16 << 10)), timeouts).ask(request, ())
    if not 200 <= head.status_code <= 299:
        reason = head.reason.decode("ascii", errors="ignore")
        raise httpcore.ProxyError(f"{head.status_code} {reason}")


class ResizableSemaphore:
    """A semaphore for threads. Where there is less room than there was, those who are in may stay."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._inside = 0
        self._changed = Condition()

    def acquire(self, timeout: float | None) -> bool:
        """Come in, waiting for up to `timeout` seconds; False where there was no room."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._inside < self._most, timeout):
                return False
            self._inside += 1
            return True

    def release(self) -> None:
        """Leave."""
        with self._changed:
            self._inside -= 1
            self._changed.notify()

    def change(self, most: int) -> None:
        """Let so many in from now on."""
        with self._changed:
            self._most = most
            self._changed.notify_all()


_Site: TypeAlias = tuple[str, str, int]  # scheme, host, port


class PooledConnection(Struct, eq=False):
    """A place among the connections, and the one that is in it. Only the thread that has it may use it."""

    connection: Connection | None
    site: _Site
    era: int  # its connection is kept while none has begun since
    idle_since: float = 0.0


class ConnectionPool:
    """Lends connections, at most `most` at once, and keeps them for `idle` seconds when given back."""

    def __init__(self, connector: Connector, most: int, idle: float) -> None:
        self._connector = connector
        self._most = most
        self._seconds = idle
        self._free = ResizableSemaphore(most)
        self._lock = Lock()
        self._idle: list[PooledConnection] = []  # the one given back last stands last
        self._lent = 0
        self._era = 0
        self._closed = False

    def take(self, url: httpx.URL, timeout: float | None) -> PooledConnection:
        """Lend a kept connection to the site of `url`, or a place for one. `give_back` it, whatever happens.

        Raises `httpcore.PoolTimeout` where all are lent for `timeout` seconds.
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
        """Return the connection of `lease`, made now unless one was kept that the server has not closed.

        Raises as `Dialer.dial` does.
        """
        kept = pooled.connection
        if kept is not None and kept.is_free():
            return kept
        return self.renewed(pooled, url, timeouts)

    def renewed(self, pooled: PooledConnection, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Close the connection of `lease` and return another, made now. Raises as `Dialer.dial` does."""
        _close([pooled])
        pooled.connection = made = self._connector.dial(url, timeouts)
        return made

    def give_back(self, pooled: PooledConnection) -> None:
        """Take a connection back: to keep it, where it is still good for another request."""
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
        """Lend `most` at once from now on, and keep none that was made before: it may not be allowed now."""
        with self._lock:
            self._most = most
            self._era += 1
            idle, self._idle = self._idle, []
        self._free.change(most)
        _close(idle)

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        _close(idle)

    def _drop(self, unwanted: Callable[[int, PooledConnection], bool]) -> list[PooledConnection]:
        """Remove idle ones, counted from the one given back last, and return them. Holds the lock."""
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

    def timeouts(self) -> dict[str, float | None]:
        """Return the time limits of one request, as httpx writes them."""
        return httpx.Timeout(self.read, connect=self.connect).as_dict()
