"""Folders of the library that stay open from one batch to the next: found again, never trusted unseen."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest

from floradl.errors import FloradlError, PauseReason, ServicePausedError
from floradl.fs import folders
from floradl.fs.folders import FolderFd
from floradl.fs.names import SafeName
from floradl.library import open_folders
from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.models import OutputKind, QueuedRun, RemoteOutput

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left_open")

FOLDERS = {kind: f"{kind}s" for kind in OutputKind}


@pytest.fixture
def library(tmp_path: Path) -> FolderLibrary:
    template = "{folder}/{technique}/{run_id}-{output_id}{ext}"
    library = FolderLibrary(tmp_path / "library", PathPlan.parse(template, FOLDERS, 255))
    library.create()
    return library


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The folders below the library that were opened, one by one."""
    names: list[str] = []

    def counted(root: FolderFd, parts: tuple[SafeName, ...]) -> AbstractContextManager[FolderFd]:
        names.extend(parts)
        return folders.open_folder(root, parts)

    monkeypatch.setattr(open_folders, "open_folder", counted)
    return names


def save(library: FolderLibrary, run_id: str, technique: str = "tech") -> str:
    """Save a file as a batch does; return its path, or raise what the batch met."""

    def work() -> str:
        run = QueuedRun(run_id=run_id, technique=technique, queued_at=1.0)
        place = library.destination(
            run, RemoteOutput("o", "imageUrl", "https://media.flora.ai/o.png"), 1, None
        )
        data = run_id.encode()
        with place.held(), place.open("") as sink:
            sink.write(data)
            return place.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)

    (result,) = library.together([work])
    if isinstance(result, Exception):
        raise result
    return result


def open_below(library: FolderLibrary) -> set[str]:
    """The paths of what is open below a library."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):  # the listing's own
            found.add(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115 - no file's
    return {path for path in found if path.startswith(str(library.root))}


def test_batches_in_close_succession_open_a_folder_once(library: FolderLibrary, opened: list[str]) -> None:
    with library.kept_open():
        for number in range(5):
            save(library, f"run_{number}")
    assert opened == ["images", "tech"]
    assert len(list((library.root / "images/tech").iterdir())) == 5


def test_nothing_stays_open_when_there_is_no_more_work(library: FolderLibrary) -> None:
    with library.kept_open():
        save(library, "run_a")
        assert open_below(library) == {str(library.root / "images/tech")}
    assert open_below(library) == set()


def test_a_folder_that_was_replaced_between_two_batches_is_not_written_to(library: FolderLibrary) -> None:
    with library.kept_open():
        save(library, "run_a")
        (library.root / "images").rename(library.root / "elsewhere")
        assert save(library, "run_b") == "images/tech/run_b-o.png"
        save(library, "run_c")
    assert sorted(os.listdir(library.root / "images/tech")) == ["run_b-o.png", "run_c-o.png"]
    assert os.listdir(library.root / "elsewhere/tech") == ["run_a-o.png"]


def test_a_folder_that_became_a_link_between_two_batches_is_not_followed(
    library: FolderLibrary, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    with library.kept_open():
        save(library, "run_a")
        (library.root / "images").rename(library.root / "elsewhere")
        (library.root / "images").symlink_to(tmp_path / "outside")
        with pytest.raises(FloradlError):
            save(library, "run_b")
    assert os.listdir(tmp_path / "outside") == []


def test_a_library_that_went_away_between_two_batches_is_missed(library: FolderLibrary) -> None:
    with library.kept_open():
        save(library, "run_a")
        library.root.rename(library.root.with_name("away"))
        with pytest.raises(ServicePausedError) as caught:
            save(library, "run_b")
        assert caught.value.reason is PauseReason.LIBRARY_MISSING
        library.root.with_name("away").rename(library.root)
        save(library, "run_b")


def test_of_many_folders_few_are_kept_open(library: FolderLibrary) -> None:
    with library.kept_open():
        for number in range(100):
            save(library, f"run_{number}", f"technique-{number}")
            assert len(open_below(library)) <= 16
    assert len(list(library.root.glob("images/*/*.png"))) == 100


def test_what_one_thread_keeps_open_another_does_not_close(library: FolderLibrary) -> None:
    def other() -> None:
        with library.kept_open():
            save(library, "run_other")

    with library.kept_open():
        save(library, "run_a")
        with ThreadPoolExecutor(1) as threads:
            threads.submit(other).result()
        assert open_below(library) == {str(library.root / "images/tech")}
        save(library, "run_b")
    assert len(os.listdir(library.root / "images/tech")) == 3
