"""What the container is made of says the same as the project, and passes its linter."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from floradl import __version__
from floradl.commands.exits import Exit

ROOT = Path(__file__).parent.parent
LOCKED = ROOT / "deploy/docker"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())


def pinned(text: str) -> dict[str, str]:
    """Return the versions that a file of `name==version` lines names."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", text, flags=re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


CONSTRAINTS = pinned((ROOT / "constraints.txt").read_text())


def needed(wanted: Iterable[str], extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """Name what `wanted` need on this machine, and what these need, as it is installed here."""
    for text in wanted:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield canonicalize_name(requirement.name)
            yield from needed(requires(requirement.name) or (), frozenset(requirement.extras))


def test_hadolint_finds_nothing() -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    done = subprocess.run(
        [hadolint, "--no-color", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.stdout + done.stderr, done.returncode) == ("", 0)


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_locked_versions_are_those_of_the_constraints(name: str) -> None:
    locked = pinned((LOCKED / name).read_text())
    assert locked
    assert locked == {each: CONSTRAINTS.get(each) for each in locked}


@pytest.mark.parametrize("name", ["requirements.txt", "build-requirements.txt"])
def test_each_locked_version_has_hashes(name: str) -> None:
    blocks = re.split(r"\n(?=\S)", (LOCKED / name).read_text())
    assert all("--hash=sha256:" in block for block in blocks if not block.startswith("#"))


def test_all_that_floradl_needs_is_locked() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    wanted = [*PROJECT["project"]["dependencies"]]
    wanted += [each for name, extra in extras.items() if name != "dev" for each in extra]
    assert set(needed(wanted)) <= set(pinned((LOCKED / "requirements.txt").read_text()))


def test_the_image_names_the_version() -> None:
    assert f"\nARG VERSION={__version__}\n" in (ROOT / "Dockerfile").read_text()


def test_only_octal_digits_are_a_umask() -> None:
    environ = {"PATH": "/usr/bin:/bin", "UMASK": "rwx"}
    entrypoint = LOCKED / "entrypoint"
    done = subprocess.run([entrypoint, "run"], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == Exit.USAGE
    assert done.stderr == "floradl: UMASK is 'rwx', but it has to be octal digits like 002\n"


def test_compose_gives_the_container_no_more_rights_than_it_needs() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = compose["services"]["floradl"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {volume.split(":")[1] for volume in service["volumes"]} == {"/data", "/state"}
    assert set(service["secrets"]) == set(compose["secrets"])
