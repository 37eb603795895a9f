"""What the bytes that a sink holds say of the file: its first ones, and whether it is whole.

A sink of an object store has sent on what is neither at the beginning nor at the end. Where the server gives
no length, the file's own format is the only proof that it is whole, and that is read from all over the file:
so these few are copied into a file without a name meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import IO

from floradl.download.file_type.signatures import beginning
from floradl.library.base import NotKeptError, Sink, StreamingSink


class LocalCopy:
    """A copy in `file` of what is sent on; of no use once there was no room for it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._is_whole = True

    def of(self, body: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Yield `body`, and copy it."""
        for chunk in body:
            if self._is_whole:
                try:
                    self._file.write(chunk)
                except OSError:
                    self._is_whole = False
                    self._file.truncate(0)
            yield chunk

    def read(self, size: int, offset: int) -> bytes:
        """Return up to `size` bytes from `offset` on. Raises `NotKeptError`."""
        if not self._is_whole:
            raise NotKeptError
        self._file.seek(offset)
        return self._file.read(size)


def local_copy(sink: Sink, total: int | None) -> AbstractContextManager[LocalCopy | None]:
    """Give what copies the bytes that `sink` will not give back; None where they are not needed."""
    return nullcontext() if total is not None or not isinstance(sink, StreamingSink) else _local_copy()


@contextmanager
def _local_copy() -> Iterator[LocalCopy | None]:
    try:
        # Not `/tmp`, which may be memory.
        import tempfile  # noqa: PLC0415 - hardly ever needed

        file = tempfile.TemporaryFile(dir="/var/tmp", buffering=0)  # noqa: SIM115 - closed below
    except OSError:
        yield None
        return
    with file:
        yield LocalCopy(file)


def beginning_of(sink: Sink, body: bytes | bytearray | memoryview | None = None) -> bytes:
    """Return what `sniff` looks at; what is not kept is left out. `body` is all that `sink` has, if given."""

    def read(size: int, offset: int) -> bytes:
        if body is not None:
            return bytes(memoryview(body)[offset : offset + size])
        with suppress(NotKeptError):
            return sink.read(size, offset)
        return b""

    return beginning(read)


def is_whole(sink: Sink, ext: str, copy: LocalCopy | None = None) -> bool | None:
    """See `truncation.is_whole`; None, too, where it would need bytes that are not kept."""
    from floradl.download import truncation  # noqa: PLC0415 - large, and rarely needed

    with suppress(NotKeptError):
        return truncation.is_whole(sink.read if copy is None else copy.read, sink.size, ext)
    return None
