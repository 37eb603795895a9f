"""`floradl events`: what happened, as lines of JSON, beside a daemon or without one."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from contextlib import closing
from typing import TextIO

from floradl.commands.exits import Exit
from floradl.config.settings import Config
from floradl.queue.event_log import EventReader
from floradl.queue.reader import readable

_LOOK_EVERY = 0.05  # seconds
_AT_ONCE = 64 << 10  # bytes


def events(
    config: Config,
    stream: TextIO,
    *,
    follow: bool,
    since: float | None,
    pause: Callable[[TextIO], bool] | None = None,
) -> Exit:
    """Write the recorded events to `stream`; with `follow` go on with new ones.

    Only those since `since` (unix seconds), unless it is None. `pause` waits until the next look, and returns
    whether `stream` still has a reader. Raises `ConfigError` where this user may not read the state folder.
    """
    pause = pause or _pause
    with readable(config.state_dir), closing(EventReader(config.state_dir, since)) as reader:
        while True:
            lines: list[bytes] = []
            size = 0
            for line in reader.read():
                lines.append(line)
                size += len(line)
                if size >= _AT_ONCE:
                    _write(stream, lines)
                    size = 0
            _write(stream, lines)
            if not follow or not pause(stream):
                return Exit.OK


def _write(stream: TextIO, lines: list[bytes]) -> None:
    if lines:
        stream.buffer.write(b"".join(lines))
        stream.flush()
        lines.clear()


def _pause(stream: TextIO) -> bool:
    """Wait for a moment; False where the reader of a pipe has gone."""
    poll = select.poll()
    poll.register(stream, 0)
    if not poll.poll(_LOOK_EVERY * 1000):
        return True
    if os.isatty(stream.fileno()):
        return False
    for _, happened in poll.poll(0):
        if happened & select.POLLERR:
            return False
    time.sleep(_LOOK_EVERY)
    return True
