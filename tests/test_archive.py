from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from floradl.fs.durable import rename_noreplace
from floradl.fs.folders import FolderFd
from floradl.fs.names import SafeName
from floradl.models import OutputKind, Reference, RunRequest
from floradl.sources.archive import FileChangedError, accepted_orders, put_away
from floradl.sources.file_ready import Stamp

NOW = 1764000000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "accepted"


def away(path: Path, folder: Path, note: str | None = None) -> Path:
    return put_away(path, folder, Stamp.of(path.lstat()), now=NOW, note=note)


def test_a_file_is_moved_and_dated(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "job.txt"
    path.write_text("run_a")
    moved = away(path, folder)
    assert moved == folder / "job.txt"
    assert moved.read_text() == "run_a"
    assert moved.stat().st_mtime == NOW
    assert not path.exists()


def test_no_name_is_taken_from_another_file(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "job.txt"
    for number in range(13):
        path.write_text(f"run_{number}")
        away(path, folder)
    names = {moved.name: moved.read_text() for moved in folder.iterdir()}
    assert names["job.txt"] == "run_0"
    assert names["job-9.txt"] == "run_9"
    assert names["job-1764000000000-0.txt"] == "run_10"
    assert sorted(names.values()) == sorted(f"run_{number}" for number in range(13))


@pytest.mark.parametrize("name", ["job", "job.tar.gz", "job.", "a" * 255, "ü" * 127, "a." + "b" * 200])
def test_any_name_gets_a_free_variant_that_fits_with_its_note(
    tmp_path: Path, folder: Path, name: str
) -> None:
    for number in range(2):
        (tmp_path / name).write_text(str(number))
        moved = away(tmp_path / name, folder, "why")
        assert moved.read_text() == str(number)
        assert moved.with_name(moved.name + ".error.txt").read_text() == "why"


def test_a_name_that_is_not_utf_8_is_moved_with_its_note(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / os.fsdecode(b"job\xff.txt")
    path.write_text("x")
    moved = away(path, folder, "why \udcff")
    assert os.fsencode(moved.name) == b"job\xff.txt"
    assert (folder / (moved.name + ".error.txt")).read_text() == "why \\udcff"


def test_a_note_never_overwrites_a_file(tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    (folder / "job.error.txt").write_text("mine")
    (tmp_path / "job").write_text("x")
    assert away(tmp_path / "job", folder, "why").name == "job-1"
    assert (folder / "job.error.txt").read_text() == "mine"
    assert not (folder / "job").exists()


def test_a_file_that_changed_stays(tmp_path: Path, folder: Path) -> None:
    path = tmp_path / "job"
    path.write_text("run_a")
    stamp = Stamp.of(path.lstat())
    path.write_text("run_abc")
    with pytest.raises(FileChangedError):
        put_away(path, folder, stamp, now=NOW)
    assert path.read_text() == "run_abc"


def test_a_file_that_is_replaced_in_the_last_instant_is_put_back(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "job"
    path.write_text("run_a")

    def replace_then_rename(here: FolderFd, old: SafeName, new: SafeName, into: FolderFd) -> bool:
        if old == "job" and into != here and not (tmp_path / "seen").exists():
            (tmp_path / "seen").touch()
            (tmp_path / "new").write_text("run_b")
            (tmp_path / "new").replace(path)
        return rename_noreplace(here, old, new, into)

    # The instant between the last look and the move cannot be had otherwise.
    monkeypatch.setattr("floradl.sources.archive.rename_noreplace", replace_then_rename)
    with pytest.raises(FileChangedError):
        away(path, folder, "why")
    assert path.read_text() == "run_b"
    assert list(folder.iterdir()) == []


def test_a_link_is_moved_itself(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "target").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    moved = away(tmp_path / "link", folder)
    assert moved.is_symlink()
    assert (tmp_path / "target").read_text() == "mine"
    assert (tmp_path / "target").stat().st_mtime != NOW


def test_a_move_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("needs a second file system")
    (tmp_path / "job").write_text("x")
    with tempfile.TemporaryDirectory(dir=other) as name:
        with pytest.raises(OSError, match="cross-device"):
            away(tmp_path / "job", Path(name), "why")
        assert list(Path(name).iterdir()) == []
    assert (tmp_path / "job").read_text() == "x"


@pytest.mark.parametrize("half", ["", "wh", "why"])
def test_a_note_that_was_cut_off_is_ended(tmp_path: Path, folder: Path, half: str) -> None:
    folder.mkdir()
    (folder / "job.error.txt").write_text(half)
    (tmp_path / "job").write_text("x")
    assert away(tmp_path / "job", folder, "why").name == "job"
    assert (folder / "job.error.txt").read_text() == "why"


def test_a_link_in_the_place_of_a_note_is_left_alone(tmp_path: Path, folder: Path) -> None:
    folder.mkdir()
    (tmp_path / "mine").write_text("")
    (folder / "job.error.txt").symlink_to(tmp_path / "mine")
    (tmp_path / "job").write_text("x")
    assert away(tmp_path / "job", folder, "why").name == "job-1"
    assert (tmp_path / "mine").read_text() == ""


def test_a_note_has_no_character_that_steers(tmp_path: Path, folder: Path) -> None:
    file = tmp_path / "job"
    file.write_text("x")
    moved = put_away(file, folder, Stamp.of(file.lstat()), now=1.0, note="line 1: \x9b31m \u202e é\nmore\n")
    assert (folder / f"{moved.name}.error.txt").read_text() == "line 1: \\x9b31m \\u202e é\nmore\n"


def test_accepted_job_files_are_read_again_with_kinds_and_meta(tmp_path: Path) -> None:
    (tmp_path / "accepted").mkdir()
    job = (
        '{"run": "run_a", "kinds": "image", "meta": {"client": "ACME"}}\n{"run": "run_b", "kinds": "image"}\n'
    )
    for name, text, when in (("1", job, 1), ("2", '{"run": "run_b", "kinds": "text", "action": "retry"}', 2)):
        (tmp_path / "accepted" / name).write_text(text)
        os.utime(tmp_path / "accepted" / name, (when, when))
    assert accepted_orders(tmp_path) == [
        RunRequest(Reference("run_a"), kinds=(OutputKind.IMAGE,), meta={"client": "ACME"}),
        RunRequest(Reference("run_b"), kinds=(OutputKind.TEXT,)),
    ]
