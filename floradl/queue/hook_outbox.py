"""The hooks' outbox in SQLite: tables beside the runs, so that an event is added with the end of its run."""

from __future__ import annotations

import sqlite3

from floradl.queue.base import GIVEN_UP_KEPT, HookEvent, HookOutbox, SentPause
from floradl.queue.group_commit import GroupCommit
from floradl.queue.migrations import select_run


class SqliteHookOutbox(HookOutbox):
    """The tables of hooks in the file that `commits` writes."""

    def __init__(self, commits: GroupCommit) -> None:
        self._commits = commits
        self._expected = False
        self._given_up: set[str] = set()  # runs; in the table they have a negative number of tries

    async def expect(self, *, finished: bool) -> None:
        def work(db: sqlite3.Connection) -> None:
            self._expected = finished
            if not finished:
                db.execute("DELETE FROM announcements")
            rows = db.execute("SELECT run_id FROM announcements WHERE tries < 0")
            self._given_up = {row[0] for row in rows}

        await self._commits.call(work)

    def add(self, db: sqlite3.Connection, run_id: str, sidecar: str | None) -> None:
        """Add an event as a part of the transaction under way, where one is expected."""
        if run_id in self._given_up:
            self._given_up.discard(run_id)
            db.execute("DELETE FROM announcements WHERE run_id = ? AND tries < 0", (run_id,))
        if self._expected:
            db.execute("INSERT INTO announcements (run_id, sidecar) VALUES (?, ?)", (run_id, sidecar))

    async def after(self, number: int) -> list[int]:
        query = "SELECT id FROM announcements WHERE id > ? AND tries >= 0 ORDER BY id"
        return await self._commits.call(lambda db: [row[0] for row in db.execute(query, (number,))])

    async def get(self, number: int) -> HookEvent | None:
        def work(db: sqlite3.Connection) -> HookEvent | None:
            query = "SELECT run_id, sidecar, tries FROM announcements WHERE id = ? AND tries >= 0"
            row = db.execute(query, (number,)).fetchone()
            run = select_run(db, row[0]) if row else None
            return HookEvent(number, run, row[1], row[2]) if run else None

        return await self._commits.call(work)

    async def count_failure(self, number: int) -> None:
        count = "UPDATE announcements SET tries = tries + 1 WHERE id = ?"
        await self._commits.call(lambda db: db.execute(count, (number,)))

    async def drop(self, number: int) -> None:
        delete = "DELETE FROM announcements WHERE id = ?"
        await self._commits.call(lambda db: db.execute(delete, (number,)))

    async def give_up(self, number: int) -> None:
        def work(db: sqlite3.Connection) -> None:
            mark = "UPDATE announcements SET tries = -1 WHERE id = ? RETURNING run_id"
            self._given_up.update(row[0] for row in db.execute(mark, (number,)).fetchall())
            if len(self._given_up) > GIVEN_UP_KEPT:
                oldest = "SELECT id, run_id FROM announcements WHERE tries < 0 ORDER BY id LIMIT 1"
                for old, run_id in db.execute(oldest).fetchall():
                    db.execute("DELETE FROM announcements WHERE id = ?", (old,))
                    self._given_up.discard(run_id)

        await self._commits.call(work)

    async def pauses(self) -> list[SentPause]:
        def work(db: sqlite3.Connection) -> list[SentPause]:
            rows = db.execute("SELECT reason, since, told_at, over FROM pauses_told")
            return [SentPause(reason, since, at, bool(over)) for reason, since, at, over in rows]

        return await self._commits.call(work)

    async def put_pause(self, pause: SentPause) -> None:
        row = (pause.reason, pause.since, pause.reported_at, pause.over)
        await self._commits.call(
            lambda db: db.execute("INSERT OR REPLACE INTO pauses_told VALUES (?, ?, ?, ?)", row)
        )
