"""What keeps every run from its work pauses the daemon, and it goes on by itself once that is mended."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import studio
from mounting import in_memory, mount, mounted, unmount
from studio import Home, check_library, command, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = (OutputSpec("a", "imageUrl", size=300_000),)
WORDS = (OutputSpec("words", "text", text="Lower."),)


queue = partial(studio.queue, outputs=PICTURE)


def paused(home: Home, reason: str) -> dict[str, Any]:
    """Wait until the daemon says that it is paused for `reason`; returns what it says."""

    def told() -> dict[str, Any] | None:
        pause: dict[str, Any] | None = home.status()["paused"]
        return pause if pause and pause["reason"] == reason else None

    pause: dict[str, Any] = wait_until(told)
    return pause


def below(folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in folder.rglob("*")]


@pytest.mark.root
def test_below_min_free_space_downloads_wait_until_there_is_room(home: Home, simulator: Simulator) -> None:
    with in_memory(home.library, "8m"):
        ballast = home.library / "ballast"
        ballast.write_bytes(bytes(5 << 20))
        with home.daemon(FLORADL_DOWNLOAD__MIN_FREE_SPACE="4MiB"):
            queue(home, simulator, "run_a", "run_b", "run_c")
            pause = paused(home, "disk_full")
            assert "this output needs 1 MiB more and download.min_free_space keeps 4 MiB" in pause["message"]
            begun = len(simulator.asked("media"))
            assert home.run("status", "--check").returncode == 0
            assert "paused" in home.run("status").stdout
            check = home.run("check", FLORADL_DOWNLOAD__MIN_FREE_SPACE="4MiB")
            assert check.returncode == 1
            assert "FAIL  paused: the daemon waits" in check.stdout
            assert "FAIL  disk: " in check.stdout
            assert len(home.events("paused")) == 1
            # Meanwhile it was looked at some times whether there is room: for that nothing is fetched.
            assert len(simulator.asked("media")) == begun
            ballast.unlink()
            for name in ("run_a", "run_b", "run_c"):
                home.finished(f"campaign/{name}")
            wait_until(lambda: home.status()["paused"] is None)
            assert [event["reason"] for event in home.events("resumed")] == ["disk_full"]
        check_library(home, simulator)


@pytest.mark.root
def test_a_disk_that_fills_up_in_the_middle_of_a_body_is_waited_for(home: Home, simulator: Simulator) -> None:
    # No length is told, so that nobody can know beforehand that it will not fit.
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(framing="chunked")))
    with in_memory(home.library, "2m"):
        with home.daemon():
            queue(home, simulator, "run_big", outputs=(OutputSpec("a", "videoUrl", size=3_000_000),))
            paused(home, "disk_full")
            assert len(home.events("paused")) == 1
            assert home.sidecar("campaign/run_big") is None
            mount("-o", "remount,size=8m", home.library)
            assert home.finished("campaign/run_big")["result"] == "complete"
            wait_until(lambda: home.status()["paused"] is None)
        check_library(home, simulator)


@pytest.mark.root
def test_a_library_that_turns_read_only_is_waited_for(home: Home, simulator: Simulator) -> None:
    with in_memory(home.library, "8m"):
        with home.daemon():
            queue(home, simulator, "run_a")
            home.finished("campaign/run_a")
            mount("-o", "remount,ro", home.library)
            queue(home, simulator, "run_b", "run_c")
            pause = paused(home, "library_read_only")
            assert str(home.library) in pause["message"]
            assert home.run("status", "--check").returncode == 0
            check = home.run("check")
            assert check.returncode == 1
            assert "library_read_only" in check.stdout
            mount("-o", "remount,rw", home.library)
            home.finished("campaign/run_b")
            home.finished("campaign/run_c")
            assert len(home.events("paused")) == 1
        check_library(home, simulator)


def test_a_library_that_is_gone_is_waited_for_and_not_made_anew(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_a")
        home.finished("campaign/run_a")
        home.library.rename(home.path / "away")
        queue(home, simulator, "run_b", "run_c")
        queue(home, simulator, "run_words", outputs=WORDS)
        paused(home, "library_missing")
        assert not home.library.exists()
        assert home.run("status", "--check").returncode == 0
        assert "library_missing" in home.run("check").stdout
        assert len(home.events("paused")) == 1
        (home.path / "away").rename(home.library)
        for name in ("run_b", "run_c", "run_words"):
            home.finished(f"campaign/{name}")
    check_library(home, simulator)


def test_a_library_that_was_emptied_is_begun_anew_on_demand_only(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_a")
        home.finished("campaign/run_a")
        home.library.rename(home.path / "away")
        home.library.mkdir()
        queue(home, simulator, "run_b")
        pause = paused(home, "library_missing")
        marker = home.library / ".floradl-library"
        assert f"touch '{marker}'" in pause["message"]
        assert below(home.library) == []
        marker.touch()
        home.finished("campaign/run_b")
    check_library(home, simulator)


def test_a_library_elsewhere_without_the_files_pauses_as_library_other(
    home: Home, simulator: Simulator
) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    queue(home, simulator, "run_b")
    other = home.path / "other"
    with home.daemon(FLORADL_OUTPUT__DIR=str(other)):
        pause = paused(home, "library_other")
        assert f"FLORADL_OUTPUT__DIR={home.library} floradl move-library {other})" in pause["message"]
        assert f"touch {other}/.floradl-library" in pause["message"]
        assert f"touch {other}/.floradl-library" in pause["message"]
        assert not other.exists()
        check = home.run("check", FLORADL_OUTPUT__DIR=str(other))
        assert check.returncode == 1
        assert f"FAIL  library: {other} has no files of the 1 run done so far" in check.stdout
        shutil.copytree(home.library, other)
        wait_until((other / "runs/campaign/run_b.json").exists)
        wait_until(lambda: not home.status()["paused"])


def test_once_says_that_the_library_is_elsewhere_and_ends(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    queue(home, simulator, "run_b")
    done = home.run("once", FLORADL_OUTPUT__DIR=str(home.path / "other"))
    assert done.returncode == 5
    assert f"they are in {home.library}" in done.stderr
    assert "not mounted" not in done.stderr
    assert not (home.path / "other").exists()


def test_the_files_are_not_said_to_be_where_only_get_was_used(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    queue(home, simulator, "run_b")
    get_only = home.path / "get-only"
    assert home.run("get", "campaign/run_b", FLORADL_OUTPUT__DIR=str(get_only)).returncode == 0
    with home.daemon(FLORADL_OUTPUT__DIR=str(home.path / "other")):
        assert f"they are in {home.library}." in paused(home, "library_other")["message"]
    get_only.rename(home.path / "away")  # what `get` has seen is missed all the same
    assert home.run("get", "campaign/run_b", "--dry-run", FLORADL_OUTPUT__DIR=str(get_only)).returncode == 5


def test_a_library_elsewhere_is_begun_anew_where_its_marker_is_put_there(
    home: Home, simulator: Simulator
) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    other = home.path / "other"
    other.mkdir()
    (other / ".floradl-library").touch()
    queue(home, simulator, "run_b")
    assert home.run("once", FLORADL_OUTPUT__DIR=str(other)).returncode == 0
    assert (other / "runs/campaign/run_b.json").exists()


@pytest.mark.root
def test_a_disk_unmounted_under_way_is_waited_for_and_nothing_is_written_below(
    home: Home, simulator: Simulator
) -> None:
    disk = home.path / "disk"
    disk.mkdir()
    with mounted(home.library, "--bind", disk):
        with home.daemon():
            queue(home, simulator, "run_a")
            wait_until(lambda: home.events("run_finished"))  # its sidecar's folder is flushed until then
            unmount(home.library)
            queue(home, simulator, "run_b", "run_c")
            queue(home, simulator, "run_words", outputs=WORDS)
            paused(home, "library_missing")
            assert below(home.library) == []
            mount("--bind", disk, home.library)
            for name in ("run_b", "run_c", "run_words"):
                home.finished(f"campaign/{name}")
            assert len(home.events("paused")) == 1
        check_library(home, simulator)
        unmount(home.library)
        assert below(home.library) == []


@pytest.mark.root
def test_a_disk_torn_off_in_the_middle_of_a_download_costs_nothing_but_time(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(run="run_slow", host="media"), do=Do(drip=200_000), times=1))
    disk = home.path / "disk"
    disk.mkdir()
    with mounted(home.library, "--bind", disk):
        with home.daemon():
            queue(home, simulator, "run_slow", outputs=(OutputSpec("a", "videoUrl", size=400_000),))
            wait_until(lambda: list(disk.rglob(".run_*.part")))
            unmount(home.library, "-l")
            paused(home, "library_missing")
            assert below(home.library) == []
            mount("--bind", disk, home.library)
            assert home.finished("campaign/run_slow")["result"] == "complete"
        check_library(home, simulator)


@pytest.mark.root
def test_a_disk_that_is_not_mounted_at_the_start_is_waited_for(home: Home, simulator: Simulator) -> None:
    disk = home.path / "disk"
    disk.mkdir()
    with mounted(home.library, "--bind", disk):
        queue(home, simulator, "run_a")
        assert home.run("once").returncode == 0
        unmount(home.library)
        queue(home, simulator, "run_b")
        with home.daemon():
            paused(home, "library_missing")
            assert below(home.library) == []
            assert "its disk is not mounted" in home.run("check").stdout
            mount("--bind", disk, home.library)
            home.finished("campaign/run_b")
        check_library(home, simulator)
        unmount(home.library)
        assert below(home.library) == []


@pytest.mark.root
def test_a_new_library_is_not_made_below_a_disk_that_fstab_names_and_that_is_not_mounted(
    home: Home, simulator: Simulator
) -> None:
    disk = home.path / "disk"
    disk.mkdir()
    fstab = home.path / "fstab"
    fstab.write_text(f"/dev/none {disk} ext4 noauto 0 0\n")
    home.environ["FLORADL_OUTPUT__DIR"] = str(disk / "library")
    queue(home, simulator, "run_a")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        """Run in a namespace where this is the table of what is to be mounted."""
        door = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/fstab && exec "$@"', str(fstab)]
        return subprocess.run(
            [*door, *command(*arguments)], env=home.environ, capture_output=True, text=True, check=False
        )

    assert run("once", "--max-wait", "2s").returncode == 5
    assert f"FAIL  library: nothing is mounted at {disk}" in run("check").stdout
    assert below(disk) == []
    with in_memory(disk, "8m"):
        assert run("once").returncode == 0
        assert (disk / "library/.floradl-library").exists()
    assert below(disk) == []


def test_a_run_that_ends_well_does_not_lift_a_pause_that_another_met(
    home: Home, simulator: Simulator
) -> None:
    """One transfer is under way when the disk gets too full for the next: its end is no room for that."""
    simulator.faults.add(Fault(match=Match(run="run_small", host="media"), do=Do(delay=4)))
    simulator.faults.add(Fault(match=Match(run="run_huge", host="media"), do=Do(wrong_length=1 << 50)))
    with home.daemon(FLORADL_DOWNLOAD__MIN_FREE_SPACE="0"):
        queue(home, simulator, "run_small")
        wait_until(lambda: home.status()["counts"]["downloading"])
        queue(home, simulator, "run_huge")
        paused(home, "disk_full")
        home.finished("campaign/run_small")
        assert home.status()["paused"]
        assert home.events("resumed") == []
        assert home.run("forget", "run_huge").returncode == 0
        wait_until(lambda: home.status()["paused"] is None)
    assert home.status()["counts"]["forgotten"] == 1


def stands_in_the_way(folder: Path) -> Callable[[], object]:
    """Put a file where a folder should be; returns what takes it away."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    return folder.unlink


