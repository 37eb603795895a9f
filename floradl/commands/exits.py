"""The exit codes, as the README lists them."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """How a command ended. Where several hold, `worst` says which one is told."""

    OK = 0
    FOUND = 1  # a check found something
    USAGE = 2  # usage or configuration
    FAILED = 3  # some run or output failed for good, or a job file was rejected
    KEY_REFUSED = 4
    GAVE_UP = 5  # on trouble that may pass
    BUG = 70
    INTERRUPTED = 130


def worst(*codes: Exit) -> Exit:
    """Return the one that is told: 4, then 5, then 3."""
    order = (Exit.INTERRUPTED, Exit.KEY_REFUSED, Exit.GAVE_UP, Exit.FAILED)
    return next((code for code in order if code in codes), Exit.OK)
