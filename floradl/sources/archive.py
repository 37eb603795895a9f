"""Moves job files that are done with away, and reads the accepted ones again after the queue was lost.

Others may write to a watch folder, so all goes through open folders: a link planted in place of `accepted/`
would lead us, who perhaps may write where they may not.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from itertools import chain
from pathlib import Path

from msgspec.structs import replace

from floradl.errors import JobError
from floradl.fs.durable import rename_noreplace
from floradl.fs.folders import FolderFd, NotRegularFileError, exists, open_plain, open_regular, open_root
from floradl.fs.names import SafeName
from floradl.models import Action, RunRequest
from floradl.redaction import printable
from floradl.sources.file_ready import MAX_BYTES, Stamp
from floradl.sources.job_file import parse_job
from floradl.sources.scan import PLACES, dates, open_place

ERROR_SUFFIX = ".error.txt"
_NAME_MAX = 255 - len(ERROR_SUFFIX)  # bytes
_COUNTED = re.compile(r"(.+)-[0-9]{1,13}(-[0-9]{1,3})?(\.[^.]*)?")


class FileChangedError(Exception):
    """The file is not the one that was read any more."""


def put_away(path: Path, folder: Path, stamp: Stamp, *, now: float, note: str | None = None) -> Path:
    """Move `path` into `folder` under its own name or `NAME-1.ext`, and return the new path.

    A file that was changed or replaced since it had `stamp` stays. `note` becomes the text of
    `NEW_NAME.error.txt` beside it. The file is touched with `now` (unix seconds), from which its keeping
    counts. A symbolic link is moved itself.

    Raises `FileChangedError` (nothing was moved), `OSError` (`ENOTDIR` where `folder` is a link or a file).
    """
    with open_root(path.parent) as here:
        if _stamp(here, path.name) != stamp:
            raise FileChangedError
        with open_place(folder, create=True) as there:
            # A rename takes whatever stands under the name at that instant, in one step: nothing is lost if
            # somebody replaces the file now. Whether it was ours is seen afterwards.
            target, remark = _move(here, path.name, there, now, note)
            if _stamp(there, target).moved() != stamp.moved():
                _drop(there, remark)
                _move(there, target, here, now, None)
                raise FileChangedError
            with suppress(OSError):  # somebody else's: its change time, which the move has set, serves too
                os.utime(target, (now, now), dir_fd=there, follow_symlinks=False)
            return folder / target


def _stamp(folder: FolderFd, name: str) -> Stamp:
    return Stamp.of(os.stat(name, dir_fd=folder, follow_symlinks=False))


def _move(here: FolderFd, name: str, there: FolderFd, now: float, note: str | None) -> tuple[str, str | None]:
    # The note comes first: a file that was refused never stands there without its reason.
    for variant in _variants(name, now):
        remark = None
        if note is not None:
            remark = variant + ERROR_SUFFIX
            text = "\n".join(map(printable, note.split("\n"))).encode()
            if _taken(there, variant) or not _written(there, remark, text):
                continue
        try:
            if rename_noreplace(here, SafeName(name), SafeName(variant), there):
                return variant, remark
        except OSError:
            _drop(there, remark)
            raise
        _drop(there, remark)
    raise FileExistsError(errno.EEXIST, "no free name", name)


def _taken(folder: FolderFd, name: str) -> bool:
    try:
        return exists(folder, SafeName(name))
    except OSError:  # something that may not be looked at, such as another user's mount
        return True


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
    while len(os.fsencode(text)) > limit:
        text = text[:-1]
    return text


def _written(folder: FolderFd, name: str, text: bytes) -> bool:
    """Write a note; False where the name is taken, unless by the same note: one that was cut off is ended."""
    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd, stood = os.open(name, flags, 0o666, dir_fd=folder), False
    except FileExistsError:
        try:  # whatever else it is, it is not ours
            fd, stood = open_plain(name, os.O_RDWR, folder=folder, alone=True), True
        except (OSError, NotRegularFileError):
            return False
    with os.fdopen(fd, "r+b", buffering=0) as file:
        if stood and not text.startswith(file.read(len(text) + 1)):
            return False
        try:
            file.seek(0)
            file.write(text)
        except OSError:
            _drop(folder, name)
            raise
    return True


def _drop(folder: FolderFd, remark: str | None) -> None:
    if remark is not None:
        with suppress(FileNotFoundError):
            os.unlink(remark, dir_fd=folder)


def accepted_orders(watch_dir: Path) -> list[RunRequest]:
    """Read the runs of accepted job files: `FORGET` where that came last, else `FETCH`. Never raises."""
    folder = watch_dir / PLACES[0]
    try:
        found = sorted((since, path.name) for path, since in dates(folder))
    except OSError:
        return []
    last: dict[str, RunRequest] = {}
    for _, name in found:
        for order in _read(folder, name):
            run_id = order.reference.run_id
            known = last.get(run_id)
            # A fetch does not undo a forget, as in the queue; the first name is kept, as there.
            if known is None or order.action is not Action.FETCH:
                action = Action.FORGET if order.action is Action.FORGET else Action.FETCH
                first = known or order
                last[run_id] = replace(first, action=action, kinds=order.kinds or first.kinds)
    return list(last.values())


def _read(folder: Path, name: str) -> tuple[RunRequest, ...]:
    with suppress(OSError, JobError), open_root(folder) as root:
        with open_regular(root, SafeName(name)) or nullcontext() as file:
            data = file.read(MAX_BYTES + 1) if file else None  # a larger one was never accepted
        if data or (data is not None and not _is_second(folder, name)):
            return parse_job(data, name)
    return ()


def _is_second(folder: Path, name: str) -> bool:
    """Whether an empty file is a job by a name that a number was added to when it was put away."""
    counted = _COUNTED.fullmatch(name)
    with suppress(OSError):
        found = (folder / f"{counted[1]}{counted[3] or ''}").lstat() if counted else None
        return found is not None and stat.S_ISREG(found.st_mode) and found.st_size == 0
    return False
