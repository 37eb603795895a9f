"""One socket of the media client's, plain or under TLS, and all of them together.

httpcore's stream connects, shakes hands and writes. It is read here: into a buffer that is used again and
again, in as few steps as the socket allows, and under three watches: the limit on all transfers, the longest
silence, and the lowest rate.
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

_MIN_RATE: Final = 1024  # bytes a second
_MOMENT: Final = 0.25  # seconds for which bytes that came are held back, waiting for more


class OpenStreams:
    """The sockets of a client that are open now, so that all can be shut from another thread.

    `bandwidth` limits how fast they may be read, all together.
    """

    def __init__(self, bandwidth: BandwidthLimiter | None = None) -> None:
        self.bandwidth = bandwidth or BandwidthLimiter()
        self._lock = Lock()
        self._streams: WeakSet[Stream] = WeakSet()
        self._stopped = False

    def admit(self, stream: Stream) -> Stream:
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
        self.bandwidth.stop()


class Stream(httpcore.NetworkStream):
    """A connection's socket, known to an `OpenStreams`. For one thread at a time, but for `shut`."""

    def __init__(self, inner: httpcore.NetworkStream, streams: OpenStreams, tls_layers: int = 0) -> None:
        self._inner = inner
        self._streams = streams
        self._tls_layers = tls_layers
        self._socket: socket.socket = inner.get_extra_info("socket")
        self._step: float | None = -1.0  # the socket's time limit, as last set here
        self._broken: httpcore.ReadError | None = None
        self._waited = 0.0
        self._arrived = 0

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Return what has come, at most `max_bytes`; empty at the end. Raises as `read_into` does."""
        space = memoryview(bytearray(max_bytes))
        return bytes(space[: self.read_into(space, timeout)])

    def read_into(self, space: memoryview, timeout: float | None) -> int:
        """Put what has come into `space`; return how many bytes, 0 at the end.

        Raises `httpcore.ReadTimeout` where nothing comes for `timeout` seconds, or too little in that time,
        and `httpcore.ReadError`.
        """
        came, seconds = self._take(space, timeout)
        if came:
            self._judge(came, seconds, timeout)
        return came

    def read_framed(self, space: memoryview, timeout: float | None) -> int:
        """As `read_into`, but what comes is judged by `count_payload`, once it is known what of it counts."""
        came, seconds = self._take(space, timeout)
        self._waited += seconds
        return came

    def count_payload(self, payload: int, timeout: float | None) -> None:
        """Tell how much of what `read_framed` gave was no framing. Raises `httpcore.ReadTimeout`."""
        self._judge(payload, 0.0, timeout)

    def fill(self, space: memoryview, timeout: float | None) -> int:
        """Fill `space`, as far as bytes keep coming; return how many, 0 at the end. Raises as `read_into`.

        What came is not held back for longer than a moment, nor lost when the connection breaks: that is
        raised by the next call. Under a limit each turn is handed out as it comes.
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
            self._judge(came, now - started, timeout)
        return came

    def _take(self, space: memoryview, timeout: float | None) -> tuple[int, float]:
        """Return how many bytes came, and how many seconds they were waited for."""
        self._raise_broken()
        bandwidth = self._streams.bandwidth
        allowed = bandwidth.admit(len(space))
        started = time.monotonic()  # from here on, so that the wait for our own turn is not their silence
        came = self._receive(space[:allowed], timeout)
        bandwidth.give_back(allowed - came)
        return came, time.monotonic() - started

    def _receive(self, space: memoryview, timeout: float | None) -> int:
        if self._tls_layers > 1:
            data = self._inner.read(len(space), timeout)
            space[: len(data)] = data
            return len(data)
        # Small steps towards the limit, the same for all reads: to set another costs a system call.
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

    def _judge(self, came: int, seconds: float, window: float | None) -> None:
        """Give up an answer that crawls: one that drips never runs into the time limit of a single read.

        Here, because a head can drip as well as a body. Only waiting for the other side counts, not what is
        done with the bytes; and of a body in frames only what is in them.
        """
        if window is None:
            return
        self._waited += seconds
        self._arrived += came
        if self._waited < window:
            return
        if self._arrived < window * _MIN_RATE:
            raise httpcore.ReadTimeout(f"only {self._arrived} bytes came in {self._waited:.0f} s")
        self._waited, self._arrived = 0.0, 0

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of `buffer`. Raises `httpcore.WriteTimeout`, `httpcore.WriteError`."""
        self._waited, self._arrived = 0.0, 0
        self._step = -1.0  # `write` sets one of its own
        self._inner.write(buffer, timeout)

    def owes(self) -> bool:
        """Whether anything is there to be read: bytes that nobody asked for, or the end."""
        if self._inner.get_extra_info("is_readable"):
            return True
        if isinstance(self._socket, ssl.SSLSocket) and self._socket.pending():
            return True
        return self._tls_layers > 1 and _holds_back(self._inner.get_extra_info("ssl_object"))

    def close(self) -> None:
        """Close the socket. Safe to repeat."""
        self._inner.close()

    def shut(self) -> None:
        """Wake whoever waits in this socket. What is open stays so: closing is its owner's business."""
        with suppress(OSError):
            # Not `SSLSocket.shutdown`: that drops the TLS layer first, and a reader that comes next
            # would take what is left in the socket, which is ciphertext, for the body.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> Stream:
        """Return the stream under TLS, which takes this one's place.

        Raises `httpcore.ConnectError`, `httpcore.ConnectTimeout`.
        """
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
        return self._streams.admit(Stream(inner, self._streams, self._tls_layers + 1))

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore's stream tells, but no socket that carries another layer's ciphertext."""
        if info == "socket" and self._tls_layers > 1:
            return None  # TLS to a site inside TLS to a proxy: what comes from the socket is ciphertext
        return self._inner.get_extra_info(info)


def _holds_back(tls: ssl.SSLObject) -> bool:
    """Whether the inner of two TLS layers has something in memory, where no look at the socket sees it."""
    try:
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True
