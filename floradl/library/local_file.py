"""A file of the library for another program, which needs a descriptor: one in a store has none."""

from __future__ import annotations

import io
import os
from typing import BinaryIO, Final

_STEP: Final = 1 << 20


def with_descriptor(file: BinaryIO, most: int | None = None) -> BinaryIO:
    """Return `file` where it has a descriptor, else a nameless copy on disk; `file` is closed then.

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
    import tempfile  # noqa: PLC0415 - as above

    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    copy = tempfile.TemporaryFile(prefix="floradl-")  # noqa: SIM115 - it is the caller's
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
