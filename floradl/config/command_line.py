"""The settings that are commands: a program and its arguments, never a shell's line."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Final

from floradl.config.setting_types import Location, Place, SettingType
from floradl.documents import DocumentError, Value, load
from floradl.redaction import hide_keys

_EXAMPLE: Final = '["/usr/local/bin/notify", "--quiet"]'


class CommandLine(SettingType, frozen=True):
    """A program and its arguments as a list; empty for none. `resolve` makes the program's path absolute."""

    def read(self, value: Value) -> tuple[str, ...]:
        """Return the words. Raises `ValueError`."""
        match value:
            case None:
                return ()
            case str():
                like = json.dumps(value.split(), ensure_ascii=False)
                raise ValueError(f"is no list, and no shell reads it: write it like {like}")
            case dict():
                raise ValueError(f"is a mapping to YAML, but a list belongs here: write it like {_EXAMPLE}")
        words = tuple(self._word(item) for item in value)
        if words and not words[0].strip():
            raise ValueError(f"names no program: write it like {_EXAMPLE}, or [] for none")
        return words

    def from_variable(self, text: str) -> Value:
        """Return what a variable holds: a program alone, or a list as YAML has it."""
        if text.startswith("["):
            with suppress(DocumentError):
                return load(text).value
        one = len(text.split()) == 1 and text.lower() != "null"
        return [text] if one else super().from_variable(text)

    def resolve(self, words: tuple[str, ...], place: Place) -> tuple[str, ...]:
        """Return the words with an absolute path of the program; one without a `/` is looked for in PATH.

        Raises `ValueError` as `Location.resolve` does.
        """
        if not words or ("/" not in words[0] and not words[0].startswith("~")):
            return words
        return (str(Location().resolve(words[0], place)), *words[1:])

    def _word(self, item: Value) -> str:
        if not isinstance(item, str):
            raise ValueError(  # noqa: TRY004 - a fault of the file, as the others are
                "holds something that is no text to YAML: put each word in quotes"
            )
        if "\0" in item:
            raise ValueError("holds a NUL character, which no argument can")
        if hide_keys(item) != item:
            raise ValueError("holds a key of FLORA's, which the process list would show: take it out")
        return item
