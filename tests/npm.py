"""Packages from npm, for tests that talk to somebody else's program."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_TRIES = 2  # a registry may be slow to answer


def install(package: str, folder: Path) -> None:
    """Install a package into `folder`; a test is skipped where it cannot be had."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node and npm are not installed")
    (folder / "package.json").write_text('{"private": true}')
    command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", package]
    for _ in range(_TRIES):
        try:
            subprocess.run(command, cwd=folder, timeout=150, capture_output=True, check=True)
        except (subprocess.SubprocessError, OSError):
            continue
        return
    pytest.skip(f"{package} could not be installed from npm")
