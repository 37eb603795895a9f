"""Putting job files away: moved, never over another file, and only if still those that were read."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path

from floradl.incoming.settled import Stamp

ERROR_SUFFIX = ".error.txt"
_NAME_MAX = 255 - len(ERROR_SUFFIX)  # bytes


class ChangedError(Exception):
    """The file is not the one that was read any more."""


def put_away(path: Path, folder: Path, stamp: Stamp, *, now: float, note: str | None = None) -> Path:
    """Move `path` into `folder` under its own name or `NAME-1.ext`, and return the new path.

    `stamp` is what was read: a file that was changed or replaced since stays. `note` becomes the text of
    `NEW_NAME.error.txt` beside it. The file is touched with `now` (unix seconds): its keeping counts from
    then. A symbolic link is moved itself.

    Raises `ChangedError` (nothing was moved), `OSError`.
    """
    if Stamp.of(path.lstat()) != stamp:
        raise ChangedError
    folder.mkdir(exist_ok=True)
    target, remark = _reserve(folder, path.name, now, note)
    try:
        # A rename takes whatever stands under the name at that instant, in one step: nothing is lost if
        # somebody replaces the file now. Whether it was ours is seen afterwards.
        path.rename(target)
    except OSError:
        target.unlink()
        _drop(remark)
        raise
    if Stamp.of(target.lstat()) != stamp:
        _drop(remark)
        _give_back(target, path, now)
        raise ChangedError
    with suppress(OSError):  # somebody else's file: its change time, which the move has set, serves too
        os.utime(target, (now, now), follow_symlinks=False)
    return target


def _reserve(folder: Path, name: str, now: float, note: str | None) -> tuple[Path, Path | None]:
    """Create an empty file under a free name, and its note, so that nobody else can take the names."""
    for variant in _variants(name, now):
        target = folder / variant
        if not _create(target, b""):
            continue
        if note is None:
            return target, None
        remark = folder / (variant + ERROR_SUFFIX)
        if _create(remark, note.encode("utf-8", "backslashreplace")):
            return target, remark
        target.unlink()
    raise FileExistsError(errno.EEXIST, "no free name", str(folder))


def _variants(name: str, now: float) -> Iterator[str]:
    """Name the candidates: `job.txt`, `job-1.txt`, …, then `job-1764000000000-1.txt` with the time in ms."""
    stem, ext = os.path.splitext(name)  # noqa: PTH122 as `Path.suffix` is, but for names that end in a dot
    if len(os.fsencode(ext)) > 64:
        stem, ext = name, ""
    counted = (f"-{number}" for number in range(1, 10))
    dated = (f"-{now * 1000:.0f}-{number}" for number in range(1000))
    for mark in chain([""], counted, dated):
        yield _cut(stem, _NAME_MAX - len(os.fsencode(mark + ext))) + mark + ext


def _cut(text: str, limit: int) -> str:
    """Cut `text` to `limit` bytes, between two characters."""
    while len(os.fsencode(text)) > limit:
        text = text[:-1]
    return text


def _create(path: Path, data: bytes) -> bool:
    """Create a file, and say whether the name was free."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    return True


def _give_back(target: Path, path: Path, now: float) -> None:
    """Put a newer file back where it came from; under a name beside it if yet another one stands there."""
    back, _ = _reserve(path.parent, path.name, now, None)
    target.rename(back)


def _drop(remark: Path | None) -> None:
    if remark is not None:
        remark.unlink(missing_ok=True)
