"""What a day brought: runs, files, bytes and costs, from the event log and the sidecars. Blocking."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct, field

from floradl.clock import unix_seconds
from floradl.queue.event_log import EventReader
from floradl.queue.folder import EVENT_FILES
from floradl.units import format_count, format_size

_MOST_DAYS: Final = 7

Cost = Callable[[str], float | None]
"""Returns what the run of a sidecar (its path in the library) cost in USD; None where that is not known."""


class DayReport(Struct, frozen=True):
    """One day: a line for people, and the same for programs."""

    text: str
    facts: dict[str, Any]


class _Event(Struct):
    at: str
    event: str
    run_id: str | None = None
    result: str | None = None
    sidecar: str | None = None
    files: int = 0
    bytes: int = 0


class _Day(Struct):
    results: dict[str, str] = field(default_factory=dict)
    sidecars: dict[str, str] = field(default_factory=dict)
    files: int = 0
    bytes: int = 0


def day_of(seconds: float) -> dt.date:
    """Return the day in the local time zone; `seconds` is unix time."""
    return dt.datetime.fromtimestamp(seconds).astimezone().date()


def sum_up(state_dir: Path, first: dt.date, until: dt.date, cost: Cost) -> list[DayReport]:
    """Return what each day brought from `first` to the day before `until`, a week at most.

    A run counts on the day it ended, by its last end there. What the event log holds no more does not count,
    and the report says so.
    """
    first = max(first, until - dt.timedelta(days=_MOST_DAYS))
    days = {first + dt.timedelta(days=nth): _Day() for nth in range((until - first).days)}
    nothing_is_gone = not (state_dir / EVENT_FILES[-1]).exists()
    oldest: dt.date | None = None
    for event in _events(state_dir):
        at = unix_seconds(event.at)
        if at is None:
            continue
        day = day_of(at)
        oldest = oldest or day
        if (
            (known := days.get(day)) is not None
            and event.event == "run_finished"
            and event.run_id is not None
        ):
            known.results[event.run_id] = event.result or ""
            known.files += event.files
            known.bytes += event.bytes
            if event.sidecar is not None:
                known.sidecars[event.run_id] = event.sidecar
    return [
        _report(day, known, cost, day_is_whole=nothing_is_gone or (oldest is not None and oldest < day))
        for day, known in days.items()
    ]


def _events(state_dir: Path) -> Iterator[_Event]:
    decoder = msgspec.json.Decoder(_Event)
    with closing(EventReader(state_dir, None)) as reader:
        for line in reader.read():
            try:
                yield decoder.decode(line)
            except msgspec.MsgspecError:  # of a later version
                continue


def _report(day: dt.date, known: _Day, cost: Cost, *, day_is_whole: bool) -> DayReport:
    counts = dict.fromkeys(("complete", "partial", "failed"), 0)
    for result in known.results.values():
        counts[result] = counts.get(result, 0) + 1
    costs = [cost(sidecar) for sidecar in known.sidecars.values()]
    told = [each for each in costs if each is not None]
    all_told = len(told) == len(known.results)
    parts = [f"{format_count(counts['complete'], 'run')} complete"]
    parts += [f"{counts[name]:,} {name}" for name in ("partial", "failed") if counts[name]]
    parts.append(f"{format_count(known.files, 'file')} ({format_size(known.bytes)})")
    if told:
        parts.append(f"{'' if all_told else 'at least '}${sum(told):,.2f}")
    ending = "" if day_is_whole else "; the event log may not hold all of it"
    facts: dict[str, Any] = {
        "day": day.isoformat(),
        **counts,
        "files": known.files,
        "bytes": known.bytes,
        "charged_usd": round(sum(told), 6) if told else None,
        "charged_usd_is_whole": all_told,
    }
    return DayReport(f"{day:%A} {day.isoformat()}: {', '.join(parts)}{ending}", facts)
