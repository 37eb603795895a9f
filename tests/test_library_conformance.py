"""What every library promises, whatever it keeps its files in: a folder, memory, or a bucket."""

from __future__ import annotations

import errno
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from memory_library import MemoryLibrary
from msgspec.structs import replace
from object_stores import Line, Store, answer

from floradl.errors import PauseReason, ServicePausedError, TransientError
from floradl.library.base import Destination, LibraryStore, Steps, StreamingSink
from floradl.library.folder import MARKER, FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.sidecar import Sidecar
from floradl.models import (
    AttemptNotes,
    OutputKind,
    QueuedRun,
    Reference,
    RemoteOutput,
    Result,
    SavedOutput,
)

V1, V2 = "11111111", "22222222"
REFERENCE = Reference("run_a", "tech")


class Kept(ABC):
    """A library, and what may happen to the place where it keeps its files."""

    library: LibraryStore
    keeps_parts = True
    """Whether what has arrived of a file survives a restart."""

    @abstractmethod
    def restart(self) -> None:
        """Forget all that only the process knew."""

    @abstractmethod
    def fill(self) -> None:
        """Leave no room."""

    @abstractmethod
    def lose(self) -> None:
        """Take the place away."""

    @abstractmethod
    def put(self, path: str, data: bytes) -> None:
        """Store a file as another program would."""

    def read(self, path: str) -> bytes | None:
        file = self.library.open_file(path)
        if file is None:
            return None
        with file:
            return file.read()


class InFolder(Kept):
    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._root = root
        self._monkeypatch = monkeypatch
        self.restart()

    def restart(self) -> None:
        folders = {kind: kind.value for kind in OutputKind}
        paths = PathPlan.parse("{kind}/{technique}/{run_id}-{output_id}{ext}", folders, 255)
        self.library = library = FolderLibrary(self._root, paths)
        library.create()

    def fill(self) -> None:
        def full(*_: object) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        for name in ("pwrite", "write"):
            self._monkeypatch.setattr(os, name, full)

    def lose(self) -> None:
        (self._root / MARKER).unlink()

    def put(self, path: str, data: bytes) -> None:
        (self._root / path).parent.mkdir(parents=True, exist_ok=True)
        (self._root / path).write_bytes(data)


class InMemory(Kept):
    def __init__(self) -> None:
        self.library: MemoryLibrary = MemoryLibrary()

    def restart(self) -> None:
        """It is its own place: what it holds is all that stays."""

    def fill(self) -> None:
        self.library.capacity = 0

    def lose(self) -> None:
        self.library.missing = True

    def put(self, path: str, data: bytes) -> None:
        self.library.put(path, data)


class InBucket(Kept):
    keeps_parts = False

    def __init__(self, store: Store, line: Line) -> None:
        self._store = store.behind(line.port)
        self._line = line
        self._prefix = f"{os.urandom(4).hex()}/library"
        self._other = store.client(self._prefix)
        self._now = 0.0
        self.restart()

    def restart(self) -> None:
        self.library = self._store.library(self._prefix, lambda: self._now)
        self.library.create()

    def fill(self) -> None:
        full = answer(507, "QuotaExceeded")
        self._line.act = lambda request: full if request.method in {"PUT", "POST"} else None

    def lose(self) -> None:
        self._other.delete(".floradl-library")
        self._now += 60.0

    def put(self, path: str, data: bytes) -> None:
        self._other.overwrite(path, data)


@pytest.fixture(params=["folder", "memory", "s3", "az"])
def kept(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kept]:
    if request.param in {"s3", "az"}:
        store = request.getfixturevalue("stores")(request.param)
        with Line(store.port) as line:
            yield InBucket(store, line)
        return
    request.getfixturevalue("no_descriptor_is_left_open")
    yield InFolder(tmp_path / "library", monkeypatch) if request.param == "folder" else InMemory()


def destination(
    kept: Kept, run_id: str = "run_a", output_id: str = "o", nth: int = 1, *, force: bool = False
) -> Destination:
    run = QueuedRun(run_id=run_id, technique="tech", queued_at=1.0, force=force)
    return kept.library.destination(run, RemoteOutput(output_id, "imageUrl", "", nth), 1, None)


