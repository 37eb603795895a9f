"""What the service manager hears of a daemon: that it has started, is well, reads its settings, stops.

Source: sd_notify(3). The watchdog is fed by what the daemon gets done, not by a timer: whoever hangs says
nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import msgspec

from floradl.config.units import format_count, format_size
from floradl.redaction import redact
from floradl.service.notify import Manager
from floradl.state.live import LivePause, Transfer

_STATUS_EVERY: Final = 5.0  # seconds between two lines that differ, and between two pleas for more time
_MORE_TIME: Final = 30.0  # seconds that a start asks for, again and again while it gets on
_PINGS: Final = 3  # in the time of the watchdog: one may come late
_LONGEST: Final = 300  # characters of a status


class View(msgspec.Struct, frozen=True):
    """How things stand. `open_runs` are not finished, `ended` are those that were since the start.

    `quiet` is for how many seconds nothing was done that there is to do; 0 where all is well.
    """

    starting: bool = False
    open_runs: int = 0
    ended: int = 0
    transfers: tuple[Transfer, ...] = ()
    paused: LivePause | None = None
    quiet: float = 0.0


class Supervision:
    """Tells the manager. Each method may be called again; none fails, and where nobody listens none costs."""

    def __init__(self, manager: Manager, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._manager = manager
        self._monotonic = monotonic
        self._ready = False  # whether the daemon is
        self._started = False  # whether the manager knows
        self._remark: str | None = None
        self._text = ""
        self._told = ""
        self._told_at = self._pleaded_at = self._pinged_at = -math.inf

    def beat(self, text: str, *, well: bool) -> None:
        """Say how things stand, once a second or so; without `well` the manager hears no sign of life.

        While the daemon starts, that is a plea for more time, and afterwards the watchdog's.
        """
        self._text = text
        if not self._manager.listens:
            return
        now = self._monotonic()
        said: dict[str, str | int] = {}
        if self._ready and not self._started:
            said["READY"] = 1
        status = self._status()
        if status != self._told and (said or now - self._told_at >= _STATUS_EVERY):
            said["STATUS"] = status
        if well and not self._ready and now - self._pleaded_at >= _STATUS_EVERY:
            said["EXTEND_TIMEOUT_USEC"] = int(_MORE_TIME * 1e6)
        watchdog = self._manager.watchdog
        if well and self._ready and watchdog and now - self._pinged_at >= watchdog / _PINGS:
            said["WATCHDOG"] = 1
        if not said or not self._manager.tell(**said):
            return  # what was not taken is said at the next beat
        self._started = self._started or "READY" in said
        if "STATUS" in said:
            self._told, self._told_at = status, now
        if "EXTEND_TIMEOUT_USEC" in said:
            self._pleaded_at = now
        if "WATCHDOG" in said:
            self._pinged_at = now

    def ready(self) -> None:
        """Have the next beat say that everything is being served."""
        self._ready = True

    def reloading(self) -> None:
        """Say that the settings are being read again. While the daemon starts that is no news."""
        if self._started:
            # By this the manager tells an answer to its own wish from an earlier one.
            self._manager.tell(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def reloaded(self, trouble: str | None) -> None:
        """Say that they are read. `trouble` is why those that held before still hold."""
        self._remark = trouble
        if self._started:
            self._told = self._status()
            self._manager.tell(READY=1, STATUS=self._told)

    def failed(self, why: str) -> None:
        """Say why it ends by itself."""
        self._text, self._remark = why, None
        self._manager.tell(STATUS=self._status())

    def stopping(self) -> None:
        """Say that the end has begun."""
        self._manager.tell(STOPPING=1, STATUS="Stopping: what is under way goes on at the next start")

    def _status(self) -> str:
        text = f"{self._text}; {self._remark}" if self._remark else self._text
        text = redact(text)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def describe(view: View) -> str:
    """Return one line for a person."""
    if view.paused is not None:
        since = time.strftime("%d %b %H:%M", time.localtime(view.paused.since))
        return f"Paused since {since} ({view.paused.reason}): {view.paused.message}"
    if view.starting:
        return "Starting: reading what there is in library, journal and inbox"
    parts = [f"Working on {format_count(view.open_runs, 'run')}" if view.open_runs else "Waiting for runs"]
    if view.transfers:
        parts.append(f"{format_count(len(view.transfers), 'file')} coming in ({_bytes(view.transfers)})")
    if view.ended:
        parts.append(f"{view.ended:,} finished since the start")
    if view.quiet:
        parts.append(f"nothing has moved for {view.quiet / 60:.0f} minutes")
    return "; ".join(parts)


def _bytes(transfers: tuple[Transfer, ...]) -> str:
    came = format_size(sum(transfer.bytes for transfer in transfers))
    totals = [transfer.total for transfer in transfers]
    known = [total for total in totals if total is not None]
    return came if len(known) < len(totals) else f"{came} of {format_size(sum(known))}"
