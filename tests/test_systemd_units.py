"""The units that are shipped: systemd finds nothing wrong with them, and little that they could do."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from floradl.commands.exits import Exit
from floradl.daemon.run import _STOP_DEADLINE

UNITS = Path(__file__).parent.parent / "deploy" / "systemd"
OF_THE_MACHINE = ("floradl.service", "floradl@.service", "floradl-worker@.service")
MOST_EXPOSED = 1.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", (UNITS / unit).read_text(), flags=re.MULTILINE):
        found.setdefault(name, []).append(value)
    return found


def installed(folder: Path, unit: str, name: str) -> Path:
    """Put a unit there as if floradl were installed where it says."""
    text = (UNITS / unit).read_text()
    text = re.sub(r"^ExecStart=\S+", f"ExecStart={sys.executable}", text, flags=re.MULTILINE)
    path = folder / name
    path.write_text(text)
    return path


@needs_systemd
@pytest.mark.parametrize(
    ("unit", "name", "options"),
    [
        ("floradl.service", "floradl.service", []),
        ("floradl@.service", "floradl@films.service", []),
        ("floradl-worker@.service", "floradl-worker@1.service", []),
        ("user/floradl.service", "floradl.service", ["--user"]),
    ],
)
def test_systemd_finds_nothing_wrong_with_a_unit(
    tmp_path: Path, unit: str, name: str, options: list[str]
) -> None:
    path = installed(tmp_path, unit, name)
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path), "PATH": "/usr/bin:/bin"}
    command = ["systemd-analyze", *options, "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, env=runtime, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@needs_systemd
def test_systemd_finds_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    path = installed(tmp_path, "floradl.service", "floradl.service")
    path.write_text(path.read_text().replace("Type=notify", "Type=notifi"))
    command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "notifi" in done.stderr


@needs_systemd
@pytest.mark.parametrize("unit", OF_THE_MACHINE)
def test_a_unit_leaves_little_that_an_intruder_could_do(unit: str) -> None:
    command = ["systemd-analyze", "security", "--offline=yes", str(UNITS / unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= MOST_EXPOSED


@pytest.mark.parametrize("unit", [*OF_THE_MACHINE, "user/floradl.service"])
def test_a_unit_comes_back_unless_a_restart_would_change_nothing(unit: str) -> None:
    found = settings(unit)
    assert found["Restart"] == ["always"]
    hopeless = {int(code) for code in found["RestartPreventExitStatus"][0].split()}
    assert hopeless == {Exit.USAGE, Exit.KEY_REFUSED}
    assert found["StartLimitIntervalSec"] == ["0"]


@pytest.mark.parametrize("unit", [*OF_THE_MACHINE, "user/floradl.service"])
def test_a_unit_gives_a_stop_the_time_that_it_may_take(unit: str) -> None:
    assert int(settings(unit)["TimeoutStopSec"][0]) > 8 > _STOP_DEADLINE


def test_the_template_is_the_unit_but_for_its_places() -> None:
    one, many, worker = (
        (UNITS / unit).read_text().split("[Unit]")[1].splitlines() for unit in OF_THE_MACHINE
    )
    differing = {line.partition("=")[0] for line in set(one) ^ set(many)}
    assert differing == {"Description", "StateDirectory", "Environment", "LoadCredential"}
    differing = {line.partition("=")[0] for line in set(one) ^ set(worker) if not line.startswith("#")}
    assert differing == {"Description", "StateDirectory", "Environment", "EnvironmentFile"}


@pytest.mark.parametrize("unit", OF_THE_MACHINE)
def test_a_unit_makes_a_home_that_its_group_may_not_write(unit: str) -> None:
    (mode,) = settings(unit)["StateDirectoryMode"]
    assert int(mode, 8) & 0o027 == 0
    assert int(mode, 8) & 0o050 == 0o050  # people get through to inbox and library
    assert settings(unit)["UMask"] == ["0002"]  # which floradl makes open to them


@pytest.mark.parametrize("unit", OF_THE_MACHINE)
def test_a_unit_names_its_settings_so_that_none_are_looked_for_where_others_may_write(unit: str) -> None:
    (named,) = re.findall(r"FLORADL_CONFIG=(\S+)", settings(unit)["Environment"][0])
    assert named in {f"/etc/floradl/{name}" for name in ("config.yaml", "%i/config.yaml", "worker.yaml")}


def test_nothing_of_an_instance_is_another_s() -> None:
    for name in ("StateDirectory", "Environment", "LoadCredential"):
        for value in settings("floradl@.service")[name]:
            assert all("%i" in path for path in re.findall(r"(?:/etc|/var/lib)\S+|^floradl\S*", value)), value


def test_nothing_that_a_worker_writes_is_another_s() -> None:
    found = settings("floradl-worker@.service")
    written = re.findall(r"/var/lib/\S+", " ".join(found["Environment"]))
    assert len(written) == 3
    assert all("/var/lib/floradl-worker-%i" in path for path in written)
    assert found["StateDirectory"] == ["floradl-worker-%i"]


def test_the_user_s_name_is_that_of_the_units() -> None:
    line = (UNITS / "floradl.sysusers.conf").read_text().splitlines()[-1]
    assert line.split()[:2] == ["u", *settings("floradl.service")["User"]]
