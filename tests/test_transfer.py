"""A library copied into another: under the same paths, checked, and finished after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
from memory_library import MemoryLibrary
from shelves import KilledError, Shelf

from floradl.library.transfer import Copier


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "library")
    shelf.put("run_a", {"video/campaign/run_a-a.mp4": "one", "elsewhere/b.mp4": "two"})
    shelf.put("run_b", {"B/Film.mp4": "three"}, technique=None)
    (shelf.root / "elsewhere/b.mp4.xmp").write_text("xmp")
    return shelf


def test_a_copy_has_the_same_paths_bytes_and_times(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    done = Copier(shelf.library, other.library).copy()
    assert (done.files, done.failures) == (6, [])
    assert other.files() == shelf.files()
    for path in (*shelf.root.glob("runs/*/*.json"), shelf.root / "B/Film.mp4"):
        twin = other.root / path.relative_to(shelf.root)
        assert twin.read_bytes() == path.read_bytes()
        assert abs(twin.stat().st_mtime - path.stat().st_mtime) < 0.01
    other.check()


def test_a_library_is_copied_through_the_door_there_and_back(shelf: Shelf, tmp_path: Path) -> None:
    far, back = MemoryLibrary(), Shelf(tmp_path / "back")
    assert Copier(shelf.library, far).copy().failures == []
    assert sorted(far.files()) == sorted(shelf.files())
    assert Copier(far, back.library).copy().failures == []
    assert back.files() == shelf.files()
    back.check()


def test_what_is_damaged_or_gone_fails(shelf: Shelf, tmp_path: Path) -> None:
    (shelf.root / "B/Film.mp4").write_text("THREE")
    (shelf.root / "elsewhere/b.mp4").unlink()
    done = Copier(shelf.library, Shelf(tmp_path / "other").library).copy()
    assert sorted(failure.path for failure in done.failures) == ["B/Film.mp4", "elsewhere/b.mp4"]


def test_another_file_in_the_way_fails_and_stays(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    (other.root / "B").mkdir()
    (other.root / "B/Film.mp4").write_text("mine")
    done = Copier(shelf.library, other.library).copy()
    assert [failure.path for failure in done.failures] == ["B/Film.mp4"]
    assert other.files()["B/Film.mp4"] == "mine"


def test_a_copy_that_is_killed_is_finished_by_the_next(shelf: Shelf, tmp_path: Path) -> None:
    other = Shelf(tmp_path / "other")
    for steps in range(0, 6, 2):
        with pytest.raises(KilledError):
            Copier(shelf.library, other.opened(steps)).copy()
    done = Copier(shelf.library, other.library).copy()
    assert done.failures == []
    assert {path: other.files().get(path) for path in shelf.files()} == shelf.files()
