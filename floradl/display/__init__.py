"""What a person sees while runs are fetched: a live picture on a terminal, plain lines elsewhere.

Run events come in; a picture or lines on a stream go out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from floradl.display.plain import PlainDisplay
from floradl.slim_imports import allow_rich

if TYPE_CHECKING:
    from floradl.runs.events import RunEvents  # at run time it would bring structlog


@contextmanager
def open_display(stream: TextIO, *, quiet: bool = False, total: int | None = None) -> Iterator[RunEvents]:
    """Show on `stream` what the `RunEvents` gets, until the block ends; a summary comes last.

    On a terminal that is a picture that moves, below what is written to it meanwhile. Elsewhere, and with
    `quiet` (failures only), it is plain lines. `total` is how many runs there will be, where that is known. A
    stream that breaks ends the showing, never the work.
    """
    if quiet or not _draws(stream):
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


@contextmanager
def open_daemon_display(stream: TextIO, idle: str) -> Iterator[RunEvents | None]:
    """As `open_display`, for work without an end; None where `stream` is no terminal: the log serves there.

    `idle` is said where no run is open.
    """
    if not _draws(stream):
        yield None
        return
    allow_rich()
    from floradl.display.terminal import on_terminal  # noqa: PLC0415  # rich, only where it is seen

    with on_terminal(stream, None, idle) as progress:
        yield progress


def _draws(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown", ""}
