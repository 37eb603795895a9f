"""The bodies of answers, and what goes wrong with them in httpx's words."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TypeAlias

import httpcore
import httpx

Translated: TypeAlias = Callable[[], AbstractContextManager[None]]

_LARGE = 4 << 20  # bytes from which on a new connection costs less than what reading around h11 saves
_READ = 256 << 10


class SyncBody(httpx.SyncByteStream):
    """A body to be read by blocking; a large one is taken from the connection itself.

    h11 hands every byte through Python, at half the speed that the socket gives. Its place in the stream is
    lost to it then, so that the connection cannot serve another request: httpcore closes it. `timeout` is the
    longest silence, in seconds; `direct` says that the answer has a body at all (to HEAD it has none).
    """

    def __init__(
        self,
        response: httpcore.Response,
        translated: Translated,
        give_back: Callable[[], None],
        timeout: float | None,
        *,
        direct: bool,
    ) -> None:
        self._response = response
        self._translated = translated
        self._give_back: Callable[[], None] | None = give_back
        self._timeout = timeout
        self._direct = direct

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes as they come."""
        with self._translated():
            parts = iter(self._response.iter_stream())
            length = _plain_length(self._response)
            if self._direct and length is not None and length >= _LARGE:
                first = next(parts, b"")  # h11 had it in hand, with the head
                yield first
                yield from self._rest(length - len(first))
            else:
                yield from parts

    def _rest(self, left: int) -> Iterator[bytes]:
        stream = self._response.extensions["network_stream"]
        while left > 0:
            data = stream.read(min(left, _READ), self._timeout)
            if not data:
                raise httpcore.RemoteProtocolError(f"the connection was closed {left} bytes before the end")
            left -= len(data)
            yield data

    def close(self) -> None:
        """Give the connection back."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        try:
            with self._translated():
                self._response.close()
        finally:
            give_back()


class AsyncBody(httpx.AsyncByteStream):
    """A body to be read by awaiting."""

    def __init__(self, response: httpcore.Response, translated: Translated) -> None:
        self._response = response
        self._translated = translated

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come."""
        with self._translated():
            async for part in self._response.aiter_stream():
                yield part

    async def aclose(self) -> None:
        """Give the connection back."""
        with self._translated():
            await self._response.aclose()


# From httpcore's names to httpx's, the special before the general, and what to say where httpcore is silent.
_ERRORS: tuple[tuple[type[Exception], type[httpx.TransportError], str], ...] = (
    (httpcore.ConnectTimeout, httpx.ConnectTimeout, "no connection within the time limit"),
    (httpcore.ReadTimeout, httpx.ReadTimeout, "no answer within the time limit"),
    (httpcore.WriteTimeout, httpx.WriteTimeout, "it took nothing within the time limit"),
    (httpcore.PoolTimeout, httpx.PoolTimeout, "no connection was free within the time limit"),
    (httpcore.TimeoutException, httpx.TimeoutException, "timed out"),
    (httpcore.ConnectError, httpx.ConnectError, "no connection"),
    (httpcore.ReadError, httpx.ReadError, "the connection broke while reading"),
    (httpcore.WriteError, httpx.WriteError, "the connection broke while writing"),
    (httpcore.NetworkError, httpx.NetworkError, "the connection broke"),
    (httpcore.ProxyError, httpx.ProxyError, "the proxy refused"),
    (httpcore.UnsupportedProtocol, httpx.UnsupportedProtocol, "unsupported protocol"),
    (httpcore.RemoteProtocolError, httpx.RemoteProtocolError, "the answer is no HTTP"),
    (httpcore.ProtocolError, httpx.ProtocolError, "no HTTP"),
)


def _plain_length(response: httpcore.Response) -> int | None:
    """Return a body's length where its bytes follow one another on the wire, with nothing between."""
    lengths = [value for name, value in response.headers if name.lower() == b"content-length"]
    coded = any(name.lower() == b"transfer-encoding" for name, _ in response.headers)
    if coded or len(lengths) != 1 or not lengths[0].isdigit() or response.status not in {200, 206}:
        return None
    return int(lengths[0])


@contextmanager
def translated(host: str) -> Iterator[None]:
    """Raise in httpx's words what httpcore raises; `host` begins the message, no URL's query stands in it."""
    try:
        yield
    except httpcore.LocalProtocolError:
        # Its text quotes the header that cannot be sent, and that may be the key: nothing of it is kept.
        raise httpx.LocalProtocolError(f"{host}: the request has a header that HTTP cannot carry") from None
    except tuple(error for error, _, _ in _ERRORS) as error:
        kind, words = next((kind, words) for known, kind, words in _ERRORS if isinstance(error, known))
        # What a server sent may be quoted, and with it a signed URL.
        text = re.sub(r"\?[^\s'\"]+", "?...", str(error))
        raise kind(f"{host}: {words}" + (f" ({text})" if text else "")) from error
