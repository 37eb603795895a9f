"""A home that 0.1.0 worked in until it was killed is carried on by this version: nothing twice, nothing lost.

tests/samples/homes has two of them, by the first build and a later one. In each, run_done, run_part and
run_bad have ended, run_dropped is forgotten, run_film was in the middle of its film, run_waits not finished.
"""

from __future__ import annotations

import json
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from studio import Home, check_library, served

from floradl.simulator import OutputSpec, Simulator

HOMES = sorted((Path(__file__).parent / "samples" / "homes").glob("0.1.0-*.tar.xz"))
A, B = OutputSpec("a", "imageUrl", size=4000), OutputSpec("b", "imageUrl", size=3000)
TEXT = OutputSpec("t", "text", text="Words, and more words.")
FILM = (OutputSpec("film", "videoUrl", size=60_000), OutputSpec("still", "imageUrl", size=3000))


def add_runs(simulator: Simulator) -> None:
    simulator.add_run("run_done", technique="campaign", outputs=(A, B, TEXT), duration=0.1)
    simulator.add_run("run_part", technique="campaign", outputs=(A, B), duration=0.1)
    simulator.add_run("run_bad", technique="portraits", duration=0.1, fail=("safety_blocked", "Not this."))
    simulator.add_run("run_dropped", technique="portraits", outputs=(A,), duration=0.1)
    simulator.add_run("run_film", technique="camera-move", outputs=FILM, duration=0.1)
    simulator.add_run("run_waits", technique="camera-move", outputs=(A,), duration=0.1)


@pytest.fixture(params=HOMES, ids=lambda path: path.name.removesuffix(".tar.xz"))
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Home, Simulator]]:
    """Give a home of 0.1.0 and a FLORA that has its runs."""
    worked = tmp_path / "worked"
    with tarfile.open(request.param) as archive:
        archive.extractall(worked, filter="data")
    simulator = Simulator()
    add_runs(simulator)
    with served(simulator):
        yield Home(tmp_path / "home", simulator).take_over(worked), simulator


def test_an_upgrade_completes_what_0_1_0_had_open_and_asks_for_nothing_else(
    older: tuple[Home, Simulator],
) -> None:
    home, simulator = older
    before = home.files()
    assert home.run("once").returncode == 0
    rows = {
        row["run_id"]: row["state"]
        for row in map(json.loads, home.run("status", "--all").stdout.splitlines())
    }
    assert rows == {
        "run_bad": "failed",
        "run_done": "done",
        "run_dropped": "forgotten",
        "run_film": "done",
        "run_part": "partial",
        "run_waits": "done",
    }
    check_library(home, simulator)
    assert {path for path, data in before.items() if home.files().get(path) != data} == {
        path for path in before if path.endswith(".part")
    }
    assert {request.run_id for request in simulator.asked("media")} == {"run_film", "run_waits"}
    assert home.finished("camera-move/run_film")["label"] == "A film"


def test_status_of_a_state_of_0_1_0_says_what_brings_it_up_to_date(older: tuple[Home, Simulator]) -> None:
    home, _ = older
    done = home.run("status")
    assert done.returncode == 2
    assert "'floradl migrate' brings it up to date" in done.stderr


def test_the_index_knows_a_library_of_0_1_0_before_its_journal_is_brought_up_to_date(
    older: tuple[Home, Simulator],
) -> None:
    home, _ = older
    journal = (home.state / "journal.sqlite3").read_bytes()
    found = home.run("find", "--json", "campaign")
    runs = [json.loads(line) for line in found.stdout.splitlines()]
    assert {run["run_id"] for run in runs} == {"run_done", "run_part"}
    picture = home.library / "images" / "campaign" / "run_done-a.png"
    assert "campaign/run_done" in home.run("which", str(picture)).stdout
    assert (home.state / "journal.sqlite3").read_bytes() == journal


def test_migrate_keeps_the_older_journal_and_all_commands_work_then(older: tuple[Home, Simulator]) -> None:
    home, _ = older
    before = home.files()
    assert home.run("migrate").returncode == 0
    (kept,) = home.state.glob("journal.sqlite3.schema-*")
    with closing(sqlite3.connect(kept)) as db:
        assert dict(db.execute("SELECT run_id, state FROM runs"))["run_done"] == "done"
    assert home.run("status").returncode == 0
    assert "4 files of 3 runs verified" in home.run("verify").stdout
    assert "0 files of 4 would be renamed" in home.run("relayout", "--dry-run").stdout
    assert home.files() == before
