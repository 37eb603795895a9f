"""A folder of the library that several use is open once, and each of them gets it only while it is that."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from floradl.errors import ErrorCode, PauseReason, PermanentError, ServicePausedError
from floradl.fs.folders import exists
from floradl.fs.names import SafeName
from floradl.library.folder import MARKER, FolderLibrary
from floradl.library.path_plan import PathPlan

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left_open")

PARTS = (SafeName("images"), SafeName("tech"))
NAME = SafeName("a.png")


@pytest.fixture
def library(tmp_path: Path) -> FolderLibrary:
    library = FolderLibrary(tmp_path / "library", PathPlan.parse("{run_id}{ext}", {}, 255))
    library.create()
    return library


def folder_at(library: FolderLibrary) -> Path:
    return library.root.joinpath(*PARTS)


def test_a_folder_in_use_is_opened_once(library: FolderLibrary) -> None:
    with library.at(PARTS) as (first, _), library.at(PARTS) as (second, parts):
        assert second == first
        assert parts == PARTS


def test_it_is_open_until_its_last_user_leaves(library: FolderLibrary) -> None:
    folder_at(library).mkdir(parents=True)
    (folder_at(library) / NAME).touch()
    with ExitStack() as last:
        with library.at(PARTS) as (folder, _):
            last.enter_context(library.at(PARTS))
        assert exists(folder, NAME)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(folder)


def test_who_comes_after_the_last_opens_it_anew(library: FolderLibrary) -> None:
    with library.at(PARTS):
        pass
    folder_at(library).rmdir()
    with library.at(PARTS) as (folder, _):
        assert os.path.samestat(os.fstat(folder), folder_at(library).stat())


def test_a_library_whose_marker_is_gone_is_missing_while_a_folder_is_in_use(library: FolderLibrary) -> None:
    with library.at(PARTS):
        (library.root / MARKER).unlink()
        with pytest.raises(ServicePausedError) as caught, library.at(PARTS):
            pass
    assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_a_library_that_is_gone_is_missing_while_a_folder_is_in_use(library: FolderLibrary) -> None:
    with library.at(PARTS):
        library.root.rename(library.root.with_name("unmounted"))
        library.root.mkdir()
        with pytest.raises(ServicePausedError) as caught, library.at(PARTS):
            pass
    assert caught.value.reason is PauseReason.LIBRARY_MISSING
    assert os.listdir(library.root) == []


@pytest.mark.parametrize("moved", ["images", "images/tech"])
def test_where_another_folder_took_its_place_that_one_is_given(library: FolderLibrary, moved: str) -> None:
    with library.at(PARTS) as (before, _):
        (library.root / moved).rename(library.root / "archive")
        with library.at(PARTS) as (after, _), library.at(PARTS) as (joined, _):
            assert after.key != before.key
            assert os.path.samestat(os.fstat(after), folder_at(library).stat())
            assert joined == after


@pytest.mark.parametrize("moved", ["images", "images/tech"])
def test_a_link_that_leads_to_the_folder_in_use_is_refused(
    library: FolderLibrary, tmp_path: Path, moved: str
) -> None:
    with library.at(PARTS):
        (library.root / moved).rename(tmp_path / "outside")
        (library.root / moved).symlink_to(tmp_path / "outside")
        with pytest.raises(PermanentError) as caught, library.at(PARTS):
            pass
    assert caught.value.code is ErrorCode.STORAGE


def test_a_file_beside_the_librarys_folders_needs_none_of_them(library: FolderLibrary) -> None:
    with library.at(()) as (folder, parts), library.at(()):
        assert os.path.samestat(os.fstat(folder), library.root.stat())
        assert parts == ()


def test_threads_that_come_and_go_have_an_open_folder_each_time(library: FolderLibrary) -> None:
    folder_at(library).mkdir(parents=True)
    (folder_at(library) / NAME).touch()

    def use(_nth: int) -> bool:
        with library.at(PARTS) as (folder, _):
            return exists(folder, NAME)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(use, range(2000)))
