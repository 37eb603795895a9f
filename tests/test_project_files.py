"""What README and examples say is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from floradl.cli import floradl
from floradl.commands.exits import Exit
from floradl.config.docs import with_table
from floradl.errors import PauseReason

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_settings_table_is_that_of_the_program() -> None:
    assert with_table(README) == README


def test_every_command_is_listed_and_every_listed_one_exists() -> None:
    listed = set(re.findall(r"^\| `floradl (\w+)", README, flags=re.MULTILINE))
    assert listed == set(floradl.commands)


def test_every_exit_code_is_listed() -> None:
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", README, flags=re.MULTILINE)}
    assert listed == {code.value for code in Exit}


def test_every_pause_is_explained() -> None:
    assert set(re.findall(r"`paused: (\w+)`", README)) == {reason.value for reason in PauseReason}


def test_every_command_has_help_that_fits_a_terminal() -> None:
    for name in (None, *floradl.commands):
        shown = CliRunner().invoke(floradl, [*([name] if name else []), "--help"])
        assert shown.exit_code == 0
        assert max(map(len, shown.output.splitlines())) <= 100


def test_no_path_of_one_machine_stands_in_the_repository() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("an unpacked archive has no list of files")
    for name in tracked.stdout.split():
        path = ROOT / name
        if path.suffix in {".py", ".md", ".yaml", ".toml", ".txt", ".svg", ""} and path.is_file():
            assert not re.search(r"/(work|farm)/main|registry\.npmjs|pypi\.org", path.read_text()), name


def test_the_module_runs_as_the_command_does() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "floradl", "--version"], capture_output=True, text=True, check=False
    )
    assert re.fullmatch(r"floradl \d+\.\d+\.\d+\n", done.stdout)
