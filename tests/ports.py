"""Ports for what a test starts: nobody else gets one between the choice and the start."""

from __future__ import annotations

import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import Final

_RANGE: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_held: list[socket.socket] = []


def free_port(host: str = "127.0.0.1", neighbour: int = 0) -> int:
    """Return a port that nobody listens at, and that no other test is given while this process runs.

    It lies below those that the kernel gives to connections, of which thousands are made meanwhile. With
    `neighbour` the port so far above is free, too.
    """
    first_of_kernel = int(_RANGE.read_text().split()[0])
    ports = list(range(10_000, first_of_kernel - neighbour))
    random.shuffle(ports)
    for port in ports:
        if _is_ours(port) and all(_is_free(host, each) for each in {port, port + neighbour}):
            return port
    raise AssertionError("all ports are taken")


def _is_ours(port: int) -> bool:
    """Reserve the port among all that test: an abstract socket has its name until its process ends."""
    name = socket.socket(socket.AF_UNIX)
    try:
        name.bind(f"\0floradl-test-port-{port}")
    except OSError:
        name.close()
        return False
    _held.append(name)
    return True


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as found, suppress(OSError):
        found.bind((host, port))
        return True
    return False
