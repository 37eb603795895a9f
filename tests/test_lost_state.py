"""A lost state folder costs nothing: the journal is filled again from the library and the job files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import asdict
from studio import TEST_TIMEOUT, Home, check_library, command, served, wait_until

from floradl.daemon import startup
from floradl.library.sidecar import Sidecar
from floradl.models import Result, RunNames
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURES = (OutputSpec("a", "imageUrl", size=40_000), OutputSpec("b", "imageUrl", size=50_000))


def add_runs(simulator: Simulator) -> None:
    simulator.add_run("run_done", technique="campaign", outputs=PICTURES, duration=0.1)
    simulator.add_run("run_part", technique="campaign", outputs=PICTURES, duration=0.1)
    simulator.add_run("run_bad", technique="portraits", duration=0.1, fail=("safety_blocked", "Not this."))


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work off three runs, one done, one partial, one failed, once for all tests: `worked` is a copy."""
    path = tmp_path_factory.mktemp("fetched")
    simulator = Simulator()
    add_runs(simulator)
    simulator.faults.add(Fault(match=Match(run="run_part", output="b"), do=Do(status=451), times=1))
    with served(simulator):
        home = Home(path, simulator)
        home.drop("campaign/run_done\ncampaign/run_part\nportraits/run_bad\n")
        assert home.run("once").returncode == 3
    return path


def runs(home: Home) -> dict[str, dict[str, Any]]:
    """Return all rows of the journal, by run id."""
    lines = home.run("status", "--all").stdout.splitlines()
    return {row["run_id"]: row for row in map(json.loads, lines)}


def test_nothing_is_asked_or_fetched_again_when_the_state_folder_is_lost(
    worked: Home, simulator: Simulator
) -> None:
    before = len(simulator.requests)
    shutil.rmtree(worked.state)
    assert worked.run("once").returncode == 0
    assert len(simulator.requests) == before
    check_library(worked, simulator)


def test_the_journal_says_again_what_became_of_each_run(worked: Home) -> None:
    before = runs(worked)
    shutil.rmtree(worked.state)
    assert worked.run("once").returncode == 0
    after = runs(worked)
    assert {name: row["state"] for name, row in after.items()} == {
        "run_done": "done",
        "run_part": "partial",
        "run_bad": "failed",
    }
    for name, row in before.items():
        assert after[name]["reference"] == row["reference"]
        assert (after[name]["error"] or {}).get("code") == (row["error"] or {}).get("code")


def test_a_retry_after_the_loss_fetches_only_what_is_missing(worked: Home, simulator: Simulator) -> None:
    shutil.rmtree(worked.state)
    before = len(simulator.asked("media", "run_part"))
    worked.drop("campaign/run_part\ncampaign/run_done\n", "again.txt")
    assert worked.run("once").returncode == 0
    assert [record.output_id for record in simulator.asked("media", "run_part")[before:]] == ["b"]
    assert simulator.asked("media", "run_done") == []
    check_library(worked, simulator)


