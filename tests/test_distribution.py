from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from click.shell_completion import get_completion_class

from floradl import __version__
from floradl.cli import floradl

ROOT = Path(__file__).parent.parent
COMPLETIONS = {"bash": "floradl", "zsh": "_floradl", "fish": "floradl.fish"}
PLACES = (
    "share/man/man1/floradl.1",
    "share/bash-completion/completions/floradl",
    "share/zsh/site-functions/_floradl",
    "share/fish/vendor_completions.d/floradl.fish",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with wheel and sdist, the wheel made of the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    uv = Path(sys.executable).with_name("uv")
    # From a copy of what git has, as the build takes only that.
    source = folder / "source"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(source)], check=True)
    line = [str(uv), "build", "--quiet", "--system-certs", "--out-dir", str(folder), str(source)]
    subprocess.run(line, check=True)
    return folder


@pytest.mark.parametrize("shell", COMPLETIONS)
def test_the_shipped_completion_is_that_of_today(shell: str) -> None:
    kind = get_completion_class(shell)
    assert kind is not None
    shipped = (ROOT / "deploy" / "completions" / COMPLETIONS[shell]).read_text()
    source = kind(floradl, {}, "floradl", "_FLORADL_COMPLETE").source()
    assert shipped.strip() == source.strip(), "./dev docs writes it"


def test_the_wheel_is_told_where_shells_and_man_look() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert sorted(shared.values()) == sorted(PLACES)
    assert all((ROOT / source).is_file() for source in shared)


def test_the_image_is_built_with_all_that_the_wheel_shares() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    let_in = (ROOT / ".dockerignore").read_text().splitlines()
    assert all(f"!{Path(source).parent}" in let_in for source in shared)


def test_dockerfile_and_manual_page_say_this_version() -> None:
    assert f"ARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()
    assert f'"floradl {__version__}"' in (ROOT / "deploy" / "man" / "floradl.1").read_text()


@pytest.mark.slow
def test_wheel_and_sdist_have_licences_schemas_pages_and_completions(built: Path) -> None:
    name = f"floradl-{__version__}"
    with zipfile.ZipFile(built / f"{name}-py3-none-any.whl") as wheel:
        there = set(wheel.namelist())
    assert {f"{name}.data/data/{place}" for place in PLACES} <= there
    vendored = "floradl/gallery/static/vendor/photoswipe/LICENSE"
    assert {f"{name}.dist-info/licenses/LICENSE", f"{name}.dist-info/licenses/{vendored}", vendored} <= there
    assert {"floradl/library/schemas/sidecar-1.json", "floradl/queue/schemas/event-1.json"} <= there
    assert "floradl/py.typed" in there
    assert not [each for each in there if each.startswith(("tests", "benchmarks", "deploy"))]
    with tarfile.open(built / f"{name}.tar.gz") as sdist:
        files = set(sdist.getnames())
    wanted = ("CHANGELOG.md", "LICENSE", "deploy/man/floradl.1", "docs/upgrade.md", "tests/test_upgrade.py")
    assert {f"{name}/{path}" for path in wanted} <= files
    assert {f"{name}/deploy/completions/{path}" for path in COMPLETIONS.values()} <= files


@pytest.mark.slow
def test_the_wheel_works_in_an_empty_environment_and_names_the_extras_it_lacks(
    built: Path, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", str(tmp_path / "venv")], check=True)
    (wheel,) = built.glob("*.whl")
    environ = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "FLORADL_HOME": str(tmp_path / "home")}
    pip = [str(tmp_path / "venv/bin/pip"), "--disable-pip-version-check", "install", "--quiet"]
    constraint = ["--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, *constraint, str(wheel)], check=True, env={**os.environ, "PYTHONPATH": ""})

    def run(*line: str) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "venv/bin/floradl"), *line]
        return subprocess.run(
            command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
        )

    assert run("--version").stdout == f"floradl {__version__}\n"
    assert (done := run("status")).returncode == 0
    assert "nothing queued yet" in done.stdout
    for command, extra in (("demo", "simulator"), ("gallery", "web")):
        done = run(command)
        assert done.returncode == 2
        assert f"the extra `{extra}`" in done.stderr
    assert all((tmp_path / "venv" / place).is_file() for place in PLACES)
