"""What a person sees while runs are fetched: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from floradl.display.plain import PlainDisplay
from floradl.runs.events import RunEvents
from floradl.slim_imports import allow_rich


@contextmanager
def open_display(stream: TextIO, *, quiet: bool = False, total: int | None = None) -> Iterator[RunEvents]:
    """Show on `stream` what the `RunEvents` gets, until the block ends; a summary comes last.

    On a terminal that is a picture that moves, and finished runs stay above it. What is written to
    `sys.stderr` or `sys.stdout` meanwhile, if they are that terminal, appears above it too. Elsewhere, and
    with `quiet`, it is plain lines; `quiet` leaves failures only. `total` is how many runs there will be,
    where that is known. A stream that breaks ends the showing, never the work.
    """
    if quiet or not stream.isatty() or os.environ.get("TERM", "dumb") in {"dumb", "unknown", ""}:
        plain = PlainDisplay(stream, quiet=quiet)
        try:
            yield plain
        finally:
            plain.close()
        return
    allow_rich()
    from floradl.display.terminal import on_terminal  # noqa: PLC0415  # rich, only where it is seen

    with on_terminal(stream, total) as progress:
        yield progress
