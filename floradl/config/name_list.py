"""The settings that name things at FLORA: projects, techniques."""

from __future__ import annotations

import re

from floradl.config.setting_types import SettingType
from floradl.documents import Value

_NAME = re.compile(r"[^\s/\\?#\x00-\x1f\x7f]{1,250}")


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
                raise ValueError(f"is no list: write it like [{self.example}], or [] for all")

    def from_variable(self, text: str) -> Value:
        """Return the list that a variable holds: with commas, or as YAML has it."""
        names = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        return [name.strip().strip("\"'") for name in names.split(",") if name.strip()]

    def _name(self, item: Value) -> str:
        match item:
            case str() if _NAME.fullmatch(item.strip()):
                return item.strip()
            case _:
                raise ValueError(f"holds something that is no {self.what}: write each like {self.example}")
