"""How `add`, `retry` and `forget` hand in work: as job files in the watch folder, the only way in."""

from __future__ import annotations

import os
import pwd
import secrets
import stat
import time
from contextlib import suppress
from pathlib import Path

from floradl.errors import ConfigError
from floradl.fs.permissions import make_above


def drop_job(watch_dir: Path, text: str, reader: int | None = None) -> Path:
    """Put a job file with `text` into the watch folder, whole and on disk, and return its path.

    The folder is made where it is missing. `reader` is the user id of the daemon that is to read it, where
    that is known: it may, whatever the umask. Raises `ConfigError` where the file cannot be written, or not
    so.
    """
    day = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    name = f"add-{day}-{os.getpid()}-{secrets.token_hex(4)}.txt"
    hidden, path = watch_dir / f".{name}.tmp", watch_dir / name
    try:
        make_above(watch_dir)
        watch_dir.mkdir(exist_ok=True)
        _write(hidden, text.encode(), reader)
        hidden.rename(path)
        _sync(watch_dir)
    except OSError as error:
        with suppress(OSError):
            hidden.unlink()
        raise ConfigError(
            f"nothing was queued: the watch folder {watch_dir} cannot be written to ({error.strerror}); "
            "give this user the rights to it, or name another with queue.watch_dir"
        ) from error
    return path


def sweep(watch_dir: Path, before: float) -> None:
    """Remove what hand-ins left that were killed half way, before then (unix seconds). Raises `OSError`."""
    for path in watch_dir.glob(".add-*.txt.tmp"):
        with suppress(OSError):  # the one who writes it has just renamed it, or it is not a file at all
            if path.lstat().st_mtime < before:
                path.unlink()


def _write(path: Path, data: bytes, reader: int | None) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    with os.fdopen(fd, "wb") as file:
        if reader is not None and reader not in {0, os.geteuid()}:
            _let_read(fd, reader)
        file.write(data)
        file.flush()
        os.fsync(fd)


def _let_read(fd: int, reader: int) -> None:
    """Let a user read the file: by its group where that is one of the user's, else as anybody may.

    Its group may then, too: who is of it is not "other", and a user whom no list knows may be of it.
    """
    found = os.fstat(fd)
    by = stat.S_IRGRP if found.st_gid in _groups(reader) else stat.S_IRGRP | stat.S_IROTH
    if found.st_mode & by != by:
        os.fchmod(fd, stat.S_IMODE(found.st_mode) | by)


def _groups(user: int) -> frozenset[int]:
    try:
        entry = pwd.getpwuid(user)
        return frozenset(os.getgrouplist(entry.pw_name, entry.pw_gid))
    except (KeyError, OSError):  # a user of a container's
        return frozenset()


def _sync(folder: Path) -> None:
    """Make the new name last; where the file system cannot do that for a folder, the file is whole anyway."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):
            os.fsync(fd)
    finally:
        os.close(fd)
