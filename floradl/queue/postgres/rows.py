"""The rows of runs: reading and writing them, in the same columns as SQLite has them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec

from floradl.errors import PauseReason, QueueUnavailableError
from floradl.models import QueuedRun, RunState, SavedOutput
from floradl.queue.base import DURATIONS_KEPT, without_secrets
from floradl.queue.migrations import COLUMNS, row_of, run_of
from floradl.queue.postgres.connection import Connection, Row

OPEN: Final = "('waiting', 'running', 'downloading')"
"""The open states, for SQL."""

_PUT: Final = (
    f"INSERT INTO runs ({COLUMNS}, changed_at) VALUES ({', '.join(['%s'] * (COLUMNS.count(',') + 2))})"  # noqa: S608 - names only
    " ON CONFLICT (run_id) DO UPDATE SET state = excluded.state, detected_at = excluded.detected_at,"
    " waited = excluded.waited, tries = excluded.tries, progress = excluded.progress,"
    " error = excluded.error, fresh = excluded.fresh, changed_at = excluded.changed_at,"
    " names = coalesce(excluded.names, runs.names),"
    " technique = coalesce(runs.technique, excluded.technique)"
)
PUT: Final = f"{_PUT} WHERE runs.state IN {OPEN} AND runs.answer IS NULL"
"""Writes how far a run is, of which this daemon has no lease: what is ready, or has ended, stays."""

PUT_LEASED: Final = f"{_PUT} WHERE runs.state <> 'forgotten' AND runs.fence = %s"
"""Writes how far a leased run is, under its fence, which follows the row's values."""

PUT_END: Final = f"{_PUT}, answer = NULL, owner = NULL, lease_until = NULL WHERE runs.state <> 'forgotten'"
"""Writes how a run ended, and with it the end of its lease."""

COUNT_STATES: Final = "SELECT state, sum(runs)::bigint FROM state_counts GROUP BY state"
"""Counts the runs by state, without looking at them: see `schema`."""

_FOLD_FROM: Final = 64  # rows
_FOLD: Final = (
    "WITH folded AS (DELETE FROM state_counts RETURNING state, runs) INSERT INTO state_counts"
    " SELECT state, sum(runs) FROM folded GROUP BY state HAVING sum(runs) <> 0"
)


def values_of(run: QueuedRun, now: float) -> Row:
    """Return the values of a row, as `PUT` has them; no secret is in its error."""
    return (*map(_text, row_of(without_secrets(run))), now)


def _text(value: Any) -> Any:
    return value.replace("\0", "�") if isinstance(value, str) and "\0" in value else value


def run_from(row: Row) -> QueuedRun:
    """Read a run from the values of `COLUMNS`. Raises `QueueUnavailableError` for what no floradl wrote."""
    try:
        return run_of(row)
    except sqlite3.DatabaseError as error:  # the same reading for both engines
        raise QueueUnavailableError(str(error), PauseReason.QUEUE_UNAVAILABLE) from error


async def select_run(connection: Connection, run_id: str, *, lock: bool = False) -> QueuedRun | None:
    """Read one run; None where it is unknown. With `lock` nobody else writes it in this transaction."""
    found = await select_runs(connection, [run_id], lock=lock)
    return found.get(run_id)


async def select_runs(
    connection: Connection, run_ids: list[str], *, lock: bool = False
) -> dict[str, QueuedRun]:
    """Read runs by id; unknown ones are left out. Locks are taken in order, against deadlocks."""
    query = f"SELECT {COLUMNS} FROM runs WHERE run_id = ANY(%s)"  # noqa: S608 - names only
    if lock:
        query += " ORDER BY run_id FOR UPDATE"
    cursor = await connection.execute(query, (run_ids,))
    return {row[0]: run_from(row) async for row in cursor}


async def select_saved(connection: Connection, run_id: str) -> dict[str, SavedOutput]:
    """Read the outputs recorded for an unfinished run, by key."""
    query = "SELECT output_key, output FROM outputs WHERE run_id = %s"
    found = {}
    async for key, output in await connection.execute(query, (run_id,)):
        with suppress(msgspec.ValidationError):  # a newer floradl's: fetched again, and adopted
            found[key.decode()] = msgspec.json.decode(output, type=SavedOutput)
    return found


async def add_durations(connection: Connection, durations: Sequence[tuple[str, float]]) -> None:
    """Record how long runs took at FLORA: technique, and seconds; the last of each technique are kept."""
    techniques = [(technique, technique, DURATIONS_KEPT) for technique in {each for each, _ in durations}]
    async with connection.cursor() as cursor:
        await cursor.executemany("INSERT INTO durations (technique, seconds) VALUES (%s, %s)", durations)
        await cursor.executemany(
            "DELETE FROM durations WHERE technique = %s AND id <= (SELECT id FROM durations"
            " WHERE technique = %s ORDER BY id DESC LIMIT 1 OFFSET %s)",
            sorted(techniques),
        )


def states_from(rows: Iterable[Row]) -> dict[RunState, int]:
    """Return the number of runs in each state, from the rows of `COUNT_STATES`."""
    found: dict[str, int] = dict(rows)
    return {state: found.get(state.value, 0) for state in RunState}


async def count_states(connection: Connection) -> Mapping[RunState, int]:
    """Count the runs by state."""
    cursor = await connection.execute(COUNT_STATES)
    return states_from(await cursor.fetchall())


async def fold_counts(connection: Connection) -> None:
    """Add up what changed the number of runs in each state, where that is much; any number may at once."""
    query = "SELECT count(*) FROM (SELECT 1 FROM state_counts LIMIT %s) AS first"
    row = await (await connection.execute(query, (_FOLD_FROM,))).fetchone()
    if row is not None and row[0] >= _FOLD_FROM:
        await connection.execute(_FOLD)
