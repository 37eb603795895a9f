"""Verifying a library in a store, which is seen by its door alone: whole, and by one listing."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from galleries import Shelf
from msgspec.structs import replace

from floradl.commands.verify.scan import FileFilter, LibraryScan, Problem, ProgressLine, unknown_files
from floradl.errors import ErrorCode, PauseReason, ServicePausedError, TransientError
from floradl.library.local_file import with_descriptor
from floradl.library.verify import FileVerdict, file_verifier
from floradl.models import Reference


@pytest.fixture
def store(tmp_path: Path) -> Shelf:
    shelf = Shelf(tmp_path / "library", a_store=True)
    shelf.put("run_a", {"data": b"picture"}, {"kind": "video", "data": b"film"})
    shelf.put("run_b", {"data": b"other"})
    return shelf


def scanned(store: Shelf, *, quick: bool = False) -> tuple[list[tuple[str, str | None]], LibraryScan]:
    store.door.calls.clear()
    meter = ProgressLine(io.StringIO(), shown=False)
    scan = LibraryScan(store.library, FileFilter(quick=quick), frozenset(), meter)
    return [_told(problem) for problem in scan.problems()], scan


def _told(problem: Problem) -> tuple[str, str | None]:
    return problem.verdict.value, problem.path


def test_a_sound_store_is_read_once_a_file(store: Shelf) -> None:
    problems, scan = scanned(store)
    assert (problems, scan.files) == ([], 3)
    assert store.door.calls["open_file"] == 3
    assert store.door.calls["stat"] == 0


def test_damage_is_told_apart_from_what_is_missing(store: Shelf) -> None:
    (store.root / "images/run_a-1.png").write_bytes(b"PICTURE")
    (store.root / "images/run_b-1.png").write_bytes(b"longer than it was")
    (store.root / "videos/run_a-2.mp4").unlink()
    assert scanned(store)[0] == [
        ("damaged", "images/run_a-1.png"),
        ("missing", "videos/run_a-2.mp4"),
        ("damaged", "images/run_b-1.png"),
    ]


def test_quickly_is_one_listing_and_no_request_for_a_file(store: Shelf) -> None:
    assert scanned(store, quick=True)[0] == []
    assert store.door.calls["listing"] == 1
    assert not store.door.calls.keys() & {"open_file", "stat"}


def test_quickly_finds_what_is_missing_or_has_another_size(store: Shelf) -> None:
    (store.root / "images/run_b-1.png").write_bytes(b"longer than it was")
    (store.root / "videos/run_a-2.mp4").unlink()
    assert scanned(store, quick=True)[0] == [
        ("missing", "videos/run_a-2.mp4"),
        ("damaged", "images/run_b-1.png"),
    ]


def test_quickly_reads_what_has_another_etag_than_when_it_was_stored(
    store: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing = store.door._library.listing  # a folder has no ETags
    monkeypatch.setattr(
        store.door._library, "listing", lambda: [replace(file, etag="new") for file in listing()]
    )
    (store.root / "images/run_b-1.png").write_bytes(b"rehto")
    verifier = file_verifier(store.library, lambda _: None, threading.Event(), quick=True)
    verdicts = []
    for run_id, etag in (("run_a", "new"), ("run_b", "new"), ("run_a", "old"), ("run_b", "old")):
        sidecar = store.library.find_sidecar(Reference(run_id))
        assert sidecar is not None
        store.door.calls.clear()
        verdict = verifier.examine(replace(sidecar.outputs[0], stored_etag=etag), None).verdict
        verdicts.append((verdict, store.door.calls["open_file"]))
    # A bucket that was copied has other ETags, and the same bytes.
    assert verdicts == [
        (FileVerdict.SOUND, 0),
        (FileVerdict.SOUND, 0),
        (FileVerdict.SOUND, 1),
        (FileVerdict.DAMAGED, 1),
    ]


def test_what_was_saved_after_the_listing_is_not_missing(store: Shelf) -> None:
    verifier = file_verifier(store.library, lambda _: None, threading.Event(), quick=True)
    for run_id in ("run_a", "run_late"):
        store.put(run_id)
        sidecar = store.library.find_sidecar(Reference(run_id))
        assert sidecar is not None
        assert verifier.examine(sidecar.outputs[0], None).verdict is FileVerdict.SOUND


def test_what_the_store_does_not_tell_is_no_damage(store: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(_: str) -> Any:
        raise TransientError("the store wants fewer requests", ErrorCode.STORAGE)

    monkeypatch.setattr(store.door._library, "open_file", busy)
    assert {verdict for verdict, _ in scanned(store)[0]} == {"unreadable"}


def test_a_store_that_is_away_ends_it(store: Shelf) -> None:
    (store.root / ".floradl-library").unlink()
    with pytest.raises(ServicePausedError) as caught:
        scanned(store)
    assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_files_that_no_sidecar_names_are_found_in_a_store(store: Shelf) -> None:
    (store.root / "images/stray.png").write_bytes(b"stray")
    _, scan = scanned(store)
    assert unknown_files(store.library, scan.known, list) == ["images/stray.png"]


def test_a_copy_for_another_program_needs_no_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(**_: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr("tempfile.TemporaryFile", none)
    for size in (5, 5 << 20):
        with with_descriptor(io.BytesIO(bytes(size))) as copy:
            assert os.fstat(copy.fileno()).st_size == size


def test_a_file_without_a_descriptor_is_copied_for_another_program_and_a_long_one_at_its_ends_alone() -> None:
    data = bytes(range(256)) * 16
    with with_descriptor(io.BytesIO(data)) as copy:
        assert os.read(copy.fileno(), 1 << 20) == data
    with with_descriptor(io.BytesIO(data), 1024) as copy:
        found = copy.read()
        assert len(found) == len(data)
        assert (found[:768], found[-256:]) == (data[:768], data[-256:])
        assert not any(found[768:-256])
