"""Power cuts in the middle of a job, on real file systems: what was marked done exists, and matches.

The shutdown ioctl makes a file system forget, from one moment to the next, all that is not on disk: no log
is flushed, no page written back. As root, on loop-mounted images.

Source: linux/fs.h (FS_IOC_SHUTDOWN and its flags), the same number as XFS_IOC_GOINGDOWN.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from crashing import counts, leftovers
from studio import Home, check_library, command, wait_until

from floradl.models import QueuedRun, RunState
from floradl.queue.reader import read_queue
from floradl.simulator import OutputSpec, Simulator

CUTS = int(os.environ.get("FLORADL_TEST_CUTS", "3"))
_SHUTDOWN = 0x8004587D  # _IOR('X', 125, __u32)
_NO_LOG_FLUSH = 2
PICTURE = OutputSpec("picture", "imageUrl", size=60_000)
WORDS = OutputSpec("words", "text", text="A little more light.")
RUNS = 60


class Disk:
    """An image of a file system, mounted in a loop."""

    def __init__(self, path: Path, kind: str) -> None:
        self.path = path
        self._kind = kind
        self._cuts = 0
        self._image = path.with_suffix(".img")
        path.mkdir()
        with self._image.open("wb") as file:
            file.truncate(400 << 20)
        quiet = {"ext4": ["-q", "-F"], "xfs": ["-q"]}[kind]
        subprocess.run([f"mkfs.{kind}", *quiet, self._image], check=True)
        self.mount()

    def mount(self) -> None:
        options = {"ext4": "loop", "xfs": "loop,nouuid"}[self._kind]
        if subprocess.run(["mount", "-o", options, self._image, self.path], check=False).returncode:
            pytest.skip("cannot mount here")

    def unmount(self) -> None:
        subprocess.run(["umount", self.path], check=True)

    def cut(self) -> None:
        """Forget all that is not on disk; from now on every call on it fails."""
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, _SHUTDOWN, struct.pack("I", _NO_LOG_FLUSH))
        finally:
            os.close(fd)

    def power_on(self) -> None:
        """Mount it again, after a cut.

        A copy of it: where a mount namespace that was made meanwhile holds on to the old one, that one
        would be mounted once more, shut down as it is.
        """
        self.unmount()
        self._cuts += 1
        new = self.path.with_suffix(f".{self._cuts}.img")
        subprocess.run(["cp", "--sparse=always", self._image, new], check=True)
        self._image.unlink()
        self._image = new
        self.mount()


@pytest.fixture(params=["ext4", "xfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if shutil.which(f"mkfs.{request.param}") is None:
        pytest.skip(f"needs mkfs.{request.param}")
    disk = Disk(tmp_path / "disk", request.param)
    try:
        yield disk
    finally:
        disk.unmount()


def done_runs(home: Home) -> list[QueuedRun]:
    """Return the runs that the journal says are done."""
    if not (home.state / "journal.sqlite3").exists():
        return []
    with read_queue(home.state) as queue:
        return [run for run in queue.page("", 10_000) if run.state is RunState.DONE] if queue else []


def check_what_is_done(home: Home) -> int:
    """Hold what journal and sidecars say is done against the files; return how many runs are done."""
    done = done_runs(home)
    for run in done:
        sidecar = home.sidecar(str(run.reference))
        assert sidecar is not None, run.run_id
        assert sidecar["result"] == "complete"
    for path in (home.library / "runs").rglob("[!.]*.json"):
        for output in json.loads(path.read_bytes())["outputs"]:
            data = (home.library / output["path"]).read_bytes()
            assert hashlib.sha256(data).hexdigest() == output["sha256"], output["path"]
    return len(done)


def fetched(simulator: Simulator, pictures: int) -> bool:
    return simulator.counters.media >= pictures


def stop(pid: int) -> None:
    """Stop a process and its group between two calls: with the power it goes from one moment to the next.

    (ext4 can tell one that is in the middle of a flush that all went well, as it is shut down.)
    """
    os.killpg(pid, signal.SIGSTOP)
    wait_until(lambda: set(thread_states(pid)) == {"T"})


def thread_states(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [(task / "stat").read_text().rpartition(") ")[2][0] for task in tasks]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.parametrize("state", ["beside the library", "elsewhere"])
def test_what_was_marked_done_outlives_power_cuts_and_the_rest_is_finished(
    tmp_path: Path, simulator: Simulator, disk: Disk, state: str
) -> None:
    chance = random.Random(CUTS)
    path = disk.path if state == "beside the library" else tmp_path / "home"
    path.mkdir(exist_ok=True)
    home = Home(path, simulator)
    home.library = disk.path / "library"
    home.environ["FLORADL_OUTPUT__DIR"] = str(home.library)
    runs = 0
    seen = 0
    for number in range(CUTS):
        references = [
            simulator.add_run(
                f"run_{number}_{n}", technique=f"t{n % 3}", outputs=[PICTURE, WORDS], duration=0
            )
            for n in range(RUNS)
        ]
        runs += RUNS
        home.drop("\n".join(map(str, references)), f"job-{number}.txt")
        subprocess.run(
            ["sync", "-f", home.inbox], check=True
        )  # the user's file: ours to keep only once it is here
        process = subprocess.Popen(
            command("run"), env=home.environ, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            # One request fetches one picture; what is on its way to the disk by then is another matter.
            pictures = number * RUNS + chance.randrange(1, RUNS)
            wait_until(partial(fetched, simulator, pictures))
            if number == CUTS - 1:  # where flushes are slow, nothing may have been done before any cut
                wait_until(partial(done_runs, home))
            threading.Event().wait(chance.uniform(0, 0.2))
            stop(process.pid)
            disk.cut()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        disk.power_on()
        seen += check_what_is_done(home)
    assert seen > 0
    assert home.run("once", timeout=120).returncode == 0
    assert check_what_is_done(home) == runs
    assert counts(home) == {RunState.DONE: runs}
    check_library(home, simulator)
    (home.state / "live.json").unlink(missing_ok=True)
    assert leftovers(home) == []
