"""How much is taken in at a time: the number of open runs, and the room on the state's disk, have a bound."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest
from mounting import in_memory
from studio import Home, wait_until

from floradl.models import LeftFile
from floradl.simulator import OutputSpec, Simulator
from floradl.sources.file_ready import Stamp
from floradl.sources.inbox import Job
from floradl.sources.intake import admit, short_of_room

WORDS = (OutputSpec("words", "text", text="Yes."),)
FOR_EVER = 3600.0


def job(name: str, *, behind: bool = False) -> Job:
    return Job(name, (), Stamp(0, 0, 0, 0), LeftFile(name, 0, 0, "", refused=False), behind)


def decided(
    jobs: list[Job], needs: Mapping[str, int], open_runs: int, max_open: int
) -> tuple[list[str], list[str], list[str]]:
    found = admit([(job, needs[job.name]) for job in jobs], open_runs, max_open)
    waiting, too_large = ([job.name for job, _ in jobs] for jobs in (found.waiting, found.too_large))
    return [job.name for job in found.taken], waiting, too_large


def test_jobs_are_taken_as_far_as_there_is_room_and_none_overtakes_an_older_one() -> None:
    jobs = [job("a"), job("b"), job("c"), job("d")]
    assert decided(jobs, {"a": 5, "b": 1, "c": 5, "d": 1}, 3, 10) == (["a", "b"], ["c", "d"], [])


def test_a_job_that_opens_nothing_is_taken_though_others_wait() -> None:
    jobs = [job("large"), job("forget")]
    assert decided(jobs, {"large": 5, "forget": 0}, 10, 10) == (["forget"], ["large"], [])


def test_a_job_behind_one_that_waits_waits_too() -> None:
    assert decided([job("a", behind=True)], {"a": 1}, 0, 10) == ([], ["a"], [])


def test_a_job_larger_than_the_whole_limit_is_too_large_and_is_in_nobodys_way() -> None:
    assert decided([job("a"), job("b")], {"a": 11, "b": 10}, 0, 10) == (["b"], [], ["a"])


def add(simulator: Simulator, *names: str, duration: float = 0.1) -> str:
    for name in names:
        simulator.add_run(name, technique="campaign", outputs=WORDS, duration=duration)
    return "".join(f"campaign/{name}\n" for name in names)


def test_above_queue_max_open_job_files_wait_in_the_inbox_and_status_says_so(
    home: Home, simulator: Simulator
) -> None:
    with home.daemon(FLORADL_QUEUE__MAX_OPEN="3"):
        home.drop(add(simulator, "run_a", "run_b", duration=FOR_EVER), "first")
        wait_until(lambda: home.status()["counts"]["running"] == 2)
        home.drop(add(simulator, "run_c", "run_d"), "second")
        held = wait_until(lambda: home.status()["inbox"]["held"])
        assert held["reason"] == "max_open"
        assert "queue.max_open allows 3" in held["message"]
        assert "queue.max_open allows 3" in home.run("status").stdout
        home.drop(add(simulator, "run_e"), "third")
        home.drop("campaign/run_a\n", "known")
        wait_until((home.inbox / "accepted/known").exists)
        assert (home.inbox / "second").exists()
        assert (home.inbox / "third").exists()
        # What makes room is taken at once; then the others come in their order.
        assert home.run("forget", "run_a").returncode == 0
        for name in ("run_c", "run_d", "run_e"):
            home.finished(f"campaign/{name}")
        wait_until(lambda: home.status()["inbox"]["held"] is None)
    assert [path.name for path in (home.inbox / "rejected").iterdir()] == []


def test_a_job_with_more_runs_than_queue_max_open_is_rejected_with_both_numbers(
    home: Home, simulator: Simulator
) -> None:
    home.drop(add(simulator, "run_a", "run_b", "run_c"), "large")
    done = home.run("once", FLORADL_QUEUE__MAX_OPEN="2")
    assert done.returncode == 3
    note = (home.inbox / "rejected/large.error.txt").read_text()
    assert "would queue 3 runs at once, and queue.max_open allows 2: split it" in note


def test_once_works_off_more_than_may_be_open_at_a_time(home: Home, simulator: Simulator) -> None:
    names = [f"run_{number}" for number in range(7)]
    for name in names:
        home.drop(add(simulator, name), name)
    home.drop(add(simulator, "run_x", "run_y"), "pair")
    assert home.run("once", FLORADL_QUEUE__MAX_OPEN="2").returncode == 0
    assert all(home.sidecar(f"campaign/{name}") for name in (*names, "run_x", "run_y"))
    assert home.status()["counts"]["done"] == 9


def test_the_queue_file_waits_for_room_too(home: Home, simulator: Simulator) -> None:
    queue_file = home.path / "queue.yaml"
    queue_file.write_text("[campaign/run_a, campaign/run_b]")
    add(simulator, "run_a", "run_b")
    with home.daemon(FLORADL_QUEUE__MAX_OPEN="2", FLORADL_QUEUE__FILE=str(queue_file)):
        home.finished("campaign/run_a")
        home.finished("campaign/run_b")
        home.drop(add(simulator, "run_c", duration=FOR_EVER), "job")
        wait_until(lambda: home.status()["counts"]["running"] == 1)
        add(simulator, "run_d", "run_e")
        queue_file.write_text("[campaign/run_a, campaign/run_b, campaign/run_d, campaign/run_e]")
        wait_until(lambda: home.status()["inbox"]["held"])
        assert home.run("forget", "run_c").returncode == 0
        home.finished("campaign/run_d")
        home.finished("campaign/run_e")
        queue_file.write_text("[campaign/run_f, campaign/run_g, campaign/run_h]")
        error = wait_until(lambda: home.status()["queue_file_error"])
        assert "would queue 3 runs at once" in error


def test_the_accounts_history_is_read_on_as_far_as_there_is_room(home: Home, simulator: Simulator) -> None:
    simulator.page_limit = 2
    names = [f"run_{number}" for number in range(7)]
    add(simulator, *names)
    home.environ |= {
        "FLORADL_QUEUE__MAX_OPEN": "2",
        "FLORADL_SYNC__TECHNIQUE_RUNS": "true",
        "FLORADL_SYNC__INTERVAL": "5s",
    }
    done = home.run("once")
    assert "the account's history is not read on" in done.stderr
    assert done.returncode == 5
    assert home.status()["counts"]["done"] == 2
    while home.run("once").returncode == 5:
        pass
    assert all(home.sidecar(f"campaign/{name}") for name in names)


@pytest.mark.root
def test_without_room_on_the_states_disk_job_files_wait_and_status_says_so(
    home: Home, simulator: Simulator
) -> None:
    with in_memory(home.state, "16m"), home.daemon():
        home.drop(add(simulator, "run_a"), "first")
        home.finished("campaign/run_a")
        free = os.statvfs(home.state).f_bavail * os.statvfs(home.state).f_frsize
        (home.state / "ballast").write_bytes(b"x" * (free - (512 << 10)))
        home.drop(add(simulator, "run_b"), "second")
        held = wait_until(lambda: home.status()["inbox"]["held"])
        assert held["reason"] == "state_disk_full"
        assert str(home.state) in held["message"]
        assert home.status()["paused"] is None
        assert (home.inbox / "second").exists()
        (home.state / "ballast").unlink()
        home.finished("campaign/run_b")
        wait_until(lambda: home.status()["inbox"]["held"] is None)


@pytest.mark.root
def test_a_small_disk_keeps_a_twentieth_of_itself(tmp_path: Path) -> None:
    with in_memory(tmp_path / "disk", "20m") as disk:
        assert short_of_room(disk) is None
        (disk / "ballast").write_bytes(b"x" * (19 << 20))
        assert short_of_room(disk) is None
        (disk / "more").write_bytes(b"x" * (256 << 10))
        assert "has 1 MiB free, and 1 MiB are kept" in (short_of_room(disk) or "")


def test_a_state_folder_that_is_gone_is_no_matter_of_room(tmp_path: Path) -> None:
    assert short_of_room(tmp_path / "gone") is None


def test_status_names_what_waits_as_json(home: Home) -> None:
    assert json.loads(home.run("status", "--json").stdout)["inbox"] == {
        "held": None,
        "troubles": [],
        "rejected": 0,
    }
