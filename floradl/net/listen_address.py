"""Where floradl itself listens: an address of this machine and a port."""

from __future__ import annotations

import re
from typing import Self

from msgspec import Struct

from floradl.net.addresses import join_port

_PLACE = re.compile(r"(?:\[(?P<six>[0-9a-fA-F:.]+(?:%\w+)?)\]|(?P<name>[\w.-]+)):(?P<port>[0-9]{1,5})")
_WRITE = 'write it like 127.0.0.1:8787, or "[::1]:8787"'


class Endpoint(Struct, frozen=True):
    """A host (an address, or a name of this machine's) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return join_port(self.host, self.port)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`. Raises `ValueError` that says what would be right."""
        match = _PLACE.fullmatch(text)
        if match is None:
            if re.fullmatch(":?[0-9]{1,5}", text):
                port = text.lstrip(":")
                raise ValueError(
                    f"names no address: write 127.0.0.1:{port} for this machine alone, 0.0.0.0:{port} for all"
                )
            raise ValueError(f"is not an address and port: {_WRITE}")
        port_number = int(match["port"])
        if not 1 <= port_number <= 65535:
            raise ValueError(f"has a port out of range, which is 1 to 65535: {_WRITE}")
        return cls(match["six"] or match["name"], port_number)
