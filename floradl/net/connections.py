"""A connection to one site, which serves one request after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

import h11
import httpx

from floradl.net.addresses import join_port
from floradl.net.exchange import Exchange, Waits
from floradl.net.streams import Stream

_BUFFER: Final = 128 << 10  # bytes, of each connection; larger ones gain nothing, and smaller ones cost

Fields: TypeAlias = Sequence[tuple[bytes, bytes]]


class Connection:
    """Owns its stream. `forward_fields` go to a proxy that is asked for whole URLs; else they are None."""

    def __init__(self, stream: Stream, forward_fields: Fields | None = None) -> None:
        self.stream = stream
        self.has_served = False
        self._forward_fields = forward_fields
        self._buffer = memoryview(bytearray(_BUFFER))
        self._exchange: Exchange | None = None

    def ask(self, request: httpx.Request) -> tuple[Exchange, h11.Response]:
        """Send `request`; return the head of its answer, and the exchange that has the body.

        Raises in the words of httpcore and of h11.
        """
        worded = self._worded(request)  # a request that cannot be sent leaves the connection as it was
        self._exchange = exchange = Exchange(self.stream, self._buffer, Waits.of(request))
        return exchange, exchange.ask(worded, request.stream)  # type: ignore[arg-type]

    def may_repeat(self, request: httpx.Request) -> bool:
        """Whether the last request failed only because the server had closed the connection meanwhile.

        Then it is safe to send it anew: no byte of an answer came, and asking twice is as asking once
        (RFC 9110, 9.2.2; RFC 9112, 9.3.1).
        """
        unanswered = self._exchange is not None and not self._exchange.answered
        return self.has_served and unanswered and request.method in {"GET", "HEAD"}

    def is_free(self) -> bool:
        """Whether it can take another request: the last one is over, and nothing came beyond its answer."""
        over = self._exchange is not None and self._exchange.is_over()
        return over and not self.stream.owes()

    def close(self) -> None:
        """Close it. Safe to repeat."""
        self.stream.close()

    def _worded(self, request: httpx.Request) -> h11.Request:
        fields: list[tuple[bytes, bytes]] = list(request.headers.raw)
        target = request.url.raw_path
        if self._forward_fields is not None:
            fields = [*self._forward_fields, *fields]
            target = site(request.url).encode("ascii") + target
        return h11.Request(method=request.method, target=target, headers=fields)


def host_of(url: httpx.URL) -> str:
    """Return the host as certificates have it, without the last dot (RFC 6066, 3)."""
    return url.raw_host.decode("ascii").removesuffix(".")


def site(url: httpx.URL) -> str:
    """Return scheme, host and port as the absolute form has them (RFC 9112, 3.2.2)."""
    host = host_of(url)
    name = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{name if url.port is None else join_port(host, url.port)}"
