"""Several new names, put on disk by one flush of their folder."""

from __future__ import annotations

import errno
import os
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from floradl.errors import ErrorCode, TransientError
from floradl.fs.durable import (
    Flush,
    PartBusyError,
    PartFile,
    Steps,
    atomic_write,
    flushed_together,
    leave,
    write_atomic,
)
from floradl.fs.folders import FolderFd, open_root
from floradl.fs.names import SafeName


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[FolderFd]:
    with open_root(tmp_path) as opened:
        yield opened


class Flushed:
    """Counts the flushes of folders; those of the folders in `broken` fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *broken: Path) -> None:
        self.folders: list[int] = []
        self._broken = {path.stat().st_ino for path in broken}
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._flush)

    def _flush(self, fd: int) -> None:
        found = os.fstat(fd).st_ino
        if os.path.isdir(f"/proc/self/fd/{fd}"):  # noqa: PTH112 - it is no path of its own
            self.folders.append(found)
        if found in self._broken:
            raise OSError(errno.EIO, "the disk is dying")
        self._fsync(fd)


def published(folder: FolderFd, name: str) -> Callable[[Flush], str]:
    """Return a work that puts a file of that name into `folder`, and gives the name."""

    def work(flush: Flush) -> str:
        with PartFile(folder, SafeName(f".{name}.part")) as part:
            part.write(name.encode())
            part.sync(None)
            assert part.publish(SafeName(name), flush)
            return name

    return work


def test_a_folder_is_flushed_once_for_all_that_was_put_into_it(
    folder: FolderFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = Flushed(monkeypatch)
    assert flushed_together([published(folder, name) for name in "abc"]) == ["a", "b", "c"]
    assert flushed.folders == [tmp_path.stat().st_ino]
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "a", "b": "b", "c": "c"}


def test_every_folder_that_changed_is_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "one", tmp_path / "two"]
    for path in paths:
        path.mkdir()
    flushed = Flushed(monkeypatch)
    with open_root(paths[0]) as one, open_root(paths[1]) as two:
        flushed_together([published(one, "a"), published(two, "b"), published(one, "c")])
    assert sorted(flushed.folders) == sorted(path.stat().st_ino for path in paths)


def test_where_the_flush_fails_all_that_hung_on_it_is_taken_back_and_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.mkdir()
    bad.mkdir()
    Flushed(monkeypatch, bad)
    with open_root(good) as sound, open_root(bad) as dying:
        first, second, third = flushed_together(
            [published(dying, "a"), published(sound, "b"), published(dying, "c")]
        )
    assert isinstance(first, OSError)
    assert isinstance(third, OSError)
    assert second == "b"
    assert os.listdir(bad) == []
    assert os.listdir(good) == ["b"]


def test_a_file_written_anew_stays_where_its_flush_failed(
    folder: FolderFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_atomic(folder, SafeName("kept"), b"old")
    Flushed(monkeypatch, tmp_path)

    def work(flush: Flush) -> None:
        write_atomic(folder, SafeName("kept"), b"new", flush=flush)

    (outcome,) = flushed_together([work])
    assert isinstance(outcome, OSError)
    assert (tmp_path / "kept").read_bytes() == b"new"


def test_what_goes_wrong_with_one_work_is_its_own(folder: FolderFd, tmp_path: Path) -> None:
    def broken(_: Flush) -> str:
        raise ValueError("not mine")

    first, second = flushed_together([broken, published(folder, "b")])
    assert isinstance(first, ValueError)
    assert second == "b"
    assert os.listdir(tmp_path) == ["b"]


def test_a_folder_that_was_closed_meanwhile_is_flushed_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed = Flushed(monkeypatch)

    def work(flush: Flush) -> None:
        with open_root(tmp_path) as folder:
            published(folder, "a")(flush)

    assert flushed_together([work]) == [None]
    assert flushed.folders == [tmp_path.stat().st_ino]


def test_no_descriptor_is_left_open(folder: FolderFd) -> None:
    before = os.listdir("/proc/self/fd")
    works: list[Callable[[Flush], object]] = [published(folder, "a"), partial(_fails, folder)]
    flushed_together(works)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def _fails(folder: FolderFd, flush: Flush) -> None:
    flush(folder, leave)
    raise ValueError("after the change")


def in_steps(order: list[str], name: str, broken_after: int = 2) -> Callable[[Flush], Steps[str]]:
    """Return a work in two steps that notes them; it breaks after so many."""

    def work(_: Flush) -> Steps[str]:
        order.append(f"{name} begins")
        if broken_after == 0:
            raise ValueError(name)
        yield
        order.append(f"{name} ends")
        if broken_after == 1:
            raise ValueError(name)
        return name

    return work


def test_works_in_steps_begin_before_the_first_of_them_waits_for_the_disk() -> None:
    order: list[str] = []
    assert flushed_together([in_steps(order, "a"), in_steps(order, "b")]) == ["a", "b"]
    assert order == ["a begins", "b begins", "a ends", "b ends"]


def test_what_goes_wrong_with_one_step_is_its_works_own() -> None:
    order: list[str] = []
    first, second, third = flushed_together(
        [in_steps(order, "a", 0), in_steps(order, "b", 1), in_steps(order, "c")]
    )
    assert [str(first), str(second), third] == ["a", "b", "c"]
    assert order == ["a begins", "b begins", "c begins", "b ends", "c ends"]


def test_a_new_name_of_a_later_step_is_flushed_and_taken_back(
    folder: FolderFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(flush: Flush) -> Steps[None]:
        yield
        published(folder, "a")(flush)

    Flushed(monkeypatch, tmp_path)
    first, second = flushed_together([work, lambda _: "b"])
    assert isinstance(first, OSError)
    assert second == "b"
    assert os.listdir(tmp_path) == []


def test_an_error_that_ends_all_closes_what_has_begun() -> None:
    closed: list[str] = []

    def begun(_: Flush) -> Steps[None]:
        try:
            yield
        finally:
            closed.append("begun")

    def stopped(_: Flush) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flushed_together([begun, stopped])
    assert closed == ["begun"]


class _Bytes(bytearray):
    """Bytes that can be watched."""


def with_bytes(
    work: Callable[[_Bytes, Flush], object], held: list[weakref.ref[_Bytes]]
) -> list[Callable[[Flush], object]]:
    """Return three times `work`, each with bytes of its own that nobody else holds; `held` watches these."""
    bodies = [_Bytes(1000) for _ in range(3)]
    held.extend(weakref.ref(body) for body in bodies)
    return [partial(work, body) for body in bodies]


def test_an_error_that_is_kept_holds_none_of_the_bytes_of_its_batch(tmp_path: Path) -> None:
    held: list[weakref.ref[_Bytes]] = []

    def work(body: _Bytes, _: Flush) -> Steps[None]:
        yield
        try:
            tmp_path.mkdir(len(body))
        except OSError as error:
            raise TransientError("try again", ErrorCode.STORAGE) from error

    errors = flushed_together(with_bytes(work, held))
    assert [type(error) for error in errors] == [TransientError] * 3
    assert [body() for body in held] == [None] * 3


def test_an_error_of_a_folders_flush_holds_none_of_them_either(
    folder: FolderFd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[weakref.ref[_Bytes]] = []
    Flushed(monkeypatch, tmp_path)

    def work(body: _Bytes, flush: Flush) -> int:
        flush(folder, leave)
        return len(body)

    errors = flushed_together(with_bytes(work, held))
    assert [type(error) for error in errors] == [OSError] * 3
    assert [body() for body in held] == [None] * 3


def test_an_error_whose_causes_go_in_a_circle_is_handed_over() -> None:
    def work(_: Flush) -> None:
        first = TransientError("one", ErrorCode.STORAGE)
        first.__cause__ = TransientError("two", ErrorCode.STORAGE)
        first.__cause__.__cause__ = first
        raise first

    (error,) = flushed_together([work])
    assert str(error) == "one"


def test_where_one_does_not_close_the_others_are_closed_all_the_same() -> None:
    closed: list[str] = []

    def begun(name: str, _: Flush) -> Steps[None]:
        try:
            yield
        finally:
            closed.append(name)
            if name == "a":
                os.close(-1)

    def stopped(_: Flush) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        flushed_together([partial(begun, "a"), partial(begun, "b"), stopped])
    assert closed == ["a", "b"]


def test_only_the_sidecar_that_was_synced_replaces_one(folder: FolderFd, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"old")

    def written(flush: Flush) -> Steps[None]:
        yield from atomic_write(
            folder, SafeName("a.json"), b"new", mtime=None, flush=flush, still=lambda: True
        )

    def taken(_: Flush) -> None:  # by another user's process, which removes what is not its own
        (tmp_path / ".a.json.part").unlink()
        (tmp_path / ".a.json.part").write_bytes(b"ha")

    error, _ = flushed_together([written, taken])
    assert isinstance(error, PartBusyError)
    assert (tmp_path / "a.json").read_bytes() == b"old"
