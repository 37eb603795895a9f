"""What daemons that share a queue agree on: who polls, who downloads which run, and what the others did.

An engine that one daemon uses alone has none of this: `RunQueue.sharing` is None there. A run that is worked
on is leased to one daemon under a number, its fence, which grows with each lease. `begin_download`,
`update`, `save_outputs` and `finish` of a run that this process has leased write under that fence, and raise
`LeaseLostError` once another daemon has the run: what is on disk stays, and nothing is announced. `update`
of a run that this process has not leased, as the poller's, changes only one that is neither ready nor leased
nor ended.

A daemon is known by its state folder, so it is the same one after a restart. `RunQueue.outbox` shows it the
events of the runs that it finished itself, and those it adopted; `HookOutbox.expect` concerns these alone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final, Protocol, TypeAlias

from msgspec import Struct

from floradl.models import FinishedRun
from floradl.queue.heartbeat import Snapshot

POLLER_LEASE: Final = 7.0
"""Seconds for which a poller is elected. `elect` is called at 0.3 of it: within ten seconds after a crash."""

RUN_LEASE: Final = 30.0
"""Seconds for which a run is leased; its owner renews that at a third of it."""


class NewsKind(StrEnum):
    """What another daemon did to a run."""

    ADDED = "added"  # it was queued, or queued again
    RETURNED = "returned"  # it is to be polled again, at a time that its row says
    POLL_NOW = "poll_now"  # a webhook reports its end
    GONE = "gone"  # it ended, or was forgotten
    VACANT = "vacant"  # of no run: the poller resigned, and another daemon can be elected


class RunNews(Struct, frozen=True):
    """What happened to a run at another daemon. `due_in`: seconds from now, 0 for one that is due."""

    kind: NewsKind
    run_id: str
    due_in: float = 0.0


class Room(Struct, frozen=True):
    """How many runs more a daemon saves at once: those for which `has_large` holds, and others."""

    large: int
    other: int


def has_large(finished: FinishedRun) -> bool:
    """Whether a run has outputs that may be large: `Room` counts these apart."""
    return finished.answer is not None and any(output.kind.is_large for output in finished.answer.outputs)


class Released(Struct, frozen=True):
    """How the work on a leased run ended.

    `ended`: `RunQueue.finish` recorded it, or it is not open any more. Otherwise another daemon may take it
    at once, or, with `poll_in` (seconds), once it was polled again.
    """

    ended: bool
    poll_in: float | None = None


class DaemonState(Struct, frozen=True):
    """A daemon that shares the queue, as it last said. Times are unix seconds by the queue's clock."""

    name: str
    version: str
    seen_at: float
    polls: bool
    snapshot: Snapshot


SaveRun: TypeAlias = Callable[[FinishedRun], Awaitable[Released]]


class RunSharing(Protocol):
    """The engine's part in sharing a queue. All methods raise `QueueUnavailableError` as `RunQueue` does.

    What is called here comes back after an outage of the engine by itself: `news` and `serve_ready` do not
    end with a broken connection.
    """

    async def elect(self) -> bool:
        """Become the poller, or stay it, for seven seconds more; False while another daemon is.

        It does not wait: where the engine is away it is False within five seconds.
        """

    async def resign(self) -> None:
        """Let another daemon be elected at once, at a stop. Safe to repeat."""

    async def count_open(self) -> int:
        """Count the open runs; those that ended, which become many, cost nothing."""

    async def due(self) -> list[tuple[str, float]]:
        """Return the open runs that are neither ready nor leased, with the seconds until each is due.

        In the order of `RunQueue.open_ids`; 0 for one that is due, as any new one is.
        """

    async def note_due(self, due: Mapping[str, float]) -> None:
        """Record in how many seconds from now runs are polled next, for a poller that is elected later.

        What is ready, leased or not open is left out.
        """

    async def hand_over(self, finished: Sequence[FinishedRun]) -> int:
        """Record that polled runs are ready to be saved, with their answers, and wake daemons that save.

        A run that is ready or leased already, or not open any more, stays as it is. Returns how many ready
        runs wait to be leased, those of earlier calls too.
        """

    async def serve_ready(self, save: SaveRun, room: Callable[[], Room]) -> None:
        """Lease ready runs, up to `room()` more at a time, and have each saved; for ever.

        While `save` works its lease is renewed; where that fails until its end the work is cancelled. A run
        whose daemon is gone is leased to another one once its lease is over. `room` is asked again when a
        `save` ends, and each second. Where this is cancelled, leases are given back at once. `save` may raise
        `LeaseLostError`, and nothing else.
        """

    def news(self) -> AsyncIterator[RunNews | None]:
        """Yield what happens to runs at other daemons; None where some of it may have been missed.

        The first one is None, once nothing is missed from then on. How leased runs were released (`RETURNED`,
        `GONE`) is yielded for those of this daemon too, when it is recorded.
        """

    async def poll_now(self, run_id: str) -> None:
        """Tell the poller, whichever daemon that is, of a webhook's report."""

    async def beat(self, snapshot: Snapshot, *, polls: bool) -> None:
        """Record what this daemon is doing, for `daemons`."""

    async def daemons(self) -> list[DaemonState]:
        """Return the daemons that were seen in the last minute, by name."""

    async def adopt_events(self) -> list[int]:
        """Take over the hooks' events of daemons that were not seen for a minute; return their numbers."""

    async def is_filled(self) -> bool:
        """Whether what the library knows is in the queue: not so in a new one."""

    async def lead_filling(self) -> bool:
        """Become the daemon that fills a new queue from the library, or stay it for a minute more."""

    async def note_filled(self) -> None:
        """Record that the queue is filled. Safe to repeat."""
