"""Tables for people, in columns, and for spreadsheets, as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import TextIO

from floradl.commands.streams import say
from floradl.redaction import harmless

_FORMULA = re.compile(r"\s*[=+@\uff1d\uff0b\uff20]|\s*[-\uff0d](?![0-9.]+\Z)|\t|\r")

NONE = "(none)"
"""What stands for runs without a technique, project, label or model."""


def say_columns(stream: TextIO, heading: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a table: the first column is aligned to the left, all others to the right."""
    lines = [heading, *rows]
    widths = [max(len(line[at]) for line in lines) for at in range(len(heading))]
    for line in lines:
        cells = [
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        say(stream, "  ".join(cells).rstrip())


def write_csv(stream: TextIO, heading: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table as CSV (RFC 4180, lines end as on Unix).

    Control characters are escaped, and a text that a spreadsheet would take for a formula begins with `'`.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heading)
    writer.writerows([_cell(value) for value in row] for row in rows)
    stream.write(text.getvalue().encode("utf-8", "replace").decode())


def _cell(value: object) -> str:
    text = harmless(str(value))
    return f"'{text}" if _FORMULA.match(str(value)) else text
