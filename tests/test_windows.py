from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from studio import Home

WINDOWS = Path(__file__).parent / "windows"
PROJECT = tomllib.loads((WINDOWS.parent.parent / "pyproject.toml").read_text())["project"]


def on_windows(home: Home, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=home.environ | {"PYTHONPATH": str(WINDOWS)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_modules_that_windows_lacks_are_taken_away(home: Home) -> None:
    """Else the tests below would show nothing."""
    done = on_windows(home, "-c", "import sys; print(sys.platform); import floradl.cli")
    assert done.stdout == "win32\n"
    assert done.returncode == 1
    assert "No module named" in done.stderr


@pytest.mark.parametrize("arguments", [(), ("get", "run_a"), ("--help",), ("check",)])
def test_windows_is_told_to_use_wsl_or_the_container(home: Home, arguments: tuple[str, ...]) -> None:
    done = on_windows(home, "-m", "floradl", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == (
        "floradl: it runs on Linux and macOS; on Windows use WSL, or the container (docs/docker.md)\n"
    )


def test_the_installed_command_tells_windows_too(home: Home) -> None:
    module, _, name = PROJECT["scripts"]["floradl"].partition(":")
    done = on_windows(home, "-c", f"from {module} import {name}; {name}()", "get", "run_a")
    assert done.returncode == 2
    assert "WSL" in done.stderr
