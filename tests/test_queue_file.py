from __future__ import annotations

import os
from pathlib import Path

import pytest

from floradl.sources.file_ready import Stamp
from floradl.sources.queue_file import QueueFile, QueueReading


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue.yaml"


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(path: Path, clock: Clock) -> QueueFile:
    return QueueFile(path, monotonic=clock)


def runs(reading: QueueReading) -> list[str] | None:
    if reading.orders is None:
        return None
    return [str(order.reference) for order in reading.orders]


def test_a_missing_queue_file_is_an_empty_one(queue: QueueFile) -> None:
    assert queue.read() == QueueReading()


def test_the_queue_file_is_read_once_and_again_when_it_changed(queue: QueueFile, path: Path) -> None:
    path.write_text("- art/run_a\n")
    assert runs(queue.read()) == ["art/run_a"]
    assert queue.read() == QueueReading()
    path.write_text("- art/run_a\n- run_b\n")
    assert runs(queue.read()) == ["art/run_a", "run_b"]


def test_a_broken_queue_file_is_reported_until_it_is_mended(queue: QueueFile, path: Path) -> None:
    path.write_text("- run_a\n")
    queue.read()
    path.write_text("- run_a\n- nonsense\n")
    for _ in range(2):
        reading = queue.read()
        assert reading.orders is None
        assert reading.error
        assert str(path) in reading.error
        assert "line 2, key [1]" in reading.error
    path.write_text("- run_b\n")
    assert queue.read().error is None
    assert queue.read().error is None


def test_a_queue_file_that_an_editor_still_writes_is_left_alone(queue: QueueFile, path: Path) -> None:
    with path.open("w") as editor:
        editor.write("- run_abc")
        editor.flush()
        reading = queue.read()
        assert (reading.orders, reading.error) == (None, None)
        assert reading.again_in
        editor.write("123\n")
    assert runs(queue.read()) == ["run_abc123"]


def test_an_emptied_queue_file_is_given_time_to_be_written(
    queue: QueueFile, path: Path, clock: Clock
) -> None:
    path.write_text("")
    assert queue.read().again_in == 2.0
    clock.now += 2.0
    assert runs(queue.read()) == []


def test_a_queue_file_may_be_a_link(queue: QueueFile, path: Path, tmp_path: Path) -> None:
    (tmp_path / "real.yaml").write_text("run_a")
    path.symlink_to("real.yaml")
    assert runs(queue.read()) == ["run_a"]


def test_a_queue_file_that_went_missing_and_came_back_is_read(queue: QueueFile, path: Path) -> None:
    path.write_text("run_a")
    queue.read()
    path.rename(path.with_suffix(".bak"))
    assert queue.read() == QueueReading()
    path.with_suffix(".bak").rename(path)
    assert runs(queue.read()) == ["run_a"]


def test_what_is_no_file_or_too_large_is_reported(queue: QueueFile, path: Path) -> None:
    os.mkfifo(path)
    assert "not a regular file" in (queue.read().error or "")
    path.unlink()
    path.write_bytes(b"#" * (2 << 20))
    for _ in range(2):
        assert "larger than 1 MiB" in (queue.read().error or "")


def test_the_queue_file_is_never_written(queue: QueueFile, path: Path) -> None:
    path.write_text("- nonsense\n")
    before = path.stat()
    queue.read()
    after = path.stat()  # but for the time of the last access: to read it is no writing
    assert (after.st_ino, after.st_size) == (before.st_ino, before.st_size)
    assert (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns)


def rewrite_unseen(path: Path, text: str) -> None:
    """Change the file in place as a file system with coarse times shows it: all that stat tells stays."""
    before = path.stat()
    path.write_text(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_queue_file_that_is_changed_in_place_within_a_second_is_read_again(
    path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The change time would tell here, and tells nothing where it is as coarse.
    monkeypatch.setattr(
        Stamp, "of", classmethod(lambda cls, found: cls(1, 2, found.st_mtime_ns, found.st_size))
    )
    path.write_text("- run_a\n")
    queue = QueueFile(path, monotonic=clock, wall=lambda: path.stat().st_mtime + 1)
    assert runs(queue.read()) == ["run_a"]
    rewrite_unseen(path, "- run_b\n")
    assert runs(queue.read()) == ["run_b"]
    assert queue.read() == QueueReading()  # it is read, and its content is the same


def test_a_queue_file_with_the_same_size_and_time_is_told_by_its_change_time(
    path: Path, clock: Clock
) -> None:
    path.write_text("- run_a\n")
    queue = QueueFile(path, monotonic=clock, wall=lambda: path.stat().st_mtime + 60)
    assert runs(queue.read()) == ["run_a"]
    rewrite_unseen(path, "- run_b\n")
    assert runs(queue.read()) == ["run_b"]


def test_a_queue_file_that_could_not_be_read_for_a_while_is_well_again(queue: QueueFile, path: Path) -> None:
    path.write_text("- run_a\n")
    queue.read()
    path.rename(path.with_suffix(".bak"))
    path.mkdir()
    assert queue.read().error
    path.rmdir()
    path.with_suffix(".bak").rename(path)
    assert queue.read().error is None
