"""Has memory that was freed go back to the system, so that a moment of much work leaves a small process."""

from __future__ import annotations

import ctypes
from typing import Final

_MMAP_THRESHOLD: Final = -3  # malloc.h
_ARENA_MAX: Final = -8
_LARGE: Final = 1 << 20  # bytes


def return_what_is_freed() -> None:
    """Give large blocks memory of their own, and threads a heap together, where the C library is glibc.

    By itself it raises the size of what counts as large to 32 MB, and keeps what is below.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, _LARGE)
        mallopt(_ARENA_MAX, 2)
