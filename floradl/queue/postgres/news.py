"""News between daemons by LISTEN and NOTIFY: one connection hears of it, and finds its way back by itself."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
import msgspec
import psycopg
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from msgspec import Struct
from psycopg import sql

from floradl.queue.postgres.connection import Connection, Database, connect
from floradl.queue.sharing import NewsKind, RunNews
from floradl.wakeups import Signal

_CHANNEL: Final = "floradl_news"
_MOST_BYTES: Final = 6000  # of ids in a notification; PostgreSQL takes 8,000 in all
_MOST_WAITING: Final = 100_000
_BEAT: Final = 10.0  # seconds of silence after which the connection is tried
_PATIENCE: Final = 10.0
_FIRST_RETRY, _MOST_RETRY = 0.25, 5.0


class _Note(Struct, frozen=True, rename={"origin": "from"}):
    """What a notification holds. Without a kind: ready runs are there to be leased."""

    origin: str
    kind: str | None = None
    runs: tuple[str, ...] = ()
    due_in: float = 0.0


async def tell(
    connection: Connection, origin: str, kind: NewsKind, run_ids: Iterable[str], due_in: float = 0.0
) -> None:
    """Tell other daemons of runs once the transaction is committed. `origin` is who tells it."""
    for some in _portions(run_ids):
        await _notify(connection, _Note(origin, kind.value, some, due_in))


async def tell_ready(connection: Connection, origin: str) -> None:
    """Tell all daemons, this one too, that ready runs can be leased."""
    await _notify(connection, _Note(origin))


async def _notify(connection: Connection, note: _Note) -> None:
    payload = msgspec.json.encode(note).decode()
    await connection.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, payload))


def _portions(run_ids: Iterable[str]) -> Iterator[tuple[str, ...]]:
    some: list[str] = []
    size = 0
    for run_id in run_ids:
        if size + len(run_id.encode()) > _MOST_BYTES:
            yield tuple(some)
            some, size = [], 0
        some.append(run_id)
        size += len(run_id.encode()) + 3
    if some:
        yield tuple(some)


_HEARD_FROM_ITSELF: Final = {NewsKind.RETURNED, NewsKind.GONE}  # as the poller knows the run as handed over


class Listener:
    """Hears what other daemons tell. `serve` must be running; `channels` wake `ready`, too."""

    def __init__(self, db: Database, daemon: str, channels: tuple[str, ...]) -> None:
        self._db = db
        self._daemon = daemon
        self._channels = (_CHANNEL, *channels)
        self._hearers: dict[MemoryObjectSendStream[RunNews | None], bool] = {}  # and whether they missed some
        self._listening = False
        self.ready = Signal()
        """Set when runs may be ready to be leased."""

    async def serve(self) -> None:
        """Listen, for ever; connect again where the connection broke."""
        delay = 0.0
        while True:
            try:
                with anyio.fail_after(2 * _PATIENCE):
                    connection = await connect(self._db.server)
                async with connection:
                    with anyio.fail_after(2 * _PATIENCE):  # a network that is cut just now is silent
                        for channel in self._channels:
                            await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
                    delay = 0.0
                    self._db.note_back()
                    self._begin()
                    await self._hear(connection)
            except (psycopg.Error, TimeoutError, OSError) as error:
                self._listening = False
                await self._db.outlast(error, delay)
                delay = min(max(2 * delay, _FIRST_RETRY), _MOST_RETRY)
            finally:
                self._listening = False

    async def _hear(self, connection: Connection) -> None:
        while True:
            async for each in connection.notifies(timeout=_BEAT):
                self._take(each.channel, each.payload)
            with anyio.fail_after(_PATIENCE):  # a cut network is silent, too
                await connection.execute("SELECT 1")

    def _begin(self) -> None:
        self._listening = True
        self.ready.set()
        for hearer in self._hearers:
            self._send(hearer, None)

    def _take(self, channel: str, payload: str) -> None:
        if channel != _CHANNEL:
            self.ready.set()
            return
        try:
            note = msgspec.json.decode(payload, type=_Note)
            kind = NewsKind(note.kind) if note.kind is not None else None
        except (msgspec.MsgspecError, ValueError):
            return  # a newer floradl's
        if kind is None:
            self.ready.set()
        elif note.origin != self._daemon or kind in _HEARD_FROM_ITSELF:
            for hearer in self._hearers:
                for run_id in note.runs:
                    self._send(hearer, RunNews(kind, run_id, note.due_in))

    def _send(self, hearer: MemoryObjectSendStream[RunNews | None], news: RunNews | None) -> None:
        try:
            hearer.send_nowait(news)
        except anyio.WouldBlock:
            self._hearers[hearer] = True

    @asynccontextmanager
    async def _heard(
        self,
    ) -> AsyncIterator[
        tuple[MemoryObjectSendStream[RunNews | None], MemoryObjectReceiveStream[RunNews | None]]
    ]:
        send, receive = anyio.create_memory_object_stream[RunNews | None](_MOST_WAITING)
        self._hearers[send] = False
        try:
            if self._listening:
                send.send_nowait(None)
            yield send, receive
        finally:
            del self._hearers[send]
            send.close()
            receive.close()

    async def news(self) -> AsyncIterator[RunNews | None]:
        """Yield what happens to runs at other daemons, as `RunSharing.news` says."""
        async with self._heard() as (send, receive):
            async for each in receive:
                yield each
                if self._hearers[send] and receive.statistics().current_buffer_used == 0:
                    self._hearers[send] = False
                    yield None


def seconds(value: float) -> float:
    """Return a number of seconds as PostgreSQL's intervals take it."""
    return min(max(value, 0.0), 1e9) if math.isfinite(value) else 1e9
