"""The container image, built by buildah and run by runc: no engine is needed for either.

`FLORADL_CONTAINER_STORE` names a folder where base and image stay for the next run of the tests.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mounting import mounted
from studio import wait_until

ROOT = Path(__file__).parent.parent
_TOOLS = ("buildah", "mmdebstrap", "runc")
_PASSED_ON = ("index-url", "extra-index-url", "trusted-host", "proxy", "timeout")
_CAPABILITIES: list[str] = []  # none, as with `cap_drop: [ALL]`


class Image:
    """The image as it was built: its root, which no test may write to, and what it says of itself."""

    def __init__(self, root: Path, config: Mapping[str, Any]) -> None:
        self.root = root
        self.config = config

    @property
    def environ(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in self.config["Env"])


@contextmanager
def built_image() -> Iterator[Image]:
    """Build the image, for as long as the block lasts; the test is skipped where this machine cannot."""
    kept = os.environ.get("FLORADL_CONTAINER_STORE")
    with tempfile.TemporaryDirectory(prefix="floradl-container-") as folder:
        store = Path(kept or folder)
        store.mkdir(parents=True, exist_ok=True)
        yield _build(store, layers=kept is not None)  # each layer takes as much room as the whole


def _build(store: Path, *, layers: bool) -> Image:
    """Build the image over a small Debian."""
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}")
    buildah = ["buildah", "--storage-driver=vfs", f"--root={store / 'root'}", f"--runroot={store / 'run'}"]
    _base(store, buildah)
    mounts = [f"--volume={each}" for each in _pip_settings(store)]
    how = [
        "--isolation=chroot",
        "--network=host",
        "--format=docker",
        f"--layers={str(layers).lower()}",
        *mounts,
    ]
    done = _call(*buildah, "bud", *how, "--build-arg=BASE=localhost/base", "--tag=floradl", str(ROOT))
    (store / "build.log").write_text(done)
    container = _call(*buildah, "from", "localhost/floradl").strip()
    root = Path(_call(*buildah, "mount", container).strip())
    said = json.loads(_call(*buildah, "inspect", "--type=image", "localhost/floradl"))
    return Image(root, said["Docker"]["config"])


def _base(store: Path, buildah: Sequence[str]) -> None:
    """Make a Debian with a Python as `localhost/base`, from where this machine has its own packages."""
    if (
        subprocess.run([*buildah, "inspect", "localhost/base"], capture_output=True, check=False).returncode
        == 0
    ):
        return
    lists = [Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list")]
    sources = [str(path) for path in lists if path.exists() and path.stat().st_size]
    release = dict(
        line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line
    )
    suite = release.get("VERSION_CODENAME", "stable").strip('"')
    archive = store / "base.tar"
    _call("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv,ca-certificates", suite,
          str(archive), *sources)  # fmt: skip
    container = _call(*buildah, "from", "scratch").strip()
    _call(*buildah, "add", container, str(archive), "/")
    _call(
        *buildah,
        "config",
        "--env=PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        container,
    )
    _call(*buildah, "commit", "--rm", container, "localhost/base")
    archive.unlink()


def _pip_settings(store: Path) -> list[str]:
    """Return the mounts that let pip in the build find packages where pip on this machine does."""
    text = _call(sys.executable, "-m", "pip", "config", "list")
    said = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    values = {key.rpartition(".")[2]: value.strip("'\"") for key, value in said.items()}
    lines = [f"{key} = {values[key]}" for key in _PASSED_ON if key in values]
    mounts = []
    if "cert" in values:
        lines.append("cert = /etc/pip-ca.pem")
        mounts.append(f"{values['cert']}:/etc/pip-ca.pem:ro")
    file = store / "pip.conf"
    file.write_text("\n".join(["[global]", *lines]) + "\n")
    return [*mounts, f"{file}:/etc/pip.conf:ro"]


def _call(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


class Container:
    """One container: a read-only root, folders mounted at `/data` and `/state`, the network of the host."""

    def __init__(self, image: Image, path: Path, *, user: str | None = None, **environ: str) -> None:
        self.path = path
        self.data, self.state = path / "data", path / "state"
        self.mounts = {"/data": self.data, "/state": self.state}
        self.user = user or image.config["User"]
        self.environ = image.environ | environ
        self.name = f"floradl-test-{uuid.uuid4().hex[:12]}"
        self.log = path / "container.log"
        self._image = image
        self.read_only = True
        self._root, self._upper = path / "root", path / "upper"
        uid, gid = map(int, self.user.split(":"))
        for folder in self.mounts.values():
            folder.mkdir(parents=True, exist_ok=True)
            os.chown(folder, uid, gid)

    def written(self) -> list[str]:
        """Return the files that were written to its own root, where that is not read-only."""
        return [str(file.relative_to(self._upper)) for file in self._upper.rglob("*") if not file.is_dir()]

    @contextmanager
    def run(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        """Run it while the block lasts, with the image's own command where there are no `arguments`."""
        command = [*self._image.config["Entrypoint"], *(arguments or self._image.config["Cmd"])]
        bundle, work = self.path / "bundle", self.path / "work"
        for folder in (bundle, work, self._upper):
            folder.mkdir(exist_ok=True)
        (bundle / "config.json").write_text(json.dumps(self._specification(command)))
        # The layer of its own that an engine gives each container: even where it may not write to its root,
        # the runtime makes the places in it that things are mounted at.
        layers = f"lowerdir={self._image.root},upperdir={self._upper},workdir={work}"
        with mounted(self._root, "-t", "overlay", "overlay", "-o", layers), self.log.open("ab") as log:
            process = subprocess.Popen(
                ["runc", "run", "--bundle", bundle, self.name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                subprocess.run(["runc", "delete", "--force", self.name], capture_output=True, check=False)
                process.kill()
                process.wait()

    @contextmanager
    def daemon(self) -> Iterator[subprocess.Popen[bytes]]:
        """Run the daemon while the block lasts, from the moment it has started."""
        with self.run() as process:
            wait_until(lambda: process.poll() is not None or '"started"' in self.said())
            assert process.poll() is None, self.said()
            yield process

    def finish(self, *arguments: str) -> int:
        """Run it to its end; return its exit code."""
        with self.run(*arguments) as process:
            return process.wait(timeout=60)

    def execute(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command inside, beside what runs there."""
        return subprocess.run(
            ["runc", "exec", self.name, *command], capture_output=True, text=True, timeout=60, check=False
        )

    def is_healthy(self) -> bool:
        """Ask what the image's health check asks."""
        kind, *command = self._image.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return self.execute(*command).returncode == 0

    def stop(self) -> None:
        """Send the image's stop signal to the first process, as the engine does."""
        subprocess.run(["runc", "kill", self.name, self._image.config["StopSignal"]], check=True)

    def children(self) -> list[int]:
        """Return the processes that the first one has started, by the numbers they have outside."""
        done = subprocess.run(["runc", "state", self.name], capture_output=True, check=False)
        first = json.loads(done.stdout)["pid"] if done.returncode == 0 else 0
        try:
            return [int(each) for each in Path(f"/proc/{first}/task/{first}/children").read_text().split()]
        except FileNotFoundError:
            return []

    def said(self) -> str:
        """Return what it wrote."""
        return self.log.read_text(errors="replace")

    def drop(self, text: str, name: str = "job.txt") -> None:
        """Move a job file into the inbox, from outside."""
        (self.data / "inbox").mkdir(exist_ok=True)
        outside = self.data / f".{name}"
        outside.write_text(text)
        outside.rename(self.data / "inbox" / name)

    def _specification(self, command: Sequence[str]) -> dict[str, Any]:
        """Describe it to runc: https://github.com/opencontainers/runtime-spec/blob/main/config.md."""
        uid, gid = map(int, self.user.split(":"))
        named: dict[str, dict[str, Any]] = {
            "/proc": {"type": "proc", "source": "proc"},
            "/dev": {"type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"]},
        }
        for where, folder in self.mounts.items():
            named[where] = {"type": "bind", "source": str(folder), "options": ["rbind", "rw"]}
        return {
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": uid, "gid": gid},
                "args": list(command),
                "env": [f"{name}={value}" for name, value in self.environ.items()],
                "cwd": self._image.config["WorkingDir"] or "/",
                "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), _CAPABILITIES),
                "noNewPrivileges": True,
            },
            "root": {"path": str(self._root), "readonly": self.read_only},
            "hostname": "container",
            "mounts": [{"destination": where, **what} for where, what in named.items()],
            "linux": {"namespaces": [{"type": kind} for kind in ("pid", "ipc", "uts", "mount")]},
        }
