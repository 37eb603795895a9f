"""A file of the library for another program, which needs a descriptor: one in a store has none."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, Final

_STEP: Final = 1 << 20
_SMALL: Final = 4 << 20  # bytes that may as well be in memory


def with_descriptor(file: BinaryIO, most: int | None = None) -> BinaryIO:
    """Return `file` where it has a descriptor, else a nameless copy; `file` is closed then.

    Of more than `most` bytes three quarters of them are copied from its beginning and a quarter from its end,
    with a hole in between. Raises as reading it does, and `OSError`.
    """
    try:
        file.fileno()
    except io.UnsupportedOperation:
        with file:
            return _copied(file, most)
    return file


def _copied(file: BinaryIO, most: int | None) -> BinaryIO:
    import shutil  # noqa: PLC0415 - hardly ever needed

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    copy = _nameless(min(size, most or size))
    try:
        if most is None or size <= most:
            shutil.copyfileobj(file, copy, _STEP)
        else:
            end = size - most // 4
            copy.write(file.read(most - most // 4))
            file.seek(end)
            copy.seek(end)
            copy.write(file.read(size - end))
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _nameless(size: int) -> BinaryIO:
    """Return an empty file without a name: in memory where it is small, or no disk takes it."""
    if size <= _SMALL and (memory := _in_memory()) is not None:
        return memory
    import tempfile  # noqa: PLC0415 - hardly ever needed

    try:
        return tempfile.TemporaryFile(dir="/var/tmp")  # not `/tmp`, which may be memory
    except OSError:  # a container may have a root that is read-only
        if (memory := _in_memory()) is None:
            raise
        return memory


def _in_memory() -> BinaryIO | None:
    """Return a file in memory; None where the system knows none."""
    make = getattr(os, "memfd_create", None)
    return None if make is None else os.fdopen(make("floradl"), "w+b")