def save(where: Destination, data: bytes) -> str:
    with where.open("") as sink:
        sink.truncate(0)
        sink.write(data)
        return where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)


def saved(path: str | None, size: int) -> SavedOutput:
    return SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path=path, bytes=size)


def sidecar(run_id: str = "run_a", technique: str = "tech", label: str | None = None) -> Sidecar:
    reference = str(Reference(run_id, technique))
    return Sidecar(
        reference=reference,
        technique=technique,
        run_id=run_id,
        label=label,
        result=Result.COMPLETE,
        outputs=(),
    )


def unnamed(run_id: str = "run_a") -> Sidecar:
    return Sidecar(reference=run_id, run_id=run_id, result=Result.COMPLETE)


def test_a_sidecar_with_a_technique_takes_the_place_of_one_without(kept: Kept) -> None:
    assert kept.library.write_sidecar(unnamed(), None) == "runs/_unknown/run_a.json"
    kept.library.write_sidecar(unnamed("run_b"), None)
    kept.restart()
    assert kept.library.write_sidecar(sidecar(), None) == "runs/tech/run_a.json"
    paths = [entry.path for entry in kept.library.scan()]
    assert paths == ["runs/_unknown/run_b.json", "runs/tech/run_a.json"]
    assert kept.library.find_sidecar(Reference("run_a")) == sidecar()


def test_a_sidecar_without_a_technique_is_found_by_a_reference_that_names_one(kept: Kept) -> None:
    kept.library.write_sidecar(unnamed(), None)
    assert kept.library.find_sidecar(Reference("run_a", "tech")) == unnamed()


def test_a_published_file_has_the_bytes_that_arrived(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    assert path == "image/tech/run_a-o.png"
    assert kept.read(path) == b"bytes"
    assert list(kept.library.files()) == [path]


def test_nothing_has_a_final_name_before_it_is_published(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
        assert kept.read("image/tech/run_a-o.png") is None


def test_publish_twice_gives_one_path(kept: Kept) -> None:
    first = save(destination(kept), b"same")
    kept.restart()
    assert save(destination(kept), b"same") == first
    assert list(kept.library.files()) == [first]


def test_a_large_file_is_published_once_whoever_saves_it_again(kept: Kept) -> None:
    data = os.urandom(10 << 20)  # a bucket sends it on while it arrives
    kept.put("image/tech/run_a-o.png", b"theirs")
    paths = set()
    for _ in range(2):
        where = destination(kept)
        with where.open(V1) as sink:
            if isinstance(sink, StreamingSink):
                sink.expect(len(data), lambda: ".png")
            for offset in range(0, len(data), 1 << 20):
                sink.write(memoryview(data)[offset : offset + (1 << 20)])
            paths.add(where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None))
            assert sink.size == len(data)
        seen = kept.library.stat(min(paths))
        assert seen is not None
        assert (seen.size, seen.etag) == (len(data), where.stored_etag)
        kept.restart()
    assert paths == {"image/tech/run_a-o-2.png"}
    assert kept.read(min(paths)) == data


def test_a_retry_adopts_the_file_that_its_sidecar_names_under_another_name(kept: Kept) -> None:
    """As after another template: it would be there twice."""
    for data in (b"bytes", os.urandom(10 << 20)):  # a bucket sends a large one on while it arrives
        kept.put("before/o.png", data)
        named = replace(sidecar(), outputs=(saved("before/o.png", len(data)),))
        kept.library.write_sidecar(named, None, replacing=kept.library.find_sidecar(REFERENCE))
        where = destination(kept, force=True)
        with where.open(V1) as sink:
            if isinstance(sink, StreamingSink):
                sink.expect(len(data), lambda: ".png")
            for offset in range(0, len(data), 1 << 20):
                sink.write(memoryview(data)[offset : offset + (1 << 20)])
            path = where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)
        assert path == "before/o.png"
        assert list(kept.library.files()) == ["before/o.png"]


