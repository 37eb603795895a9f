"""Whether webhooks tell of the ends of a technique's runs: FLORA is asked less often where they prove to.

Nothing says which runs were started with a `callback_url`, nor that the way to us is open. What can be known
is how the last ones ended.
"""

from __future__ import annotations

from collections import Counter

_PROVEN = 3  # ends in a row


class Heralds:
    """Counts by technique how many ends in a row were told; runs without one count as one of their own."""

    def __init__(self) -> None:
        self._in_a_row: Counter[str] = Counter()

    def ended(self, technique: str | None, *, told: bool) -> None:
        """Take in that a run ended that was asked about: `told` where a webhook said so before FLORA."""
        if told:
            self._in_a_row[technique or ""] += 1
        else:
            self._in_a_row.pop(technique or "", None)

    def expected(self, technique: str | None) -> bool:
        """Whether one is expected to tell of the next end."""
        return self._in_a_row[technique or ""] >= _PROVEN
