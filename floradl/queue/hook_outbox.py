"""What hooks have to be told, in the journal: so that nothing that happened is passed over at a restart."""

from __future__ import annotations

import sqlite3

from msgspec import Struct


class HookEvent(Struct, frozen=True):
    """A run that ended, to be told to a hook. `tries` counts the failed ones.

    `sidecar` is its path in the library; None where it stood already when the run was looked at.
    """

    number: int
    run_id: str
    sidecar: str | None
    tries: int


class SentPause(Struct, frozen=True):
    """A pause that a hook was told of. `since` and `told_at` are unix seconds; `over`: it has ended."""

    reason: str
    since: float
    told_at: float
    over: bool = False


class HookOutbox:
    """The tables of hooks. `SqliteQueue` has one; its calls are parts of the store's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._db = connection
        self._expected = False

    def expect(self, *, finished: bool) -> None:
        """Say whether there is a hook for runs that end. Without one nothing is kept for later."""
        self._expected = finished
        if not finished:
            self._db.execute("DELETE FROM announcements")

    def add(self, run_id: str, sidecar: str | None) -> None:
        """Have a run announced that ends in this transaction, where that is expected; no forgotten one."""
        if self._expected:
            self._db.execute(
                "INSERT INTO announcements (run_id, sidecar)"
                " SELECT run_id, ? FROM runs WHERE run_id = ? AND state <> 'forgotten'",
                (sidecar, run_id),
            )

    def after(self, number: int) -> list[int]:
        """Return the numbers of what was added after `number`, the oldest first."""
        rows = self._db.execute("SELECT id FROM announcements WHERE id > ? ORDER BY id", (number,))
        return [row[0] for row in rows]

    def load(self, number: int) -> HookEvent | None:
        """Read one; None where it was told meanwhile."""
        rows = self._db.execute(
            "SELECT id, run_id, sidecar, tries FROM announcements WHERE id = ?", (number,)
        )
        row = rows.fetchone()
        return HookEvent(*row) if row else None

    def failed(self, number: int) -> None:
        """Count a failed try."""
        self._db.execute("UPDATE announcements SET tries = tries + 1 WHERE id = ?", (number,))

    def drop(self, number: int) -> None:
        """Forget one: it was told, or given up."""
        self._db.execute("DELETE FROM announcements WHERE id = ?", (number,))

    def told_pauses(self) -> list[SentPause]:
        """Read the last pause of each reason that was told."""
        rows = self._db.execute("SELECT reason, since, told_at, over FROM pauses_told")
        return [SentPause(reason, since, told_at, bool(over)) for reason, since, told_at, over in rows]

    def put_pause(self, told: SentPause) -> None:
        """Remember that a pause was told, or is over."""
        self._db.execute(
            "INSERT OR REPLACE INTO pauses_told VALUES (?, ?, ?, ?)",
            (told.reason, told.since, told.told_at, told.over),
        )
