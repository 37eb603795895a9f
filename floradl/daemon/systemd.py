"""What is reported to the service manager: that the daemon has started, works, reads its settings, stops.

Source: sd_notify(3). What feeds the watchdog is the daemon's progress, not a timer.
"""

from __future__ import annotations

import math
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from floradl.queue.heartbeat import LivePause, Transfer
from floradl.redaction import redact
from floradl.units import format_count, format_size

_PATIENCE: Final = 0.2  # seconds for a manager whose queue is full: longer would hold the event loop up
_UNSENDABLE: Final = dict.fromkeys(map(ord, "\r\n\0"), " ")
_STATUS_EVERY: Final = 5.0  # seconds between two lines that differ, and between two pleas for more time
_MORE_TIME: Final = 30.0  # seconds that a start asks for, again and again while it gets on
_PINGS: Final = 3  # in the time of the watchdog: one may come late
_LONGEST: Final = 300  # characters of a status


class ServiceManager:
    """The manager's socket. Sending never fails, even without a manager."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog
        """Within how many seconds it wants a sign of life, None where it wants none."""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int | None = None) -> ServiceManager:
        """Return the manager that the environment names; none where the variable is malformed."""
        address = environ.get("NOTIFY_SOCKET", "")
        if not address.startswith(("/", "@")) or len(address) < 2:
            return cls(None)
        usec, whom = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = whom in {"", str(os.getpid() if pid is None else pid)}
        wanted = ours and usec.isascii() and usec.isdigit() and int(usec) > 0
        return cls(address, int(usec) / 1e6 if wanted else None)

    @property
    def listens(self) -> bool:
        """Whether there is one."""
        return self._address is not None

    def notify(self, **fields: str | int) -> bool:
        """Send one message; return whether it was taken. A line end in a value becomes a space."""
        if self._address is None:
            return False
        lines = "\n".join(f"{key}={str(value).translate(_UNSENDABLE)}" for key, value in fields.items())
        # An abstract address begins with a zero byte, which no variable can hold: it is written as "@".
        where = b"\0" + os.fsencode(self._address[1:]) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE)
                sender.sendto(lines.encode(errors="replace"), where)
        except OSError:
            return False
        return True


class SystemdView(msgspec.Struct, frozen=True):
    """The state to report; `quiet` is for how many seconds nothing was done although there is work."""

    starting: bool = False
    open_runs: int = 0
    ended: int = 0
    transfers: tuple[Transfer, ...] = ()
    paused: LivePause | None = None
    quiet: float = 0.0


class Supervision:
    """Reports to the manager. Each method may be called again; none fails, nor costs where nobody listens."""

    def __init__(self, manager: ServiceManager, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._manager = manager
        self._monotonic = monotonic
        self._ready = False  # whether the daemon is
        self._started = False  # whether the manager knows
        self._remark: str | None = None
        self._text = ""
        self._reported = ""
        self._sent_at: defaultdict[str, float] = defaultdict(lambda: -math.inf)

    def beat(self, text: str, *, well: bool) -> None:
        """Report `text` once a second or so; `well` is a sign of life, or at start a plea for more time."""
        self._text = text
        if not self._manager.listens:
            return
        now = self._monotonic()
        fields: dict[str, str | int] = {}
        if self._ready and not self._started:
            fields["READY"] = 1
        status = self._status()
        if status != self._reported and (fields or now - self._sent_at["STATUS"] >= _STATUS_EVERY):
            fields["STATUS"] = status
        if well and not self._ready and now - self._sent_at["EXTEND_TIMEOUT_USEC"] >= _STATUS_EVERY:
            fields["EXTEND_TIMEOUT_USEC"] = int(_MORE_TIME * 1e6)
        watchdog = self._manager.watchdog
        if well and self._ready and watchdog and now - self._sent_at["WATCHDOG"] >= watchdog / _PINGS:
            fields["WATCHDOG"] = 1
        if not fields or not self._manager.notify(**fields):
            return  # what was not taken is sent at the next beat
        self._started = self._started or "READY" in fields
        self._reported = str(fields.get("STATUS", self._reported))
        self._sent_at.update(dict.fromkeys(fields, now))

    def ready(self) -> None:
        """Have the next beat report that everything is being served."""
        self._ready = True

    def reloading(self) -> None:
        """Report that the settings are being read again. While the daemon starts, nothing is sent."""
        if self._started:
            # By this the manager knows an answer to its own request from an earlier one.
            self._manager.notify(RELOADING=1, MONOTONIC_USEC=time.monotonic_ns() // 1000)

    def reloaded(self, trouble: str | None) -> None:
        """Report that the settings are read. `trouble` is why the old ones still hold."""
        self._remark = trouble
        if self._started:
            self._reported = self._status()
            self._manager.notify(READY=1, STATUS=self._reported)

    def failed(self, why: str) -> None:
        """Report why the daemon ends by itself."""
        self._text, self._remark = why, None
        self._manager.notify(STATUS=self._status())

    def stopping(self) -> None:
        """Report that the end has begun."""
        self._manager.notify(STOPPING=1, STATUS="Stopping: what is under way goes on at the next start")

    def _status(self) -> str:
        text = redact(f"{self._text}; {self._remark}" if self._remark else self._text)
        return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def describe(view: SystemdView) -> str:
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
