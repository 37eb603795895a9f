"""The life of one run, where it meets what the other tests do not."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from studio import Home, check_library, wait_until

from floradl.errors import ErrorCode
from floradl.models import (
    OutputKind,
    RemoteOutput,
    RemoteRun,
    RemovalReason,
    Removed,
    Result,
    RunFailure,
    SavedOutput,
)
from floradl.runs.processor import _OnDisk
from floradl.runs.result import result_of, with_earlier
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


def test_a_retry_of_a_removed_output_that_fails_says_so_and_keeps_its_sha256() -> None:
    gone = Removed("2026-01-01T00:00:00Z", RemovalReason.PRUNED)
    before = SavedOutput(
        output_id="film", type="videoUrl", kind=OutputKind.VIDEO, bytes=9, sha256="0" * 64, removed=gone
    )
    failed = SavedOutput(
        output_id="film",
        type="videoUrl",
        kind=OutputKind.VIDEO,
        error=RunFailure(ErrorCode.NOT_FOUND, "FLORA has it no more"),
    )
    picture = SavedOutput(output_id="pic", type="imageUrl", kind=OutputKind.IMAGE, path="pic.png", bytes=3)
    ended = with_earlier({}, {"film": before}, result_of([failed, picture]))
    assert ended.result is Result.PARTIAL
    assert (ended.outputs[0].sha256, ended.outputs[0].removed) == ("0" * 64, gone)
    assert ended.outputs[0].error == failed.error


def test_what_was_removed_and_flora_lists_no_more_keeps_its_place_in_the_sidecar() -> None:
    gone = Removed("2026-01-01T00:00:00Z", RemovalReason.PRUNED)
    before = SavedOutput(output_id="film", type="videoUrl", kind=OutputKind.VIDEO, removed=gone)
    picture = SavedOutput(output_id="pic", type="imageUrl", kind=OutputKind.IMAGE, path="pic.png", bytes=3)
    answer = RemoteRun("run_a", "completed", 100.0, None, outputs=(RemoteOutput("pic", "imageUrl", ""),))
    on_disk = _OnDisk({"pic": picture}, {}, [], removed={"film": before})
    assert on_disk.all_of(answer) == [picture, before]
