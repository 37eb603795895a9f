"""One socket of a client, plain or under TLS, and the set of them all.

httpcore's stream connects, does the TLS handshake and writes. Reads go into a reused buffer, in few calls,
under the bandwidth limit, the timeout and the minimum rate.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import ExitStack, suppress
from threading import Lock
from typing import Any, Final
from weakref import WeakSet

import httpcore

from floradl.net.bandwidth import BandwidthLimiter

MIN_RATE: Final = 1024  # bytes a second
_MOMENT: Final = 0.25  # seconds that received bytes wait for more


class OpenStreams:
    """The open sockets of a client, so that another thread can shut them.

    `bandwidth` limits the reads of all together.
    """

    def __init__(self, bandwidth: BandwidthLimiter | None = None) -> None:
        self.bandwidth = bandwidth or BandwidthLimiter()
        self._lock = Lock()
        self._streams: WeakSet[Stream] = WeakSet()
        self._stopped = False

    def admit(self, stream: Stream) -> Stream:
        """Register `stream`. Raises `httpcore.ConnectError` once `abort` was called."""
        with self._lock:
            if not self._stopped:
                self._streams.add(stream)
                return stream
        stream.close()
        raise httpcore.ConnectError("stopped")

    def abort(self) -> None:
        """Shut every socket, for good: reads and writes in any thread fail at once. Safe to repeat."""
        with self._lock:
            self._stopped = True
            streams = list(self._streams)
        for stream in streams:
            stream.shut()
        self.bandwidth.stop()


class Stream(httpcore.NetworkStream):
    """A connection's socket, registered with `OpenStreams`. For one thread at a time, except `shut`."""

    def __init__(self, inner: httpcore.NetworkStream, streams: OpenStreams, tls_layers: int = 0) -> None:
        self._inner = inner
        self._streams = streams
        self._tls_layers = tls_layers
        self._socket: socket.socket = inner.get_extra_info("socket")
        self._step: float | None = -1.0  # the socket's time limit, as last set here
        self._broken: httpcore.ReadError | None = None
        self._waited = 0.0
        self._arrived = 0

    @property
    def direct_socket(self) -> socket.socket | None:
        """The socket that yields the bytes of this stream; None for TLS inside TLS."""
        return self._socket if self._tls_layers <= 1 else None

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what came, at most `max_bytes`; empty at the end. Raises as `read_into`."""
        space = memoryview(bytearray(max_bytes))
        return bytes(space[: self.read_into(space, timeout)])

    def read_into(self, space: memoryview, timeout: float | None) -> int:
        """Read into `space`; return how many bytes came, 0 at the end.

        Raises `httpcore.ReadTimeout` for under `MIN_RATE` over `timeout` seconds, and `httpcore.ReadError`.
        """
        came, seconds = self._take(space, timeout)
        if came:
            self._check_rate(came, seconds, timeout)
        return came

    def read_framed(self, space: memoryview, timeout: float | None) -> int:
        """As `read_into`, but the caller counts the payload in it: see `count_payload`."""
        came, seconds = self._take(space, timeout)
        self._waited += seconds
        return came

    def count_payload(self, payload: int, timeout: float | None) -> None:
        """Count `payload` bytes of what `read_framed` gave. Raises `httpcore.ReadTimeout`."""
        self._check_rate(payload, 0.0, timeout)

    def fill(self, space: memoryview, timeout: float | None) -> int:
        """Fill `space` while bytes keep coming; return how many, 0 at the end. Raises as `read_into`.

        It returns within a moment of the first byte. Where the connection breaks after some bytes, the next
        call raises. Under a bandwidth limit it returns each turn's bytes.
        """
        if self._streams.bandwidth.limits():
            return self.read_into(space, timeout)
        self._raise_broken()
        moment = _MOMENT if timeout is None else min(_MOMENT, timeout)
        started = now = time.monotonic()
        came = 0
        while came < len(space) and now - started < _MOMENT:
            try:
                more = self._receive(space[came:], moment if came else timeout)
            except httpcore.ReadTimeout:
                if not came:
                    raise
                more = 0
            except httpcore.ReadError as error:
                if not came:
                    raise
                self._broken, more = error, 0
            now = time.monotonic()
            if not more:
                break
            came += more
        if came:
            self._check_rate(came, now - started, timeout)
        return came

    def _take(self, space: memoryview, timeout: float | None) -> tuple[int, float]:
        """Return how many bytes came, and the seconds of waiting."""
        self._raise_broken()
        bandwidth = self._streams.bandwidth
        allowed = bandwidth.admit(len(space))
        started = time.monotonic()  # the wait for our own turn is not the server's silence
        came = self._receive(space[:allowed], timeout)
        bandwidth.give_back(allowed - came)
        return came, time.monotonic() - started

    def _receive(self, space: memoryview, timeout: float | None) -> int:
        if self._tls_layers > 1:
            data = self._inner.read(len(space), timeout)
            space[: len(data)] = data
            return len(data)
        # Small steps of one length: changing the timeout costs a system call.
        step = _MOMENT if timeout is None else min(timeout, _MOMENT)
        if step != self._step:
            self._socket.settimeout(step)
            self._step = step
        silent = 0.0
        while True:
            try:
                return self._socket.recv_into(space)
            except TimeoutError as error:
                silent += step
                if timeout is not None and silent >= timeout:
                    raise httpcore.ReadTimeout(str(error)) from error
            except OSError as error:
                raise httpcore.ReadError(str(error)) from error

    def _raise_broken(self) -> None:
        if self._broken is not None:
            raise self._broken

    def _check_rate(self, came: int, seconds: float, window: float | None) -> None:
        """Raise `httpcore.ReadTimeout` for an answer below `MIN_RATE`, head or body.

        Dripping bytes never meet the timeout of a single read. Only waiting for the server counts as time,
        and only payload as bytes.
        """
        if window is None:
            return
        self._waited += seconds
        self._arrived += came
        if self._waited < window:
            return
        if self._arrived < window * MIN_RATE:
            raise httpcore.ReadTimeout(f"only {self._arrived} bytes came in {self._waited:.0f} s")
        self._waited, self._arrived = 0.0, 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`. Raises `httpcore.WriteTimeout`, `httpcore.WriteError`."""
        self._waited, self._arrived = 0.0, 0
        self._step = -1.0  # `write` sets one of its own
        self._inner.write(buffer, timeout)

    def owes(self) -> bool:
        """Whether anything can be read: unexpected bytes, or the end."""
        if self._inner.get_extra_info("is_readable"):
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return self._tls_layers > 1 and _has_pending(self._inner.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Close the socket. Safe to repeat."""
        self._inner.close()

    def shut(self) -> None:
        """End reads and writes in any thread. The owner still closes the socket."""
        with suppress(OSError):
            # `SSLSocket.shutdown` drops the TLS layer first: a later read would take ciphertext for the body.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """Return the stream under TLS, which replaces this one.

        Raises `httpcore.ConnectError`, `httpcore.ConnectTimeout`.
        """
        with ExitStack() as stack:
            if not isinstance(self._socket, ssl.SSLSocket):
                # `wrap_socket` detaches the descriptor; `shut` needs one during the handshake.
                self._socket = stack.enter_context(self._socket.dup())
            inner = self._inner.start_tls(ssl_context, server_hostname, timeout)
        tls = inner.get_extra_info("socket")
        if isinstance(tls, ssl.SSLSocket):
            # Anyone on the way can close a connection: a body that ends with it needs TLS's close_notify
            # to be complete (RFC 9112, 9.8).
            tls.suppress_ragged_eofs = False  # type: ignore[attr-defined]  # missing in typeshed
        return self._streams.admit(Stream(inner, self._streams, self._tls_layers + 1))

    def get_extra_info(self, info: str) -> Any:
        """As httpcore's, but without the socket for TLS inside TLS: it yields ciphertext."""
        if info == "socket" and self._tls_layers > 1:
            return None
        return self._inner.get_extra_info(info)


def _has_pending(tls: ssl.SSLObject) -> bool:
    """Whether the inner of two TLS layers holds data in memory, invisible to the socket."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True
