"""The life of one run, where it meets what the other tests do not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from studio import Home, check_library, wait_until

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
