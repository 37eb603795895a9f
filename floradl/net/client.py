"""The client for media: blocking, for many threads, and without credentials."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from functools import partial
from typing import Self

import httpcore
import httpx

from floradl.net import exact_url
from floradl.net.bodies import SyncBody
from floradl.net.dialing import Dialer
from floradl.net.exchange import Waits
from floradl.net.guard import Guard
from floradl.net.leases import Lease, Leases
from floradl.net.pools import Limits
from floradl.net.routes import Routes
from floradl.net.streams import OpenStreams
from floradl.net.throttle import Cap
from floradl.net.wording import Translated, refuse_proxy_answer, translated


class SyncTransport(httpx.BaseTransport):
    """HTTP/1.1 over own sockets: see `open_client`. May be used from several threads."""

    def __init__(
        self, guard: Guard, limits: Limits, environ: Mapping[str, str], throttle: Cap | None = None
    ) -> None:
        self._guard = guard
        self._streams = OpenStreams(throttle)
        self._routes = Routes(environ, guard)
        dialer = Dialer(self._routes, self._streams)
        self._leases = Leases(dialer, limits.connections, limits.idle)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send `request`; its answer's body is to be read, and closed. Nothing is followed, stored or added.

        Raises `PermanentError`, `httpx.TransportError`.
        """
        self._guard.check(request.url)
        proxy = self._routes.proxy_of(request.url)
        said = partial(translated, request.url.host, proxy)
        waits = Waits.of(request)
        with said():
            lease = self._leases.take(request.url, waits.pool)
            try:
                answer = self._ask(lease, request, waits, said)
                if request.url.scheme == "http":
                    refuse_proxy_answer(answer, proxy)
                return answer
            except BaseException:
                self._leases.give_back(lease)
                raise

    def change(self, connections: int) -> None:
        """Have so many connections, made anew: see `MediaClient.change`."""
        self._leases.change(connections)

    def abort(self) -> None:
        """Shut all connections: see `MediaClient.abort`."""
        self._streams.abort()

    def close(self) -> None:
        """Close all connections; one that is still in use is shut, and closed by whoever uses it."""
        self.abort()
        self._leases.close()

    def _ask(self, lease: Lease, request: httpx.Request, waits: Waits, said: Translated) -> httpx.Response:
        connection = self._leases.connected(lease, request.url, waits)
        try:
            exchange, head = connection.ask(request)
        except (httpcore.ReadError, httpcore.RemoteProtocolError):
            if not connection.may_repeat(request):
                raise
            connection = self._leases.renewed(lease, request.url, waits)
            exchange, head = connection.ask(request)
        body = SyncBody(exchange, said, partial(self._leases.give_back, lease))
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

    It speaks of them in httpx's `Request` and `Response`, and has no more than is needed of what
    `httpx.Client` has: that takes longer than all else about a small file.
    """

    def __init__(self, transport: SyncTransport, *, user_agent: str, limits: Limits) -> None:
        self._transport = transport
        # Range requests need the bytes as they are stored, and an inflated bomb needs memory: identity.
        self._fields = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        self._waits = httpx.Timeout(limits.read, connect=limits.connect).as_dict()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def build_request(
        self, method: str, url: httpx.URL | str, *, headers: Mapping[str, str] | None = None
    ) -> httpx.Request:
        """Return a request, to be sent once. Raises `httpx.InvalidURL`."""
        fields = self._fields if headers is None else {**self._fields, **headers}
        exact = exact_url.parse(url) if isinstance(url, str) else url
        request = httpx.Request(method, exact, headers=fields, extensions={"timeout": self._waits})
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
