"""A service manager's ear: the socket that `$NOTIFY_SOCKET` names, and what came through it."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio import wait_until

Message = dict[str, str]


class Ear:
    """Hears; `address` is what the variable would hold."""

    def __init__(self, address: str, listener: socket.socket) -> None:
        self.address = address
        self._listener = listener
        self.heard: list[Message] = []

    def listen(self) -> list[Message]:
        """Take in what has come, and return all that ever did."""
        while True:
            try:
                data = self._listener.recv(65536)
            except BlockingIOError:
                return self.heard
            pairs = (line.partition("=") for line in data.decode().splitlines())
            self.heard.append({key: value for key, _, value in pairs})

    def wait_for(self, key: str, part: str = "", *, after: int = 0, seconds: float = 60.0) -> int:
        """Wait for a message whose `key` contains `part`; return how many there were up to it."""

        def found() -> int:
            messages = self.listen()
            numbers = range(after, len(messages))
            return next(
                (n + 1 for n in numbers if part in messages[n].get(key, "") and key in messages[n]), 0
            )

        number: int = wait_until(found, seconds)
        return number


@contextmanager
def listening(folder: Path | None = None) -> Iterator[Ear]:
    """Listen at a socket in `folder`, or at an abstract address."""
    name = f"floradl-{os.getpid()}-{secrets.token_hex(4)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(folder / "notify") if folder else f"\0{name}")
        listener.setblocking(False)
        yield Ear(str(folder / "notify") if folder else f"@{name}", listener)
