"""Who wants to know how it goes: the terminal's bars, and the daemon's heartbeat."""

from __future__ import annotations

from typing import Protocol

from floradl.models import QueuedRun


class Progress(Protocol):
    """Hears of every step. `transfer` and `transferred` are called from worker threads too."""

    def run(self, run: QueuedRun, next_in: float | None) -> None:
        """Hear that a run changed, or was asked about; `next_in` is in seconds, None when it is at work."""
        ...

    def transfer(self, run: QueuedRun, output_id: str, received: int, total: int | None) -> None:
        """Hear that `received` of `total` bytes of an output are there."""
        ...

    def transferred(self, run: QueuedRun, output_id: str) -> None:
        """Hear that no transfer of this output is under way any more."""
        ...

    def finished(self, run: QueuedRun, sidecar: str | None) -> None:
        """Hear that a run is finished; `sidecar` is its path in the library."""
        ...

    def trouble(self, run: QueuedRun, message: str, next_in: float) -> None:
        """Hear of trouble that may pass; the next try is in `next_in` seconds."""
        ...
