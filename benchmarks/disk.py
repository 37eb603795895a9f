"""A file system of its own for each racer, where root can have one: an image that is made and mounted anew.

No racer finds there what another one left, or removed: of that ext4 makes whoever comes next pay.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.plan import tell

_CHUNK = 1 << 20
_BESIDE = 256 << 20  # bytes for the journal and other tables
# Nothing is left for later, and the image keeps its blocks.
_MAKE = ("mkfs.ext4", "-q", "-F", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0")


@contextmanager
def new_file_systems(folder: Path, size: int) -> Iterator[Callable[[], Path] | None]:
    """Give what makes and mounts a new ext4 with room for `size` bytes in place of the last one.

    It returns where that is, below `folder`. None where this user or machine cannot: that is said.
    """
    image, mounted = folder / "image", folder / "mounted"
    mounted.mkdir()

    def renew() -> Path:
        _unmount(mounted)
        _run(*_MAKE, str(image))
        _run("mount", "-o", "loop", str(image), str(mounted))
        return mounted

    try:
        _fill(image, size + _BESIDE)
        try:
            renew()
        except (OSError, subprocess.CalledProcessError) as error:
            said = error.stderr.decode(errors="replace").strip() if hasattr(error, "stderr") else error
            tell(f"racers share a file system, and find what others left on it: {said}")
            yield None
        else:
            yield renew
    finally:
        _unmount(mounted)
        mounted.rmdir()
        image.unlink(missing_ok=True)


def _fill(image: Path, size: int) -> None:
    """Write the image, so that no racer pays for its blocks."""
    with image.open("wb", buffering=0) as stream:
        for _ in range(size // _CHUNK):
            stream.write(bytes(_CHUNK))
        os.fsync(stream.fileno())


def _unmount(mounted: Path) -> None:
    if mounted.is_mount():
        _run("umount", str(mounted))


def _run(*command: str) -> None:
    subprocess.run(command, env={**os.environ, "PATH": _search()}, capture_output=True, check=True)


def _search() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"  # where a user's PATH may not lead
