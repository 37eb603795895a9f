"""Clients that connect only where their `UrlPolicy` allows: `MediaClient`, and `ApiClient` for async code.

They share one blocking HTTP stack; the API's runs in threads of its own. The policy checks each request's URL
and each connection's address, or the URL alone through a proxy, which resolves names itself. No redirects,
cookies, netrc, or credentials of a URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from threading import Lock
from typing import TYPE_CHECKING, Final, Self

import httpcore
import httpx
from msgspec import Struct

from floradl.net import url_policy
from floradl.net.bandwidth import BandwidthLimiter
from floradl.net.errors import Translated, map_errors, refuse_proxy_answer
from floradl.net.http11 import BodyStream, Connection, Timeouts, read_bounded
from floradl.net.pool import ConnectionPool, Connector, PooledConnection, PoolLimits
from floradl.net.proxies import Routes
from floradl.net.socket_stream import OpenStreams, Stream
from floradl.net.url_policy import UrlPolicy

if TYPE_CHECKING:
    from floradl.net.multi_client import MultiClient, TransferTokens


class Cancellation:
    """Ends one request from another thread."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self._lock = Lock()
        self._stream: Stream | None = None

    def cancel(self) -> None:
        """End the request: a read or write fails at once, a connection once it is made."""
        with self._lock:
            self.is_cancelled = True
            self._shut()

    def watch(self, stream: Stream | None) -> None:
        """Shut `stream` when the request is cancelled; None stops that."""
        with self._lock:
            self._stream = stream
            if self.is_cancelled:
                self._shut()

    def _shut(self) -> None:
        if self._stream is not None:
            self._stream.shut()


_CANCELLATION: Final = "cancellation"  # the extension of a request that has one


class HttpTransport:
    """HTTP/1.1 over own sockets. May be used from several threads."""

    def __init__(
        self,
        url_policy: UrlPolicy,
        limits: PoolLimits,
        environ: Mapping[str, str],
        bandwidth: BandwidthLimiter | None = None,
    ) -> None:
        self._url_policy = url_policy
        self._streams = OpenStreams(bandwidth)
        self._routes = Routes(environ, url_policy)
        self._connector = Connector(self._routes, self._streams)
        self._pool = ConnectionPool(self._connector, limits.connections, limits.idle)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; the caller reads the body of the answer, and closes it.

        Raises `PermanentError`, `httpx.TransportError`.
        """
        self._url_policy.check(request.url)
        proxy = self._routes.proxy_of(request.url)
        translated = partial(map_errors, request.url.host, proxy)
        timeouts = Timeouts.of(request)
        with translated():
            pooled = self._pool.take(request.url, timeouts.pool)
            try:
                answer = self._exchange(pooled, request, timeouts, translated)
                if request.url.scheme == "http":
                    refuse_proxy_answer(answer, proxy)
                return answer
            except BaseException:
                self._give_back(pooled, request)
                raise

    @property
    def is_unlimited(self) -> bool:
        """Whether no limit on the bandwidth is set."""
        return not self._streams.bandwidth.limits()

    def check(self, url: httpx.URL) -> None:
        """Raise `PermanentError` where the URL policy refuses `url`."""
        self._url_policy.check(url)

    def proxy_of(self, url: httpx.URL) -> str | None:
        """Return HOST:PORT of the proxy for `url`, None for none."""
        return self._routes.proxy_of(url)

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Connect outside the pool, see `Connector.dial`."""
        return self._connector.dial(url, timeouts)

    def change(self, connections: int) -> None:
        """See `MediaClient.change`."""
        self._pool.change(connections)

    def abort(self) -> None:
        """See `MediaClient.abort`."""
        self._streams.abort()

    def close(self) -> None:
        """Close all connections; one in use is shut, and closed by its user."""
        self.abort()
        self._pool.close()

    def _exchange(
        self, pooled: PooledConnection, request: httpx.Request, timeouts: Timeouts, translated: Translated
    ) -> httpx.Response:
        cancellation = _cancellation(request)
        connection = self._pool.connected(pooled, request.url, timeouts)
        cancellation.watch(connection.stream)
        try:
            exchange, head = connection.ask(request)
        except (httpcore.ReadError, httpcore.RemoteProtocolError):
            if cancellation.is_cancelled or not connection.may_repeat(request):
                raise
            cancellation.watch(None)
            connection = self._pool.renewed(pooled, request.url, timeouts)
            cancellation.watch(connection.stream)
            exchange, head = connection.ask(request)
        body = BodyStream(exchange, translated, partial(self._give_back, pooled, request))
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

    def _give_back(self, pooled: PooledConnection, request: httpx.Request) -> None:
        _cancellation(request).watch(None)
        self._pool.give_back(pooled)


def _cancellation(request: httpx.Request) -> Cancellation:
    found: Cancellation = request.extensions.setdefault(_CANCELLATION, Cancellation())
    return found


