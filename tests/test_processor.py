"""The life of one run, where it meets what the other tests do not."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from studio import Home, check_library, wait_until

from floradl.errors import QueueUnavailableError
from floradl.models import QueuedRun, RemoteOutput, RemoteRun, RunState
from floradl.polling.due_queue import DueQueue
from floradl.polling.durations import Durations
from floradl.polling.planner import PollPlanner
from floradl.runs.processor import Deadlines, Processor
from floradl.runs.slots import DownloadSlots, Load
from floradl.simulator import OutputSpec, Simulator

ENDED = RemoteRun(
    "run_a", "completed", 100.0, time.time(), outputs=(RemoteOutput("o", "imageUrl", "https://x/o"),)
)


class Finds:
    """FLORA, and a queue, while which writes the last place is given back; then it breaks."""

    def __init__(self, slots: DownloadSlots) -> None:
        self.called: list[str] = []
        self._slots = slots

    async def run(self, *_: object) -> RemoteRun:
        return ENDED

    def keep(self, answer: RemoteRun) -> None: ...

    async def update(self, *_: object, duration: float | None) -> None:
        self._slots.leave(Load.SMALL)
        self.called += self._slots.next("run_other")
        raise QueueUnavailableError(str(duration))


@pytest.mark.anyio
async def test_nobody_is_called_to_a_place_before_its_own_step_is_over() -> None:
    """It would be taken on twice, at once: that ended the process."""
    durations = Durations(time.monotonic, {})
    deadlines = Deadlines(
        60.0, False, durations, PollPlanner(DueQueue(time.monotonic, 1), durations, 1, time.monotonic)
    )
    nobody = cast("Any", None)
    processor = Processor(nobody, nobody, nobody, nobody, nobody, deadlines)
    processor.slots = DownloadSlots({Load.SMALL: 1})
    processor.slots.take("run_other", Load.SMALL)
    finds = Finds(processor.slots)
    processor._poller = processor._queue = cast("Any", finds)
    with pytest.raises(QueueUnavailableError):
        await processor.advance(
            QueuedRun(run_id="run_a", technique="t", queued_at=0.0, state=RunState.RUNNING)
        )
    assert finds.called == []


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
