"""The bodies of answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing

import httpcore
import httpx

from floradl.net.exchange import Exchange, Piece
from floradl.net.wording import Translated


class SyncBody(httpx.SyncByteStream):
    """A body to be read by blocking, once."""

    def __init__(self, exchange: Exchange, translated: Translated, give_back: Callable[[], None]) -> None:
        self._pieces = exchange.body()
        self._translated = translated
        self._give_back: Callable[[], None] | None = give_back

    def __iter__(self) -> Iterator[bytes]:
        """Yield the bytes as they come; they may be kept."""
        with closing(self.pieces()) as pieces:
            for piece in pieces:
                yield bytes(piece)

    def pieces(self) -> Generator[Piece]:
        """Yield the bytes as they come, without a copy: each piece is valid until the next is asked for."""
        with self._translated():
            yield from self._pieces

    def close(self) -> None:
        """Give the connection back. Safe to repeat."""
        give_back, self._give_back = self._give_back, None
        if give_back is None:
            return
        self._pieces.close()
        give_back()


def pieces(response: httpx.Response) -> Iterator[Piece]:
    """Yield the body of `response` as it comes: each piece is valid until the next is asked for."""
    stream = response.stream
    return stream.pieces() if isinstance(stream, SyncBody) else response.iter_raw()


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
