"""Connections to the addresses that were judged, and to no others.

httpcore's own backends hand a name to the system, which looks it up and connects wherever the answer
says. These are given the addresses by `resolve` (`Guard.resolve`) and connect to them by number. The
name is still what TLS checks the certificate against: httpcore passes it to `start_tls`. Socket files are not
connected to: what the base classes say of them, NotImplementedError, stands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Final, TypeAlias

import anyio.to_thread
import httpcore

from floradl.net.streams import OpenStreams, Stream

_BLOCKING: Final = httpcore.SyncBackend()
# host, port, seconds -> addresses; raises as `Guard.resolve` does
Resolve: TypeAlias = Callable[[str, int, float | None], tuple[str, ...]]
_Options: TypeAlias = Iterable[httpcore.SOCKET_OPTION] | None


def connect(resolve: Resolve, streams: OpenStreams, host: str, port: int, timeout: float | None) -> Stream:
    """Connect to the first address of `host` that answers, all within `timeout` seconds, by blocking.

    Raises what `resolve` refuses with, `httpcore.ConnectError` or `httpcore.ConnectTimeout`.
    """
    attempts = _Attempts(timeout)
    with _translated():
        found = resolve(host, port, timeout)
    for address, seconds in attempts.over(found):
        try:
            stream = _BLOCKING.connect_tcp(address, port, seconds)
        except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
            attempts.failed(error)
        else:
            return streams.admit(Stream(stream, streams))
    raise attempts.error()


class AsyncBackend(httpcore.AsyncNetworkBackend):
    """For `httpcore.AsyncConnectionPool`; the look-up runs in a worker thread."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: _Options = None,
    ) -> httpcore.AsyncNetworkStream:
        """As `connect`, by awaiting."""
        attempts = _Attempts(timeout)
        with _translated():
            found = await anyio.to_thread.run_sync(self._resolve, host, port, timeout, abandon_on_cancel=True)
        for address, seconds in attempts.over(found):
            try:
                return await self._inner.connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                attempts.failed(error)
        raise attempts.error()


class _Attempts:
    """Deals the time for one connection out among the addresses that are tried in turn."""

    def __init__(self, timeout: float | None) -> None:
        self._ends = None if timeout is None else time.monotonic() + timeout
        self._error: httpcore.ConnectError | httpcore.ConnectTimeout | None = None

    def over(self, found: tuple[str, ...]) -> Iterator[tuple[str, float | None]]:
        """Yield each address with its seconds: an equal share of what those before it have left."""
        for left, address in zip(range(len(found), 0, -1), found, strict=True):
            if self._ends is None:
                yield address, None
            elif (remaining := self._ends - time.monotonic()) > 0:
                yield address, remaining / left
            else:
                self._error = httpcore.ConnectTimeout("timed out")
                return

    def failed(self, error: httpcore.ConnectError | httpcore.ConnectTimeout) -> None:
        self._error = error

    def error(self) -> httpcore.ConnectError | httpcore.ConnectTimeout:
        return self._error or httpcore.ConnectError("the name has no address")


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise httpcore.ConnectTimeout("the name could not be looked up in time") from error
    except OSError as error:
        raise httpcore.ConnectError(f"the name could not be looked up: {error.strerror or error}") from error
