"""`--dry-run` of `get`, `once` and `sync`: it says what would be done, and writes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from studio import Home, check_library, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = OutputSpec("picture", "imageUrl", size=3000)
FILM = OutputSpec("film", "videoUrl", size=40_000)
WORDS = OutputSpec("words", "text", text="Lower the key light.")


def tree(folder: Path) -> dict[str, tuple[int, int, int, bytes | None]]:
    """Return all that is in a folder, with times and bytes."""
    found = {}
    for path in (folder, *sorted(folder.rglob("*"))):
        status = path.lstat()
        data = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_ino, status.st_mtime_ns, data)
    return found


def add(simulator: Simulator, *names: str, duration: float = 0) -> None:
    for name in names:
        outputs = (PICTURE, FILM, WORDS)
        simulator.add_run(name, technique="campaign", outputs=outputs, duration=duration)


def test_get_counts_what_it_would_download_and_writes_nothing(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    before = tree(home.path)
    done = home.run("get", "--dry-run", "campaign/run_a", FLORADL_OUTPUT__KINDS="image,text")
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(home.path) == before
    line, summary = done.stdout.splitlines()
    assert line == "would download  campaign/run_a: 1 image, 1 text, 20 B, 1 left out (kind)"
    assert summary == (
        "dry run, nothing was written: 1 run, 1 to download; 2 outputs to download "
        "(20 B and 1 of unknown size); 1 output left out"
    )
    assert simulator.asked("media") == []


def test_get_tells_what_is_there_waits_and_fails_apart(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_done", "run_new")
    add(simulator, "run_slow", duration=600)
    simulator.add_run("run_bad", technique="campaign", duration=0, fail=("safety_blocked", "Not this."))
    assert home.run("get", "campaign/run_done").returncode == 0
    asked = len(simulator.asked("api", "run_done"))
    before = tree(home.path)
    names = ("run_done", "run_new", "run_slow", "run_bad", "run_none")
    done = home.run("get", "--dry-run", *(f"campaign/{name}" for name in names))
    assert done.returncode == 3
    assert tree(home.path) == before
    lines = {line.partition("campaign/")[2].partition(":")[0]: line for line in done.stdout.splitlines()}
    assert lines["run_done"].startswith("already there")
    assert lines["run_new"].startswith("would download")
    assert "not finished" in lines["run_slow"]
    assert "would fail" in lines["run_bad"]
    assert "safety_blocked: Not this." in lines["run_bad"]
    assert "would fail" in lines["run_none"]
    assert len(simulator.asked("api", "run_done")) == asked


def test_get_shows_what_a_lost_file_would_cost_as_far_as_its_sidecar_knows(
    home: Home, simulator: Simulator
) -> None:
    add(simulator, "run_a")
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    (lost,) = [name for name in home.files() if name.endswith(".png")]
    (home.library / lost).unlink()
    assert home.run("retry", "campaign/run_a").returncode == 0
    done = home.run("once", "--dry-run")
    assert "would download  campaign/run_a: 1 image, 1 video, 1 text, 43 kB" in done.stdout


def test_once_reads_inbox_queue_file_and_queue_and_touches_none(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_open", duration=600)
    add(simulator, "run_done", "run_job", "run_line", "run_kinds")
    home.environ["FLORADL_QUEUE__FILE"] = str(home.path / "runs.yaml")
    (home.path / "runs.yaml").write_text("runs: []\n")
    home.drop("campaign/run_done\n", "done.txt")
    assert home.run("once").returncode == 0
    home.drop("campaign/run_open\n")
    assert home.run("once", "--max-wait", "1s").returncode == 5
    (home.path / "runs.yaml").write_text("runs: [campaign/run_line, campaign/run_done]\n")
    home.drop("campaign/run_job\ncampaign/run_done\n", "new.txt")
    home.drop("run: 5: 6", "bad.yaml")
    before = tree(home.path)
    done = home.run("once", "--dry-run")
    assert done.returncode == 3
    assert tree(home.path) == before
    assert "would take      new.txt: 2 runs" in done.stdout
    assert "would reject    bad.yaml: line 1" in done.stdout
    assert "would download  campaign/run_job" in done.stdout
    assert "not finished    campaign/run_open" in done.stdout
    assert "run_done" not in done.stdout
    assert simulator.asked("media", "run_job") == []
    assert home.run("forget", "run_open").returncode == 0
    assert home.run("once").returncode == 3
    check_library(home, simulator)


def test_once_drops_what_a_job_forgets(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    home.drop("campaign/run_a", "a.txt")
    home.drop(json.dumps({"run": "run_a", "action": "forget"}), "b.json")
    done = home.run("once", "--dry-run")
    assert "would take      b.json: 1 run, 1 to forget" in done.stdout
    assert done.stdout.endswith("nothing was written: nothing to do\n")


def test_a_dry_run_works_beside_a_daemon(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_slow", duration=600)
    add(simulator, "run_a")
    home.drop("campaign/run_slow")
    with home.daemon():
        wait_until(lambda: home.status()["counts"]["running"] == 1)
        done = home.run("once", "--dry-run")
        assert done.returncode == 0
        assert "not finished    campaign/run_slow" in done.stdout
        assert "does by itself" in done.stderr
        assert "would download  campaign/run_a" in home.run("get", "--dry-run", "campaign/run_a").stdout
        assert home.sidecar("campaign/run_a") is None


def test_many_runs_are_looked_up_by_lists(home: Home, simulator: Simulator) -> None:
    names = [f"run_{number}" for number in range(150)]
    add(simulator, *names)
    done = home.run("get", "--dry-run", *(f"campaign/{name}" for name in names))
    assert "150 runs, 150 to download; 450 outputs to download" in done.stdout
    assert len(simulator.asked("api")) <= 3


def test_a_library_that_is_not_mounted_ends_a_dry_run(home: Home, simulator: Simulator) -> None:
    add(simulator, "run_a")
    assert home.run("get", "campaign/run_a").returncode == 0
    (home.library / ".floradl-library").unlink()
    done = home.run("get", "--dry-run", "campaign/run_a")
    assert (done.returncode, "does not carry .floradl-library" in done.stderr) == (5, True)


@pytest.mark.parametrize("command", [["get", "campaign/run_a"], ["sync"]])
def test_a_refused_key_ends_a_dry_run(home: Home, simulator: Simulator, command: list[str]) -> None:
    add(simulator, "run_a")
    simulator.faults.add(Fault(match=Match(host="api"), do=Do(status=401, code="unauthorized")))
    before = tree(home.path)
    assert home.run(*command, "--dry-run").returncode == 4
    assert tree(home.path) == before


def test_sync_names_what_it_would_queue_and_hands_nothing_in(home: Home, simulator: Simulator) -> None:
    created = simulator.now() - 60
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=(PICTURE,), duration=1, created=created)
    before = tree(home.path)
    done = home.run("sync", "--dry-run")
    assert done.returncode == 0
    assert tree(home.path) == before
    assert sorted(line.split()[-1].rpartition("/")[2] for line in done.stdout.splitlines()) == [
        "run_a",
        "run_b",
    ]
    assert "nothing was put into the inbox; it would be 2 runs" in done.stderr


def test_once_with_a_history_to_sync_shows_what_it_would_bring(home: Home, simulator: Simulator) -> None:
    created = simulator.now() - 60
    simulator.add_run("run_a", technique="campaign", outputs=(PICTURE,), duration=1, created=created)
    before = tree(home.path)
    done = home.run("once", "--dry-run", FLORADL_SYNC__TECHNIQUE_RUNS="true")
    assert "would download  campaign/run_a: 1 image" in done.stdout
    assert tree(home.path) == before
