"""Talks to the service manager that started this process, where one did: systemd, or who does as it does.

Source: sd_notify(3) and sd_watchdog_enabled(3): one datagram of `KEY=value` lines to the socket that
`$NOTIFY_SOCKET` names, and how often `$WATCHDOG_USEC` wants to hear.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Final

_PATIENCE: Final = 0.2  # seconds for a manager whose queue is full: longer would hold the event loop up
_UNSENDABLE: Final = dict.fromkeys(map(ord, "\r\n\0"), " ")


class Manager:
    """The manager's socket. Telling it anything never fails: where there is none, nobody hears."""

    def __init__(self, address: str | None, watchdog: float | None = None) -> None:
        self._address = address
        self.watchdog = watchdog
        """Within how many seconds it wants to hear that all is well, None where it does not."""

    @classmethod
    def of(cls, environ: Mapping[str, str], pid: int | None = None) -> Manager:
        """Return the one that the environment tells of. `pid` is that of this process.

        A variable that makes no sense is one that is not set: it may have been left over by somebody else.
        """
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

    def tell(self, **said: str | int) -> bool:
        """Send `said` as one message, and say whether it was taken. A line end in a value becomes a space."""
        if self._address is None:
            return False
        lines = "\n".join(f"{key}={str(value).translate(_UNSENDABLE)}" for key, value in said.items())
        # An abstract address begins with a zero byte, which no variable can hold: it is written as "@".
        where = b"\0" + os.fsencode(self._address[1:]) if self._address[0] == "@" else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.settimeout(_PATIENCE)
                sender.sendto(lines.encode(errors="replace"), where)
        except OSError:
            return False
        return True
