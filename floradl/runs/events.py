"""Who wants to know how it goes: the terminal's bars, and the daemon's heartbeat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, Self

from msgspec import Struct

from floradl.models import QueuedRun, SavedOutput


class RunSummary(Struct, frozen=True):
    """What a run brought: a sidecar (its path in the library), outputs in all, files on disk, their bytes."""

    sidecar: str
    outputs: int
    files: int
    bytes: int

    @classmethod
    def of(cls, sidecar: str, outputs: Sequence[SavedOutput]) -> Self:
        """Count the `outputs` that stand in `sidecar`."""
        files = [output for output in outputs if output.path is not None]
        return cls(sidecar, len(outputs), len(files), sum(output.bytes or 0 for output in files))


class RunEvents(Protocol):
    """Hears of every step. `transfer` and `transferred` are called from worker threads too."""

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        """Record that a run changed, or was asked about; `next_in` is in seconds, None when it is at work."""
        ...

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Record that `received` of `total` bytes of an output are there."""
        ...

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Record that no transfer of this output is under way any more."""
        ...

    def finished(self, run: QueuedRun, brought: RunSummary | None) -> None:
        """Record that a run is finished; None where all of it stood in the library already."""
        ...

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Hear of trouble that may pass; the next try is in `next_in` seconds."""
        ...