def is_mounted_read_only(folder: Path) -> Callable[[], object]:
    """Mount something below the library that cannot be written."""
    folder.mkdir(parents=True, exist_ok=True)
    mount("-t", "tmpfs", "-o", "ro", "floradl", folder)
    return partial(unmount, folder)


@pytest.mark.root
@pytest.mark.parametrize("block", [stands_in_the_way, is_mounted_read_only])
@pytest.mark.parametrize("place", ["images/campaign", "runs/campaign"])
def test_a_folder_that_cannot_be_written_holds_up_its_own_runs_alone(
    home: Home, simulator: Simulator, block: Callable[[Path], Callable[[], object]], place: str
) -> None:
    folder = home.library / place
    unblock = block(folder)
    try:
        with home.daemon():
            queue(home, simulator, *(f"run_{number}" for number in range(8)))
            simulator.add_run("run_other", technique="portraits", outputs=PICTURE, duration=0.1)
            home.drop("portraits/run_other\n", "other.txt")
            assert home.finished("portraits/run_other")["result"] == "complete"
            wait_until(lambda: home.status()["counts"]["downloading"] == 8)
            said = wait_until(
                lambda: [run for run in home.status()["runs"] if run["error"] and run["next_at"]]
            )
            assert str(folder) in said[0]["error"]["message"]
            assert home.status()["paused"] is None
            told = home.events("run_trouble") + home.events("output_trouble")
            assert str(folder) in told[0]["message"]
            if place.startswith("images/"):
                assert len(simulator.asked("media")) == 1  # the other's
            unblock()
            for number in range(8):
                assert home.finished(f"campaign/run_{number}", 60)["result"] == "complete"
    finally:
        if folder.is_mount():
            unmount(folder, "-l")
    check_library(home, simulator)


@pytest.mark.root
def test_a_disk_that_fills_up_in_the_middle_of_a_body_asks_for_nothing_while_it_is_full(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(framing="chunked")))
    with in_memory(home.library, "2m"):
        with home.daemon():
            queue(home, simulator, "run_big", outputs=(OutputSpec("a", "videoUrl", size=3_000_000),))
            paused(home, "disk_full")
            begun = len(simulator.requests)
            for _ in range(3):  # each takes a while, in which it is looked at the disk
                assert home.run("status", "--check").returncode == 0
            assert len(simulator.requests) == begun
            mount("-o", "remount,size=8m", home.library)
            assert home.finished("campaign/run_big")["result"] == "complete"
        check_library(home, simulator)


def test_a_daemon_without_a_key_says_so_at_its_start(home: Home) -> None:
    with home.daemon(FLORA_API_KEY=""):
        (missing,) = home.events("api_key_missing")
    assert "FLORA_API_KEY" in missing["message"]
    with home.daemon():
        assert len(home.events("api_key_missing")) == 1
