"""A machine of its own under systemd, booted in a second: systemd-nspawn over this machine's files.

Its root is an overlay: it sees what is installed here, and what it writes goes with it. It has a network of
its own, loopback alone, and starts none of the services that are set up here.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import pytest
from mounting import mounted
from studio import TEST_TIMEOUT, served, wait_until

from floradl.simulator import Simulator

ROOT = Path(__file__).parent.parent
_T = TypeVar("_T")
_NEW_NETWORK = 0x4000_0000  # CLONE_NEWNET, see setns(2)
_LAUNCHER = """#!/bin/sh
export LD_LIBRARY_PATH={home}/lib PYTHONHOME={home} PYTHONDONTWRITEBYTECODE=1
export PYTHONPATH=/opt/floradl/packages:/opt/floradl/source
exec {python} -m floradl "$@"
"""


class Machine:
    """What is booted. `root` is its file system, seen from here; its /run and /tmp are its own."""

    def __init__(self, root: Path, pid: int) -> None:
        self.root = root
        self._pid = pid

    def run(self, *command: str, check: bool = True, stdin: str = "") -> str:
        """Run a command in it as root; return what it said. `check`: fail where that fails."""
        door = ["nsenter", "-t", str(self._pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        clean = ["env", "-i", "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LANG=C.UTF-8"]
        done = subprocess.run(
            [*door, *clean, *command], input=stdin, capture_output=True, text=True, check=False, timeout=180
        )
        if check and done.returncode:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def property(self, unit: str, name: str) -> str:
        """Return what `systemctl show` tells of a unit."""
        return self.run("systemctl", "show", unit, "--value", "-p", name).strip()

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Put a file there, its folders made."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        new = file.with_name(f".{file.name}.new")
        new.write_text(text)
        new.chmod(mode)
        new.rename(file)

    def serving(self, simulator: Simulator) -> AbstractContextManager[str]:
        """Serve a FLORA in its network; gives the API's base URL."""
        return self.inside(lambda: served(simulator))

    @contextmanager
    def inside(self, server: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T]:
        """Have what `server` opens in its network; gives what that gives."""
        up, end = threading.Event(), threading.Event()
        given: list[_T] = []

        def body() -> None:
            try:
                with Path(f"/proc/{self._pid}/ns/net").open("rb") as network:
                    # It holds for this thread and those that it starts.
                    assert ctypes.CDLL(None).setns(network.fileno(), _NEW_NETWORK) == 0
                with server() as what:
                    given.append(what)
                    up.set()
                    end.wait()
            finally:
                up.set()

        thread = threading.Thread(target=body, name="server")
        thread.start()
        up.wait()
        try:
            yield given[0]
        finally:
            end.set()
            thread.join()


@contextmanager
def booted(folder: Path) -> Iterator[Machine]:
    """Boot one with its files below `folder`, floradl installed as the command that it is here."""
    missing = [tool for tool in ("systemd-nspawn", "nsenter", "systemctl") if shutil.which(tool) is None]
    if missing or not Path("/usr/lib/systemd/systemd").exists():
        pytest.skip(f"needs systemd and {', '.join(missing) or 'its manager'} (package systemd-container)")
    with ExitStack() as stack:
        layers = stack.enter_context(mounted(folder / "layers", "-t", "tmpfs", "floradl"))
        upper, work = layers / "upper", layers / "work"
        upper.mkdir()
        work.mkdir()
        options = f"lowerdir=/,upperdir={upper},workdir={work}"
        root = stack.enter_context(mounted(folder / "root", "-t", "overlay", "-o", options, "floradl"))
        _strip(root)
        binds = _install(root)
        yield stack.enter_context(_running(root, binds))


@contextmanager
def _running(root: Path, binds: list[str]) -> Iterator[Machine]:
    command = ["systemd-nspawn", "-q", "-D", str(root), "--register=no", "--keep-unit", "--boot"]
    command += ["--private-network", "--console=pipe", f"--machine=floradl-{os.getpid()}", *binds]
    quiet = subprocess.DEVNULL
    environ = {**os.environ, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
    nspawn = subprocess.Popen(command, env=environ, stdin=quiet, stdout=quiet, stderr=subprocess.PIPE)
    try:
        pid = wait_until(lambda: nspawn.poll() is not None or _child(nspawn.pid))
        if nspawn.poll() is not None:
            assert nspawn.stderr is not None
            pytest.skip(f"systemd-nspawn does not work here: {nspawn.stderr.read().decode().strip()}")
        machine = Machine(root, pid)
        wait_until(lambda: _is_up(machine))
        yield machine
    finally:
        nspawn.terminate()  # a proper shutdown, as nspawn passes it on
        try:
            nspawn.wait(TEST_TIMEOUT)
        except subprocess.TimeoutExpired:
            nspawn.kill()
            nspawn.wait()
        if nspawn.stderr is not None:
            nspawn.stderr.close()


def _child(pid: int) -> int:
    """Return the first process in the machine that `systemd-nspawn` runs, once it is the manager."""
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        child = int(children[0]) if children else 0
        return child if Path(f"/proc/{child}/comm").read_text() == "systemd\n" else 0
    return 0


def _is_up(machine: Machine) -> bool:
    return machine.run("systemctl", "is-system-running", check=False).strip() in {"running", "degraded"}


def _strip(root: Path) -> None:
    """Have it start nothing of what this machine does."""
    for wants in (root / "etc/systemd/system").glob("*.wants"):
        shutil.rmtree(wants)
    for leftover in ("etc/fstab", "etc/floradl", "var/lib/floradl"):
        path = root / leftover
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _install(root: Path) -> list[str]:
    """Make `floradl` a command there; returns the options by which this Python and its packages are seen."""
    base = Path(sys.base_prefix)
    own = not base.is_relative_to("/usr")  # the system's is there as it is
    home = Path("/opt/python") if own else base
    binds = {
        sysconfig.get_path("purelib"): "/opt/floradl/packages",
        str(ROOT / "floradl"): "/opt/floradl/source/floradl",
    }
    if own:
        binds[str(base)] = str(home)
    for where in binds.values():
        (root / where.lstrip("/")).mkdir(parents=True, exist_ok=True)
    python = home / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    launcher = root / "usr/local/bin/floradl"
    launcher.unlink(missing_ok=True)
    launcher.write_text(_LAUNCHER.format(home=home, python=python))
    launcher.chmod(0o755)
    return [f"--bind-ro={here}:{there}" for here, there in binds.items()]
