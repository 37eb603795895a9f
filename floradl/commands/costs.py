"""`floradl costs`: what the runs of the library cost, by technique, project, month, label or model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

from floradl.commands.columns import NONE, say_columns, write_csv
from floradl.commands.exits import Exit
from floradl.commands.library_index import opened_index
from floradl.commands.streams import tell, write_bytes
from floradl.index.totals import CostGroup
from floradl.redaction import shown_json
from floradl.units import format_count

if TYPE_CHECKING:
    from floradl.config.settings import Config

SCHEMA_VERSION: Final = 1
_MINUTE: Final = 60.0


def costs(
    config: Config,
    environ: Mapping[str, str],
    by: str,
    since: float | None,
    stream: TextIO,
    *,
    form: str | None = None,
) -> Exit:
    """Write to `stream` what runs that ended `since` then (unix seconds) cost; `form` is `json` or `csv`.

    Raises as `find`.
    """
    with opened_index(config, environ, _MINUTE) as index:
        groups = index.totals().costs(by, since)
    total = _total(groups)
    if form == "json":
        answer = {
            "schema_version": SCHEMA_VERSION,
            "by": by,
            "currency": "USD",
            "groups": [_described(group) for group in groups],
            "total": _described(total),
        }
        write_bytes(stream, shown_json(msgspec.json.format(msgspec.json.encode(answer))) + b"\n")
    elif form == "csv":
        rows = [(group.name or "", group.runs, group.unknown, _amount(group.usd)) for group in groups]
        write_csv(stream, (by, "runs", "unknown", "usd"), rows)
    else:
        heading = (by, "runs", "USD")
        say_columns(stream, heading, [_row(group) for group in (*groups, total)])
        if total.unknown:
            tell(f"the cost of {format_count(total.unknown, 'run')} is not known: so much it was at least")
    return Exit.OK


def _total(groups: Sequence[CostGroup]) -> CostGroup:
    runs, unknown = sum(group.runs for group in groups), sum(group.unknown for group in groups)
    return CostGroup("total", runs, unknown, sum((group.usd for group in groups), Decimal(0)))


def _row(group: CostGroup) -> tuple[str, str, str]:
    at_least = "at least " if group.unknown else ""
    return group.name or NONE, f"{group.runs:,}", f"{at_least}{_amount(group.usd, ',')}"


def _described(group: CostGroup) -> dict[str, object]:
    usd = msgspec.Raw(_plain(group.usd).encode())
    return {
        "name": group.name,
        "runs": group.runs,
        "unknown": group.unknown,
        "at_least": group.unknown > 0,
        "usd": usd,
    }


def _amount(usd: Decimal, separator: str = "") -> str:
    """Return an amount with two digits behind the point at least."""
    whole, _, rest = f"{Decimal(_plain(usd)):{separator}f}".partition(".")
    return f"{whole}.{rest:0<2}"


def _plain(usd: Decimal) -> str:
    """Return all digits of an amount, and none that says nothing."""
    text = f"{usd:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text
