"""Many small GETs at once, in one thread: non-blocking sockets under one selector.

A thread for each request spends most of its time on waking up. Policy, connections and TLS are those of
`MediaClient`; what is no plain answer is left to it, see `plain_exchange`.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock, Thread
from typing import Final, Protocol

import httpcore
import httpx

from floradl.net.errors import map_errors
from floradl.net.http11 import Connection, Timeouts
from floradl.net.plain_exchange import (
    MOST_HEAD,
    Need,
    NotPlainError,
    PlainConnection,
    Result,
    Site,
    SmallAnswer,
    SmallRequest,
    site_of,
)
from floradl.net.pool import PoolLimits

_MOST_HELD: Final = 24 << 20  # bytes of bodies in memory at once
_MOST_DONE: Final = 96  # answers that nobody has taken care of yet
_DIALERS: Final = 8  # threads that connect
_PATIENCE: Final = 10.0  # seconds that a body may take while others wait for its memory
_TICK: Final = 0.25  # seconds between two looks at who is silent
_REPORT_EVERY: Final = 1.0  # seconds
_MOST_ODD: Final = 1000  # sites
_ODD_FOR: Final = 600.0  # seconds that a site is left to others


class Transport(Protocol):
    """What is shared with `MediaClient`."""

    def check(self, url: httpx.URL) -> None:
        """Raise `PermanentError` where the URL policy refuses `url`."""

    def proxy_of(self, url: httpx.URL) -> str | None:
        """Return the proxy that `url`, which was checked, is asked through; None where there is none."""

    def dial(self, url: httpx.URL, timeouts: Timeouts) -> Connection:
        """Connect to the site of `url`, by blocking; see `Connector.dial`."""


class TransferTokens(Protocol):
    """Permission to transfer, shared with whatever else does. Both may be called from any thread."""

    def take_now(self) -> bool:
        """Take one, if one is free and nobody waits for it."""

    def release(self) -> None:
        """Give one back."""


class MultiClient:
    """Sends `SmallRequest`s over connections of `transport`, as many at once as `tokens` allow.

    Its thread starts with the first request. `fields` go with each. Close it.
    """

    def __init__(
        self,
        transport: Transport,
        fields: Mapping[str, str],
        limits: PoolLimits,
        tokens: TransferTokens,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = transport
        self._fields = fields
        self._timeouts = Timeouts(limits.connect, limits.read, limits.read, None)
        self._limits = limits
        self._tokens = tokens
        self._monotonic = monotonic
        self._lock = Lock()  # of what other threads touch: the next nine
        self._incoming: deque[SmallRequest] = deque()
        self._dialed: deque[tuple[SmallRequest, PlainConnection | Exception]] = deque()
        self._taken: deque[int] = deque()
        self._thread: Thread | None = None
        self._most_idle = limits.connections
        self._era = 0  # of two connections that a change lies between, the older is not kept
        self._asleep = self._woken = self._stopped = False
        self._wants_memory = self._wants_token = False
        self._waiting: deque[SmallRequest] = deque()
        self._active: set[PlainConnection] = set()
        self._parked: deque[PlainConnection] = deque()  # active ones that wait for memory
        self._idle: list[PlainConnection] = []
        self._odd: dict[Site, float] = {}  # sites whose answers are not plain, and since when
        self._dialing: dict[int, SmallRequest] = {}  # by identity
        self._done = 0  # answers not taken care of
        self._held = 0  # bytes in memory
        self._dialers = ThreadPoolExecutor(_DIALERS, "floradl-connect")
        self._buffer = memoryview(bytearray(MOST_HEAD))
        self._ticked = 0.0

    def reads(self, url: httpx.URL) -> bool:
        """Whether `url` may have a plain answer, as far as is known. Raises `PermanentError` as `check`."""
        self._transport.check(url)
        if self._transport.proxy_of(url) is not None:
            return False
        since = self._odd.get(site_of(url))
        return since is None or self._monotonic() - since > _ODD_FOR

    @property
    def has_work(self) -> bool:
        """Whether requests are under way, or wait."""
        return bool(self._active or self._waiting or self._incoming or self._dialing)

    def send(self, request: SmallRequest) -> None:
        """Send `request` when its turn comes. May be called from any thread."""
        with self._lock:
            if not self._stopped:
                self._incoming.append(request)
                if self._thread is None:
                    self._start_thread()
                self._wake()
                return
        request.done(_stopped())

    def taken(self, answer: SmallAnswer) -> None:
        """Note that the body of `answer` needs no memory any more. May be called from any thread."""
        with self._lock:
            self._taken.append(len(answer.body))
            if self._wants_memory:
                self._wake()

    def wake(self) -> None:
        """Note that a token may be free. May be called from any thread."""
        if self._wants_token:
            with self._lock:
                self._wake()

    def change(self, connections: int) -> None:
        """Keep so many connections from now on, and none that was made before."""
        with self._lock:
            self._most_idle = connections
            self._era += 1
            self._wake()

    def close(self) -> None:
        """End all requests, and wait for their ends to be reported. Safe to repeat."""
        with self._lock:
            self._stopped = True
            self._wake()
        if self._thread is not None:
            self._thread.join()
        self._dialers.shutdown(wait=False, cancel_futures=True)

    def _start_thread(self) -> None:
        self._wake_here, self._woken_there = socket.socketpair()
        for end in (self._wake_here, self._woken_there):
            end.setblocking(False)
        self._thread = Thread(target=self._run, name="floradl-small", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        """Wake the thread; holds the lock."""
        self._woken = True
        if self._asleep:
            self._asleep = False
            with suppress(BlockingIOError):
                self._wake_here.send(b"\0")

    def _run(self) -> None:
        with selectors.DefaultSelector() as self._selector, self._wake_here, self._woken_there:
            self._selector.register(self._woken_there, selectors.EVENT_READ)
            try:
                while not self._stopped:
                    self._take_in()
                    self._start_waiting()
                    for key, _ in self._selector.select(self._pause()):
                        if key.data is None:
                            with suppress(BlockingIOError):
                                self._woken_there.recv(4096)
                        else:
                            self._advance(key.data)
                    self._tick()
            finally:
                self._end_all()

    def _pause(self) -> float | None:
        """Return how long to sleep; others know from now on that the thread does."""
        with self._lock:
            self._asleep = not (self._woken or self._stopped)  # the end may be what woke it before
            if not self._asleep:
                return 0.0
        if self._active or self._dialing:
            return _TICK
        return self._limits.idle if self._idle else None

    def _take_in(self) -> None:
        """Take what other threads brought."""
        with self._lock:
            self._asleep = self._woken = False
            self._waiting.extend(self._incoming)
            self._incoming.clear()
            dialed, self._dialed = self._dialed, deque()
        self._close_idle(lambda each: each.era != self._era)
        for request, connection in dialed:
            del self._dialing[id(request)]
            if isinstance(connection, Exception):
                self._finish(request, connection)
            else:
                self._selector.register(connection.sock, selectors.EVENT_READ, connection)
                self._begin(connection, request)
        self._has_memory()
        while self._parked and self._has_room(self._parked[0]):
            connection = self._parked.popleft()
            connection.watch(self._monotonic())
            self._selector.register(connection.sock, selectors.EVENT_READ, connection)
            self._take_body(connection)

    def _start_waiting(self) -> None:
        """Send what waits, as far as tokens and memory go."""
        while self._waiting and self._has_memory():
            self._wants_token = True  # first, so that none is given back unnoticed
            if not self._tokens.take_now():
                return
            self._wants_token = False
            request = self._waiting.popleft()
            try:
                request.begin()
                self._transport.check(request.url)
            except Exception as error:  # noqa: BLE001 - reported to who asked
                self._finish(request, error)
                continue
            found = self._kept(request.site)
            if found is None:
                self._dial(request)
            else:
                self._begin(found, request)

    def _has_memory(self) -> bool:
        """Whether another answer may come; what was taken care of meanwhile counts."""
        with self._lock:
            taken, self._taken = self._taken, deque()
            self._done -= len(taken)
            self._held -= sum(taken)
            there_is = self._done < _MOST_DONE and self._held < _MOST_HELD
            self._wants_memory = bool(self._parked) or not there_is
        return there_is

    def _kept(self, site: Site) -> PlainConnection | None:
        """Take a kept connection to `site`, on which nothing waits that would pass for the next answer."""
        while (found := next((each for each in reversed(self._idle) if each.site == site), None)) is not None:
            self._idle.remove(found)
            if found.is_quiet():
                return found
            self._forget(found)
        return None

    def _dial(self, request: SmallRequest) -> None:
        self._dialing[id(request)] = request
        self._dialers.submit(self._connect, request)

    def _connect(self, request: SmallRequest) -> None:
        """Connect, in a thread of its own: looking a name up and shaking hands block."""
        result: PlainConnection | Exception
        era = self._era
        try:
            with map_errors(request.url.host):
                connection = self._transport.dial(request.url, self._timeouts)
            sock = connection.stream.direct_socket
            if sock is None:
                connection.close()
                result = NotPlainError()
            else:
                sock.setblocking(False)
                result = PlainConnection(connection, sock, request.site, era)
        except Exception as error:  # noqa: BLE001 - reported to who asked
            result = error
        with self._lock:
            if not self._stopped:
                self._dialed.append((request, result))
                self._wake()
                return
        if isinstance(result, PlainConnection):  # its request was ended with all others
            result.close()

    def _begin(self, connection: PlainConnection, request: SmallRequest) -> None:
        try:
            head = request.head(self._fields)
        except NotPlainError as error:
            self._forget(connection)
            self._finish(request, error)
            return
        connection.begin(request, head, self._monotonic())
        self._active.add(connection)
        self._write(connection)

    def _write(self, connection: PlainConnection) -> None:
        if not connection.write():
            self._selector.modify(connection.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, connection)
        elif self._selector.get_key(connection.sock).events != selectors.EVENT_READ:
            self._selector.modify(connection.sock, selectors.EVENT_READ, connection)

    def _advance(self, connection: PlainConnection) -> None:
        """Do what can be done on a connection without waiting."""
        if connection in self._active:
            if connection.unsent:
                self._write(connection)
            self._go_on(connection, connection.read(self._buffer))
        elif connection in self._idle and not connection.is_quiet():  # its end, or what nobody asked for
            self._idle.remove(connection)
            self._forget(connection)

    def _go_on(self, connection: PlainConnection, step: Need | Result) -> None:
        if step is Need.ROOM:
            if self._parked or not self._has_room(connection):  # in turn, or large ones would wait for ever
                self._selector.unregister(connection.sock)
                self._parked.append(connection)
                self._has_memory()
            else:
                self._take_body(connection)
        elif step is not Need.WAIT:
            self._end(connection, step)

    def _take_body(self, connection: PlainConnection) -> None:
        self._held += connection.length
        connection.body_since = self._monotonic()
        step = connection.take_body()
        if step is Need.WAIT:  # TLS may hold some of it, of which the selector knows nothing
            step = connection.read(self._buffer)
        self._go_on(connection, step)

    def _has_room(self, connection: PlainConnection) -> bool:
        return not self._held or self._held + connection.length <= _MOST_HELD

    def _end(self, connection: PlainConnection, result: Result) -> None:
        """End an exchange: repeat it where only the connection was stale, else report its result."""
        repeat = isinstance(result, httpx.ReadError) and connection.may_repeat and not self._stopped
        if isinstance(result, NotPlainError) and result.of_the_site:
            self._odd = dict([*self._odd.items(), (connection.site, self._monotonic())][-_MOST_ODD:])
        if connection.body_since is not None:
            kept = len(result.body) if isinstance(result, SmallAnswer) else 0
            self._held -= connection.length - kept
        request = connection.end(self._monotonic())
        self._active.discard(connection)
        if connection.keep and connection.era == self._era:
            self._idle.append(connection)
            if len(self._idle) > self._most_idle:
                self._forget(self._idle.pop(0))
        else:
            self._forget(connection)
        if request is not None and repeat:
            self._dial(request)
        elif request is not None:
            self._finish(request, result)

    def _finish(self, request: SmallRequest, result: Result) -> None:
        self._tokens.release()
        if isinstance(result, SmallAnswer):
            self._done += 1
        request.done(result)

    def _forget(self, connection: PlainConnection) -> None:
        with suppress(KeyError, ValueError):  # a parked one is not watched
            self._selector.unregister(connection.sock)
        connection.close()

    def _close_idle(self, unwanted: Callable[[PlainConnection], bool]) -> None:
        for connection in [each for each in self._idle if unwanted(each)]:
            self._idle.remove(connection)
            self._forget(connection)

    def _tick(self) -> None:
        """Give up answers that are silent, or crawl; report how far others are.

        While others wait for memory, a body that takes long is left to who needs none for it.
        """
        now = self._monotonic()
        if now - self._ticked < _TICK:
            return
        self._ticked = now
        self._close_idle(lambda each: now - each.idle_since > self._limits.idle)
        is_short = bool(self._parked or (self._waiting and self._held >= _MOST_HELD))
        for connection in [each for each in self._active if each not in self._parked]:
            since = connection.body_since
            if (result := connection.stalled(now, self._limits.read)) is not None:
                self._end(connection, result)
            elif is_short and since is not None and now - since > _PATIENCE:
                connection.keep = False
                self._end(connection, NotPlainError())
            else:
                connection.report(now, _REPORT_EVERY)

    def _end_all(self) -> None:
        with self._lock:
            self._stopped, self._asleep = True, False
            unsent = [*self._incoming, *self._waiting]
            dialed = [each for _, each in self._dialed if isinstance(each, PlainConnection)]
        for connection in (*dialed, *self._idle):
            self._forget(connection)
        for connection in [*self._active]:
            self._end(connection, connection.broken(httpcore.ReadError("stopped")))
        for request in self._dialing.values():
            self._finish(request, _stopped())
        for request in unsent:
            request.done(_stopped())


def _stopped() -> httpx.ReadError:
    return httpx.ReadError("stopped")
