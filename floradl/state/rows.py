"""Rows of the journal, made of values, and values of rows."""

from __future__ import annotations

import sqlite3
from typing import Any, Final

import msgspec

from floradl.errors import ErrorCode
from floradl.models import Action, Failure, Order, QueuedRun, State
from floradl.redaction import redact

COLUMNS: Final = (
    "run_id, technique, label, state, queued_at, detected_at, waited, tries, progress, error, fresh"
)
"""Those of a run, in the order in which `run_of` reads them."""


def run_of(row: tuple[Any, ...]) -> QueuedRun:
    """Read a run. Raises `sqlite3.DatabaseError` for a row that no floradl wrote: the file is damaged."""
    try:
        return _run_of(row)
    except (ValueError, TypeError, KeyError) as error:
        raise sqlite3.DatabaseError(f"the row of run {row[0]!a} is malformed") from error


def _run_of(row: tuple[Any, ...]) -> QueuedRun:
    return QueuedRun(
        run_id=row[0],
        technique=row[1],
        label=row[2],
        state=State(row[3]),
        queued_at=row[4],
        detected_at=row[5],
        waited=row[6],
        tries=row[7],
        progress=row[8],
        error=_failure(row[9]) if row[9] else None,
        fresh=bool(row[10]),
    )


def queued(order: Order, now: float) -> QueuedRun:
    """Return the run that an order queues; `now` is unix seconds."""
    reference = order.reference
    return QueuedRun(
        run_id=reference.run_id,
        technique=reference.technique,
        label=order.label,
        queued_at=now,
        fresh=order.action is Action.RETRY,
    )


def told(failure: Failure) -> str:
    """Write a failure; its message may quote what others said, secrets included."""
    told = msgspec.structs.replace(failure, message=redact(failure.message))
    return msgspec.json.encode(told).decode()


def _failure(text: str) -> Failure:
    """Read a failure; a code that only a newer floradl knows becomes the most general one."""
    try:
        return msgspec.json.decode(text, type=Failure)
    except msgspec.ValidationError:
        raw = msgspec.json.decode(text)
        return Failure(ErrorCode.RUN_FAILED, f"{raw['code']}: {raw['message']}")
