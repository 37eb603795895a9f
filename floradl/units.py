"""Durations (`2s`, `1h30m`, `1:02`), sizes (`500MB`, `1GiB`) and counts (`3 files`) as people write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal

_SECONDS: Mapping[str, Decimal] = {
    "w": Decimal(604_800),
    "d": Decimal(86_400),
    "h": Decimal(3600),
    "m": Decimal(60),
    "s": Decimal(1),
    "ms": Decimal("0.001"),
}
_NUMBER = r"[0-9]{1,15}(?:\.[0-9]{1,9})?"
_DURATION_PART = re.compile(rf"\s*({_NUMBER})\s*(ms|[wdhms])")
_SIZE = re.compile(rf"({_NUMBER})\s*([a-zA-Z]*)")
_PREFIXES = "kmgtp"
_BYTES: Mapping[str, int] = {
    "b": 1,
    **{f"{prefix}b": 1000**power for power, prefix in enumerate(_PREFIXES, start=1)},
    **{f"{prefix}ib": 1024**power for power, prefix in enumerate(_PREFIXES, start=1)},
}
LONGEST = 100 * 366 * 86_400.0
"""The longest duration, in seconds: a century. Sums with the clock stay far from overflow."""
LARGEST = 2**63 - 1
"""The largest size, in bytes: what a file offset holds."""


def parse_duration(text: str) -> float:
    """Read `2s`, `250ms`, `5m`, `24h`, `30d`, `2w`, `1h30m` or `0` into seconds. Raises `ValueError`."""
    text = text.strip()
    if text == "0":
        return 0.0
    total, last, position = Decimal(0), Decimal("Infinity"), 0
    while position < len(text):
        part = _DURATION_PART.match(text, position)
        # Units go down, each once: `5m5m` is rather a slip than ten minutes.
        if part is None or _SECONDS[part[2]] >= last:
            raise ValueError(_no_duration(text))
        last, position = _SECONDS[part[2]], part.end()
        total += Decimal(part[1]) * last
    if not text:
        raise ValueError(_no_duration(text))
    if total > LONGEST:
        raise ValueError("is longer than a hundred years")
    return float(total)


def _no_duration(text: str) -> str:
    if re.fullmatch(_NUMBER, text):
        return f"has no unit: write {text}s, {text}m, {text}h or {text}d"
    return "is not a duration: write it like 2s, 5m, 24h or 30d (ms, s, m, h, d and w are known)"


def format_duration(seconds: float) -> str:
    """Write seconds (0 or more) as `parse_duration` reads them, to the millisecond: `1h30m`, `250ms`."""
    left = round(Decimal(seconds) * 1000)
    parts = []
    for unit, worth in _SECONDS.items():
        count, left = divmod(left, int(worth * 1000))
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0"


def parse_size(text: str) -> int:
    """Read `0`, `1024` (bytes), `500MB` (1000s) or `1GiB` (1024s), in any case. Raises `ValueError`."""
    if (match := _SIZE.fullmatch(text.strip())) is None:
        raise ValueError("is not a size: write it like 500MB, 1.5GB, 1GiB or 0")
    number, unit = match[1], match[2].lower()
    if not unit and "." in number:
        raise ValueError(f"has no unit: write {number}MB, {number}GB or {number}GiB")
    if len(unit) == 1 and unit in _PREFIXES:
        # rclone's G is 1024³, others' is 1000³: ask rather than guess.
        large = unit.upper()
        raise ValueError(f"can be read two ways: write {number}{large}B or {number}{large}iB")
    if unit and unit not in _BYTES:
        raise ValueError("has an unknown unit: write B, kB, MB, GB, TB, or KiB, MiB, GiB, TiB")
    size = int(Decimal(number) * _BYTES.get(unit, 1))
    if size > LARGEST:
        raise ValueError("is larger than any file can be")
    return size


def format_size(size: int) -> str:
    """Write bytes for a person, in powers of 1000 and three digits: `0 B`, `1.5 MB`, `20 GB`."""
    if size < 1000:
        return f"{size} B"
    value = float(size)
    for unit in ("kB", "MB", "GB", "TB"):
        value /= 1000
        if value < 999.5:
            return f"{value:.3g} {unit}"
    return f"{value / 1000:.4g} PB"


def format_clock(seconds: float) -> str:
    """Write a duration for a person, to the second: `0:03`, `1:02:30`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def format_count(number: int, noun: str) -> str:
    """Write how many there are: `1 file`, `3 files`, `1,200 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
