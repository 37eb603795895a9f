"""What lists said of runs, kept for those who will ask about them."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from floradl.models import RemoteRun

_FINISHED_FOR = 900.0  # seconds in which news of a run that ended stand: it does not change any more
_OPEN_FOR = 10.0  # seconds in which one that was hastened hears that it goes on
_SHOWN_FOR = 0.5  # seconds in which whatever was just shown stands for an answer
_SHOWN_FINISHED_FOR = 5.0
_MOST = 4000  # answers that somebody was told of: some kilobytes each
_MOST_OPEN = 500  # of these, that it goes on: as many as hear it before they grow old
_MOST_SHOWN = 1000


class _Item(Struct, frozen=True):
    until: float
    answer: RemoteRun


class News:
    """Answers, each for one who will ask. `monotonic` returns seconds."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._told: dict[str, _Item] = {}
        self._open: set[str] = set()  # of those who were told, who goes on
        self._shown: dict[str, _Item] = {}

    def known(self, answer: RemoteRun) -> bool:
        """Whether its owner was told as much, and will ask."""
        told = self._told.get(answer.run_id)
        return (
            told is not None
            and told.until > self._monotonic()
            and (told.answer.finished or not answer.finished)
        )

    @property
    def room(self) -> bool:
        """Whether more may be kept."""
        return len(self._told) < _MOST

    def keep(self, answer: RemoteRun) -> bool:
        """Keep an answer whose owner is told; whether there is room for it."""
        if not self.room or (not answer.finished and len(self._open) >= _MOST_OPEN):
            return False
        stands = _FINISHED_FOR if answer.finished else _OPEN_FOR
        self._told[answer.run_id] = _Item(self._monotonic() + stands, answer)
        (self._open.discard if answer.finished else self._open.add)(answer.run_id)
        return True

    def show(self, answer: RemoteRun) -> None:
        """Keep for a moment what may be on somebody's mind: who is about to ask is in no list of ours."""
        self._shown.pop(answer.run_id, None)
        stands = _SHOWN_FINISHED_FOR if answer.finished else _SHOWN_FOR
        self._shown[answer.run_id] = _Item(self._monotonic() + stands, answer)
        if len(self._shown) > _MOST_SHOWN:
            del self._shown[next(iter(self._shown))]

    def take(self, run_id: str) -> RemoteRun | None:
        """Give what is known of a run, once."""
        self._open.discard(run_id)
        for items in (self._told, self._shown):
            item = items.pop(run_id, None)
            if item is not None and item.until > self._monotonic():
                return item.answer
        return None

    def sweep(self) -> None:
        """Drop what has grown old."""
        now = self._monotonic()
        self._told = {run_id: item for run_id, item in self._told.items() if item.until > now}
        self._open &= self._told.keys()
        self._shown = {run_id: item for run_id, item in self._shown.items() if item.until > now}
