"""Disks that fail: what could not be flushed is never counted as saved, and a full disk is waited out."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from crashing import Failing, calls, counts, interposed, leftovers
from studio import TEST_TIMEOUT, Home, check_library, command, served, wait_until

from floradl.models import RunState
from floradl.simulator import OutputSpec, Simulator

PICTURE = OutputSpec("picture", "imageUrl", size=3000)
RUN = "campaign/run_0"


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    simulator.add_run("run_0", technique="campaign", outputs=[PICTURE], duration=0)
    with served(simulator):
        yield simulator


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator) -> Home:
    path = tmp_path / "home"
    path.mkdir()
    home = Home(path, simulator)
    home.drop(RUN)
    return home


def once_with(home: Home, log: Path, failing: Failing) -> list[tuple[str, str]]:
    """Run `once` on a disk that fails, and check that it ended well; return the calls on its files."""
    home.environ |= interposed(home, log=log, failing=failing)
    done = home.run("once")
    assert done.returncode == 0, done.stderr
    assert counts(home) == {RunState.DONE: 1}
    assert leftovers(home) == []
    return calls(log, home)


def test_a_file_that_could_not_be_flushed_is_thrown_away_and_fetched_again(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    done = once_with(home, tmp_path / "log", Failing("fsync", "run_0-picture", errno.EIO))
    flushes = [n for n, (call, path) in enumerate(done) if call == "fsync" and "run_0-picture" in path]
    assert len(flushes) == 2
    between = done[flushes[0] + 1 : flushes[1]]
    part = done[flushes[0]][1]
    assert ("unlink", part) in between  # so the second flush is of another file
    assert ("open", part) in between
    assert len(simulator.asked("media", "run_0")) == 2
    check_library(home, simulator)


def test_a_name_that_could_not_be_flushed_is_given_anew(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    done = once_with(home, tmp_path / "log", Failing("fsync", "images/campaign", errno.EIO, first=2))
    folder = "library/images/campaign"
    assert done.count(("fsync", folder)) == 2
    first, second = (n for n, call in enumerate(done) if call == ("fsync", folder))
    # A second flush of the same change would succeed, whatever became of it: it must be another change.
    assert ("unlink", f"{folder}/run_0-picture.png") in done[first + 1 : second]
    assert len(simulator.asked("media", "run_0")) == 2
    check_library(home, simulator)


def test_a_folder_whose_name_could_not_be_flushed_is_made_anew(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    done = once_with(home, tmp_path / "log", Failing("fsync", "library/images", errno.EIO))
    made = [n for n, call in enumerate(done) if call == ("mkdir", "library/images/campaign")]
    flushed = [n for n, call in enumerate(done) if call == ("fsync", "library/images")]
    assert len(made) == len(flushed) == 2
    assert made[0] < flushed[0] < made[1] < flushed[1]
    check_library(home, simulator)


def test_a_sidecar_that_could_not_be_flushed_is_written_anew(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    done = once_with(home, tmp_path / "log", Failing("fsync", ".run_0.json.part", errno.EIO))
    part = "library/runs/campaign/.run_0.json.part"
    flushes = [n for n, call in enumerate(done) if call == ("fsync", part)]
    assert len(flushes) == 2
    assert ("unlink", part) in done[flushes[0] : flushes[1]]
    assert len(simulator.asked("media", "run_0")) == 1
    check_library(home, simulator)


def test_bytes_that_somebody_else_put_there_are_flushed_before_they_count_as_saved(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    run = simulator.run("run_0")
    assert run is not None
    path = home.library / "images/campaign/run_0-picture.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(run.body(0).read())
    home.environ |= interposed(home, log=tmp_path / "log")
    assert home.run("once").returncode == 0
    done = calls(tmp_path / "log", home)
    assert ("fsync", "library/images/campaign/run_0-picture.png") in done
    assert list(home.files()) == ["images/campaign/run_0-picture.png"]


def test_bytes_of_somebody_else_that_cannot_be_flushed_are_not_adopted(
    home: Home, simulator: Simulator, tmp_path: Path
) -> None:
    run = simulator.run("run_0")
    assert run is not None
    path = home.library / "images/campaign/run_0-picture.png"
    path.parent.mkdir(parents=True)
    path.write_bytes(run.body(0).read())
    once_with(home, tmp_path / "log", Failing("fsync", "run_0-picture.png", errno.EIO))
    sidecar = home.sidecar(RUN)
    assert sidecar is not None
    assert sidecar["outputs"][0]["path"] != "images/campaign/run_0-picture.png"


def test_that_a_library_was_seen_is_on_disk_before_anything_else_is(home: Home, tmp_path: Path) -> None:
    """A power cut must not make it forgotten: the next start may find the library's disk not mounted."""
    home.environ |= interposed(home, log=tmp_path / "log")
    assert home.run("once").returncode == 0
    done = calls(tmp_path / "log", home)
    seen = done.index(("write", "state/library-seen"))
    assert done[seen + 1 : seen + 3] == [("fsync", "state/library-seen"), ("fsync", "state")]
    assert not any("library/images" in path for _, path in done[:seen])


