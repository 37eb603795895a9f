"""What is going on right now is told to whoever asks, and is never worth falling over."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from floradl.models import QueuedRun
from floradl.queue import heartbeat
from floradl.queue.heartbeat import Heartbeat, LivePause, LiveRun, Snapshot, Transfer


def run(run_id: str = "run_a", progress: float = 40.0) -> QueuedRun:
    return QueuedRun(run_id=run_id, queued_at=1.0, progress=progress)


SNAPSHOT = Snapshot(
    pid=7,
    version="1.0",
    since=1.0,
    progress_at=2.0,
    paused=LivePause("disk_full", "make room", 3.0),
    runs=(LiveRun("run_a", 40.0, 5.0, (Transfer("o", 10, None),)),),
)


def test_a_snapshot_is_read_back_as_it_was(tmp_path: Path) -> None:
    heartbeat.write(tmp_path, SNAPSHOT)
    assert heartbeat.read(tmp_path) == SNAPSHOT
    assert os.listdir(tmp_path) == [heartbeat.FILE_NAME]


@pytest.mark.parametrize("data", [None, b"", b"{", b'{"pid": "\xff"}', b"[]", bytes(100)])
def test_a_snapshot_that_cannot_be_read_is_none(tmp_path: Path, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / heartbeat.FILE_NAME).write_bytes(data)
    assert heartbeat.read(tmp_path) is None


def test_a_disk_that_takes_nothing_is_no_reason_to_fall_over(tmp_path: Path) -> None:
    heartbeat.write(tmp_path / "gone", SNAPSHOT)
    assert heartbeat.read(tmp_path / "gone") is None


def test_runs_are_told_with_their_transfers() -> None:
    heard = Heartbeat(wall=lambda: 100.0)
    heard.run(run(), None)
    heard.transfer(run(), "o", 10, 20)
    heard.transfer(run(), "o", 15, 20)
    heard.transfer(run(), "p", 1, None)
    heard.trouble(run("run_b"), "no way", 5.0)
    first, second = heard.runs()
    assert first == LiveRun("run_a", 40.0, None, (Transfer("o", 15, 20), Transfer("p", 1, None)))
    assert second == LiveRun("run_b", 40.0, 105.0)
    heard.transferred(run(), "o")
    heard.transferred(run(), "o")
    heard.finished(run("run_b"), None)
    assert heard.runs() == (LiveRun("run_a", 40.0, None, (Transfer("p", 1, None),)),)


def test_each_step_is_a_change() -> None:
    heard = Heartbeat()
    steps: list[Callable[[], None]] = [
        lambda: heard.run(run(), 1.0),
        lambda: heard.trouble(run(), "x", 1.0),
        lambda: heard.transfer(run(), "o", 1, None),
        lambda: heard.transferred(run(), "o"),
        lambda: heard.finished(run(), None),
    ]
    for step in steps:
        heard.changed = False
        step()
        assert heard.changed


def test_at_most_a_thousand_runs_are_told() -> None:
    heard = Heartbeat()
    for number in range(1500):
        heard.run(run(f"run_{number}"), None)
    assert len(heard.runs()) == 1000


def test_threads_may_tell_while_somebody_asks() -> None:
    heard = Heartbeat()
    heard.run(run(), None)
    stop = threading.Event()
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not stop.is_set():
                heard.runs()
        except BaseException as error:  # noqa: BLE001 - told below
            failed.append(error)

    poller = threading.Thread(target=ask)
    poller.start()
    for number in range(20_000):
        heard.transfer(run(), f"o{number % 500}", number, None)
        heard.transferred(run(), f"o{(number * 7) % 500}")
    stop.set()
    poller.join()
    assert failed == []
