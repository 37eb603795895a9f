"""A floradl that runs as a user of its own, and a guest: another user, of its group. Needs root, mounts."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from bystanders import open_to_all
from mounting import mounted
from studio import Home

from floradl.simulator import Simulator

ROOT = Path(__file__).parent.parent
DAEMON, GROUP, GUEST = 4321, 4322, 4323


class Service(Home):
    """A floradl as its unit runs it: `path` is its home, its settings are root's, in `etc`.

    `etc/config.yaml` is named as the unit names it, unless a test takes FLORADL_CONFIG away.
    """

    def __init__(
        self, folder: Path, program: list[str], environ: dict[str, str], simulator: Simulator
    ) -> None:
        super().__init__(folder / "home", simulator)
        self._program = program
        self.etc = folder / "etc"
        self.etc.mkdir()
        self.config = self.etc / "config.yaml"
        self.config.write_text("")
        self.path.mkdir()
        os.chown(self.path, DAEMON, GROUP)
        self.path.chmod(0o2750)
        (folder / "daemon.log").touch()
        (self.path / "daemon.log").symlink_to(folder / "daemon.log")
        self.environ |= {"FLORADL_CONFIG": str(self.config), **environ}
        self.command = lambda *arguments: [*self._program, *arguments]
        self.identity = {"user": DAEMON, "group": GROUP, "extra_groups": [], "umask": 0o002, "cwd": "/"}

    def guest(self, script: str, *arguments: str | Path) -> str:
        """Have the guest do something in a shell, with the umask of who shares; return what went wrong."""
        who: dict[str, Any] = {"user": GUEST, "group": GUEST, "extra_groups": [GROUP], "umask": 0o002}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            ["sh", "-c", script, "sh", *arguments],
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
            **who,
        )
        return done.stderr

    def hand_in(self, text: str, name: str = "job.txt") -> None:
        """Have the guest drop a job file."""
        assert self.guest('printf "%s" "$1" > "$2"', text, self.inbox / name) == ""


@contextmanager
def service(simulator: Simulator) -> Iterator[Service]:
    """Give one whose program every user may read, wherever this checkout lies."""
    with ExitStack() as stack:
        folder = stack.enter_context(open_to_all())
        # Mounted elsewhere, they can be reached though the folders above them are open to root alone.
        python, packages, source = (folder / name for name in ("python", "packages", "source"))
        for where, what in (
            (python, sys.base_prefix),
            (packages, sysconfig.get_path("purelib")),
            (source, ROOT),
        ):
            stack.enter_context(mounted(where, "--bind", what))
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        environ = {
            "PYTHONHOME": str(python),
            "LD_LIBRARY_PATH": str(python / "lib"),
            "PYTHONPATH": f"{packages}:{source}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        yield Service(folder, [str(python / "bin" / version), "-m", "floradl"], environ, simulator)
