"""Connections lent to one request at a time.

A pool of httpcore's, used from several threads, looks at connections that are idle to see which the
server has closed, and closes them. When one of those is given a request in that very moment, its answer
looks like the server's goodbye, and the descriptor is closed under the thread that reads from it: that
fails (EBADF), or reads from whatever file gets the number next. Plain `httpx.Client` shows it within a
few hundred small requests when threads outnumber connections. Here each connection is a pool of its
own, of one connection, and whoever has borrowed it has it alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import BoundedSemaphore, Lock
from typing import Any, TypeAlias

import httpcore
import httpx
from msgspec import Struct

from floradl.net.guard import port_of

_Site: TypeAlias = tuple[str, str, int]  # scheme, host, port


class Lease(Struct, eq=False):
    """One connection, in use. Only the thread that has the lease may use `pool`."""

    pool: httpcore.ConnectionPool
    site: _Site
    idle_since: float = 0.0


class Leases:
    """Lends connections, at most `most` at once, and keeps them for `idle` seconds when given back."""

    def __init__(self, make: Callable[[httpx.URL], httpcore.ConnectionPool], most: int, idle: float) -> None:
        self._make = make
        self._most = most
        self._seconds = idle
        self._free = BoundedSemaphore(most)
        self._lock = Lock()
        self._idle: list[Lease] = []  # the one given back last stands last
        self._lent = 0

    def take(self, url: httpx.URL, timeout: float | None) -> Lease:
        """Lend a connection for `url`, a kept one if there is one. `give_back` it, whatever happens.

        Raises `httpcore.PoolTimeout` where all are lent for `timeout` seconds.
        """
        if not self._free.acquire(timeout=timeout):
            raise httpcore.PoolTimeout
        site = (url.scheme, url.host, port_of(url))
        with self._lock:
            self._lent += 1
            lease = next((lease for lease in reversed(self._idle) if lease.site == site), None)
            if lease is not None:
                self._idle.remove(lease)
            surplus = self._surplus()
        try:
            _close(surplus)
            return lease or Lease(self._make(url), site)
        except BaseException:
            self._return_slot()
            raise

    def give_back(self, lease: Lease) -> None:
        """Take a connection back: to keep it, where it is still good for another request."""
        lease.idle_since = time.monotonic()
        with self._lock:
            keep = _owes_nothing(lease.pool)
            if keep:
                self._idle.append(lease)
        if not keep:
            lease.pool.close()
        self._return_slot()

    def close(self) -> None:
        """Close what is idle. What is lent is closed by `give_back` if its socket was shut before."""
        with self._lock:
            idle, self._idle = self._idle, []
        _close(idle)

    def _return_slot(self) -> None:
        with self._lock:
            self._lent -= 1
        self._free.release()

    def _surplus(self) -> list[Lease]:
        """Remove from the idle ones what is too old or too many, and return it. Holds the lock."""
        oldest = time.monotonic() - self._seconds
        room = self._most - self._lent
        surplus = [
            lease
            for place, lease in enumerate(reversed(self._idle), 1)
            if place > room or lease.idle_since < oldest
        ]
        for lease in surplus:
            self._idle.remove(lease)
        return surplus


def _owes_nothing(pool: httpcore.ConnectionPool) -> bool:
    """Whether the connection can take another request: it is open, and nothing came beyond its last answer.

    Such bytes would be taken for the answer to the next request, which is another output's. httpcore keeps
    them to itself; where they cannot be looked for, the connection is not used again.
    """
    link: Any = next(iter(pool.connections), None)
    while link is not None:
        state = getattr(link, "_h11_state", None)
        if state is not None:
            return not state.trailing_data[0]
        link = getattr(link, "_connection", None)
    return False


def _close(leases: list[Lease]) -> None:
    for lease in leases:
        lease.pool.close()
