"""The types of settings: how text of the file or the environment becomes a value. Pure.

`read` raises `ValueError` whose message continues "KEY: VALUE": `is not a duration: write it like …`.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any, Final

from msgspec import Struct

from floradl.library.selection import OutputRule
from floradl.library.template import Template
from floradl.models import OutputKind
from floradl.net.bandwidth import DAY, RateSchedule, RateWindow
from floradl.units import format_duration, format_size, parse_duration, parse_size
from floradl.yaml_reader import DocumentError, Value, load, nearest

CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
"""A control character, which no name and no path may hold."""
_NAME = re.compile(r"[^\s/\\?#\x00-\x1f\x7f]{1,250}")
_TABLE: Final = '[{from: "09:00", to: "18:00", rate: 2MB}]'


class SettingType(Struct, frozen=True):
    """How a setting is read; this base class is for settings of one text."""

    def read(self, value: Value) -> Any:
        """Return the setting for a value of the YAML file. Raises `ValueError`."""
        match value:
            case None:
                return self._absent()
            case str():
                return self._parse(value.strip())
            case list():
                raise ValueError("is a list to YAML, but one value belongs here: put it in quotes")
            case dict():
                raise ValueError("is a mapping to YAML, but one value belongs here: put it in quotes")

    def from_variable(self, text: str) -> Value:
        """Return the text (not empty) of an environment variable as the YAML value it means."""
        return None if text.lower() == "null" else text

    def _absent(self) -> Any:
        raise ValueError("has no value: write one, or take the line out")

    def _parse(self, text: str) -> Any:
        raise NotImplementedError


class MisplacedError(ValueError):
    """A part of a setting's value is wrong: `where` is its path in the value, of keys and numbers from 0."""

    def __init__(self, message: str, *where: str | int) -> None:
        super().__init__(message)
        self.where = where


class Setting(Struct, frozen=True):
    """One setting; its key is its place in `Config`.

    `default` is as in the configuration file, None for `null`. `aliases` are further environment variables,
    the strongest first.
    """

    type: SettingType
    default: str | tuple[str, ...] | None
    meaning: str
    aliases: tuple[str, ...] = ()


class Duration(SettingType, frozen=True):
    """Seconds, as a float, within a range; None where `nullable`."""

    least: float
    most: float
    nullable: bool = False

    def _absent(self) -> None:
        if not self.nullable:
            super()._absent()

    def _parse(self, text: str) -> float:
        seconds = parse_duration(text)
        if not self.least <= seconds <= self.most:
            raise ValueError(
                f"is out of range: {format_duration(self.least)} to {format_duration(self.most)}"
            )
        return seconds


class Size(SettingType, frozen=True):
    """Bytes, as an int; None where `nullable`."""

    least: int = 0
    nullable: bool = False

    def _absent(self) -> None:
        if not self.nullable:
            super()._absent()

    def _parse(self, text: str) -> int:
        size = parse_size(text)
        if size < self.least:
            no_limit = ", or null for no limit" if self.nullable else ""
            raise ValueError(f"is out of range: {format_size(self.least)} at least{no_limit}")
        return size


class Whole(SettingType, frozen=True):
    """A whole number within a range."""

    least: int
    most: int

    def _parse(self, text: str) -> int:
        if not re.fullmatch("[+-]?[0-9]{1,18}", text):
            raise ValueError(f"is not a whole number from {self.least} to {self.most}")
        number = int(text)
        if not self.least <= number <= self.most:
            raise ValueError(f"is out of range: {self.least} to {self.most}")
        return number


class Choice(SettingType, frozen=True):
    """One of a few values; capitals do not matter."""

    values: tuple[str, ...]

    def _parse(self, text: str) -> str:
        word = text.lower()
        if word not in self.values:
            near = nearest(word, self.values)
            hint = f" (did you mean {near}?)" if near else ""
            raise ValueError(f"is none of {', '.join(self.values)}{hint}")
        return word


class ChoiceList(SettingType, frozen=True):
    """Some of a few words, each once, as they come; capitals do not matter."""

    values: tuple[str, ...]

    def read(self, value: Value) -> tuple[str, ...]:
        """Return the words. Raises `ValueError`."""
        if not isinstance(value, list):
            raise ValueError(f"is not a list: write it like [{', '.join(self.values[:2])}], or [] for none")  # noqa: TRY004 - its value is wrong
        choice = Choice(self.values)
        try:
            return tuple(dict.fromkeys(choice._parse(str(item).strip()) for item in value))  # noqa: SLF001
        except ValueError as error:
            raise ValueError(f"holds a word that {error}") from None

    def from_variable(self, text: str) -> Value:
        """Return the list in a variable: with commas, or in YAML."""
        words = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return [word.strip().strip("\"'") for word in words.split(",") if word.strip()]


class Flag(SettingType, frozen=True):
    """Yes or no: `true` or `false`; capitals do not matter."""

    def _parse(self, text: str) -> bool:
        word = text.lower()
        if word not in {"true", "false"}:
            raise ValueError("is neither true nor false")
        return word == "true"


class NameTemplate(SettingType, frozen=True):
    """`output.template`, as text that is known to parse."""

    def _parse(self, text: str) -> str:
        try:
            Template.parse(text)
        except ValueError as error:
            raise ValueError(f"is not a template: {error}") from None
        return text


