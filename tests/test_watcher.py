from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import anyio
import pytest
import studio

from floradl.sources import folder_events, watcher
from floradl.sources.folder_events import InotifyEvents
from floradl.sources.watcher import Watcher, WatchTimes

pytestmark = pytest.mark.anyio

until = studio.until
_QUEUE_LENGTH = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
FAST = WatchTimes(step=0.02, tick=0.1, rescan=600.0, poll=0.1, max_backoff=0.2)


class Wakes:
    """Counts wake-ups, and collects what is reported."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.reports: list[str] = []
        self.count_at_report = 0

    async def one_more(self) -> float:
        count = len(self.times)
        await until(lambda: len(self.times) > count)
        return self.times[count]

    def report(self, message: str) -> None:
        self.reports.append(message)
        self.count_at_report = len(self.times)

    async def calm(self) -> None:
        """Wait until a new watcher stands: it wakes when it is made, and at its first tick."""
        await until(lambda: len(self.times) >= self.count_at_report + 2)


@asynccontextmanager
async def watching_of(
    folder: Path, queue_file: Path | None = None, pace: WatchTimes = FAST
) -> AsyncGenerator[Wakes, None]:
    wakes = Wakes()
    watch = Watcher(folder, queue_file, report=wakes.report, pace=pace)

    async def collect() -> None:
        async for _ in watch.wakes():
            wakes.times.append(time.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        await wakes.calm()
        yield wakes
        tasks.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def watchers_let_go() -> Iterator[None]:
    """A test that is over when its watchers are: a thread of theirs closes what they had open, later on."""
    before = set(os.listdir("/proc/self/fd"))
    yield
    studio.wait_until(lambda: set(os.listdir("/proc/self/fd")) <= before)


@pytest.fixture(autouse=True, params=["inotify", "watchfiles"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What reports the events."""
    name: str = request.param
    monkeypatch.setattr(folder_events, "has_inotify", lambda: name == "inotify")
    return name


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def make_folder(path: Path) -> None:
    path.mkdir()


def replace_folder(path: Path) -> None:
    """Another folder stands under the name from one instant to the next but one."""
    path.with_name("new").mkdir()
    path.rename(path.with_name("old"))
    path.with_name("new").rename(path)


async def test_a_file_that_is_moved_in_wakes_by_its_event(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)  # no other way is left to hear of it
    async with watching_of(folder, pace=FAST) as wakes:
        for number in range(10):
            (tmp_path / "job").write_text("run_a")
            (tmp_path / "job").rename(folder / f"job{number}")
            await wakes.one_more()


async def test_a_file_that_gets_a_second_name_here_wakes_by_its_event(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)
    (tmp_path / "job").write_text("run_a")
    async with watching_of(folder) as wakes:
        (folder / "job").hardlink_to(tmp_path / "job")
        await wakes.one_more()


async def test_a_file_that_is_written_here_wakes_when_its_writer_closes_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)
    async with watching_of(folder) as wakes:
        count = len(wakes.times)
        with (folder / "job").open("w") as file:
            await until(lambda: len(wakes.times) > count)  # it was made
            file.write("run_a")
            count = len(wakes.times)
        await until(lambda: len(wakes.times) > count)


