"""Connections to the addresses that were judged, and to no others.

httpcore's own backends hand a name to the system, which looks it up and connects wherever the answer
says. These are given the addresses by `resolve` (`UrlPolicy.resolve`) and connect to them by number. The
name is still what TLS checks the certificate against.
"""

from __future__ import annotations

import base64
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import h11
import httpcore
import httpx

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
