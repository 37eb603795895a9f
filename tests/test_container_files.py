"""What the container is made of says the same as the project, and passes its linter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from floradl import __version__
from floradl.commands.exits import Exit
from floradl.config.settings import settings, variable

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


SCALE = ROOT / "deploy" / "compose.scale.yaml"
_QUEUE = {"FLORADL_QUEUE__ENGINE", "FLORADL_QUEUE__PASSWORD_FILE"}


@pytest.fixture(scope="module")
def scale() -> dict[str, Any]:
    """The services of many workers."""
    compose: dict[str, Any] = yaml.safe_load(SCALE.read_text())
    return compose


def test_many_workers_start_once_database_and_store_are_well_and_the_schema_is_there(
    scale: dict[str, Any],
) -> None:
    services = scale["services"]
    for service in services.values():
        for other, how in service.get("depends_on", {}).items():
            is_healthy = how["condition"] == "service_healthy"
            assert ("healthcheck" in services[other]) is is_healthy, other
            assert (services[other]["restart"] == "no") is not is_healthy, other
    for name in ("front", "worker"):
        assert set(services[name]["depends_on"]) == {"migrate", "bucket"}
    assert set(services["migrate"]["depends_on"]) == {"postgres"}
    assert set(services["bucket"]["depends_on"]) == {"store"}
    assert services["migrate"]["command"] == ["migrate"]
    assert services["worker"]["deploy"] == {"replicas": "${FLORADL_WORKERS:-4}"}


def test_no_worker_of_many_has_more_rights_than_it_needs_or_shares_its_state(scale: dict[str, Any]) -> None:
    for name in ("front", "worker", "migrate"):
        service = scale["services"][name]
        assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert set(service["secrets"]) == set(scale["secrets"])
        kept = service["tmpfs"] if name == "migrate" else service["volumes"]
        assert {"/state", "/data"} <= set(kept)  # without a name: one for each container
    assert "./inbox:/data/inbox" in scale["services"]["front"]["volumes"]
    assert not any("inbox" in volume for volume in scale["services"]["worker"]["volumes"])


def test_what_the_compose_file_of_many_workers_names_is_there_or_is_made_by_its_first_lines(
    scale: dict[str, Any],
) -> None:
    head = SCALE.read_text().partition("\nx-")[0]
    files = [secret["file"].removeprefix("./") for secret in scale["secrets"].values()]
    for file in (*files, *scale["services"]["worker"]["env_file"]):
        assert f"> {file}\n" in head
    known = {variable(key) for key in settings()} | _QUEUE
    assert {name for name in scale["services"]["worker"]["environment"] if "FLORADL" in name} <= known
    (line,) = (line for line in head.splitlines() if line.endswith(" > .env"))
    kept_for_later = re.findall(r"(FLORADL_\w+)=", line)
    assert kept_for_later == ["FLORADL_UID", "FLORADL_GID", "FLORADL_WORKERS"]
    assert all(f"${{{name}:-" in SCALE.read_text() for name in kept_for_later)
    kept = [each for name in ("postgres", "store") for each in scale["services"][name]["volumes"]]
    assert {volume.split(":")[0] for volume in kept} == set(scale["volumes"])


def test_git_passes_over_the_secrets_that_the_compose_files_have_one_make() -> None:
    made = ["secrets/flora_api_key", "flora/inbox/job.txt", ".env"]
    made += [f"deploy/{each}" for each in ("secrets/store.env", "inbox/job.txt", ".env")]
    command = ["git", "check-ignore", "--no-index", *made]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode == 128:
        pytest.skip("not a clone")
    assert done.stdout.split() == made


def test_compose_takes_the_file_of_many_workers(tmp_path: Path) -> None:
    for program in (["docker", "compose"], ["docker-compose"]):
        with suppress(FileNotFoundError):
            if not subprocess.run([*program, "version"], capture_output=True, check=False).returncode:
                break
    else:
        pytest.skip("neither 'docker compose' nor docker-compose is installed")
    (tmp_path / "deploy" / "secrets").mkdir(parents=True)
    (tmp_path / "deploy" / "secrets" / "store.env").touch()
    file = shutil.copy(SCALE, tmp_path / "deploy")
    command = [*program, "-f", str(file), "config", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
