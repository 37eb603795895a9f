"""What an extra brings, and what is said where it is missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from floradl.errors import ConfigError


@contextmanager
def needing_simulator(what: str) -> Iterator[None]:
    """Import the simulator inside; `ConfigError` says how `what` gets its server library if it is missing."""
    try:
        yield
    except ImportError as error:
        if error.name != "aiohttp":
            raise
        raise ConfigError(
            f"{what} needs aiohttp, which is not installed: add the extra `simulator`, see docs/simulator.md"
        ) from error
