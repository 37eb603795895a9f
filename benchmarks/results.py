"""`RESULTS.md`: the last figures of each row, and the machine that they are from."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import HEADER, markdown

PATH = Path(__file__).parent / "RESULTS.md"
_INTRODUCTION = """\
# Results

Written by `benchmarks/run`; [README.md](README.md) says what is measured, and how. A result is the median of
the repetitions, with the lowest and the highest behind it.

"""
_MACHINE = "The machine:\n\n"


def write(lines: Sequence[tuple[str, ...]], machine: Sequence[str], version: str, path: Path = PATH) -> None:
    """Write the table `lines` (without the header), measured today with that `version`, and the machine.

    Rows that were not measured now stay as they are, if they are from the same machine.
    """
    today = f"{dt.datetime.now(tz=dt.UTC).date().isoformat()}, {version}"
    told = _MACHINE + "".join(f"- {line}\n" for line in machine)
    new = [(*line, today) for line in lines]
    measured = {line[0] for line in new}
    kept = [line for line in _read(path, told) if line[0] not in measured]
    table = sorted([*kept, *new], key=lambda line: line[0])
    text = "\n".join(markdown([(*HEADER, "measured on, with"), *table]))
    path.write_text(f"{_INTRODUCTION}{text}\n\n{told}")


def _read(path: Path, told: str) -> list[tuple[str, ...]]:
    text = path.read_text() if path.exists() else ""
    if told not in text:
        return []
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return [tuple(cell.strip() for cell in row) for row in rows[2:]]
