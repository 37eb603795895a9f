"""What is remembered over a restart: how far events were told, which pauses were, and what is to be sent."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec
from msgspec import Struct, field

from floradl.fs.durable import PartBusyError, write_atomic
from floradl.fs.folders import open_root
from floradl.fs.names import SafeName
from floradl.log import get_logger
from floradl.notify.news import Pending
from floradl.queue.base import SentPause
from floradl.queue.event_log import Position
from floradl.queue.folder import NOTIFY_FILE

_log = get_logger()


class Outbox(Struct):
    """What one address is still to get. Times are unix seconds.

    `streak` is how many messages it got without an hour of quiet; `failing` is why the last try did not
    succeed, `since` when for the same reason first, and `tries` how often.
    """

    pending: Pending = field(default_factory=Pending)
    sent_at: float = 0.0
    streak: int = 0
    tries: int = 0
    not_before: float = 0.0
    failing: str | None = None
    since: float = 0.0


class Memory(Struct):
    """All of it. `at` is when the last event was read, `day` the last day (2026-11-29) that was summed up."""

    position: Position | None = None
    at: float = 0.0
    pauses: list[SentPause] = field(default_factory=list)
    outboxes: dict[str, Outbox] = field(default_factory=dict)
    day: str = ""


def load(state_dir: Path) -> Memory | None:
    """Return it; None where there is none yet, or none that can be read."""
    with suppress(OSError, msgspec.MsgspecError, ValueError):
        return msgspec.json.decode((state_dir / NOTIFY_FILE).read_bytes(), type=Memory)
    return None


class Keeper:
    """Writes it down, durably; a full disk only costs that."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._lost = False

    def keep(self, memory: bytes) -> None:
        """Write down what `encoded` returned. Blocking."""
        try:
            with open_root(self._state_dir) as folder:
                write_atomic(folder, SafeName(NOTIFY_FILE), memory)
            self._lost = False
        except (OSError, PartBusyError) as error:
            if not self._lost:
                path = os.fspath(self._state_dir / NOTIFY_FILE)
                _log.warning("notify_memory", message=f"{path} cannot be written: {error}; it is tried again")
            self._lost = True


def encoded(memory: Memory) -> bytes:
    """Return its bytes."""
    return msgspec.json.encode(memory)