@pytest.mark.parametrize("backend", ["inotify"], indirect=True)
async def test_events_that_the_system_loses_wake(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)
    wait, read = InotifyEvents.wait, threading.Event()

    def late(events: InotifyEvents, seconds: float) -> folder_events.FolderChanges | None:
        read.wait()
        return wait(events, seconds)

    read.set()
    async with watching_of(folder) as wakes:
        read.clear()
        monkeypatch.setattr(InotifyEvents, "wait", late)
        (folder / ".first").touch()  # it gets into `late`
        try:
            for _ in range(_QUEUE_LENGTH // 2):
                (folder / ".job.tmp").touch()  # none of these matters
                (folder / ".job.tmp").unlink()
        finally:
            count = len(wakes.times)
            read.set()
        await until(lambda: len(wakes.times) > count)


@pytest.mark.parametrize("backend", ["inotify"], indirect=True)
async def test_a_folder_that_is_watched_under_two_names_wakes_under_both(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)
    monkeypatch.setattr(Watcher, "_due", lambda _: False)
    (tmp_path / "link").symlink_to(folder)
    async with watching_of(folder, tmp_path / "link/.queue") as wakes:
        (folder / "job").write_text("run_a")
        await wakes.one_more()
        await anyio.sleep(0.1)  # until the writing of that file is over for all
        count = len(wakes.times)
        (folder / ".queue").write_text("run_a")
        await until(lambda: len(wakes.times) > count)


_SPENT = """
import ctypes, os
from pathlib import Path
import anyio, anyio._backends._asyncio
from floradl.sources import watcher
from floradl.sources.folder_events import InotifyEvents
os.setgroups([]); os.setgid(65533); os.setuid(65533)  # the limit is each user's own
libc, spent, wakes = ctypes.CDLL(None), [], []
while (fd := libc.inotify_init1(0)) >= 0:
    spent.append(fd)

def standing(events, seconds):
    print(len(wakes), "wakes, then it is watched", flush=True)
    os._exit(0)

InotifyEvents.wait = standing

async def main():
    pace = watcher.WatchTimes(rescan=600.0, poll=0.05, max_backoff=0.2)
    async for _ in watcher.Watcher(Path("/usr"), report=print, pace=pace).wakes():
        wakes.append(_)
        if len(wakes) == 6:
            for fd in spent:
                os.close(fd)

anyio.run(main)
"""


@pytest.mark.root
@pytest.mark.parametrize("backend", ["inotify"], indirect=True)
def test_a_folder_is_looked_at_while_a_limit_of_inotify_is_used_up() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SPENT],
        capture_output=True,
        text=True,
        check=True,
        timeout=studio.TEST_TIMEOUT,
    )
    *reports, last = done.stdout.splitlines()
    why = "[Errno 24] fs.inotify.max_user_instances is used up"
    assert reports[0] == f"watching /usr ended ({why}): trying again in 0 s, looking meanwhile"
    wakes, _, rest = last.partition(" ")
    assert int(wakes) >= 6
    assert rest == "wakes, then it is watched"


