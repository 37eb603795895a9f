"""Which runs are done already, by their sidecars: these are not polled.

Of the others it is noted what an earlier sidecar names, so that it is read once: files that are there are not
fetched again, and what was left out stays so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from anyio import to_thread

from floradl.library.base import LibraryStore
from floradl.library.selection import asks_for_more
from floradl.library.sidecar import Sidecar, by_key, lacks, uncosted
from floradl.models import FinishedRun, QueuedRun, Result, RunState, SavedOutput


class DoneRuns:
    """Looks runs up in `library`. `wall` returns unix seconds."""

    def __init__(self, library: LibraryStore, wall: Callable[[], float] = time.time) -> None:
        self._library = library
        self._wall = wall
        self._earlier: dict[str, dict[str, SavedOutput]] = {}

    async def look_up(self, runs: Iterable[QueuedRun]) -> list[tuple[QueuedRun, FinishedRun | Exception]]:
        """Return those of `runs` of which all that is wanted is there, and those whose sidecar is unreadable.

        Of runs that were looked up before, or that are fetched anew, nothing is read.
        """
        new = [run for run in runs if run.state is RunState.WAITING and not run.force]
        if not new:
            return []
        found = await to_thread.run_sync(self._read, new)
        settled: list[tuple[QueuedRun, FinishedRun | Exception]] = []
        for run, sidecar in zip(new, found, strict=True):
            if isinstance(sidecar, Exception):
                settled.append((run, sidecar))
            elif sidecar is not None and _is_done(run, sidecar):
                created = uncosted(sidecar, self._wall())
                settled.append((run, FinishedRun(run, incomplete=lacks(sidecar, run), uncosted=created)))
            else:
                self._earlier[run.run_id] = by_key(sidecar.outputs) if sidecar else {}
        return settled

    def take_earlier(self, run_id: str) -> dict[str, SavedOutput] | None:
        """Return what the sidecar of a run names, by key, and forget it; None where it was not read."""
        return self._earlier.pop(run_id, None)

    def _read(self, runs: Sequence[QueuedRun]) -> list[Sidecar | Exception | None]:
        """Return the sidecar of each run, or why it cannot be read; blocking."""
        return [self._read_one(run) for run in runs]

    def _read_one(self, run: QueuedRun) -> Sidecar | Exception | None:
        try:
            return self._library.find_sidecar(run.reference)
        except Exception as error:  # noqa: BLE001 - each becomes an outcome
            return error


def _is_done(run: QueuedRun, sidecar: Sidecar) -> bool:
    return sidecar.result is Result.COMPLETE and not asks_for_more(run, sidecar.outputs)
