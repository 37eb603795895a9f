"""Queues what the account's history lists, so that runs that were started anywhere come home."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import anyio
import msgspec
import structlog

from floradl.errors import ErrorCode, FloradlError, PassingError, PausedError
from floradl.flora.account import Reach, Techniques, Wanted, pages, server_now, wanted, workspace_of
from floradl.flora.asking import Asking
from floradl.incoming.admission import full
from floradl.models import Order, Reference, RemoteRun
from floradl.runs.engine import Engine
from floradl.state.journal import Journal
from floradl.state.store import Store
from floradl.timing.ticks import until_tick

_MOST_SEEN = 20_000  # runs whose outputs are remembered, as the lists last told of them
_ROOM_AGAIN = 0.9  # of the runs that may be open: below it lists that were left for want of room are read on
_FORBIDDEN_FOR = 600.0  # seconds after which lists that the key may not read are tried again
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Manner(msgspec.Struct, frozen=True):
    """What is synced: lists by FLORA's names, projects and techniques (empty for all). In seconds.

    `since` is how far back the first look goes, `interval` how often the lists are looked at. Where
    `max_open` runs are open no more are queued.
    """

    kinds: tuple[str, ...]
    projects: tuple[str, ...]
    techniques: tuple[str, ...]
    since: float
    interval: float
    max_open: int


class _FullError(PassingError):
    """As many runs are open as may be."""


class Sync:
    """Looks at the lists, and queues what is new. Every look can be run twice. `wall` gives unix seconds."""

    def __init__(
        self,
        manner: Manner,
        techniques: Techniques,
        asking: Asking,
        journal: Journal,
        engine: Engine,
        *,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._manner = manner
        self._techniques = techniques
        self._asking = asking
        self._journal = journal
        self._engine = engine
        self._wall = wall
        self._wanted: Wanted | None = None
        self._unsure: set[str] = set()
        self._seen: dict[str, frozenset[str]] = {}  # the outputs that were held against the sidecar
        self._full = False
        self._hurried = anyio.Event()
        self._met: object = None
        self.trouble: str | None = None
        """Why the lists cannot be read now; None while all is well."""

    async def serve(self) -> None:
        """Look for ever."""
        while True:
            met = await self.look()
            self._hurried = anyio.Event()
            delay = until_tick(time.monotonic(), self._manner.interval)
            with anyio.move_on_after(max(delay, _FORBIDDEN_FOR) if _is_forbidden(met) else delay):
                await self._hurried.wait()

    def hurry(self) -> None:
        """Look at once: something outside was mended."""
        self._hurried.set()

    async def look(self) -> FloradlError | None:
        """Queue what is new in all lists; returns what was in the way, None for nothing.

        A refused key pauses the engine, as it would for any run.
        """
        try:
            if self._full and self._engine.open_runs > self._manner.max_open * _ROOM_AGAIN:
                raise self._no_room()  # not each run that ends is worth reading the lists anew
            self._full = False
            if self._wanted is None:
                self._wanted = await wanted(self._techniques, self._manner.projects, self._manner.techniques)
            for kind in self._manner.kinds:
                await self._read(kind, self._wanted)
        except FloradlError as error:
            self._note(error)
            return error
        self._note(None)
        return None

    async def _read(self, kind: str, wants: Wanted) -> None:
        """Queue what is new in one list, and remember how far it was read."""
        reach: Reach | None = None
        mark, workspace, now = None, "", self._wall()
        first, below = True, False
        async for page in pages(self._asking, kind):
            if reach is None:
                workspace, now = workspace_of(page), server_now(page, now)
                mark = await self._journal.call(partial(_mark, kind, workspace))
                reach = Reach.of(page, mark, self._manner.since, now)
            news = await self._queue(kind, list(wants.references(kind, reach.take(page))))
            below, first = below or (news and not first), False
            if not reach.goes_on(page, news=news):
                break
        if below and kind not in self._unsure:
            # Pages may shift while they are read, and hide a run: what was new below the first is read twice.
            self._unsure.add(kind)
            return
        self._unsure.discard(kind)
        # A time that lies ahead is none: it would hide all that comes.
        newest = max(mark or 0.0, min(reach.newest, now) if reach else 0.0)
        if newest != mark:
            await self._journal.call(lambda store: store.put_mark(kind, workspace, newest))

    async def _queue(self, kind: str, found: list[tuple[RemoteRun, Reference]]) -> bool:
        """Record what is new; whether anything was. What the list said of it stands for an answer."""
        orders = [Order(reference) for _, reference in found]
        room = self._engine.open_runs < self._manner.max_open

        def record(store: Store) -> set[str] | None:
            if not room and store.opens(orders, again=False):
                return None
            return set(store.add(orders, self._wall(), again=False))

        touched = await self._journal.call(record)
        if touched is None:  # how far the list was read is not remembered, so that nothing is passed over
            self._full = True
            raise self._no_room()
        if touched:
            self._asking.tell(run for run, _ in found if run.run_id in touched)
            self._engine.enqueue(run.run_id for run, _ in found if run.run_id in touched)
            _log.info("history_queued", kind=kind, runs=len(touched))
        await self._reopen([(run, reference) for run, reference in found if run.run_id not in touched])
        return bool(touched)

    async def _reopen(self, found: list[tuple[RemoteRun, Reference]]) -> None:
        """Take up again what ended here, and has outputs by now that its sidecar does not know."""
        lacking: dict[str, RemoteRun] = {}
        for run, reference in found:
            outputs = frozenset(output.key for output in run.outputs)
            if not run.finished or not outputs or self._seen.get(run.run_id) == outputs:
                continue
            if await self._engine.lacks(reference, outputs):
                lacking[run.run_id] = run
            self._seen.pop(run.run_id, None)
            self._seen[run.run_id] = outputs
            if len(self._seen) > _MOST_SEEN:
                del self._seen[next(iter(self._seen))]
        if not lacking:
            return
        again = await self._journal.call(lambda store: store.reopen(lacking, self._wall()))
        self._asking.tell(lacking[run_id] for run_id in again)
        self._engine.enqueue(again)
        for run_id in again:
            _log.info("outputs_added", run=run_id, outputs=len(lacking[run_id].outputs))

    def _no_room(self) -> _FullError:
        return _FullError(full(self._engine.open_runs, self._manner.max_open), ErrorCode.STORAGE)

    def _note(self, error: FloradlError | None) -> None:
        """Say once that the lists cannot be read, and once that they can again."""
        met = (type(error), getattr(error, "code", None)) if error is not None else None
        if isinstance(error, PausedError):
            self._engine.hold(error)
        elif error is not None and met != self._met:
            _log.warning("sync_trouble", message=str(error))
        elif error is None:
            self._engine.lift()
            if self._met is not None:
                _log.info("sync_again")
        self._met = met
        reading = "is not read on" if isinstance(error, _FullError) else "cannot be read"
        self.trouble = None if error is None else f"the account's history {reading}: {error}"


def _mark(kind: str, workspace: str, store: Store) -> float | None:
    return store.mark(kind, workspace)


def _is_forbidden(error: FloradlError | None) -> bool:
    return isinstance(error, PassingError) and error.code is ErrorCode.FORBIDDEN
