"""How a connection to a site is made: directly, through a proxy's tunnel, or to a proxy that forwards."""

from __future__ import annotations

import base64
import ssl

import h11
import httpcore
import httpx

from floradl.net.addresses import join_port
from floradl.net.connections import Connection, Fields, host_of
from floradl.net.exchange import Exchange, Waits
from floradl.net.guard import port_of
from floradl.net.network import connect
from floradl.net.routes import Route, Routes
from floradl.net.streams import OpenStreams, Stream


class Dialer:
    """Makes the connections of one client; `streams` keeps an eye on them."""

    def __init__(self, routes: Routes, streams: OpenStreams) -> None:
        self._routes = routes
        self._streams = streams

    def dial(self, url: httpx.URL, waits: Waits) -> Connection:
        """Connect to the site of `url`, which was checked.

        Raises what the guard refuses with, `httpcore.ProxyError` where a proxy refuses, and otherwise in the
        words of httpcore and h11.
        """
        route = self._routes.of(url)
        if route.proxy is None:
            stream = self._connect(route, url, waits)
            return Connection(self._secure(stream, route.tls, url, waits))
        stream = self._connect(route, route.proxy.url, waits)
        try:
            stream = self._secure(stream, route.tls, route.proxy.url, waits)
            fields = _fields(route.proxy)
            if url.scheme == "http":
                return Connection(stream, fields)
            _open_tunnel(stream, url, fields, waits)
            return Connection(self._secure(stream, route.tls, url, waits))
        except BaseException:
            stream.close()
            raise

    def _connect(self, route: Route, url: httpx.URL, waits: Waits) -> Stream:
        return connect(route.resolve, self._streams, host_of(url), port_of(url), waits.connect)

    def _secure(self, stream: Stream, tls: ssl.SSLContext | None, url: httpx.URL, waits: Waits) -> Stream:
        if url.scheme != "https" or tls is None:
            return stream
        return stream.start_tls(tls, host_of(url), waits.connect)


def _fields(proxy: httpx.Proxy) -> Fields:
    fields = list(proxy.headers.raw)
    if proxy.raw_auth is None:
        return fields
    credentials = base64.b64encode(b":".join(proxy.raw_auth))  # RFC 7617, 2
    return [(b"Proxy-Authorization", b"Basic " + credentials), *fields]


def _open_tunnel(stream: Stream, url: httpx.URL, fields: Fields, waits: Waits) -> None:
    """Have the proxy behind `stream` connect to the site of `url` (RFC 9110, 9.3.6)."""
    target = join_port(host_of(url), port_of(url)).encode("ascii")
    request = h11.Request(
        method=b"CONNECT", target=target, headers=[(b"Host", target), (b"Accept", b"*/*"), *fields]
    )
    head = Exchange(stream, memoryview(bytearray(16 << 10)), waits).ask(request, ())
    if not 200 <= head.status_code <= 299:
        reason = head.reason.decode("ascii", errors="ignore")
        raise httpcore.ProxyError(f"{head.status_code} {reason}")
