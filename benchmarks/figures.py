"""What was measured, and how it is told: one figure is one line of the table."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

from msgspec import Struct

HEADER = ("row", "work", "measured", "floradl", "peer", "result", "bar", "met")


class Figure(Struct, frozen=True, kw_only=True):
    """One line of the table.

    `ours` and `peer` say what each side took; without a peer `ours` is the result. `values` are what is
    judged, one a repetition: their median must be at most `bar`. Without a bar the figure is for information
    only. `unit` goes behind the values; ratios have none.
    """

    row: str
    what: str
    ours: str = ""
    peer: str = ""
    values: tuple[float, ...]
    bar: float | None = None
    unit: str = ""

    @property
    def value(self) -> float:
        """The median of `values`."""
        return statistics.median(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the bar is reached; None without one."""
        return None if self.bar is None else self.value <= self.bar

    @property
    def result(self) -> str:
        """The median, and the lowest and highest where there are several."""
        text = f"{number(self.value)}{self.unit}"
        if len(self.values) > 1:
            text += f" ({number(min(self.values))} to {number(max(self.values))})"
        return text


class Scale(Struct, frozen=True):
    """How the amounts that a `ratio` compares are shown: the median, over `divisor`, with `unit`."""

    unit: str = " s"
    divisor: float = 1.0

    def show(self, amounts: Sequence[float]) -> str:
        """Write the median of `amounts`."""
        return f"{number(statistics.median(amounts) / self.divisor)}{self.unit}"


def ratio(
    row: str, what: str, pairs: Sequence[tuple[float, float]], bar: float | None, scale: Scale
) -> Figure:
    """Compare pairs of (ours, the peer's): each pair gives one ratio."""
    ours, peers = zip(*pairs, strict=True)
    return Figure(
        row=row,
        what=what,
        ours=scale.show(ours),
        peer=scale.show(peers),
        values=tuple(our / peer for our, peer in pairs),
        bar=bar,
    )


def median_seconds(work: Callable[[], object], times: int) -> float:
    """Do `work` so many times; return how long one took, in the median."""
    seconds = []
    for _ in range(times):
        begun = time.monotonic()
        work()
        seconds.append(time.monotonic() - begun)
    return statistics.median(seconds)


def number(value: float) -> str:
    """Write a number with as many digits as say something."""
    if value == int(value) or abs(value) >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.1f}"


def verdict(figure: Figure, *, judged: bool) -> str:
    """Say whether the bar is reached, where it is judged at all."""
    if figure.met is None:
        return ""
    if not judged:
        return "not judged"
    return "yes" if figure.met else "NO"


def cells(figure: Figure, work: str, *, judged: bool) -> tuple[str, ...]:
    """Return the line of a figure, a text a column of `HEADER`."""
    bar = "" if figure.bar is None else f"≤ {number(figure.bar)}{figure.unit}"
    judgement = verdict(figure, judged=judged)
    ours = figure.ours or f"{number(figure.value)}{figure.unit}"
    return (figure.row, work, figure.what, ours, figure.peer, figure.result, bar, judgement)


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """Write lines of cells, the header first, as the lines of a Markdown table with even columns."""
    widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
    rule = tuple("-" * width for width in widths)
    return [_line(line, widths) for line in (lines[0], rule, *lines[1:])]


def _line(line: Sequence[str], widths: Sequence[int]) -> str:
    pad: Callable[[str, int], str] = str.ljust
    return f"| {' | '.join(pad(cell, width) for cell, width in zip(line, widths, strict=True))} |"