def test_a_retry_that_brings_other_bytes_leaves_the_earlier_file(kept: Kept) -> None:
    kept.put("before/o.png", b"first")
    kept.library.write_sidecar(replace(sidecar(), outputs=(saved("before/o.png", 5),)), None)
    assert save(destination(kept, force=True), b"other") == "image/tech/run_a-o.png"
    assert kept.read("before/o.png") == b"first"


def test_publish_never_replaces_a_file_of_another_program(kept: Kept) -> None:
    kept.put("image/tech/run_a-o.png", b"theirs")
    path = save(destination(kept), b"ours")
    assert path == "image/tech/run_a-o-2.png"
    assert kept.read("image/tech/run_a-o.png") == b"theirs"
    assert kept.read(path) == b"ours"


def test_publish_never_replaces_an_earlier_version(kept: Kept) -> None:
    first, second = save(destination(kept), b"one"), save(destination(kept), b"two")
    assert (kept.read(first), kept.read(second)) == (b"one", b"two")


def test_names_never_collide_where_case_does_not_count(kept: Kept) -> None:
    paths = {save(destination(kept, run_id), b"x") for run_id in ("run_a", "run_A", "RUN_A")}
    assert len({path.casefold() for path in paths}) == 3


def test_outputs_of_one_id_never_share_a_path(kept: Kept) -> None:
    paths = {save(destination(kept, nth=nth), b"x") for nth in (2, 1)}
    assert paths == {"image/tech/run_a-o.png", "image/tech/run_a-o-2.png"}


def test_a_first_attempt_has_nothing_to_resume(kept: Kept) -> None:
    assert destination(kept).resume_point() is None


