"""The hooks' outbox: a daemon sees the events of runs that it finished itself, and those it adopted."""

from __future__ import annotations

import anyio

from floradl.queue.base import GIVEN_UP_KEPT, HookEvent, HookOutbox, SentPause
from floradl.queue.postgres.connection import Connection, Database
from floradl.queue.postgres.rows import select_run


class PostgresHookOutbox(HookOutbox):
    """The events of one daemon. `order` is held from an event's number to its commit.

    So `after` never passes over a number that is committed later than a greater one.
    """

    def __init__(self, db: Database, daemon: str) -> None:
        self._db = db
        self._daemon = daemon
        self.expected = False
        """Whether events are added."""
        self.order = anyio.Lock()

    async def expect(self, *, finished: bool) -> None:
        if not finished:
            await self._db.rows("DELETE FROM outbox WHERE daemon = %s", (self._daemon,))
        self.expected = finished

    async def add(self, connection: Connection, run_id: str, sidecar: str | None) -> None:
        """Add an event as a part of the transaction under way, where one is expected."""
        forget = "DELETE FROM outbox WHERE run_id = %s AND tries < 0"
        if self.expected:
            insert = "INSERT INTO outbox (run_id, sidecar, daemon) VALUES (%s, %s, %s)"
            query = f"WITH gone AS ({forget}) {insert}"
            await connection.execute(query, (run_id, run_id, sidecar, self._daemon))
        else:
            await connection.execute(forget, (run_id,))

    async def after(self, number: int) -> list[int]:
        query = "SELECT id FROM outbox WHERE daemon = %s AND id > %s AND tries >= 0 ORDER BY id"
        return [row[0] for row in await self._db.rows(query, (self._daemon, number))]

    async def get(self, number: int) -> HookEvent | None:
        async def work(connection: Connection) -> HookEvent | None:
            query = "SELECT run_id, sidecar, tries FROM outbox WHERE id = %s AND daemon = %s AND tries >= 0"
            row = await (await connection.execute(query, (number, self._daemon))).fetchone()
            run = await select_run(connection, row[0]) if row else None
            return HookEvent(number, run, row[1], row[2]) if row and run else None

        return await self._db.call(work)

    async def count_failure(self, number: int) -> None:
        count = "UPDATE outbox SET tries = tries + 1 WHERE id = %s AND daemon = %s AND tries >= 0"
        await self._db.rows(count, (number, self._daemon))

    async def drop(self, number: int) -> None:
        await self._db.rows("DELETE FROM outbox WHERE id = %s", (number,))

    async def give_up(self, number: int) -> None:
        async def work(connection: Connection) -> None:
            mark = "UPDATE outbox SET tries = -1 WHERE id = %s AND daemon = %s"
            await connection.execute(mark, (number, self._daemon))
            await connection.execute(
                "DELETE FROM outbox WHERE id IN"
                " (SELECT id FROM outbox WHERE tries < 0 ORDER BY id DESC OFFSET %s)",
                (GIVEN_UP_KEPT,),
            )

        await self._db.call(work)

    async def pauses(self) -> list[SentPause]:
        query = "SELECT reason, since, told_at, over FROM pauses_told WHERE daemon = %s"
        return [SentPause(*row) for row in await self._db.rows(query, (self._daemon,))]

    async def put_pause(self, pause: SentPause) -> None:
        await self._db.rows(
            "INSERT INTO pauses_told VALUES (%s, %s, %s, %s, %s) ON CONFLICT (daemon, reason) DO UPDATE"
            " SET since = excluded.since, told_at = excluded.told_at, over = excluded.over",
            (self._daemon, pause.reason, pause.since, pause.reported_at, pause.over),
        )
