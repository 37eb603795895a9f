"""What a measurement is told: how thoroughly, where, and what it may use."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.figures import Figure
from benchmarks.tools import Tools
from floradl.simulator.runs import ProgressStyle

_RESERVE = 2 << 30  # bytes


class Plan(Struct, frozen=True):
    """How to measure. `pairs` is how often each comparison is repeated; `work` is a folder for everything.

    `progress` is how that of polled runs grows. The quick form sees that all works: its sizes and times are
    tiny, and its figures say nothing.
    """

    quick: bool
    pairs: int
    work: Path
    tools: Tools
    progress: ProgressStyle = "even"

    def size(self, full: int, quick: int) -> int:
        """Choose a size by the form."""
        return quick if self.quick else full

    def seconds(self, full: float, quick: float) -> float:
        """Choose a time by the form."""
        return quick if self.quick else full

    def need_space(self, size: int) -> None:
        """Raise `BenchmarkError` where `size` bytes do not fit."""
        if not self.has_space(size):
            raise BenchmarkError(
                f"{self.work} has not the {size >> 20} MiB free that are needed, beside a reserve: name "
                "another folder with --work"
            )

    def has_space(self, size: int) -> bool:
        """Whether `size` bytes fit beside a reserve of 2 GiB."""
        return self.quick or shutil.disk_usage(self.work).free - _RESERVE >= size


class BenchmarkError(Exception):
    """Something did not work, so that there is no figure; the message says what."""


class Measurement(Struct, frozen=True):
    """Rows that are measured together; `run` gets the plan, and those of `rows` that are wanted."""

    rows: tuple[str, ...]
    run: Callable[[Plan, Sequence[str]], list[Figure]]


def tell(message: str) -> None:
    """Say on stderr how far it is."""
    print(f"benchmarks: {message}", file=sys.stderr, flush=True)
