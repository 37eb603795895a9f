"""Connections lent to one request at a time.

Whoever has borrowed a connection has it alone until it is given back: no other thread looks at it, or closes
it, meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Lock
from typing import TypeAlias

import httpcore
import httpx
from msgspec import Struct

from floradl.net.connections import Connection
from floradl.net.dialing import Dialer
from floradl.net.exchange import Waits
from floradl.net.guard import port_of
from floradl.net.room import Room

_Site: TypeAlias = tuple[str, str, int]  # scheme, host, port


class Lease(Struct, eq=False):
    """A place among the connections, and the one that is in it. Only the thread that has it may use it."""

    connection: Connection | None
    site: _Site
    era: int  # its connection is kept while none has begun since
    idle_since: float = 0.0


class Leases:
    """Lends connections, at most `most` at once, and keeps them for `idle` seconds when given back."""

    def __init__(self, dialer: Dialer, most: int, idle: float) -> None:
        self._dialer = dialer
        self._most = most
        self._seconds = idle
        self._free = Room(most)
        self._lock = Lock()
        self._idle: list[Lease] = []  # the one given back last stands last
        self._lent = 0
        self._era = 0
        self._closed = False

    def take(self, url: httpx.URL, timeout: float | None) -> Lease:
        """Lend a kept connection to the site of `url`, or a place for one. `give_back` it, whatever happens.

        Raises `httpcore.PoolTimeout` where all are lent for `timeout` seconds.
        """
        if not self._free.acquire(timeout=timeout):
            raise httpcore.PoolTimeout
        site = (url.scheme, url.host, port_of(url))
        with self._lock:
            self._lent += 1
            oldest = time.monotonic() - self._seconds
            surplus = self._drop(lambda _place, lease: lease.idle_since < oldest)
            lease = next((lease for lease in reversed(self._idle) if lease.site == site), None)
            if lease is not None:
                self._idle.remove(lease)
            room, era = self._most - self._lent, self._era
            surplus += self._drop(lambda place, _lease: place >= room)
        _close(surplus)
        return Lease(None, site, era) if lease is None else lease

    def connected(self, lease: Lease, url: httpx.URL, waits: Waits) -> Connection:
        """Return the connection of `lease`, made now unless one was kept that the server has not closed.

        Raises as `Dialer.dial` does.
        """
        kept = lease.connection
        if kept is not None and kept.is_free():
            return kept
        return self.renewed(lease, url, waits)

    def renewed(self, lease: Lease, url: httpx.URL, waits: Waits) -> Connection:
        """Close the connection of `lease` and return another, made now. Raises as `Dialer.dial` does."""
        _close([lease])
        lease.connection = made = self._dialer.dial(url, waits)
        return made

    def give_back(self, lease: Lease) -> None:
        """Take a connection back: to keep it, where it is still good for another request."""
        connection = lease.connection
        good = connection is not None and connection.is_free()
        with self._lock:
            keep = good and not self._closed and lease.era == self._era
            if connection is not None and keep:
                connection.has_served = True
                lease.idle_since = time.monotonic()
                self._idle.append(lease)
            self._lent -= 1
        if not keep:
            _close([lease])
        self._free.release()

    def change(self, most: int) -> None:
        """Lend `most` at once from now on, and keep none that was made before: it may not be allowed now."""
        with self._lock:
            self._most = most
            self._era += 1
            idle, self._idle = self._idle, []
        self._free.change(most)
        _close(idle)

    def close(self) -> None:
        """Close what is idle, and from now on what is given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        _close(idle)

    def _drop(self, unwanted: Callable[[int, Lease], bool]) -> list[Lease]:
        """Remove idle ones, counted from the one given back last, and return them. Holds the lock."""
        places = enumerate(reversed(self._idle))
        dropped = [lease for place, lease in places if unwanted(place, lease)]
        for lease in dropped:
            self._idle.remove(lease)
        return dropped


def _close(leases: list[Lease]) -> None:
    for lease in leases:
        connection, lease.connection = lease.connection, None
        if connection is not None:
            connection.close()
