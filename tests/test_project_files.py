"""What README, docs and examples say is what the program does."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from floradl.cli import floradl
from floradl.commands.exits import Exit
from floradl.config.docs import example_config, with_table
from floradl.errors import PauseReason

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SETTINGS = (ROOT / "docs/settings.md").read_text()
PROMISES = (ROOT / "docs/promises.md").read_text()
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_the_settings_table_and_the_example_are_those_of_the_program() -> None:
    assert with_table(SETTINGS) == SETTINGS
    assert (ROOT / "config.example.yaml").read_text() == example_config()


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 160


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}


def test_every_promise_names_tests_that_exist() -> None:
    promised = re.findall(r"^- \*\*.*?(?=^- \*\*|^#|\Z)", PROMISES, flags=re.MULTILINE | re.DOTALL)
    assert promised
    for promise in promised:
        named = re.findall(r"`(tests/\w+\.py)`", promise)
        assert named, promise
        for name in named:
            assert (ROOT / name).exists(), name


def test_floradl_runs_without_any_extra() -> None:
    """The server, metrics and codings libraries are taken away; all that the daemon needs is imported."""
    hide = "import sys; sys.modules.update(dict.fromkeys(('aiohttp', 'prometheus_client', 'brotli')))"
    need = "import floradl.daemon.run, floradl.commands.get, floradl.commands.check.command"
    done = subprocess.run(
        [sys.executable, "-c", f"{hide}; {need}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_image_compiles_modules_that_exist() -> None:
    (names,) = re.findall(r"python3 -c 'import ([\w., ]+)'", (ROOT / "Dockerfile").read_text())
    done = subprocess.run(
        [sys.executable, "-c", f"import {names}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_every_command_is_listed_and_every_listed_one_exists() -> None:
    listed = set(re.findall(r"^\| `floradl ([\w-]+)", README, flags=re.MULTILINE))
    assert listed == set(floradl.commands)


def test_every_declared_command_is_one_that_can_be_called() -> None:
    files = sorted((ROOT / "floradl/cli").glob("*.py"))
    declared = "".join(path.read_text() for path in files).count("@commands.command(")
    assert declared == len(dict(floradl.commands.items()))


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


def test_every_command_shows_an_example_its_exit_codes_and_a_page() -> None:
    for name in (None, *floradl.commands):
        shown = CliRunner().invoke(floradl, [*([name] if name else []), "--help"]).output
        (example,) = re.findall(r"Example:\n +floradl (.+)\n", shown)
        assert name is None or name in example.split()
        assert re.search(r"Exit codes:\n +0 +all good\n", shown)
        (page,) = re.findall(r"More: (\S+)\n", shown)
        assert (ROOT / page).exists()


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
