"""Files that are not kept any longer: removed oldest first, only what is sound, and never lost by a crash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from shelves import KilledError, MortalLibrary, Shelf

from floradl.library.retention import Expired, Pruned, Pruner, expired_files
from floradl.library.sidecar import Times
from floradl.models import OutputKind, RemovalReason

IMAGE, VIDEO = OutputKind.IMAGE, OutputKind.VIDEO
DAY = 86_400.0
NOW = 1_790_000_000.0  # in September 2026


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "library")
    shelf.put("run_new", {"new.mp4": "new"}, downloaded_at="2026-09-20T00:00:00.000Z")
    shelf.put("run_old", {"old.mp4": "old", "old-2.mp4": "old too"}, downloaded_at="2026-03-01T00:00:00.000Z")
    shelf.put("run_older", {"older.mp4": "older"}, downloaded_at="2026-01-01T00:00:00.000Z")
    shelf.put("run_pic", {"pic.png": "pic"}, kind=IMAGE)
    return shelf


def due(shelf: Shelf, **options: Any) -> tuple[Expired, ...]:
    return expired_files(shelf.library, {VIDEO: 90 * DAY}, NOW, **options).files


def prune(library: MortalLibrary, files: tuple[Expired, ...], **options: Any) -> Pruned:
    return Pruner(library, RemovalReason.PRUNED, lambda: NOW, keep_times=True).prune(files, **options)


def test_only_old_files_of_the_kind_expire_the_oldest_first(shelf: Shelf) -> None:
    assert [each.path for each in due(shelf)] == ["older.mp4", "old.mp4", "old-2.mp4"]
    assert [each.path for each in due(shelf, passed_over={"run_old"})] == ["older.mp4"]


def test_it_is_known_when_the_next_file_expires(shelf: Shelf) -> None:
    next_at = expired_files(shelf.library, {VIDEO: 90 * DAY}, NOW).next_at
    assert next_at is not None
    later = expired_files(shelf.library, {VIDEO: 90 * DAY}, next_at).files
    assert [each.path for each in later][-1] == "new.mp4"


def test_a_removed_output_keeps_its_sha256_and_says_when_and_why(shelf: Shelf) -> None:
    before = shelf.read("run_old").outputs
    shelf.library.write_companions(shelf.read("run_old"), None)
    assert (shelf.root / "old.mp4.xmp").exists()
    done = prune(shelf.library, due(shelf))
    assert (done.files, done.bytes, done.left) == (3, 15, [])
    assert shelf.files() == {"new.mp4": "new", "pic.png": "pic"}
    after = shelf.read("run_old")
    assert [output.path for output in after.outputs] == [None, None]
    assert [output.sha256 for output in after.outputs] == [output.sha256 for output in before]
    removed = after.outputs[0].removed
    assert removed is not None
    assert (removed.at, removed.reason) == ("2026-09-21T14:13:20.000Z", RemovalReason.PRUNED)
    assert due(shelf) == ()


def test_a_file_that_two_sidecars_name_stays_until_neither_keeps_it(shelf: Shelf) -> None:
    shelf.put("run_same", {"older.mp4": "older"}, downloaded_at="2026-09-20T00:00:00.000Z")
    assert prune(shelf.library, due(shelf)).left == []
    assert shelf.files()["older.mp4"] == "older"
    assert shelf.read("run_older").outputs[0].removed is not None
    assert shelf.read("run_same").outputs[0].path == "older.mp4"
    done = prune(shelf.library, expired_files(shelf.library, {VIDEO: DAY}, 2 * NOW).files)
    assert done.left == []
    assert "older.mp4" not in shelf.files()


def test_two_outputs_that_share_an_expired_file_are_both_removed(shelf: Shelf) -> None:
    shelf.put("run_same", {"older.mp4": "older"})
    done = prune(shelf.library, due(shelf))
    assert (done.files, done.left) == (3, [])
    assert shelf.read("run_older").outputs[0].removed is not None
    assert shelf.read("run_same").outputs[0].removed is not None
    assert due(shelf) == ()


def test_a_file_of_a_run_that_was_queued_again_meanwhile_is_not_removed(shelf: Shelf) -> None:
    pruner = Pruner(
        shelf.library,
        RemovalReason.PRUNED,
        lambda: NOW,
        is_open=lambda run: run == "run_old",
        keep_times=True,
    )
    assert pruner.prune(due(shelf)).files == 1
    assert sorted(shelf.files()) == ["new.mp4", "old-2.mp4", "old.mp4", "pic.png"]


def test_a_file_that_is_written_to_after_it_was_read_is_not_removed(shelf: Shelf) -> None:
    def edit(_: str) -> bool:
        (shelf.root / "older.mp4").write_text("edited")
        return False

    pruner = Pruner(shelf.library, RemovalReason.PRUNED, lambda: NOW, is_open=edit, keep_times=True)
    done = pruner.prune(due(shelf))
    assert [path for path, _ in done.left] == ["older.mp4"]
    assert shelf.files()["older.mp4"] == "edited"
    (output,) = shelf.read("run_older").outputs
    assert (output.path, output.removed) == ("older.mp4", None)  # what is there is not removed
    assert [output.path for output in shelf.read("run_old").outputs] == [None, None]
    assert (done.files, done.bytes) == (2, 10)


def test_of_a_run_only_the_files_that_are_gone_are_said_to_be_removed(shelf: Shelf) -> None:
    def edit(_: str) -> bool:
        (shelf.root / "old-2.mp4").write_text("edited")
        return False

    pruner = Pruner(shelf.library, RemovalReason.PRUNED, lambda: NOW, is_open=edit, keep_times=True)
    pruner.prune(due(shelf))
    first, second = shelf.read("run_old").outputs
    assert (first.path, first.removed is None) == (None, False)
    assert (second.path, second.removed) == ("old-2.mp4", None)


def test_what_a_photo_manager_wrote_beside_a_removed_file_stays(shelf: Shelf) -> None:
    (shelf.root / "older.mp4.xmp").write_text("hours of work")
    prune(shelf.library, due(shelf))
    assert shelf.files()["older.mp4.xmp"] == "hours of work"


def test_a_file_is_no_older_than_its_run_though_the_clock_was_behind(shelf: Shelf) -> None:
    sidecar = shelf.put("run_clock", {"clock.mp4": "clock"}, downloaded_at="1999-01-01T00:00:00.000Z")
    times = Times(completed_at="2026-09-20T00:00:00.000Z", finished_at="1999-01-01T00:00:00.000Z")
    shelf.library.write_sidecar(replace(sidecar, times=times), None)
    assert "clock.mp4" not in [each.path for each in due(shelf)]


def test_no_more_is_removed_than_it_takes(shelf: Shelf) -> None:
    answers = iter([False, True])
    done = prune(shelf.library, due(shelf), is_enough=lambda: next(answers), at_once=1)
    assert done.files == 1
    assert sorted(shelf.files()) == ["new.mp4", "old-2.mp4", "old.mp4", "pic.png"]


def test_a_file_that_is_not_as_its_sidecar_says_is_not_removed(shelf: Shelf) -> None:
    (shelf.root / "older.mp4").write_text("OLDER")  # the same length
    (shelf.root / "old.mp4").unlink()
    done = prune(shelf.library, due(shelf))
    assert done.files == 1
    assert sorted(path for path, _ in done.left) == ["old.mp4", "older.mp4"]
    assert shelf.files()["older.mp4"] == "OLDER"
    assert shelf.read("run_older").outputs[0].removed is None
    assert shelf.read("run_old").outputs[0].path == "old.mp4"


def test_a_removal_that_is_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    steps = 0
    while True:
        shelf = Shelf(tmp_path / str(steps))
        shelf.library.write_companions(shelf.put("run_a", {"a.mp4": "one", "a-2.mp4": "two"}), None)
        try:
            prune(shelf.opened(steps), due(shelf))
        except KilledError:
            for output in shelf.read("run_a").outputs:  # nothing looks lost meanwhile
                assert output.removed or (shelf.root / (output.path or "")).exists()
            prune(shelf.library, due(shelf))
            assert shelf.files() == {}
            assert all(output.removed and output.path is None for output in shelf.read("run_a").outputs)
            steps += 1
            continue
        break
    assert steps > 8


def test_what_was_put_where_a_removal_ended_early_is_not_removed(shelf: Shelf) -> None:
    with pytest.raises(KilledError):
        prune(shelf.opened(2), due(shelf)[:1])  # the sidecar says so already
    (shelf.root / "older.mp4").write_text("another")
    prune(shelf.library, due(shelf)[:1])
    assert shelf.files()["older.mp4"] == "another"
    assert shelf.read("run_older").outputs[0].path is None


def test_a_file_that_is_there_again_is_not_accepted_as_deleted(shelf: Shelf) -> None:
    files = due(shelf)
    (shelf.root / "older.mp4").unlink()
    pruner = Pruner(shelf.library, RemovalReason.MISSING, lambda: NOW, keep_times=True)
    done = pruner.accept(files)
    assert done.files == 1
    assert shelf.read("run_older").outputs[0].removed is not None
    assert [output.removed for output in shelf.read("run_old").outputs] == [None, None]
