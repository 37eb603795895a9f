"""What the bytes that a sink holds say of the file: its first ones, and whether it is whole.

A sink of an object store has sent on what is neither at the beginning nor at the end.
"""

from __future__ import annotations

from contextlib import suppress

from floradl.download.file_type.signatures import beginning
from floradl.library.base import NotKeptError, Sink


def beginning_of(sink: Sink) -> bytes:
    """Return what `sniff` looks at; what is not kept is left out."""

    def read(size: int, offset: int) -> bytes:
        with suppress(NotKeptError):
            return sink.read(size, offset)
        return b""

    return beginning(read)


def is_whole(sink: Sink, ext: str) -> bool | None:
    """See `truncation.is_whole`; None, too, where it would need bytes that are not kept."""
    from floradl.download import truncation  # noqa: PLC0415 - large, and rarely needed

    with suppress(NotKeptError):
        return truncation.is_whole(sink.read, sink.size, ext)
    return None
