"""Killed at any moment: nothing is lost, nothing is doubled, nothing is left behind."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sqlite3
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from crashing import calls, counts, interposed, leftovers, starter
from studio import Home, check_library, command, wait_until

from floradl.models import RunState
from floradl.simulator import OutputSpec, Simulator

MOMENTS = int(os.environ.get("FLORADL_TEST_KILLS", "30"))
PICTURE = OutputSpec("picture", "imageUrl", size=3000)
WORDS = OutputSpec("words", "text", text="A little more light.")


def check_all_done(home: Home, simulator: Simulator, runs: int) -> None:
    check_library(home, simulator)
    assert counts(home) == {RunState.DONE: runs}
    sidecars = [json.loads(path.read_bytes()) for path in (home.library / "runs").rglob("*.json")]
    assert [sidecar["result"] for sidecar in sidecars] == ["complete"] * runs
    assert leftovers(home) == []
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def two_runs(path: Path, simulator: Simulator) -> Home:
    """Give a home whose inbox holds one good job and one that is to be refused."""
    path.mkdir()
    home = Home(path, simulator)
    home.drop("campaign/run_0\ncampaign/run_1\n", "good.txt")
    home.drop("campaign/run_0\nno run\n", "bad.txt")
    return home


@pytest.mark.slow
def test_a_kill_at_any_write_flush_or_rename_loses_and_doubles_nothing(
    tmp_path: Path, simulator: Simulator
) -> None:
    for number in range(2):
        simulator.add_run(f"run_{number}", technique="campaign", outputs=[PICTURE, WORDS], duration=0)
    numbers = itertools.count(1)
    survived: list[int] = []

    def work() -> None:
        with starter() as start:
            # Threads take turns as they like, so the number of calls is not always quite the same.
            while len(survived) < 10:
                number = next(numbers)
                home = two_runs(tmp_path / str(number), simulator)
                log = tmp_path / f"calls-{number}"
                ended = start.run(home, "once", **interposed(home, log=log, kill_at=number))
                if ended != -signal.SIGKILL:
                    survived.append(number)
                    assert ended == 3  # for the bad job
                    assert 120 < len(calls(log, home)) < number
                assert start.run(home, "once") in {0, 3}
                try:
                    check_all_done(home, simulator, 2)
                    check_put_away(home)
                except AssertionError as error:
                    error.add_note(f"killed at call {number}, {len(survived)} were not")
                    raise

    with ThreadPoolExecutor(2) as pool:
        for worker in [pool.submit(work) for _ in range(2)]:
            worker.result()


def check_put_away(home: Home) -> None:
    accepted = home.inbox / "accepted"
    assert {path.name: path.read_text() for path in accepted.iterdir()} == {
        "good.txt": "campaign/run_0\ncampaign/run_1\n"
    }
    rejected = {path.name: path.read_text() for path in (home.inbox / "rejected").iterdir()}
    assert rejected.pop("bad.txt") == "campaign/run_0\nno run\n"
    assert "line 2" in rejected.pop("bad.txt.error.txt")
    assert rejected == {}


def has_fetched(simulator: Simulator, count: int) -> bool:
    return simulator.counters.media >= count


@pytest.mark.slow
def test_kills_at_random_moments_of_a_large_job_lose_and_double_nothing(
    home: Home, simulator: Simulator
) -> None:
    chance = random.Random(MOMENTS)
    slow = OutputSpec("clip", "videoUrl", size=400_000, rate=2_000_000)
    runs = 0
    for moment in range(MOMENTS):
        references = [
            simulator.add_run(
                f"run_{moment}_{n}", technique=f"t{n % 3}", outputs=[PICTURE, WORDS, slow], duration=0.2
            )
            for n in range(7)
        ]
        runs += len(references)
        home.drop("\n".join(map(str, references)), f"job-{moment}.txt")
        process = subprocess.Popen(
            command("run"), env=home.environ, stderr=subprocess.DEVNULL, start_new_session=True
        )
        try:
            if chance.random() < 0.8:  # else it is killed while it starts; of this job there are 14 to fetch
                wait_until(partial(has_fetched, simulator, simulator.counters.media + chance.randint(7, 14)))
            with suppress(subprocess.TimeoutExpired):
                process.wait(chance.uniform(0, 0.6))
        finally:
            os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    fetched = simulator.counters.media
    assert home.run("once", timeout=300).returncode == 0
    assert fetched > runs  # most of it was done by those that were killed
    (home.state / "live.json").unlink()
    check_all_done(home, simulator, runs)
    assert len(list((home.inbox / "accepted").iterdir())) == MOMENTS
    assert len(home.files()) == 3 * runs


def test_an_add_that_is_killed_queues_all_or_nothing_and_its_litter_goes(
    tmp_path: Path, simulator: Simulator
) -> None:
    simulator.add_run("run_0", technique="campaign", outputs=[WORDS], duration=0)
    ended, number, ends = -signal.SIGKILL, 0, []
    with starter() as start:
        while ended != 0:
            number += 1
            (tmp_path / str(number)).mkdir()
            home = Home(tmp_path / str(number), simulator)
            ended = start.run(home, "add", "campaign/run_0", **interposed(home, kill_at=number))
            for litter in home.inbox.glob(".*"):
                os.utime(litter, (0, 0))
            assert start.run(home, "once") == 0
            assert leftovers(home) == []
            ends.append(counts(home))
    assert number > 5
    assert ends[-1] == {RunState.DONE: 1}
    assert all(end in ({}, {RunState.DONE: 1}) for end in ends)
