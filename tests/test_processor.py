"""The life of one run, where it meets what the other tests do not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from studio import Home, check_library, wait_until

from floradl.models import OutputKind, RemoteOutput, RemoteRun, SavedOutput
from floradl.runs.processor import _OnDisk
from floradl.simulator import OutputSpec, Simulator


def test_a_journal_that_cannot_remember_an_output_is_a_pause_and_no_bug(
    tmp_path: Path, simulator: Simulator
) -> None:
    home = Home(tmp_path, simulator)
    outputs = [OutputSpec("a", "imageUrl"), OutputSpec("b", "text", text="words")]
    simulator.add_run("run_a", technique="t", outputs=outputs, duration=0.1)
    assert home.run("once").returncode == 0
    journal = home.state / "journal.sqlite3"
    with closing(sqlite3.connect(journal)) as db:
        words = "SELECT RAISE(FAIL, 'database or disk is full');"
        db.execute(f"CREATE TRIGGER full BEFORE INSERT ON saved BEGIN {words} END")
    with home.daemon():
        home.drop("t/run_a")
        paused = wait_until(lambda: home.status()["paused"])
    assert paused["reason"] == "disk_full"
    assert home.events("bug") == []
    with closing(sqlite3.connect(journal)) as db:
        db.execute("DROP TRIGGER full")
    assert home.run("once").returncode == 0
    check_library(home, simulator)


def test_what_was_saved_and_flora_lists_no_more_keeps_its_place_in_the_sidecar() -> None:
    answer = RemoteRun(
        "run_a", "completed", 100.0, 1.7e9, outputs=(RemoteOutput("new", "imageUrl", "https://x/a"),)
    )
    planned = cast("Any", object())
    old = SavedOutput(output_id="old", type="imageUrl", kind=OutputKind.IMAGE, path="images/old.png", bytes=3)
    assert _OnDisk({}, {}, [planned]).is_all_small(answer)
    assert not _OnDisk({"old": old}, {}, [planned]).is_all_small(
        answer
    )  # its sidecar is not of the new alone
