"""Times between the wire, the journal and a person: unix seconds inside, RFC 3339 UTC in files."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable
from functools import lru_cache

from msgspec import Struct


class Clocks(Struct, frozen=True):
    """The clocks to tell time by: `monotonic` returns seconds that only grow, `wall` unix seconds."""

    monotonic: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time


_MILLISECONDS = 1e11
"""Values from here on are milliseconds: as seconds they would lie 3,000 years ahead."""


def wire_time(value: float | None) -> float | None:
    """Return unix seconds for a time as FLORA sends it, in seconds or milliseconds; 0 means unknown."""
    if value is None or not math.isfinite(value) or value <= 0:
        return None
    return value / 1000 if value >= _MILLISECONDS else float(value)


def rfc3339(seconds: float | None) -> str | None:
    """Return `2026-11-23T19:03:11.120Z` for unix seconds; `None` for 0 (unknown) or no date at all."""
    if not seconds or not math.isfinite(seconds):
        return None
    whole = math.floor(seconds)
    microseconds = round((seconds - whole) * 1e6)
    if microseconds == 1_000_000:
        whole, microseconds = whole + 1, 0
    try:
        return f"{_to_the_second(whole)}.{microseconds // 1000:03}Z"
    except (OverflowError, ValueError, OSError):
        return None


@lru_cache(256)  # many things happen in one second
def _to_the_second(seconds: int) -> str:
    return dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()[: len("2026-11-23T19:03:11")]


def unix_seconds(text: str | None) -> float | None:
    """Return unix seconds for what `rfc3339` wrote, or any other RFC 3339 time; `None` for anything else."""
    try:
        moment = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
