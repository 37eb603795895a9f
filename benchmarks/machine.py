"""The machine that figures are from: they mean nothing without it."""

from __future__ import annotations

import os
import platform
import sqlite3
import ssl
import subprocess
from contextlib import suppress
from pathlib import Path

from benchmarks.tools import Tools, versions
from floradl import __version__


def describe(work: Path, tools: Tools) -> list[str]:
    """Describe this machine in a few lines; `work` is where files are written."""
    cores = len(os.sched_getaffinity(0))
    return [
        f"{cores} cores ({_first('/proc/cpuinfo', 'model name')}), {_memory():.1f} GiB of memory",
        f"files on {_file_system(work)}; Linux {platform.release()}",
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, SQLite {sqlite3.sqlite_version}",
        f"peers: {', '.join(versions(tools))}",
    ]


def _first(path: str, name: str) -> str:
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return line.partition(":")[2].strip()
    return platform.machine()


def _memory() -> float:
    return int(_first("/proc/meminfo", "MemTotal").split()[0]) / (1 << 20)


def _file_system(folder: Path) -> str:
    """Return the type of the file system that `folder` is on, from the mount point closest above it."""
    real = folder.resolve()
    found = (Path("/"), "an unknown file system")
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split(" ")
        place = Path(point.replace("\\040", " "))
        if real.is_relative_to(place) and len(place.parts) >= len(found[0].parts):
            found = (place, kind)
    return found[1]


def version() -> str:
    """Return which floradl this is, by its commit where there is one."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else __version__