@pytest.mark.parametrize("backend", ["inotify"], indirect=True)
async def test_a_watcher_is_stopped_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wait, waiting = InotifyEvents.wait, threading.Event()

    def begun(events: InotifyEvents, seconds: float) -> folder_events.FolderChanges | None:
        waiting.set()
        return wait(events, seconds)

    async def watch() -> None:
        async for _ in Watcher(folder, report=print, pace=WatchTimes(tick=3600.0)).wakes():
            pass

    monkeypatch.setattr(InotifyEvents, "wait", begun)
    with anyio.fail_after(studio.TEST_TIMEOUT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await until(waiting.is_set)
            tasks.cancel_scope.cancel()


async def test_nothing_happens_where_nothing_happens(folder: Path, tmp_path: Path) -> None:
    async with watching_of(folder, tmp_path / "queue.yaml") as wakes:
        count = len(wakes.times)
        (folder / ".job.tmp").write_text("x")
        (tmp_path / "other.yaml").write_text("x")
        (folder / "gone").touch()
        (folder / "gone").unlink()
        await anyio.sleep(0.4)  # several steps and ticks, in which nothing is to come
        assert len(wakes.times) <= count + 1  # for what came and went, where that was seen in between
    assert wakes.reports == []


async def test_a_changed_or_new_queue_file_wakes(folder: Path, tmp_path: Path) -> None:
    queue = tmp_path / "etc" / "queue.yaml"
    async with watching_of(folder, queue) as wakes:
        queue.parent.mkdir()  # after the watcher stood: only the tick can see it
        queue.write_text("- run_a\n")
        await wakes.one_more()
    async with watching_of(folder, queue) as wakes:
        queue.with_suffix(".new").write_text("- run_b\n")
        queue.with_suffix(".new").rename(queue)
        await wakes.one_more()


async def test_a_queue_file_behind_a_link_wakes(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/queue").write_text("run_a")
    (tmp_path / "queue").symlink_to("real/queue")
    async with watching_of(folder, tmp_path / "queue") as wakes:
        (tmp_path / "real/queue").write_text("run_a\nrun_b")
        await wakes.one_more()


async def test_a_rescan_comes_without_any_event(folder: Path) -> None:
    pace = WatchTimes(step=0.02, tick=0.05, rescan=0.2)
    async with watching_of(folder, pace=pace) as wakes:
        await wakes.one_more()
        await wakes.one_more()


async def test_a_folder_that_was_removed_and_made_again_is_watched(folder: Path) -> None:
    async with watching_of(folder) as wakes:
        shutil.rmtree(folder)
        await until(lambda: any("is gone" in report for report in wakes.reports))
        make_folder(folder)
        await until(lambda: any("is back" in report for report in wakes.reports))
        await wakes.calm()
        (folder / "job").write_text("run_a")
        await wakes.one_more()


async def test_a_folder_that_was_replaced_is_watched(folder: Path) -> None:
    async with watching_of(folder) as wakes:
        replace_folder(folder)
        await until(lambda: bool(wakes.reports))
        await wakes.calm()
        count = len(wakes.times)
        (folder / "job").write_text("run_a")
        await until(lambda: len(wakes.times) > count)


@pytest.mark.parametrize("backend", ["inotify"], indirect=True)
async def test_a_name_that_is_not_utf_8_wakes_by_its_event(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watcher, "_missed", lambda *_: False)
    async with watching_of(folder) as wakes:
        (folder / os.fsdecode(b"job\xff")).write_text("run_a")
        await wakes.one_more()
    assert wakes.reports == []


@pytest.mark.parametrize("backend", ["watchfiles"], indirect=True)
async def test_names_that_are_not_utf_8_do_not_end_the_watching(folder: Path) -> None:
    async with watching_of(folder) as wakes:
        number = 0
        while len(wakes.reports) < 4:
            (folder / os.fsdecode(b"job\xff%d" % number)).write_text("run_a")
            number += 1
            await wakes.one_more()
        (folder / "job").write_text("run_a")
        await wakes.one_more()
    assert "trying again in 0 s" in wakes.reports[0]


async def test_ten_thousand_files_at_once_wake(folder: Path) -> None:
    async with watching_of(folder) as wakes:
        for number in range(10_000):
            (folder / f"job{number}").touch()
        last = time.monotonic()
        await until(lambda: wakes.times[-1] > last)


async def test_a_watch_folder_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async with watching_of_missing(tmp_path / "inbox") as wakes:
        (tmp_path / "inbox").mkdir()
        await until(lambda: len(wakes.times) >= 2)
    assert [report.rpartition(" is ")[2] for report in wakes.reports] == ["gone: waiting for it", "back"]


@asynccontextmanager
async def watching_of_missing(folder: Path) -> AsyncGenerator[Wakes, None]:
    wakes = Wakes()

    async def collect() -> None:
        async for _ in Watcher(folder, report=wakes.report, pace=FAST).wakes():
            wakes.times.append(time.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(collect)
        await until(lambda: bool(wakes.times))
        yield wakes
        tasks.cancel_scope.cancel()


async def test_a_shared_mount_is_polled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watcher, "is_shared", lambda _: True)  # no network mount can be had here
    async with watching_of(folder) as wakes:
        for _ in range(3):
            await wakes.one_more()
    assert wakes.reports == []


async def test_a_cancellation_takes_effect(folder: Path) -> None:
    with anyio.fail_after(studio.TEST_TIMEOUT):
        async with watching_of(folder, pace=FAST):
            pass


async def test_the_event_loop_sleeps_where_nothing_happens(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with watching_of(folder):
        selector: Any = asyncio.get_running_loop()._selector  # type: ignore[attr-defined]
        select = mock.Mock(wraps=selector.select)
        monkeypatch.setattr(selector, "select", select)
        await anyio.sleep(1)  # ten ticks, fifty steps
        assert select.call_count <= 4  # to begin that sleep, and to end it


@pytest.mark.root
async def test_a_mount_that_comes_and_goes_is_noticed(folder: Path) -> None:
    async with watching_of(folder) as wakes:
        await anyio.run_process(["mount", "-t", "tmpfs", "floradl", str(folder)])
        try:
            await until(lambda: len(wakes.reports) == 1)
            await wakes.calm()
            (folder / "job").write_text("run_a")
            await wakes.one_more()
        finally:
            with suppress(subprocess.CalledProcessError):
                await anyio.run_process(["umount", "-l", str(folder)])
        await until(lambda: len(wakes.reports) >= 2)
        await wakes.calm()
        count = len(wakes.times)
        (folder / "job").write_text("run_a")
        await until(lambda: len(wakes.times) > count)
