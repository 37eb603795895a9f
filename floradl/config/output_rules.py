"""How the settings that choose outputs are read: `output.kinds` and `output.rules`. Pure.

`ValueError`s are as those of `config.types`.
"""

from __future__ import annotations

from typing import Final

from floradl.config.types import Flag, MisplacedError
from floradl.library.selection import OutputRule
from floradl.models import OutputKind
from floradl.yaml_reader import Value, nearest

_KINDS: Final = tuple(kind.value for kind in OutputKind)
_RULE: Final = '{technique: "camera-*", kinds: [video]}, or {output_id: "draft_*", skip: true}'
_RULE_KEYS: Final = ("technique", "output_id", "kinds", "skip")


def read_kind(item: Value) -> OutputKind:
    """Read one of a list of kinds; capitals do not matter. Raises `ValueError`."""
    word = item.strip().lower() if isinstance(item, str) else ""
    if word in _KINDS:
        return OutputKind(word)
    shown = ascii(item[:30]) if isinstance(item, str) else "something"
    near = nearest(word, _KINDS)
    hint = f" (did you mean {near}?)" if near else ""
    raise ValueError(f"holds {shown}, which is none of {', '.join(_KINDS)}{hint}")


def read_rules(value: Value) -> tuple[OutputRule, ...]:
    """Read a list of rules. Raises `MisplacedError` for what is wrong in a rule, else `ValueError`."""
    match value:
        case list():
            return tuple(_rule(entry, number) for number, entry in enumerate(value))
        case dict():
            raise ValueError(f"is one rule, but a list of them belongs here: write each like {_RULE}")
        case _:
            raise ValueError(f"is not a list of rules: write each like {_RULE}, or [] for none")


def _rule(entry: Value, number: int) -> OutputRule:
    if not isinstance(entry, dict):
        raise MisplacedError(f"is not a rule: write it like {_RULE}", number)
    for name in entry:
        if name not in _RULE_KEYS:
            near = nearest(name, _RULE_KEYS)
            hint = f"did you mean {near}?" if near else f"these are {', '.join(_RULE_KEYS)}"
            raise MisplacedError(f"is none of the keys that a rule has: {hint}", number, name)
    if "kinds" not in entry and "skip" not in entry:
        message = f"does not say what to do: add kinds, or skip: true, as in {_RULE}"
        raise MisplacedError(message, number)
    skip = "skip" in entry and _skip(entry["skip"], number)
    if skip and "kinds" in entry:
        raise MisplacedError("has both kinds and skip: true: take one of them out", number)
    kinds = _kinds(entry["kinds"], number) if "kinds" in entry else ()
    if "technique" not in entry and "output_id" not in entry:
        message = f"does not say which outputs it is for: add technique or output_id, as in {_RULE}"
        raise MisplacedError(message, number)
    technique, output_id = (_pattern(entry, name, number) for name in ("technique", "output_id"))
    return OutputRule(technique, output_id, kinds, skip)


def _pattern(entry: dict[str, Value], name: str, number: int) -> str | None:
    if name not in entry:
        return None
    value = entry[name]
    if not isinstance(value, str) or not value.strip():
        raise MisplacedError('is not a pattern: write it in quotes, like "camera-*"', number, name)
    return value.strip()


def _kinds(value: Value, number: int) -> tuple[OutputKind, ...]:
    if not isinstance(value, list) or not value:
        message = "is not a list of kinds: write it like [image, video]; for none write skip: true instead"
        raise MisplacedError(message, number, "kinds")
    try:
        return tuple(dict.fromkeys(read_kind(item) for item in value))
    except ValueError as error:
        raise MisplacedError(str(error), number, "kinds") from None


def _skip(value: Value, number: int) -> bool:
    try:
        return bool(Flag().read(value))
    except ValueError as error:
        said = f"{value[:30]!a} " if isinstance(value, str) else ""
        raise MisplacedError(f"{said}{error}", number, "skip") from None
