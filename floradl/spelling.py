"""What a word was probably meant to be: for the "did you mean" of messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_LONGEST = 64  # characters; comparing takes memory and time by the length, and no name here is as long


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the one of `known` that is most like `word`, None where none is as alike as `cutoff` (0 to 1).

    None, too, where `word` is too long to be any of them: it may come from anybody, and be of any length.
    """
    if len(word) > _LONGEST:
        return None
    return next(iter(difflib.get_close_matches(word, known, n=1, cutoff=cutoff)), None)