def test_a_run_that_was_still_queued_is_taken_up_again(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_long", technique="campaign", outputs=PICTURES, duration=600)
    home.drop("campaign/run_long\n")
    assert home.run("once", "--max-wait", "0.5s").returncode == 5
    shutil.rmtree(home.state)
    simulator.now = lambda: time.time() + 600
    assert home.run("once").returncode == 0
    check_library(home, simulator)
    assert runs(home)["run_long"]["state"] == "done"


def test_an_empty_job_file_that_was_put_away_under_another_name_is_no_new_run(
    home: Home, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURES, duration=0.1)
    for _ in range(2):
        home.drop("", "run_a.txt")
        assert home.run("once").returncode == 0
    assert len(list((home.inbox / "accepted").iterdir())) == 2
    shutil.rmtree(home.state)
    assert home.run("once").returncode == 0
    assert set(runs(home)) == {"run_a"}


def test_what_was_forgotten_stays_forgotten(worked: Home, simulator: Simulator) -> None:
    simulator.add_run("run_open", technique="campaign", outputs=PICTURES, duration=600)
    worked.drop("campaign/run_open\n", "open.txt")
    assert worked.run("once", "--max-wait", "0.5s").returncode == 5
    assert worked.run("forget", "run_done", "run_open").returncode == 0
    assert worked.run("once").returncode == 0
    (worked.library / "images/campaign/run_done-a.png").unlink()
    asked = len(simulator.requests)
    shutil.rmtree(worked.state)
    worked.drop("campaign/run_done\ncampaign/run_open\n", "again.txt")
    assert worked.run("once").returncode == 0
    assert len(simulator.requests) == asked
    assert {runs(worked)[name]["state"] for name in ("run_done", "run_open")} == {"forgotten"}


def test_a_forgotten_run_that_was_retried_later_is_done(home: Home, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=PICTURES, duration=0.1)
    home.drop("campaign/run_a\n")
    for arguments in (("once",), ("forget", "run_a"), ("once",), ("retry", "run_a"), ("once",)):
        assert home.run(*arguments).returncode == 0
    asked = len(simulator.requests)
    shutil.rmtree(home.state)
    assert home.run("once").returncode == 0
    assert runs(home)["run_a"]["state"] == "done"
    assert len(simulator.requests) == asked


def test_a_library_moved_away_and_back_is_known_without_the_state_too(
    worked: Home, simulator: Simulator
) -> None:
    before = len(simulator.requests)
    elsewhere = worked.path / "other disk" / "library"
    elsewhere.parent.mkdir()
    worked.library.rename(elsewhere)
    shutil.rmtree(worked.state)
    worked.drop("campaign/run_done\n", "one.txt")
    assert worked.run("once", FLORADL_OUTPUT__DIR=str(elsewhere)).returncode == 0
    elsewhere.rename(worked.library)
    worked.drop("campaign/run_done\n", "two.txt")
    assert worked.run("once").returncode == 0
    shutil.rmtree(worked.state)
    worked.drop("campaign/run_done\n", "three.txt")
    assert worked.run("once").returncode == 0
    assert len(simulator.requests) == before
    check_library(worked, simulator)


def test_files_without_sidecars_are_adopted_when_their_run_comes_again(
    worked: Home, simulator: Simulator
) -> None:
    shutil.rmtree(worked.state)
    shutil.rmtree(worked.library / "runs")
    inode = (worked.library / "images/campaign/run_done-a.png").stat().st_ino
    assert worked.run("get", "campaign/run_done", "campaign/run_part").returncode == 0
    assert (worked.library / "images/campaign/run_done-a.png").stat().st_ino == inode
    check_library(worked, simulator)


def test_only_the_journal_may_be_lost_too(worked: Home) -> None:
    (worked.state / "journal.sqlite3").unlink()
    assert worked.run("once").returncode == 0
    assert len(runs(worked)) == 3


def test_a_filling_that_was_cut_short_goes_on_at_the_next_start(worked: Home, simulator: Simulator) -> None:
    # As a kill in the middle leaves it: some rows are there, and the note that this is not all.
    with closing(sqlite3.connect(worked.state / "journal.sqlite3")) as journal, journal:
        journal.execute("DELETE FROM runs WHERE run_id <> 'run_part'")
    (worked.state / "recall").touch()
    asked = len(simulator.requests)
    assert worked.run("once").returncode == 0
    assert len(runs(worked)) == 3
    assert not (worked.state / "recall").exists()
    assert len(simulator.requests) == asked


def test_a_daemon_fills_its_journal_when_the_disk_comes_late(worked: Home, simulator: Simulator) -> None:
    asked = len(simulator.requests)
    disk = worked.path / "disk"
    disk.mkdir()
    worked.library.rename(disk / "library")
    shutil.rmtree(worked.state)
    disk.rename(worked.path / "unplugged")
    # A file where the disk will be, so that nobody can make a new library there.
    disk.write_text("")
    with worked.daemon(FLORADL_OUTPUT__DIR=str(disk / "library")):
        assert len(worked.events("library_not_ready")) == 1
        worked.drop("campaign/run_done\n", "again.txt")
        wait_until(lambda: worked.status()["paused"])
        assert worked.status()["paused"]["reason"] == "library_missing"
        disk.unlink()
        (worked.path / "unplugged").rename(disk)
        wait_until(lambda: len(runs(worked)) == 3 and not worked.status()["paused"])
    assert len(worked.events("library_not_ready")) == 1
    assert {row["state"] for row in runs(worked).values()} == {"done", "partial", "failed"}
    assert len(simulator.requests) == asked


def test_a_new_beginning_does_not_bring_back_what_was_asked_for_long_ago(
    worked: Home, simulator: Simulator
) -> None:
    asked = len(simulator.requests)
    shutil.rmtree(worked.state)
    shutil.rmtree(worked.library)
    assert worked.run("once").returncode == 0
    assert len(simulator.requests) == asked
    assert runs(worked) == {}


@pytest.mark.root
def test_ten_thousand_sidecars_are_recorded_in_a_few_commits(worked: Home) -> None:
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    sidecar = json.loads((worked.library / "runs/campaign/run_done.json").read_bytes())
    for number in range(10_000):
        copy = sidecar | {"run_id": f"run_{number:05}", "reference": f"campaign/run_{number:05}"}
        (worked.library / f"runs/campaign/run_{number:05}.json").write_text(json.dumps(copy))
    shutil.rmtree(worked.state)
    log = worked.path / "strace.log"
    traced = ["strace", "-f", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o", str(log)]
    done = subprocess.run(
        [*traced, *command("once")], env=worked.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    flushes = [line for line in log.read_text().splitlines() if "sync(" in line]
    assert 0 < len(flushes) < 100
    assert worked.status()["counts"]["done"] == 10_001


@pytest.mark.root
def test_a_daemon_that_fills_its_journal_for_long_is_alive_and_can_be_stopped(worked: Home) -> None:
    """On a slow disk, that is: each sidecar takes a fifth of a second to open."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    sidecar = (worked.library / "runs/campaign/run_done.json").read_bytes()
    for number in range(400):
        (worked.library / f"runs/campaign/copy_{number:03}.json").write_bytes(sidecar)
    shutil.rmtree(worked.state)
    slow = ["--trace-path", str(worked.library / "runs/campaign"), "-e", "inject=openat:delay_enter=200000"]
    log = worked.path / "strace.log"
    stops = len(worked.events("stopped"))
    with (worked.path / "daemon.log").open("a") as stream:
        process = subprocess.Popen(
            ["strace", "-f", "-o", log, *slow, *command("run")],
            env=worked.environ,
            stderr=stream,
            start_new_session=True,
        )
    try:
        wait_until((worked.state / "live.json").exists)
        assert (worked.state / "recall").exists()
        assert worked.run("status", "--check").returncode == 0
        pid = worked.status()["daemon"]["pid"]
        os.kill(pid, signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
        assert len(worked.events("stopped")) == stops + 1  # by itself, before the deadline of a stop ended it
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert (worked.state / "recall").exists()


def test_a_damaged_sidecar_is_passed_over(worked: Home, simulator: Simulator) -> None:
    (worked.library / "runs/campaign/run_part.json").write_text('{"half": ')
    shutil.rmtree(worked.state)
    with worked.daemon() as process:
        wait_until(lambda: worked.events("journal_recalled"))
        os.kill(process.pid, signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    # Its job file still names it, so it is fetched again, and what has the right bytes is adopted.
    assert subprocess.run(command("once", "-q"), env=worked.environ, check=False).returncode == 0
    (worked.library / "runs/campaign/run_part.json.unreadable").unlink()
    check_library(worked, simulator)
    assert {row["state"] for row in runs(worked).values()} == {"done", "failed"}


def test_a_recalled_run_has_what_its_sidecar_says_that_it_belongs_to() -> None:
    names = RunNames(technique_id="tech_1", technique_name="Campaign", project_id="prj_1")
    sidecar = Sidecar(
        reference="campaign/run_a",
        technique="campaign",
        run_id="run_a",
        label="spring",
        meta={"shot": "12"},
        result=Result.COMPLETE,
        **asdict(names),
    )
    run, _ = startup._row(sidecar)
    assert (run.label, run.meta, run.names) == ("spring", {"shot": "12"}, names)
