"""The files that are fetched: real pictures and clips of any size, on disk, for nginx to serve."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from floradl.simulator import formats

_CHUNK = 1 << 20


class MediaFile(Struct, frozen=True):
    """One file: its name on the server, and its size in bytes."""

    name: str
    size: int

    @property
    def type(self) -> str:
        """What FLORA calls an output of this kind."""
        return "imageUrl" if self.name.endswith(".png") else "videoUrl"


class Batch(Struct, frozen=True):
    """Runs and the files that they bring, a tuple of files a run."""

    runs: tuple[tuple[MediaFile, ...], ...]

    @property
    def files(self) -> list[MediaFile]:
        """All files, run after run."""
        return [file for run in self.runs for file in run]

    @property
    def size(self) -> int:
        """All bytes together."""
        return sum(file.size for file in self.files)


def batch(counts: Sequence[int], size: int, kind: str = "png", name: str = "file") -> Batch:
    """Plan runs with so many files of `size` bytes each; `kind` is `png` or `mp4`."""
    return Batch(
        tuple(
            tuple(MediaFile(f"{name}-{run:04}-{nth}.{kind}", size) for nth in range(count))
            for run, count in enumerate(counts)
        )
    )


def together(one: Batch, other: Batch) -> Batch:
    """Give each run the files of both."""
    return Batch(tuple(left + right for left, right in zip(one.runs, other.runs, strict=True)))


def write_files(folder: Path, files: Sequence[MediaFile], *, alike: bool = False) -> None:
    """Make the files in `folder`, put them to disk, and leave them in the page cache.

    Those that are `alike` are one file under many names: where only sizes matter, that saves its cache.
    """
    folder.mkdir(parents=True)
    for file in files:
        path = folder / file.name
        if alike and file is not files[0]:
            path.hardlink_to(folder / files[0].name)
            continue
        make = formats.png if file.type == "imageUrl" else formats.mp4
        with path.open("wb") as stream:
            for chunk in make(file.name, file.name, file.size).chunks():
                stream.write(chunk)
    os.sync()
    read_files(folder, files)


def read_files(folder: Path, files: Sequence[MediaFile]) -> None:
    """Read the files once, so that the server has them in memory."""
    buffer = bytearray(_CHUNK)
    for file in files:
        with (folder / file.name).open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass


def warm_disk(folder: Path, size: int) -> None:
    """Write `size` bytes and take them away, so that all who write next find memory and disk alike."""
    path = folder / "warm"
    block = os.urandom(_CHUNK)
    with path.open("wb", buffering=0) as stream:
        for _ in range(max(size // _CHUNK, 1)):
            stream.write(block)
        os.fsync(stream.fileno())
    path.unlink()
    os.sync()
