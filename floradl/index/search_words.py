"""What a search means: all its words, each as the beginning of a word, whatever its case and accents.

The gallery and `floradl find` search alike, since both ask by `match_query` for what `separated` put in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

_MOST_WORDS: Final = 16
_LONGEST_WORD: Final = 100
# Scripts without spaces between words: each character counts as a word.
_WITHOUT_SPACES: Final = "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff])"


def separated(text: str) -> str:
    """Return `text` as it is searched: with spaces between characters that stand for words."""
    return text if text.isascii() else re.sub(_WITHOUT_SPACES, r" \1 ", text)


def match_query(text: str) -> str:
    """Return a query of FTS5 for the beginnings of all words in `text`, none of which is an operator."""
    words = [word[:_LONGEST_WORD].replace('"', "") for word in separated(text.replace("\0", " ")).split()]
    quoted = [f'"{word}"*' for word in words[:_MOST_WORDS] if any(char.isalnum() for char in word)]
    return " ".join(quoted) or '"\u0001"'  # which nothing has


def matching(names: Iterable[tuple[int, str]], patterns: Sequence[str]) -> list[int]:
    """Return the ids of the names that one of `patterns` is, or matches by `*`, `?` and `[abc]`.

    Capitals do not matter, as in `output.rules`.
    """
    plain = {pattern.casefold() for pattern in patterns}
    globs = [pattern for pattern in plain if any(char in pattern for char in "*?[")]
    match = None
    if globs:
        import fnmatch  # noqa: PLC0415 - seldom needed, where each millisecond counts

        match = re.compile("|".join(map(fnmatch.translate, globs))).match
    return [
        key
        for key, name in names
        if (folded := name.casefold()) in plain or (match is not None and match(folded))
    ]
