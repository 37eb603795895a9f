"""Which runs are done already, by their sidecars: these are not polled.

It is noted what an earlier sidecar says, so that it is read once: files that are there are not fetched again,
what was left out stays so, and so do label and meta.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from anyio import to_thread
from msgspec.structs import replace

from floradl.library.base import LibraryStore
from floradl.library.selection import asks_for_more
from floradl.library.sidecar import Sidecar, earlier_of, lacks, uncosted
from floradl.models import EarlierSidecar, FinishedRun, QueuedRun, Result, RunState


class DoneRuns:
    """Looks runs up in `library`. `wall` returns unix seconds."""

    def __init__(self, library: LibraryStore, wall: Callable[[], float] = time.time) -> None:
        self._library = library
        self._wall = wall
        self._earlier: dict[str, EarlierSidecar] = {}

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
                # What stands there is not changed by another label.
                stored = replace(run, label=sidecar.label or run.label, meta=sidecar.meta or run.meta)
                incomplete = lacks(sidecar, run)
                settled.append((run, FinishedRun(stored, incomplete=incomplete, uncosted=created)))
            else:
                self._earlier[run.run_id] = earlier_of(sidecar)
        return settled

    def take_earlier(self, run_id: str) -> EarlierSidecar | None:
        """Return what the sidecar of a run says, and forget it; None where it was not read."""
        return self._earlier.pop(run_id, None)

    def clear(self) -> None:
        """Forget what was looked up."""
        self._earlier.clear()

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
