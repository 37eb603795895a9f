"""What the container is made of says the same as the project, and passes its linter."""

from __future__ import annotations

import os
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


def entrypoint(home: Path, named: str = "/etc/floradl/config.yaml") -> subprocess.CompletedProcess[str]:
    """Run it with a floradl that says what it was told."""
    program = home / "bin" / "floradl"
    program.parent.mkdir()
    program.write_text('#!/bin/sh\necho "$@"\n')
    program.chmod(0o755)
    environ = {"PATH": f"{program.parent}:/usr/bin:/bin", "FLORADL_HOME": str(home), "FLORADL_CONFIG": named}
    return subprocess.run(
        [LOCKED / "entrypoint", "run"], env=environ, capture_output=True, text=True, check=False
    )


def test_settings_that_the_image_once_read_from_the_home_are_not_passed_over_in_silence(
    tmp_path: Path,
) -> None:
    (tmp_path / "config.yaml").touch()
    done = entrypoint(tmp_path)
    assert done.returncode == Exit.USAGE
    assert f"floradl: {tmp_path}/config.yaml is not read any more" in done.stderr
    assert f"FLORADL_CONFIG={tmp_path}/config.yaml" in done.stderr


def test_settings_in_the_home_that_are_named_are_read(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    assert entrypoint(tmp_path, str(tmp_path / "config.yaml")).stdout == "run\n"


@pytest.mark.root
def test_settings_that_a_guest_planted_in_the_home_hold_up_no_start(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    os.chown(tmp_path / "config.yaml", 4323, 4322)
    assert entrypoint(tmp_path).stdout == "run\n"


def test_the_image_names_its_settings_and_has_some_and_keeps_what_one_user_has_from_the_others() -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert "FLORADL_CONFIG=/etc/floradl/config.yaml" in dockerfile
    assert "> /etc/floradl/config.yaml" in dockerfile
    assert "chmod 1777 /data /state" in dockerfile


def test_compose_gives_the_container_no_more_rights_than_it_needs() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    service = compose["services"]["floradl"]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {volume.split(":")[1] for volume in service["volumes"]} == {"/data", "/state"}
    assert set(service["secrets"]) == set(compose["secrets"])
