"""Disks that fail: what could not be flushed is never counted as saved, and a full disk is waited out."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashing import Failing, calls, counts, interposed, leftovers
from studio import Home, check_library, served

from floradl.models import State
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
    assert counts(home) == {State.DONE: 1}
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