class MediaClient:
    """Sends requests through an `HttpTransport`, with the same fields and timeouts each.

    It takes httpx's `Request` and returns its `Response`. `httpx.Client` would cost more time than all else
    about a small file.
    """

    def __init__(self, transport: HttpTransport, *, user_agent: str, limits: PoolLimits) -> None:
        self._transport = transport
        # Identity: ranges count stored bytes, and a bomb inflates in memory.
        self._fields = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._limits = limits
        self._timeouts = limits.timeouts()
        self._many: MultiClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def many(self, tokens: TransferTokens) -> MultiClient:
        """Return a client for many small requests at once over the same transport; close it before this."""
        from floradl.net.multi_client import MultiClient  # noqa: PLC0415 - workers have no use for it

        self._many = MultiClient(self._transport, self._fields, self._limits, tokens)
        return self._many

    @property
    def is_unlimited(self) -> bool:
        """Whether no limit on the bandwidth is set."""
        return self._transport.is_unlimited

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        """Return a request, to be sent once. Raises `httpx.InvalidURL`."""
        fields = self._fields if headers is None else {**self._fields, **headers}
        exact = url_policy.parse(url) if isinstance(url, str) else url
        request = httpx.Request(method, exact, headers=fields, extensions={"timeout": self._timeouts})
        request.url = exact  # httpx keeps a copy, which has lost the dot segments
        return request

    def send(self, request: httpx.Request, *, stream: bool = False) -> httpx.Response:
        """Send `request`. With `stream` the body is not read yet: close the response always.

        Raises `PermanentError` for what the URL policy refuses, else `httpx.TransportError`.
        """
        response = self._transport.handle_request(request)
        if not stream:
            with closing(response):
                response.read()
        return response

    def get(self, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None) -> httpx.Response:
        """Get `url`, and read the whole answer into memory. Raises as `send`."""
        return self.send(self.build_request("GET", url, headers=headers))

    @contextmanager
    def stream(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None
    ) -> Iterator[httpx.Response]:
        """Request `url`; read the body within the context. Raises as `send`."""
        with closing(self.send(self.build_request(method, url, headers=headers), stream=True)) as response:
            yield response

    def abort(self) -> None:
        """Shut all connections, for good. Safe to repeat, from any thread.

        Threads that read or write, through httpx or on the response's own socket, get an error at once
        (`httpx.TransportError`, `OSError`, or an early end of the data), and so does each new request.
        A name lookup or connection attempt ends within `PoolLimits.connect`.
        """
        self._transport.abort()

    def change(self, connections: int) -> None:
        """Limit the connections from now on, and make them anew, as the URL policy allows now."""
        self._transport.change(connections)
        if self._many is not None:
            self._many.change(connections)

    def close(self) -> None:
        """Close all connections; a body that is still being read ends with an error."""
        self._transport.close()


def open_client(
    url_policy: UrlPolicy,
    *,
    user_agent: str,
    limits: PoolLimits | None = None,
    environ: Mapping[str, str] = os.environ,
    bandwidth: BandwidthLimiter | None = None,
) -> MediaClient:
    """Return a client for media, without credentials. Close it (it is a context manager).

    `bandwidth` limits the reads of all its connections together, and stops with them. `environ` names proxies
    and certificates. Its requests raise `PermanentError` for what `url_policy`
    refuses, else `httpx.TransportError`, whose messages hold only the host of the URL. Raises
    `ConfigError` for an unusable proxy or certificate file.
    """
    limits = limits or PoolLimits()
    transport = HttpTransport(url_policy, limits, environ, bandwidth)
    return MediaClient(transport, user_agent=user_agent, limits=limits)


class ApiAnswer(Struct, frozen=True):
    """One answer of an API. `body` is whole, its content codings undone."""

    status: int
    headers: httpx.Headers
    body: bytes


class ApiClient:
    """Gets answers of one API for async code, in threads of its own, at most one for each connection.

    Close it (it is a context manager).
    """

    def __init__(
        self,
        url_policy: UrlPolicy,
        base_url: str,
        *,
        user_agent: str,
        limits: PoolLimits | None = None,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        """Check `base_url`; connect to nothing yet.

        Where a key is sent, `url_policy` should allow the host of `base_url` only. Raises `PermanentError`
        where it refuses `base_url`, and `ConfigError` as `open_client` does.
        """
        url_policy.check(base_url)
        limits = limits or PoolLimits()
        self.base_url: Final = httpx.URL(base_url)
        self._transport = HttpTransport(url_policy, limits, environ)
        from anyio import CapacityLimiter  # noqa: PLC0415 - as `MultiClient` above

        self._threads = CapacityLimiter(limits.connections)
        self._fields = {
            "User-Agent": user_agent,
            "Accept": "application/json",
            # A proxy may compress it all the same.
            "Accept-Encoding": "identity",
        }
        self._timeouts = limits.timeouts()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    async def get(self, path: str, most: int, headers: Mapping[str, str] | None = None) -> ApiAnswer:
        """Get `path`, relative to the base URL, and read the whole answer, of `most` bytes.

        Cancellation shuts its connection, which ends its thread. Raises as `MediaClient.send` and
        `read_bounded`.
        """
        from anyio import to_thread  # noqa: PLC0415 - as above

        cancellation = Cancellation()
        request = httpx.Request(
            "GET",
            self._url(path),
            headers={**self._fields, **(headers or {})},
            extensions={"timeout": self._timeouts, _CANCELLATION: cancellation},
        )
        try:
            return await to_thread.run_sync(
                self._send, request, most, abandon_on_cancel=True, limiter=self._threads
            )
        finally:
            cancellation.cancel()

    def close(self) -> None:
        """Close all connections; pending requests get an error."""
        self._transport.close()

    def _url(self, path: str) -> httpx.URL:
        url = httpx.URL(path)
        if not url.is_relative_url:
            return url
        base = self.base_url.raw_path.removesuffix(b"/") + b"/"
        return self.base_url.copy_with(raw_path=base + url.raw_path.lstrip(b"/"))

    def _send(self, request: httpx.Request, most: int) -> ApiAnswer:
        with closing(self._transport.handle_request(request)) as response:
            if response.has_redirect_location:
                try:
                    request.url.join(response.headers["location"])
                except (httpx.InvalidURL, ValueError) as error:
                    message = f"Invalid URL in location header: {error}."
                    raise httpx.RemoteProtocolError(message) from error
            return ApiAnswer(response.status_code, response.headers, read_bounded(response, most))
