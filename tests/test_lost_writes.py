"""A disk that loses what was written, and tells it once, or nobody: such a file never gets its name."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from mounting import mounted
from test_library import files, library_at, slot

from floradl.errors import TransientError
from floradl.fs.durable import LOST, Flush, PartFile, Steps, atomic_write, flushed_together
from floradl.fs.folders import FolderFd, open_root
from floradl.fs.names import SafeName
from floradl.library.destination import FolderDestination

PART, FINAL = SafeName(".o.part"), SafeName("o.png")
_BLOCK = 4096


@pytest.fixture
def where(tmp_path: Path) -> FolderDestination:
    library = library_at(tmp_path / "library")
    library.create()
    return slot(library)


def lose_a_block(path: Path) -> None:
    """Take the blocks behind some of a file, as a file system does that found none for it."""
    hole = ["fallocate", "--punch-hole", "--offset", str(_BLOCK), "--length", str(_BLOCK)]
    if subprocess.run([*hole, path], check=False).returncode:
        pytest.skip("this file system makes no holes")


def published(where: FolderDestination, data: bytes, root: Path) -> str:
    with where.open("") as sink:
        sink.write(data)
        (part,) = root.rglob("*.part")
        lose_a_block(part)
        return where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)


def test_a_file_of_which_the_disk_lost_a_part_is_not_published(
    where: FolderDestination, tmp_path: Path
) -> None:
    with pytest.raises(TransientError, match=LOST):
        published(where, os.urandom(200_000), tmp_path)
    assert files(tmp_path / "library") == {}


def test_zeros_for_which_there_are_no_blocks_are_published(where: FolderDestination, tmp_path: Path) -> None:
    data = bytes(200_000)
    path = published(where, data, tmp_path)
    assert files(tmp_path / "library") == {path: data}


def test_a_sidecar_of_which_the_disk_lost_a_part_replaces_none(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"old")
    with open_root(tmp_path) as folder:

        def written(flush: Flush) -> Steps[None]:
            data = os.urandom(3 * _BLOCK)
            yield from atomic_write(
                folder, SafeName("a.json"), data, mtime=None, flush=flush, still=lambda: True
            )

        error, _ = flushed_together([written, lambda _: lose_a_block(tmp_path / ".a.json.part")])
    assert isinstance(error, OSError)
    assert LOST in str(error)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a.json": b"old"}


def _in_steps(part: PartFile, _: FolderFd) -> None:
    part.write(os.urandom(200_000))
    part.begin_sync(None)


def _after_the_kernel(part: PartFile, folder: FolderFd) -> None:
    part.write(os.urandom(200_000))
    subprocess.run(["sync", "-f", f"/proc/{os.getpid()}/fd/{int(folder)}"], check=True)


def _large(part: PartFile, _: FolderFd) -> None:
    part.write(os.urandom(8 << 20))


@pytest.mark.root
@pytest.mark.parametrize("write", [_in_steps, _after_the_kernel, _large])
def test_what_ext4_found_no_blocks_for_is_never_published(
    tmp_path: Path, write: Callable[[PartFile, FolderFd], None]
) -> None:
    """Its map of blocks is broken, and `errors=continue` is what `mkfs` sets."""
    image = tmp_path / "disk.img"
    with image.open("wb") as file:
        file.truncate(24 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-b", str(_BLOCK), "-O", "metadata_csum,^flex_bg", image], check=True)
    told = subprocess.run(["dumpe2fs", image], check=True, capture_output=True, text=True).stdout
    block = int(told.partition("Block bitmap at ")[2].split()[0])
    with image.open("r+b") as file:
        file.seek(block * _BLOCK)
        file.write(os.urandom(_BLOCK))
    with (
        mounted(tmp_path / "disk", "-o", "loop,errors=continue", image) as disk,
        open_root(disk) as folder,
        PartFile(folder, PART) as part,
    ):
        try:
            write(part, folder)
            part.sync(None)
            assert part.has_hole
        except OSError:
            assert not (disk / PART).exists()
