"""The client for media: blocking, for many threads, and without credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Self

import httpcore
import httpx

from floradl.net import request_url
from floradl.net.bandwidth import ReadLimit
from floradl.net.bodies import SyncBody
from floradl.net.connect import Connector
from floradl.net.errors import Translated, map_errors, refuse_proxy_answer
from floradl.net.http11 import Timeouts
from floradl.net.pool import ConnectionPool, PooledConnection, PoolLimits
from floradl.net.proxies import Routes
from floradl.net.socket_stream import OpenStreams
from floradl.net.url_policy import UrlPolicy


class SyncTransport(httpx.BaseTransport):
    """HTTP/1.1 over own sockets: see `open_client`. May be used from several threads."""

    def __init__(
        self,
        url_policy: UrlPolicy,
        limits: PoolLimits,
        environ: Mapping[str, str],
        bandwidth: ReadLimit | None = None,
    ) -> None:
        self._url_policy = url_policy
        self._streams = OpenStreams(bandwidth)
        self._routes = Routes(environ, url_policy)
        connector = Connector(self._routes, self._streams)
        self._pool = ConnectionPool(connector, limits.connections, limits.idle)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; its answer's body is to be read, and closed. Nothing is followed, stored or added.

        Raises `PermanentError`, `httpx.TransportError`.
        """
        self._url_policy.check(request.url)
        proxy = self._routes.proxy_of(request.url)
        said = partial(map_errors, request.url.host, proxy)
        timeouts = Timeouts.of(request)
        with said():
            pooled = self._pool.take(request.url, timeouts.pool)
            try:
                answer = self._ask(pooled, request, timeouts, said)
                if request.url.scheme == "http":
                    refuse_proxy_answer(answer, proxy)
                return answer
            except BaseException:
                self._pool.give_back(pooled)
                raise

    def change(self, connections: int) -> None:
        """Have so many connections, made anew: see `MediaClient.change`."""
        self._pool.change(connections)

    def abort(self) -> None:
        """Shut all connections: see `MediaClient.abort`."""
        self._streams.abort()

    def close(self) -> None:
        """Close all connections; one that is still in use is shut, and closed by whoever uses it."""
        self.abort()
        self._pool.close()

    def _ask(
        self, pooled: PooledConnection, request: httpx.Request, timeouts: Timeouts, said: Translated
    ) -> httpx.Response:
        connection = self._pool.connected(pooled, request.url, timeouts)
        try:
            exchange, head = connection.ask(request)
        except (httpcore.ReadError, httpcore.RemoteProtocolError):
            if not connection.may_repeat(request):
                raise
            connection = self._pool.renewed(pooled, request.url, timeouts)
            exchange, head = connection.ask(request)
        body = SyncBody(exchange, said, partial(self._pool.give_back, pooled))
        return httpx.Response(
            head.status_code,
            headers=head.headers.raw_items(),
            stream=body,
            extensions={
                "http_version": b"HTTP/" + head.http_version,
                "reason_phrase": head.reason,
                "network_stream": connection.stream,
            },
            request=request,
        )


class MediaClient:
    """Sends requests through a `SyncTransport`, each with the same few fields and time limits.

    It speaks of them in httpx's `HttpRequest` and `Response`, and has no more than is needed of what
    `httpx.Client` has: that takes longer than all else about a small file.
    """

    def __init__(self, transport: SyncTransport, *, user_agent: str, limits: PoolLimits) -> None:
        self._transport = transport
        # Range requests need the bytes as they are stored, and an inflated bomb needs memory: identity.
        self._fields = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._timeouts = httpx.Timeout(limits.read, connect=limits.connect).as_dict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        """Return a request, to be sent once. Raises `httpx.InvalidURL`."""
        fields = self._fields if headers is None else {**self._fields, **headers}
        exact = request_url.parse(url) if isinstance(url, str) else url
        request = httpx.Request(method, exact, headers=fields, extensions={"timeout": self._timeouts})
        request.url = exact  # httpx keeps a copy, which has lost the dot segments
        return request

    def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send `request`. With `stream` the body is not read yet: close the response, whatever happens.

        Raises `PermanentError` for what the guard refuses, else `httpx.TransportError`.
        """
        response = self._transport.handle_request(request)
        if not stream:
            with closing(response):
                response.read()
        return response

    def get(self, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Ask for `url`, and read the whole answer into memory. Raises as `send` does."""
        return self.send(self.build_request("GET", url, headers=headers))

    @contextmanager
    def stream(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Ask for `url`; the body is to be read within the context. Raises as `send` does."""
        with closing(self.send(self.build_request(method, url, headers=headers), stream=True)) as response:
            yield response

    def abort(self) -> None:
        """Shut all connections, for good; call it from any thread, any number of times.

        Threads that read or write, through httpx or on the response's own socket, get an error at once
        (`httpx.TransportError`, `OSError`, or the end of the data before its time); so does each new
        request. One that is looking a name up or connecting goes on until `Limits.connect` at most.
        """
        self._transport.abort()

    def change(self, connections: int) -> None:
        """Have so many connections at once from now on, made anew: by what the guard allows now."""
        self._transport.change(connections)

    def close(self) -> None:
        """Close all connections; a body that is still being read ends with an error."""
        self._transport.close()
