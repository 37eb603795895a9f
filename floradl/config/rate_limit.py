"""The type of `download.rate_limit`: one rate, or a table of them by the time of day. Pure."""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Final

from floradl.config.types import SettingType
from floradl.net.bandwidth import DAY, RateSchedule, RateWindow
from floradl.units import format_size, parse_size
from floradl.yaml_reader import DocumentError, Value, load

_TABLE: Final = '[{from: "09:00", to: "18:00", rate: 2MB}]'


class RateLimit(SettingType, frozen=True):
    """Bytes a second as a `RateSchedule`: one rate, or a list of `{from, to, rate}`; None for no limit."""

    least: int = 1000

    def read(self, value: Value) -> RateSchedule | None:
        """Return the timetable. Raises `ValueError`."""
        match value:
            case None:
                return None
            case str():
                return self._always(value.strip())
            case dict():
                raise ValueError(f"is one entry, but a list of them belongs here: write it like {_TABLE}")
            case list():
                return self._table(value)

    def from_variable(self, text: str) -> Value:
        """Return what a variable holds: a size, null, or a list as YAML has it."""
        if text.startswith(("[", "{")):
            with suppress(DocumentError):
                return load(text).value
        return super().from_variable(text)

    def _always(self, text: str) -> RateSchedule:
        if text.startswith(("[", "{")):
            raise ValueError(f"is not a list to YAML: write it like {_TABLE}")
        return RateSchedule.always(self._rate(text))

    def _table(self, entries: list[Value]) -> RateSchedule | None:
        table = RateSchedule(tuple(self._span(entry, number) for number, entry in enumerate(entries, 1)))
        for one, other in table.overlaps():
            raise ValueError(
                f"contradicts itself: entries {one + 1} and {other + 1} both hold at some time of day"
            )
        return table if table.spans else None

    def _span(self, entry: Value, number: int) -> RateWindow:
        if not isinstance(entry, dict) or set(entry) != {"from", "to", "rate"}:
            raise ValueError(f"has an entry {number} without from, to and rate alone: write it like {_TABLE}")
        try:
            start, end = _second_of_day(entry["from"]), _second_of_day(entry["to"])
            span = RateWindow(start, end, self._rate_of(entry["rate"]))
        except ValueError as error:
            raise ValueError(f"has an entry {number} that is wrong: {error}") from None
        if start == end:
            raise ValueError(
                f"has an entry {number} that ends when it begins: for the whole day write its rate alone"
            )
        return span

    def _rate_of(self, value: Value) -> int:
        shown = ascii(value[:20]) if isinstance(value, str) else "what it says as rate"
        try:
            return self._rate(value if isinstance(value, str) else "")
        except ValueError as error:
            raise ValueError(f"{shown} {error}") from None

    def _rate(self, text: str) -> int:
        rate = parse_size(text.strip().removesuffix("/s"))
        if rate < self.least:
            raise ValueError(
                f"is out of range: {format_size(self.least)} a second at least; null means no limit"
            )
        return rate


def _second_of_day(value: Value) -> int:
    match = re.fullmatch("([0-9]{1,2}):([0-5][0-9])", value.strip()) if isinstance(value, str) else None
    second = int(match[1]) * 3600 + int(match[2]) * 60 if match else DAY + 1
    if second > DAY:
        shown = ascii(value[:20]) if isinstance(value, str) else "what it says"
        raise ValueError(f"{shown} is not a time of day: write it like 09:00, from 00:00 to 24:00")
    return second % DAY
