from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from floradl.cli import floradl
from floradl.man_page import PAGE, man_page

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def shown() -> str:
    """The page as a reader sees it, without line ends that came of the terminal's width."""
    if shutil.which("groff") is None:
        pytest.skip("needs groff")
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8", "-P-c", "-rLL=1000n", str(ROOT / PAGE)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return re.sub(r".\x08|\x1b\[\d*m", "", done.stdout).replace("\u2010", "-").replace("\u2212", "-")


def test_the_shipped_page_is_that_of_todays_help() -> None:
    assert (ROOT / PAGE).read_text() == man_page(), "./dev docs writes it"


def test_the_wheel_has_the_page_where_man_looks() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared[str(PAGE)] == "share/man/man1/floradl.1"


def test_the_image_is_built_with_the_page() -> None:
    assert f"!{PAGE.parent}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_the_page_has_every_command_with_its_options(shown: str) -> None:
    for name, command in floradl.commands.items():
        if command.hidden:
            continue
        assert re.search(rf"^ +floradl {name} \[OPTION\]", shown, re.MULTILINE), name
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden:
                for option in parameter.opts:
                    assert option in shown, (name, option)


def test_the_page_has_sections_that_readers_look_for(shown: str) -> None:
    sections = re.findall(r"^[A-Z][A-Z ]+$", shown, re.MULTILINE)
    assert sections == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "OPTIONS", "COMMANDS"),
        *("EXIT STATUS", "ENVIRONMENT", "FILES"),
    ]
    assert "FLORADL_DOWNLOAD__CONCURRENCY" in shown
    assert re.search(r"^ +4 +the key is missing or was refused\.$", shown, re.MULTILINE)


@pytest.mark.parametrize(
    "lint", [("man", "-l", "--warnings"), ("mandoc", "-T", "lint", "-W", "warning")], ids=lambda lint: lint[0]
)
def test_the_page_has_no_fault_that_a_man_program_finds(lint: Sequence[str]) -> None:
    if shutil.which(lint[0]) is None:
        pytest.skip(f"needs {lint[0]}")
    done = subprocess.run([*lint, str(ROOT / PAGE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