class FolderName(SettingType, frozen=True):
    """A folder of the library, relative and with `/`, other than that of the sidecars."""

    def _parse(self, text: str) -> str:
        parts = text.split("/")
        if any(part.strip() in {"", ".", ".."} for part in parts) or "\\" in text or CONTROL.search(text):
            raise ValueError("is not a folder in the library: write a name such as images, or media/images")
        if parts[0].casefold() == "runs":
            raise ValueError("is the folder of the sidecars: choose another name")
        return text


class NameList(SettingType, frozen=True):
    """Names or ids of things at FLORA (`what`, as `example` is written), each once."""

    what: str
    example: str

    def read(self, value: Value) -> tuple[str, ...]:
        """Return the names. Raises `ValueError`."""
        match value:
            case list():
                return tuple(dict.fromkeys(self._name(item) for item in value))
            case _:
                raise ValueError(f"is not a list: write it like [{self.example}], or [] for all")

    def from_variable(self, text: str) -> Value:
        """Return the list in a variable: with commas, or in YAML."""
        names = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return [name.strip().strip("\"'") for name in names.split(",") if name.strip()]

    def _name(self, item: Value) -> str:
        name = item.strip() if isinstance(item, str) else ""
        if not _NAME.fullmatch(name):
            raise ValueError(f"holds something that is not a {self.what}: write each like {self.example}")
        return name


class KindList(NameList, frozen=True):
    """Kinds of outputs, as `OutputKind`s, each once; empty for all."""

    def _name(self, item: Value) -> OutputKind:
        from floradl.config.output_rules import read_kind  # noqa: PLC0415 - for who chooses

        return read_kind(item)


class RuleList(SettingType, frozen=True):
    """Rules by which outputs are chosen, as `OutputRule`s; empty for none."""

    def read(self, value: Value) -> tuple[OutputRule, ...]:
        """Return the rules in their order. Raises `ValueError`."""
        if value == []:
            return ()
        from floradl.config.output_rules import read_rules  # noqa: PLC0415 - for who chooses

        return read_rules(value)

    def from_variable(self, text: str) -> Value:
        """Return the list in a variable, which is in YAML."""
        if text.startswith(("[", "{")):
            with suppress(DocumentError):
                return load(text).value
        return super().from_variable(text)


class RateLimit(SettingType, frozen=True):
    """Bytes a second as a `RateSchedule`: one rate, or a list of `{from, to, rate}`; None for no limit."""

    def read(self, value: Value) -> RateSchedule | None:
        """Return the schedule. Raises `ValueError`."""
        match value:
            case None:
                return None
            case str():
                if value.strip().startswith(("[", "{")):
                    raise ValueError(f"is not a list to YAML: write it like {_TABLE}")
                return RateSchedule.always(self._rate(value))
            case dict():
                raise ValueError(f"is one entry, but a list of them belongs here: write it like {_TABLE}")
            case list():
                return self._table(value)

    def from_variable(self, text: str) -> Value:
        """Return the value in a variable: a size, null, or a list in YAML."""
        if text.startswith(("[", "{")):
            with suppress(DocumentError):
                return load(text).value
        return super().from_variable(text)

    def _table(self, entries: list[Value]) -> RateSchedule | None:
        table = RateSchedule(tuple(self._span(entry, number) for number, entry in enumerate(entries, 1)))
        for one, other in table.overlaps():
            both = f"entries {one + 1} and {other + 1}"
            raise ValueError(f"contradicts itself: {both} both hold at some time of day")
        return table if table.windows else None

    def _span(self, entry: Value, number: int) -> RateWindow:
        if not isinstance(entry, dict) or set(entry) != {"from", "to", "rate"}:
            raise ValueError(f"has an entry {number} without from, to and rate alone: write it like {_TABLE}")
        try:
            start, end = _second_of_day(entry["from"]), _second_of_day(entry["to"])
            span = RateWindow(start, end, self._rate_of(entry["rate"]))
        except ValueError as error:
            raise ValueError(f"has an entry {number} that is wrong: {error}") from None
        if start == end:
            message = "that ends when it begins: for the whole day write its rate alone"
            raise ValueError(f"has an entry {number} {message}")
        return span

    def _rate_of(self, value: Value) -> int:
        shown = ascii(value[:20]) if isinstance(value, str) else "its rate"
        try:
            return self._rate(value if isinstance(value, str) else "")
        except ValueError as error:
            raise ValueError(f"{shown} {error}") from None

    def _rate(self, text: str) -> int:
        rate = parse_size(text.strip().removesuffix("/s"))
        if rate < 1000:
            raise ValueError(f"is out of range: {format_size(1000)} a second at least; null means no limit")
        return rate


def _second_of_day(value: Value) -> int:
    match = re.fullmatch("([0-9]{1,2}):([0-5][0-9])", value.strip()) if isinstance(value, str) else None
    second = int(match[1]) * 3600 + int(match[2]) * 60 if match else DAY + 1
    if second > DAY:
        shown = ascii(value[:20]) if isinstance(value, str) else "its time"
        raise ValueError(f"{shown} is not a time of day: write it like 09:00, from 00:00 to 24:00")
    return second % DAY
