"""Media hosts that asked to be left alone for a while: one that says so to one transfer says it to all."""

from __future__ import annotations

from collections.abc import Callable

import anyio

from floradl.errors import FloradlError


class HostBackoffError(FloradlError):
    """The host wants to be left alone just now: wait, and start again."""


class HostBackoff:
    """Until when each host is left alone (`Retry-After`, RFC 9110, 10.2.3). `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._until: dict[str, float] = {}

    def ask_for(self, host: str, seconds: float) -> None:
        """Leave `host` alone for so many seconds; a shorter wish does not shorten a longer one."""
        now = self._monotonic()
        until = max(self._until.get(host, 0.0), now + seconds)
        self._until = {name: end for name, end in self._until.items() if end > now} | {host: until}

    def hosts(self) -> dict[str, float]:
        """Return until when each host asked to be left alone (monotonic seconds), past moments too."""
        return dict(self._until)

    def check(self, host: str) -> None:
        """Raise `HostBackoffError` where `host` is to be left alone. May be called from any thread."""
        if self._left(host) > 0:
            raise HostBackoffError(f"the media host {host} asked for {self._left(host):.0f} s of silence")

    async def over(self, host: str) -> None:
        """Wait until `host` may be asked; it may have asked for more meanwhile."""
        seconds = self._left(host)
        while seconds > 0:
            await anyio.sleep(seconds)
            seconds = self._left(host)

    def _left(self, host: str) -> float:
        return self._until.get(host, 0.0) - self._monotonic()
