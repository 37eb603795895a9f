from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from studio import Home


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A PATH in which `floradl` is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "floradl"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m floradl "$@"\n')
    program.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def needs(shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")


def completed(home: Home, programs: str, *words: str) -> set[str]:
    """Return what bash offers for the last of `words`, with the script as a user loads it."""
    needs("bash")
    code = """
source <(floradl completion bash)
COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
function=$(complete -p floradl | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
"$function" floradl
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "--norc", "-c", code, "bash", "floradl", *words],
        env=home.environ | {"PATH": programs},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands(home: Home, programs: str) -> None:
    assert {"status", "simulate", "sync"} <= completed(home, programs, "s")
    assert "get" not in completed(home, programs, "s")


def test_bash_completes_the_options_of_a_command(home: Home, programs: str) -> None:
    assert {"--quick", "--quiet"} <= completed(home, programs, "verify", "--qui")
    assert completed(home, programs, "status", "--check") == {"--check"}


def test_bash_completes_the_shells_of_completion(home: Home, programs: str) -> None:
    assert completed(home, programs, "completion", "") == {"bash", "zsh", "fish"}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_each_shell_is_one_of_its_language(home: Home, shell: str) -> None:
    done = home.run("completion", shell)
    assert done.returncode == 0
    assert "_FLORADL_COMPLETE" in done.stdout
    needs(shell)
    subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_an_unknown_shell_is_told_with_those_that_are_known(home: Home) -> None:
    done = home.run("completion", "tcsh")
    assert done.returncode == 2
    assert "'bash', 'zsh', 'fish'" in done.stderr
