"""`floradl stats`: what the library holds, by kind, technique and month; how it grew, and what failed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, TextIO

import msgspec
from msgspec import to_builtins

from floradl.commands.columns import NONE, say_columns
from floradl.commands.exits import Exit
from floradl.commands.library_index import opened_index
from floradl.commands.streams import say, write_bytes
from floradl.index.totals import Amount, LibraryStats
from floradl.redaction import shown_json
from floradl.units import format_count, format_size

if TYPE_CHECKING:
    from floradl.config.settings import Config

SCHEMA_VERSION: Final = 1
_MINUTE: Final = 60.0
_DAY: Final = 86_400.0
_GROWTH: Final = (1, 7, 30)  # days
_SHOWN: Final = 15  # techniques, months, causes


def stats(config: Config, environ: Mapping[str, str], stream: TextIO, *, as_json: bool) -> Exit:
    """Write to `stream` what the library holds. Raises as `find`."""
    now = time.time()
    with opened_index(config, environ, _MINUTE) as index:
        found = index.totals().stats(tuple(now - days * _DAY for days in _GROWTH))
        root = index.location()
    if as_json:
        answer = _described(found, str(root).encode("utf-8", "replace").decode())
        write_bytes(stream, shown_json(msgspec.json.format(msgspec.json.encode(answer))) + b"\n")
        return Exit.OK
    _say(stream, found, str(root))
    return Exit.OK


def _say(stream: TextIO, found: LibraryStats, root: str) -> None:
    results = _counts(found.results)
    say(stream, f"{root}: {format_count(found.runs, 'run')}{f' ({results})' if results else ''}")
    say(stream, f"{format_count(found.total.outputs, 'file')}, {format_size(found.total.bytes)}")
    if found.absent:
        say(stream, f"outputs without a file: {_counts(found.absent)}")
    for what, amounts in (("kind", found.kinds), ("technique", found.techniques), ("month", found.months)):
        if amounts:
            say(stream, "")
            say_columns(stream, (what, "files", "size"), _rows(amounts, newest=what == "month"))
    if found.total.outputs:
        say(stream, "")
        for days, amount in zip(_GROWTH, found.grown, strict=True):
            files, size = format_count(amount.outputs, "file"), format_size(amount.bytes)
            say(stream, f"last {format_count(days, 'day')}: {files}, {size}")
    if found.failures:
        say(stream, "")
        some = dict(list(found.failures.items())[:_SHOWN])
        say(stream, f"failed, in part or whole: {_counts(some)}; 'floradl find --failed' lists them")
    if found.largest:
        say(stream, "")
        say(stream, "largest files:")
        for file in found.largest:
            say(stream, f"  {format_size(file.bytes):>8}  {root}/{file.path}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {name}" for name, number in counts.items())


def _rows(amounts: Sequence[Amount], *, newest: bool) -> list[tuple[str, str, str]]:
    """Return the first rows, of months the last ones, and one for all others."""
    shown = amounts[-_SHOWN:] if newest else amounts[:_SHOWN]
    rows = [(each.name or NONE, f"{each.outputs:,}", format_size(each.bytes)) for each in shown]
    left = amounts[:-_SHOWN] if newest else amounts[_SHOWN:]
    if left:
        files, size = sum(each.outputs for each in left), sum(each.bytes for each in left)
        rest = (f"{'before' if newest else 'others'} ({len(left):,})", f"{files:,}", format_size(size))
        rows.insert(0 if newest else len(rows), rest)
    return rows


def _described(found: LibraryStats, root: str) -> dict[str, Any]:
    grown = {
        f"{days}d": {"outputs": amount.outputs, "bytes": amount.bytes}
        for days, amount in zip(_GROWTH, found.grown, strict=True)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "library": root,
        "runs": found.runs,
        "outputs": found.total.outputs,
        "bytes": found.total.bytes,
        "results": found.results,
        "failures": found.failures,
        "absent": found.absent,
        "kinds": to_builtins(found.kinds),
        "techniques": to_builtins(found.techniques),
        "months": to_builtins(found.months),
        "grown": grown,
        "largest": [
            {
                "path": f"{root}/{file.path}",
                "bytes": file.bytes,
                "run_id": file.run_id,
                "technique": file.technique,
            }
            for file in found.largest
        ],
    }