def test_a_resume_point_survives_the_attempt_and_where_parts_are_kept_a_restart(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
    if kept.keeps_parts:
        kept.restart()
    assert destination(kept).resume_point() == (V1, 4)
    with destination(kept).open(V1) as sink:
        assert (sink.size, sink.read(10, 1)) == (4, b"alf")
        sink.write(b" and half")
        path = destination(kept).publish(sink, ".png", hashlib.sha256(b"half and half").hexdigest(), None)
    assert kept.read(path) == b"half and half"
    assert destination(kept).resume_point() is None


def test_another_validator_starts_anew(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
    with destination(kept).open(V2) as sink:
        assert sink.size == 0
    assert destination(kept).resume_point() == (V2, 0)


def test_a_resume_point_without_a_validator_names_none(kept: Kept) -> None:
    with destination(kept).open("") as sink:
        sink.write(b"half")
    assert destination(kept).resume_point() == ("", 4)


def test_a_discarded_sink_leaves_nothing_and_may_be_discarded_again(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
        sink.discard()
        sink.discard()
    kept.restart()
    assert destination(kept).resume_point() is None


def test_a_sink_that_was_left_may_be_left_again(kept: Kept) -> None:
    sink = destination(kept).open(V1)
    sink.__exit__()
    sink.__exit__()
    with destination(kept).open(V1):
        pass


def test_truncate_drops_the_end_and_never_makes_a_hole(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
        sink.truncate(2)
        assert (sink.size, sink.read(9, 0)) == (2, b"ha")
        with pytest.raises(TransientError):
            sink.truncate(3)


def test_a_sink_is_one_attempts_alone(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
        for validator in (V1, V2):
            with pytest.raises(TransientError):
                destination(kept).open(validator)
        assert sink.read(9, 0) == b"half"


def test_a_descriptor_is_given_where_the_destination_says_so(kept: Kept) -> None:
    where = destination(kept)
    with where.open(V1) as sink:
        assert (sink.fileno() is not None) == where.has_descriptors
        assert sink.free_space() > 0


def test_notes_of_one_attempt_reach_the_next_and_end_with_publishing(kept: Kept) -> None:
    destination(kept).note(AttemptNotes(ranges_refused=1))
    assert destination(kept).notes == AttemptNotes(ranges_refused=1)
    assert destination(kept, "run_b").notes == AttemptNotes()
    save(destination(kept), b"x")
    assert destination(kept).notes == AttemptNotes()


def test_text_is_saved_as_utf_8(kept: Kept) -> None:
    stored = destination(kept).write_text("Grüße", None)
    data = "Grüße".encode()
    assert stored.path == "image/tech/run_a-o.txt"
    assert (stored.bytes, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert kept.read(stored.path) == data
    assert destination(kept).write_text("Grüße", None) == stored


def test_a_sidecar_is_found_again_under_whatever_technique(kept: Kept) -> None:
    path = kept.library.write_sidecar(sidecar(), None)
    kept.restart()
    assert path == "runs/tech/run_a.json"
    for technique in ("tech", "other", None):
        assert kept.library.locate_sidecar(Reference("run_a", technique)) == (path, sidecar())
        assert kept.library.find_sidecar(Reference("run_a", technique)) == sidecar()
    assert kept.library.find_sidecar(Reference("run_b", "tech")) is None


def test_a_sidecar_written_again_stands_once_and_says_the_last(kept: Kept) -> None:
    paths = {kept.library.write_sidecar(sidecar(label=label), None) for label in ("one", "one", "two")}
    assert len(paths) == 1
    assert kept.library.find_sidecar(REFERENCE) == sidecar(label="two")
    assert [entry.sidecar for entry in kept.library.scan()] == [sidecar(label="two")]


def test_a_sidecar_that_was_made_from_an_older_one_does_not_replace_a_newer_one(kept: Kept) -> None:
    for before in (unnamed(), sidecar(label="one")):
        kept.library.write_sidecar(before, None)
        kept.library.write_sidecar(sidecar(label="newer"), None)
        with pytest.raises(TransientError):
            kept.library.write_sidecar(sidecar(label="older"), None, replacing=before)
        assert kept.library.find_sidecar(REFERENCE) == sidecar(label="newer")
    kept.library.write_sidecar(sidecar(label="newest"), None, replacing=sidecar(label="newer"))
    assert kept.library.find_sidecar(REFERENCE) == sidecar(label="newest")
    assert [entry.sidecar for entry in kept.library.scan()] == [sidecar(label="newest")]


@pytest.mark.parametrize("technique", ["tech", None])
def test_a_sidecar_gives_up_no_file_that_another_process_saved_meanwhile(
    kept: Kept, technique: str | None
) -> None:
    path = save(destination(kept), b"bytes")
    more = replace(sidecar() if technique else unnamed(), outputs=(saved(path, 5), saved("gone.png", 5)))
    kept.library.write_sidecar(more, None)
    with pytest.raises(TransientError):
        kept.library.write_sidecar(sidecar(), None)
    assert kept.library.find_sidecar(REFERENCE) == more
    kept.library.write_sidecar(replace(sidecar(), outputs=(saved(path, 5),)), None)
    kept.library.write_sidecar(sidecar(), None, replacing=kept.library.find_sidecar(REFERENCE))
    assert kept.library.find_sidecar(REFERENCE) == sidecar()


def test_sidecars_of_runs_that_differ_in_case_only_are_both_found(kept: Kept) -> None:
    paths = {kept.library.write_sidecar(sidecar(run_id), None) for run_id in ("run_a", "run_A")}
    assert len({path.casefold() for path in paths}) == 2
    kept.restart()
    for run_id in ("run_a", "run_A"):
        assert kept.library.find_sidecar(Reference(run_id, "tech")) == sidecar(run_id)


def test_a_scan_reads_all_sidecars_and_reports_what_is_none(kept: Kept) -> None:
    kept.library.write_sidecar(sidecar("run_a", "a"), None)
    kept.library.write_sidecar(sidecar("run_b", "b"), None)
    kept.put("runs/a/broken.json", b"{")
    found = {entry.path: entry.sidecar for entry in kept.library.scan()}
    assert found == {
        "runs/a/run_a.json": sidecar("run_a", "a"),
        "runs/b/run_b.json": sidecar("run_b", "b"),
        "runs/a/broken.json": None,
    }
    assert list(kept.library.files()) == []


def test_a_file_exists_where_it_has_its_size(kept: Kept) -> None:
    path = save(destination(kept), b"12345")
    named = {
        "there": saved(path, 5),
        "short": saved(path, 4),
        "gone": saved("image/tech/none.png", 5),
        "outside": saved("../outside", 5),
        "none": saved(None, 5),
    }
    assert kept.library.existing(named) == {"there": named["there"]}


def test_a_file_is_opened_and_read_from_any_place(kept: Kept) -> None:
    where = destination(kept)
    path = save(where, b"12345")
    file = kept.library.open_file(path)
    assert file is not None
    with file:
        assert (file.read(2), file.seek(-1, os.SEEK_END), file.read()) == (b"12", 4, b"5")
        if isinstance(kept, InFolder):
            assert os.pread(file.fileno(), 9, 0) == b"12345"
    assert kept.library.open_file("image/tech/none.png") is None
    assert kept.library.location(path).startswith(kept.library.location())


def test_a_damaged_file_is_kept_beside_what_takes_its_place(kept: Kept) -> None:
    path = save(destination(kept), b"right")
    kept.put(path, b"wrong")
    kept.restart()
    kept.library.expect_damaged(path, hashlib.sha256(b"right").hexdigest())
    assert kept.library.kept_as(path) is None
    assert save(destination(kept), b"right") == path
    aside = kept.library.kept_as(path)
    assert aside == f"{path}.damaged"
    assert (kept.read(path), kept.read(aside)) == (b"right", b"wrong")


def test_a_full_disk_is_a_pause_and_what_arrived_stays(kept: Kept) -> None:
    with destination(kept).open(V1) as sink:
        sink.write(b"half")
        kept.fill()

        def write_and_publish() -> None:
            sink.write(b"more")
            destination(kept).publish(sink, ".png", hashlib.sha256(b"halfmore").hexdigest(), None)

        with pytest.raises(ServicePausedError) as caught:
            write_and_publish()  # a disk meets it with the first, a bucket with the second
    assert caught.value.reason is PauseReason.DISK_FULL
    assert destination(kept).resume_point() == (V1, 4 if kept.keeps_parts else 8)
    for write in (
        lambda: destination(kept, "run_b").write_text("text", None),
        lambda: kept.library.write_sidecar(sidecar(), None),
        lambda: kept.library.check_room(1),
    ):
        with pytest.raises(ServicePausedError) as caught:
            write()
        assert caught.value.reason is PauseReason.DISK_FULL
    assert list(kept.library.files()) == []


def test_check_room_passes_while_there_is_room(kept: Kept) -> None:
    kept.library.check_room()
    with pytest.raises(ServicePausedError) as caught:
        kept.library.check_room(1 << 60)
    assert caught.value.reason is PauseReason.DISK_FULL


def test_a_missing_library_is_a_pause_whatever_is_done(kept: Kept) -> None:
    path = save(destination(kept), b"x")
    kept.library.write_sidecar(sidecar(), None)
    kept.lose()
    where = destination(kept)
    for use in (
        where.resume_point,
        lambda: where.open(V1),
        lambda: where.held().__enter__(),
        lambda: where.write_text("x", None),
        kept.library.check_room,
        lambda: kept.library.existing({"o": saved(path, 1)}),
        lambda: kept.library.find_sidecar(REFERENCE),
        lambda: kept.library.write_sidecar(sidecar(), None),
        lambda: kept.library.open_file(path),
        lambda: list(kept.library.scan()),
        lambda: list(kept.library.files()),
    ):
        with pytest.raises(ServicePausedError) as caught:
            use()
        assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_works_done_together_give_each_its_result_or_its_error(kept: Kept) -> None:
    def broken() -> str:
        raise ValueError("mine")

    first, failed, last = kept.library.together(
        [
            lambda: save(destination(kept, "run_a"), b"a"),
            broken,
            lambda: kept.library.write_sidecar(sidecar(), None),
        ]
    )
    assert (first, last) == ("image/tech/run_a-o.png", "runs/tech/run_a.json")
    assert isinstance(failed, ValueError)
    kept.restart()
    assert kept.read("image/tech/run_a-o.png") == b"a"
    assert kept.library.find_sidecar(REFERENCE) == sidecar()


def in_steps(where: Destination, data: bytes) -> Steps[str]:
    with where.open("") as sink:
        sink.truncate(0)
        sink.write(data)
        where.prepare(sink, 1_000_000.0)
        yield
        return where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), 1_000_000.0)


def test_works_in_steps_are_done_together(kept: Kept) -> None:
    works: list[Callable[[], str | Steps[str]]] = [
        partial(in_steps, destination(kept, "run_a"), b"a"),
        partial(in_steps, destination(kept, "run_b"), b"b"),
        partial(kept.library.sidecar_written, sidecar(), None),
    ]
    assert kept.library.together(works) == [
        "image/tech/run_a-o.png",
        "image/tech/run_b-o.png",
        "runs/tech/run_a.json",
    ]
    kept.restart()
    assert kept.read("image/tech/run_a-o.png") == b"a"
    assert kept.read("image/tech/run_b-o.png") == b"b"
    assert kept.library.find_sidecar(REFERENCE) == sidecar()


def test_of_two_in_steps_for_one_name_each_gets_its_own(kept: Kept) -> None:
    works: list[Callable[[], str | Steps[str]]] = [
        partial(in_steps, destination(kept, "run_a", "o", nth), b"%d" % nth) for nth in (1, 2)
    ]
    first, second = kept.library.together(works)
    assert isinstance(first, str)
    assert isinstance(second, str)
    assert (kept.read(first), kept.read(second)) == (b"1", b"2")


def test_held_reaches_the_same_place(kept: Kept) -> None:
    where = destination(kept)
    with where.held():
        with where.open(V1) as sink:
            sink.write(b"half")
        assert where.resume_point() == (V1, 4)
    assert where.resume_point() == (V1, 4)


def test_stat_shows_a_file_and_changes_its_stamp_with_its_content(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    seen = kept.library.stat(path)
    assert seen is not None
    assert (seen.path, seen.size) == (path, 5)
    kept.put(path, b"other bytes")
    again = kept.library.stat(path)
    assert again is not None
    assert again.stamp != seen.stamp
    assert kept.library.stat("image/tech/none.png") is None
    assert kept.library.stat("image/tech") is None


def test_listing_yields_files_and_sidecars_with_their_sizes(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    kept.put("image/other/x.png", b"x")
    where = kept.library.write_sidecar(sidecar(), None)
    assert {each.path for each in kept.library.listing()} == {path, "image/other/x.png", where}
    assert [(each.path, each.size) for each in kept.library.listing("image/tech")] == [(path, 5)]
    assert list(kept.library.listing("none")) == []


def test_move_gives_a_file_another_path_and_may_be_repeated(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    assert kept.library.move(path, "new/place/a.png")
    assert kept.library.move(path, "new/place/a.png")
    assert kept.read("new/place/a.png") == b"bytes"
    assert list(kept.library.files()) == ["new/place/a.png"]
    assert save(destination(kept), b"other") == path


def test_move_replaces_nothing_and_tells_what_is_gone(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    kept.put("new/a.png", b"theirs")
    assert not kept.library.move(path, "new/a.png")
    assert not kept.library.move(path, "new/A.png")
    assert (kept.read(path), kept.read("new/a.png")) == (b"bytes", b"theirs")
    with pytest.raises(TransientError, match="gone"):
        kept.library.move("image/none.png", "new/b.png")


def test_remove_takes_a_file_away_and_may_be_repeated(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    assert kept.library.remove(path)
    assert not kept.library.remove(path)
    assert list(kept.library.files()) == []
    assert save(destination(kept), b"again") == path


def test_a_companion_is_written_beside_a_file_and_replaced_only_where_that_is_wanted(kept: Kept) -> None:
    path = save(destination(kept), b"bytes")
    assert kept.library.write_companion(path, b"one", None, lambda _: False)
    assert not kept.library.write_companion(path, b"two", None, lambda _: False)
    assert not kept.library.write_companion(path, b"one", None, lambda _: True)
    assert kept.library.write_companion(path, b"two", None, lambda there: there == b"one")
    assert (kept.read(f"{path}.xmp"), kept.read(path)) == (b"two", b"bytes")
    assert not kept.library.write_companion(f"{path}.gone", b"one", None, lambda _: True)