@contextmanager
def small_disk(path: Path, kind: str) -> Iterator[Path]:
    """Mount a disk of 16 MiB at `path`, without blocks kept back for root."""
    path.mkdir()
    if kind == "tmpfs":
        mount = ["mount", "-t", "tmpfs", "-o", "size=16m", "floradl", str(path)]
    else:
        image = path.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(16 << 20)
        # As on large disks a block is a page: of smaller ones SQLite's shared memory may lack a part.
        subprocess.run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", image], check=True)
        mount = ["mount", "-o", "loop", str(image), str(path)]
    if subprocess.run(mount, check=False).returncode != 0:
        pytest.skip("cannot mount here")
    try:
        yield path
    finally:
        subprocess.run(["umount", path], check=True)


def fill(disk: Path) -> Path:
    """Fill the disk to its last byte; return the file that takes the room."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 4096, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", request.param) as path:
        yield path


def many_runs(simulator: Simulator, number: int) -> str:
    """Give a job of so many runs that the journal must grow; three of them there are."""
    words = OutputSpec("words", "text", text="So it goes.")
    references = [f"campaign/run_{n}_{'x' * 150}" for n in range(number)]
    for reference in references:
        simulator.add_run(reference.partition("/")[2], technique="campaign", outputs=[words], duration=0)
    return "\n".join(references)


@pytest.mark.root
def test_a_full_disk_under_the_journal_is_waited_out(home: Home, simulator: Simulator, disk: Path) -> None:
    home.environ["FLORADL_STATE_DIR"] = str(disk / "state")
    runs = 300
    with home.daemon() as process:
        home.finished(RUN)
        wait_until(lambda: home.status()["counts"]["done"] == 1)
        wait_until(lambda: home.run("status", "--check").returncode == 0)
        filler = fill(disk)
        home.drop(many_runs(simulator, runs), "many.txt")
        wait_until(lambda: home.status()["paused"])
        status = home.status()
        assert status["paused"]["reason"] == "disk_full"
        assert "disk of the state folder" in status["paused"]["message"]
        assert home.run("status", "--check").returncode == 0  # a paused daemon is alive
        assert (home.inbox / "many.txt").exists()
        spent = cpu_seconds(process.pid)
        threading.Event().wait(3.0)  # that nothing happens can be seen in no other way
        assert cpu_seconds(process.pid) - spent < 0.5  # no tight loop
        assert process.poll() is None
        assert len(home.events("paused")) == 1
        filler.unlink()
        wait_until(lambda: home.status()["counts"]["done"] == runs + 1, 90)
        wait_until(lambda: home.status()["paused"] is None)  # what the daemon said last, once a second
        assert len(home.events("resumed")) == 1
        assert not home.events("bug")
    check_library(home, simulator)
    with closing(sqlite3.connect(disk / "state" / "journal.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def filled_with_a_run_to_do(home: Home, simulator: Simulator, disk: Path) -> Path:
    """Have a daemon whose state is on `disk` end, fill that, and drop another run; return what fills it."""
    home.environ["FLORADL_STATE_DIR"] = str(disk / "state")
    with home.daemon() as process:
        home.finished(RUN)
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    filler = fill(disk)
    simulator.add_run("run_later", technique="campaign", outputs=[PICTURE], duration=0)
    home.drop("campaign/run_later")
    return filler


@pytest.mark.root
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_a_daemon_that_starts_on_a_full_disk_waits_for_room(
    home: Home, simulator: Simulator, disk: Path
) -> None:
    filler = filled_with_a_run_to_do(home, simulator, disk)
    done = home.run("once")
    assert done.returncode == 5
    assert "room" in done.stderr
    with starting(home) as process:
        wait_until(lambda: home.events("paused"))
        assert home.run("status", "--check").returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    with starting(home) as process:
        wait_until(lambda: len(home.events("paused")) == 2)
        status = home.status()
        assert status["daemon"]["alive"]
        assert status["paused"]["reason"] == "disk_full"
        filler.unlink()
        assert home.finished("campaign/run_later")["result"] == "complete"
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    check_library(home, simulator)


@pytest.mark.root
@pytest.mark.slow  # it is given ten seconds
@pytest.mark.parametrize("disk", ["ext4"], indirect=True)
def test_once_ends_where_its_journal_opens_and_cannot_be_written(
    home: Home, simulator: Simulator, disk: Path
) -> None:
    filler = filled_with_a_run_to_do(home, simulator, disk)
    os.truncate(filler, filler.stat().st_size - 48_000)  # room to open it, and no more
    done = home.run("once")
    assert done.returncode == 5
    assert "make room" in done.stderr
    filler.unlink()
    assert home.run("once").returncode == 0
    check_library(home, simulator)


@contextmanager
def starting(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """Start a daemon, and wait for nothing; `home.events` tells of it."""
    with (home.path / "daemon.log").open("a") as log:
        process = subprocess.Popen(command("run"), env=home.environ, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def cpu_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    return float(ticks / os.sysconf("SC_CLK_TCK"))


def test_a_stop_is_not_held_up_by_a_full_disk_and_loses_no_job(home: Home, simulator: Simulator) -> None:
    full = home.path / "full"
    failing = Failing("write", "journal.sqlite3-wal", errno.ENOSPC, count=10**9, switch=full)
    home.environ |= interposed(home, failing=failing)
    simulator.add_run("run_later", technique="campaign", outputs=[PICTURE], duration=0)
    with home.daemon() as process:
        home.finished(RUN)
        full.touch()
        home.drop("campaign/run_later", "later.txt")
        wait_until(lambda: home.events("paused"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert (home.inbox / "later.txt").exists()
    full.unlink()
    assert home.run("once").returncode == 0
    assert counts(home) == {RunState.DONE: 2}
    check_library(home, simulator)


@pytest.mark.parametrize("first", [1, 3])
def test_a_commit_that_could_not_be_flushed_is_made_anew(
    home: Home, simulator: Simulator, tmp_path: Path, first: int
) -> None:
    """The first commit takes the job in, the third tells of a file that is saved."""
    failing = Failing("fsync", "journal.sqlite3-wal", errno.EIO, first=2 + first)
    done = once_with(home, tmp_path / "log", failing)
    log = "state/journal.sqlite3-wal"
    flushes = [n for n, call in enumerate(done) if call == ("fsync", log)]
    failed, following = flushes[1 + first : 3 + first]
    assert ("write", log) in done[failed:following]  # nothing is flushed that was not written anew
    assert len(simulator.asked("media", "run_0")) == 1
    check_library(home, simulator)
