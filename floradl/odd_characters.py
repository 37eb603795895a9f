"""Characters that a person does not see, or takes for others: text programs put them around a reference.

Source: the Unicode Character Database. Imported for text that is not ASCII alone.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Invisible characters besides those of category Cf: a joiner, fillers, variation selectors.
_INVISIBLE: Final = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0") | frozenset(
    map(chr, range(0xFE00, 0xFE10))
)
_QUOTES: Final = (
    "\"'`<>\u00b4\u00ab\u00bb\u2039\u203a\u2018\u2019\u201a\u201b\u201c\u201d\u201e\u201f"
    "\u275b\u275c\u275d\u275e\u301d\u301e\u301f\uff02\uff07\uff40"
)
_MOST_NAMED: Final = 3  # in a message


def without_invisible(text: str) -> str:
    """Return `text` without zero-width characters, soft hyphens, direction and byte order marks."""
    return "".join(char for char in text if not _is_invisible(char))


def without_quotes(text: str) -> str:
    """Return `text` without spaces and quotes of any kind at both ends."""
    while (inner := text.strip().strip(_QUOTES)) != text:
        text = inner
    return text


def named_in(text: str) -> str:
    """Name the characters in `text` that are invisible or look like others; empty where there are none.

    (ASCII quotes and spaces show in the message itself.)
    """
    odd = dict.fromkeys(
        char
        for char in text
        if not char.isascii() and (char.isspace() or char in _QUOTES or _is_invisible(char))
    )
    names = [f"{unicodedata.name(char, 'a character')} (U+{ord(char):04X})" for char in odd]
    return f"; in it is {', '.join(names[:_MOST_NAMED])}" if names else ""


def _is_invisible(char: str) -> bool:
    return char in _INVISIBLE or unicodedata.category(char) == "Cf"
