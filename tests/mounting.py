"""Mounts for tests, as root: taken down again whatever happens."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def mount(*arguments: str | Path) -> None:
    """Call `mount`; the test is skipped where this machine does not allow it."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"may not mount: {done.stderr.strip()}")


def unmount(where: Path, *options: str) -> None:
    """Call `umount`."""
    subprocess.run(["umount", *options, where], check=True)


@contextmanager
def mounted(where: Path, *arguments: str | Path) -> Iterator[Path]:
    """Mount at `where`, made if it is missing, while the block lasts."""
    where.mkdir(parents=True, exist_ok=True)
    mount(*arguments, where)
    try:
        yield where
    finally:
        while subprocess.run(["mountpoint", "-q", where], check=False).returncode == 0:
            unmount(where, "-l")


@contextmanager
def in_memory(where: Path, size: str) -> Iterator[Path]:
    """Mount a small file system that is in memory."""
    with mounted(where, "-t", "tmpfs", "-o", f"size={size}", "floradl") as disk:
        yield disk
