"""Mounts for tests, as root: taken down again whatever happens."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from studio import wait_until


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


@contextmanager
def unanswered(where: Path, user: int) -> Iterator[int]:
    """Mount a FUSE of `user`'s at `where`: nobody else may look there, root neither. Nothing answers.

    Gives the descriptor that a program would answer through: once it is closed, the mount is a dead one
    ("Transport endpoint is not connected"). The test is skipped where this machine has no FUSE.
    """
    try:
        fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        pytest.skip(f"no FUSE here: {error.strerror}")
    try:
        where.mkdir(parents=True, exist_ok=True)
        options = f"fd={fd},rootmode=40000,user_id={user},group_id={user}"
        done = subprocess.run(
            ["mount", "-i", "-t", "fuse", "-o", options, "floradl", where],
            pass_fds=[fd],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"may not mount: {done.stderr.strip()}")
        yield fd
    finally:
        subprocess.run(["umount", "-l", where], check=False, capture_output=True)
        with suppress(OSError):
            os.close(fd)


@contextmanager
def over(program: str, where: Path, *below: str | Path) -> Iterator[None]:
    """Show another folder at `where` by a FUSE program, which gets options and folder; or skip the test."""
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    where.mkdir(parents=True, exist_ok=True)
    with subprocess.Popen([program, "-f", *below, where], stderr=subprocess.PIPE, text=True) as process:
        try:
            wait_until(lambda: process.poll() is not None or where.is_mount())
            if process.poll() is not None:
                pytest.skip(f"{program} may not mount here: {process.communicate()[1].strip()}")
            yield
        finally:
            subprocess.run(["umount", "-l", where], check=False, capture_output=True)
            process.kill()
