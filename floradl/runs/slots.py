"""How many runs may have outputs on their way at once, so that large ones keep nobody else waiting.

A run holds its place until all its outputs are here. Sizes are not known before, but kinds are: runs with a
video, a sound or a file of unknown type have places of their own, and those with pictures and documents
alone have others. A run with nothing to transfer needs none: its words stand in FLORA's answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum, auto

from floradl.models import OutputKind, RemoteOutput


class Load(Enum):
    """What a run has to transfer."""

    NOTHING = auto()
    SMALL = auto()
    LARGE = auto()


_PLACES = {Load.SMALL: 512, Load.LARGE: 256}  # many more than transfers: some wait for a host, others publish
ALL_PLACES = sum(_PLACES.values())


def load_of(outputs: Iterable[RemoteOutput]) -> Load:
    """Return what there is to transfer; a text counts as words, although a few are links to words."""
    kinds = {output.kind for output in outputs}
    if any(kind.is_large for kind in kinds):
        return Load.LARGE
    return Load.SMALL if kinds - {OutputKind.TEXT} else Load.NOTHING


class DownloadSlots:
    """Who has a place, and who waits for one. `most` is how many there are of each sort."""

    def __init__(self, most: Mapping[Load, int] = _PLACES) -> None:
        self._most = most
        self._taken: Counter[Load] = Counter()
        self._waiting: dict[Load, dict[str, None]] = {load: {} for load in most}  # who waits longest first
        self._promised: dict[str, Load] = {}  # to those who are on their way: no newcomer takes it from them
        self.when_taken: Callable[[], None] = lambda: None
        """Called when somebody takes a place."""

    @property
    def taken(self) -> int:
        """How many have a place."""
        return self._taken.total()

    def has_one_for(self, run_id: str, load: Load) -> bool:
        """Whether `take` would give `run_id` a place now."""
        return load not in self._most or self._promised.get(run_id) is load or self._free(load)

    def take(self, run_id: str, load: Load) -> bool:
        """Take a place; False where there is none, and `run_id` waits for one from now on."""
        if load not in self._most:
            return True
        has_one = self.has_one_for(run_id, load)
        self._promised.pop(run_id, None)
        if not has_one:
            self._waiting[load][run_id] = None
            return False
        self._waiting[load].pop(run_id, None)  # it may have come by itself: it is not to be called, too
        self._taken[load] += 1
        self.when_taken()
        return True

    def leave(self, load: Load) -> None:
        """Give a place back."""
        if load in self._most:
            self._taken[load] -= 1

    def next(self, run_id: str) -> list[str]:
        """Hear that a step of `run_id` is over; returns those for whom there is a place now.

        They do not wait any more: each is to be taken on once.
        """
        self._promised.pop(run_id, None)  # it came for something else, or does not want it any more
        ready = []
        for load, waiting in self._waiting.items():
            while waiting and self._free(load):
                called = next(iter(waiting))
                del waiting[called]
                ready.append(called)
                self._promised[called] = load
        return ready

    def _free(self, load: Load) -> bool:
        promised = sum(each is load for each in self._promised.values())
        return self._taken[load] + promised < self._most[load]
