"""Moments as `--since` names them."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress

from floradl.config.units import parse_duration
from floradl.errors import ConfigError


def moment(text: str, now: float) -> float:
    """Return unix seconds for a duration before `now` (`7d`), a date (`2026-11-01`) or an RFC 3339 time.

    Without a zone they are local. Raises `ConfigError`.
    """
    with suppress(ValueError):
        return now - parse_duration(text)
    try:
        return dt.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"--since: {text[:60]!a} is neither a duration such as 7d or 24h, nor a date such as 2026-11-01"
        ) from None
