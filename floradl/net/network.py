"""Connections to the addresses that were judged, and to no others: network backends for httpcore.

httpcore's own backends hand a name to the system, which looks it up and connects wherever the answer
says. These are given the addresses by `resolve` (`Guard.resolve`) and connect to them by number. The
name is still what TLS checks the certificate against: httpcore passes it to `start_tls`. Socket files are not
connected to: what the base classes say of them, NotImplementedError, stands.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from threading import Lock
from typing import Any, TypeAlias
from weakref import WeakSet

import anyio.to_thread
import httpcore

from floradl.net.throttle import Throttle

_MIN_RATE = 1024  # bytes a second
# host, port, seconds -> addresses; raises as `Guard.resolve` does
Resolve: TypeAlias = Callable[[str, int, float | None], tuple[str, ...]]
_Options: TypeAlias = Iterable[httpcore.SOCKET_OPTION] | None


class OpenStreams:
    """The sockets of a client that are open now, so that all can be shut from another thread.

    `throttle` says how fast they may be read, all together.
    """

    def __init__(self, throttle: Throttle | None = None) -> None:
        self.throttle = throttle or Throttle()
        self._lock = Lock()
        self._streams: WeakSet[_Stream] = WeakSet()
        self._stopped = False

    def admit(self, stream: _Stream) -> _Stream:
        """Keep an eye on `stream`. Raises `httpcore.ConnectError` once `abort` was called."""
        with self._lock:
            if not self._stopped:
                self._streams.add(stream)
                return stream
        stream.close()
        raise httpcore.ConnectError("stopped")

    def abort(self) -> None:
        """Shut every socket: whoever waits in one, in whatever thread, gets an error at once.

        For good: no new stream is admitted. Calling it twice is safe.
        """
        with self._lock:
            self._stopped = True
            streams = list(self._streams)
        for stream in streams:
            stream.shut()
        self.throttle.stop()


class _Stream(httpcore.NetworkStream):
    """One of httpcore's streams, known to an `OpenStreams`."""

    def __init__(self, inner: httpcore.NetworkStream, streams: OpenStreams, tls_layers: int = 0) -> None:
        self._inner = inner
        self._streams = streams
        self._tls_layers = tls_layers
        self._socket: socket.socket = inner.get_extra_info("socket")
        self._waited = 0.0
        self._arrived = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        allowed = self._streams.throttle.admit(max_bytes)
        started = time.monotonic()  # from here on, so that the wait for our own turn is not their silence
        data = self._inner.read(allowed, timeout)
        self._streams.throttle.give_back(allowed - len(data))
        if timeout is not None and data:
            self._waited += time.monotonic() - started
            self._arrived += len(data)
            self._check_rate(timeout)
        return data

    def _check_rate(self, window: float) -> None:
        """Give up an answer that crawls: one that drips never runs into the time limit of a single read.

        Here, because a head or a chunk's size can drip as well as a body. Only waiting for the other side
        counts, not what is done with the bytes.
        """
        if self._waited < window:
            return
        if self._arrived < window * _MIN_RATE:
            raise httpcore.ReadTimeout(f"only {self._arrived} bytes came in {self._waited:.0f} s")
        self._waited, self._arrived = 0.0, 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._waited, self._arrived = 0.0, 0
        self._inner.write(buffer, timeout)

    def close(self) -> None:
        self._inner.close()

    def shut(self) -> None:
        """Wake whoever waits in this socket. What is open stays so: closing is its owner's business."""
        with suppress(OSError):
            # Not `SSLSocket.shutdown`: that drops the TLS layer first, and a reader that comes next
            # would take what is left in the socket, which is ciphertext, for the body.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        with ExitStack() as stack:
            if not isinstance(self._socket, ssl.SSLSocket):
                # `wrap_socket` takes the descriptor away from this socket while it shakes hands.
                self._socket = stack.enter_context(self._socket.dup())
            inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        tls = inner.get_extra_info("socket")
        if isinstance(tls, ssl.SSLSocket):
            # Anybody on the way can close a connection. What only its end would end is whole when the
            # other side says goodbye, and an error otherwise (RFC 9112, 9.8).
            tls.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # typeshed does not know it
        return self._streams.admit(_Stream(inner, self._streams, self._tls_layers + 1))

    def get_extra_info(self, info: str) -> Any:
        if info == "socket" and self._tls_layers > 1:
            return None  # TLS to a site inside TLS to a proxy: what comes from the socket is ciphertext
        return self._inner.get_extra_info(info)


class SyncBackend(httpcore.NetworkBackend):
    """For `httpcore.ConnectionPool`."""

    def __init__(self, resolve: Resolve, streams: OpenStreams) -> None:
        self._resolve = resolve
        self._streams = streams
        self._inner = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: _Options = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first address of `host` that answers, all within `timeout` seconds.

        Raises what `resolve` refuses with, `httpcore.ConnectError` or `httpcore.ConnectTimeout`.
        """
        attempts = _Attempts(timeout)
        with _translated():
            found = self._resolve(host, port, timeout)
        for address, seconds in attempts.over(found):
            try:
                stream = self._inner.connect_tcp(address, port, seconds, local_address, socket_options or ())
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                attempts.failed(error)
            else:
                return self._streams.admit(_Stream(stream, self._streams))
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
        """As `SyncBackend.connect_tcp`."""
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
