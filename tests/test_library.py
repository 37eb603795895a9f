"""The library: nothing in it is overwritten, nothing is written outside it, and a missing disk is told."""

from __future__ import annotations

import errno
import hashlib
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from floradl.errors import (
    ErrorCode,
    FloradlError,
    PauseReason,
    PermanentError,
    ServicePausedError,
    TransientError,
)
from floradl.fs.os_errors import library_error, unopened
from floradl.library.destination import FolderDestination
from floradl.library.folder import MARKER, FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.sidecar import Sidecar
from floradl.models import OutputKind, QueuedRun, Reference, RemoteOutput, Result, SavedOutput

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left_open")

DEFAULT = "{folder}/{technique}/{run_id}-{output_id}{ext}"
FOLDERS = {
    OutputKind.IMAGE: "images",
    OutputKind.VIDEO: "videos",
    OutputKind.AUDIO: "audio",
    OutputKind.DOCUMENT: "documents",
    OutputKind.TEXT: "text",
    OutputKind.OTHER: "other",
}
V1, V2 = "11111111", "22222222"


def library_at(root: Path, template: str = DEFAULT, max_name_bytes: int = 255) -> FolderLibrary:
    return FolderLibrary(root, PathPlan.parse(template, FOLDERS, max_name_bytes))


@pytest.fixture
def library(tmp_path: Path) -> FolderLibrary:
    library = library_at(tmp_path / "library")
    library.create()
    return library


def run(run_id: str = "run_a", technique: str | None = "tech", label: str | None = None) -> QueuedRun:
    return QueuedRun(run_id=run_id, technique=technique, label=label, queued_at=1.0)


def output(output_id: str = "o", nth: int = 1) -> RemoteOutput:
    return RemoteOutput(output_id, "imageUrl", "https://media.flora.ai/o.png", nth)


def slot(
    library: FolderLibrary, of: QueuedRun | None = None, which: RemoteOutput | None = None
) -> FolderDestination:
    return library.destination(of or run(), which or output(), 1, None)


def save(where: FolderDestination, data: bytes) -> str:
    with where.open("") as sink:
        sink.truncate(0)
        sink.write(data)
        return where.publish(sink, ".png", hashlib.sha256(data).hexdigest(), None)


def holds(library: FolderLibrary, path: str, size: int) -> bool:
    named = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path=path, bytes=size)
    return library.existing({"o": named}) == {"o": named}


def sidecar(run_id: str = "run_a", technique: str | None = "tech", path: str | None = None) -> Sidecar:
    outputs = (SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path=path, bytes=1),)
    return Sidecar(
        reference=str(Reference(run_id, technique)),
        technique=technique,
        run_id=run_id,
        result=Result.COMPLETE,
        outputs=outputs if path else (),
    )


def files(folder: Path) -> dict[str, bytes]:
    """What a library holds, without its marker."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MARKER
    }


# The marker


def test_a_new_library_carries_a_marker(tmp_path: Path) -> None:
    library = library_at(tmp_path / "a/b/library")
    library.create()
    assert os.listdir(library.root) == [MARKER]
    with library.open():
        pass


def test_making_a_library_again_leaves_it_as_it_is(library: FolderLibrary) -> None:
    (library.root / MARKER).write_bytes(b"mine")
    library.create()
    assert (library.root / MARKER).read_bytes() == b"mine"


Use = Callable[[FolderLibrary], object]
USES: dict[str, Use] = {
    "leftover": lambda library: slot(library).resume_point(),
    "open": lambda library: slot(library).open(V1),
    "write": lambda library: save(slot(library), b"x"),
    "holds": lambda library: holds(library, "images/tech/run_a-o.png", 1),
    "find_sidecar": lambda library: library.find_sidecar(Reference("run_a", "tech")),
    "write_sidecar": lambda library: library.write_sidecar(sidecar(), None),
}


@pytest.mark.parametrize("use", USES)
def test_without_its_marker_a_library_is_missing_and_nothing_is_written(
    library: FolderLibrary, use: str
) -> None:
    (library.root / MARKER).unlink()
    with pytest.raises(ServicePausedError) as caught:
        USES[use](library)
    assert caught.value.reason is PauseReason.LIBRARY_MISSING
    assert f"touch '{library.root / MARKER}'" in str(caught.value)
    assert os.listdir(library.root) == []


@pytest.mark.parametrize("use", USES)
def test_a_library_whose_folder_is_gone_is_missing(library: FolderLibrary, use: str) -> None:
    library.root.rename(library.root.with_name("moved"))
    with pytest.raises(ServicePausedError) as caught:
        USES[use](library)
    assert caught.value.reason is PauseReason.LIBRARY_MISSING
    assert not library.root.exists()


@pytest.mark.parametrize("use", USES)
def test_a_file_in_place_of_the_library_concerns_all_runs(tmp_path: Path, use: str) -> None:
    """Were it one run's trouble, each run would fail for good."""
    library = library_at(tmp_path / "library")
    library.root.touch()
    with pytest.raises(ServicePausedError) as caught:
        USES[use](library)
    assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_a_library_that_cannot_be_made_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for root in (tmp_path / "file", tmp_path / "file/library"):
        with pytest.raises(ServicePausedError) as caught:
            library_at(root).create()
        assert caught.value.reason is PauseReason.LIBRARY_MISSING


def test_a_disk_that_is_gone_while_a_file_arrives_gets_nothing_more(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"x")
        library.root.rename(library.root.with_name("unmounted"))
        library.root.mkdir()
        with pytest.raises(ServicePausedError):
            slot(library).publish(part, ".png", hashlib.sha256(b"x").hexdigest(), None)
    assert os.listdir(library.root) == []


# Final names


def test_an_output_goes_where_the_template_says(library: FolderLibrary) -> None:
    assert save(slot(library), b"x") == "images/tech/run_a-o.png"
    assert files(library.root) == {"images/tech/run_a-o.png": b"x"}


def test_a_run_without_a_technique_goes_to_a_folder_of_its_own(library: FolderLibrary) -> None:
    assert save(slot(library, run(technique=None)), b"x") == "images/_unknown/run_a-o.png"


def test_another_file_under_the_final_name_is_left_alone(library: FolderLibrary) -> None:
    path = library.root / save(slot(library), b"first")
    path.write_bytes(b"mine!")  # of the same size
    assert save(slot(library), b"other") == "images/tech/run_a-o-2.png"
    assert save(slot(library), b"third") == "images/tech/run_a-o-3.png"
    assert files(library.root) == {
        "images/tech/run_a-o.png": b"mine!",
        "images/tech/run_a-o-2.png": b"other",
        "images/tech/run_a-o-3.png": b"third",
    }


def test_a_file_that_has_the_right_bytes_is_adopted(library: FolderLibrary) -> None:
    path = library.root / save(slot(library), b"x")
    before = path.stat()
    again = library_at(library.root)  # with nothing in mind
    assert save(slot(again), b"x") == "images/tech/run_a-o.png"
    assert os.path.samestat(path.stat(), before)
    assert list(files(library.root)) == ["images/tech/run_a-o.png"]


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "fifo"])
def test_what_is_no_file_under_the_final_name_is_left_alone(
    library: FolderLibrary, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "outside").write_bytes(b"x")  # even what has the right bytes is not ours behind a link
    folder = library.root / "images/tech"
    folder.mkdir(parents=True)
    planted = folder / "run_a-o.png"
    match kind:
        case "link":
            planted.symlink_to(tmp_path / "outside")
        case "dangling link":
            planted.symlink_to(tmp_path / "nowhere")
        case "folder":
            planted.mkdir()
        case "fifo":
            os.mkfifo(planted)
    assert save(slot(library), b"x") == "images/tech/run_a-o-2.png"
    assert not (tmp_path / "nowhere").exists()
    assert (tmp_path / "outside").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("one", "other"), [("run_a", "run_A"), ("run_é", "run_É"), ("run_straße", "run_STRASSE")]
)
def test_names_that_differ_in_case_only_are_kept_apart(library: FolderLibrary, one: str, other: str) -> None:
    first = save(slot(library, run(one)), b"x")
    for fresh in (library, library_at(library.root)):
        second = save(slot(fresh, run(other)), b"x")
        assert second.casefold() != first.casefold()
        assert second.endswith("-o-2.png")


def test_a_name_that_another_program_made_counts_too(library: FolderLibrary) -> None:
    (library.root / "images/tech").mkdir(parents=True)
    (library.root / "images/tech/RUN_A-O.PNG").write_bytes(b"mine")
    assert save(slot(library), b"x") == "images/tech/run_a-o-2.png"


def test_folders_that_differ_in_case_only_are_one(library: FolderLibrary) -> None:
    """On SMB one of two would be out of reach; there, and here, their names are kept apart within one."""
    assert save(slot(library, run("run_a", "Tech")), b"x") == "images/Tech/run_a-o.png"
    for fresh in (library, library_at(library.root)):
        assert save(slot(fresh, run("run_b", "tech")), b"x") == "images/Tech/run_b-o.png"
    assert os.listdir(library.root / "images") == ["Tech"]


def test_a_folder_that_stands_already_is_used_whatever_stands_beside_it(library: FolderLibrary) -> None:
    for name in ("Tech", "tech", "TECH"):
        (library.root / "images" / name).mkdir(parents=True)
    assert save(slot(library), b"x") == "images/tech/run_a-o.png"


def test_outputs_that_share_a_name_and_their_bytes_do_not_share_a_path(tmp_path: Path) -> None:
    library = library_at(tmp_path, "{folder}/{label}{ext}")
    library.create()
    paths = {save(slot(library, run(run_id, label="cat")), b"x") for run_id in ("run_a", "run_b", "run_c")}
    assert paths == {"images/cat.png", "images/cat-2.png", "images/cat-3.png"}


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_outputs_of_one_id_never_share_a_path_after_a_restart_either(
    library: FolderLibrary, order: tuple[int, int]
) -> None:
    paths = {nth: save(slot(library_at(library.root), run(), output("o", nth)), b"the same") for nth in order}
    assert paths == {1: "images/tech/run_a-o.png", 2: "images/tech/run_a-o-2.png"}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["run_a", "run_A", "run_b"]),
            st.text(st.characters(), max_size=12) | st.sampled_from(["..", "/etc/passwd", "o", "O", "CON"]),
            st.binary(max_size=2),
        ),
        max_size=8,
    )
)
def test_whatever_outputs_are_called_each_has_a_path_of_its_own_inside(
    tmp_path_factory: pytest.TempPathFactory, saves: list[tuple[str, str, bytes]]
) -> None:
    library = library_at(tmp_path_factory.mktemp("h") / "library")
    library.create()
    paths: dict[tuple[str, str], tuple[str, bytes]] = {}
    for run_id, output_id, data in saves:
        if (run_id, output_id) not in paths:
            paths[run_id, output_id] = save(slot(library, run(run_id), output(output_id)), data), data
    assert len({path.casefold() for path, _ in paths.values()}) == len(paths)
    assert files(library.root) == dict(paths.values())
    assert os.listdir(library.root.parent) == ["library"]


def test_a_name_fits_the_limit_with_its_temporary_suffix(tmp_path: Path) -> None:
    library = library_at(tmp_path, max_name_bytes=143)
    library.create()
    where = slot(library, run("run_" + "x" * 200), output("ü" * 200))
    with where.open(V1) as part:
        part.write(b"x")
        assert len(os.fsencode(part.name)) <= 143
    path = save(where, b"y")
    assert all(len(os.fsencode(name)) <= 143 for name in path.split("/"))


def test_times_are_those_of_the_run_where_wanted(library: FolderLibrary) -> None:
    stored = slot(library).write_text("x", 1_700_000_000.0)
    assert (library.root / stored.path).stat().st_mtime == 1_700_000_000.0


# Part files


def test_nothing_is_left_over_before_a_first_attempt(library: FolderLibrary) -> None:
    assert slot(library).resume_point() is None


def test_a_leftover_is_found_again_after_a_restart(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"half")
    for fresh in (library, library_at(library.root)):
        assert slot(fresh).resume_point() == (V1, 4)
        with slot(fresh).open(V1) as part:
            assert part.size == 4


def test_a_part_file_is_hidden_beside_the_final_name(library: FolderLibrary) -> None:
    with slot(library).open(V1):
        [name] = os.listdir(library.root / "images/tech")
    assert name.startswith(".run_a-o.")
    assert name.endswith(f"-{V1}.part")


def test_a_leftover_without_a_validator_proves_nothing(library: FolderLibrary) -> None:
    with slot(library).open("") as part:
        part.write(b"half")
    assert slot(library).resume_point() == ("", 4)


def test_leftovers_of_other_validators_go(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"half")
    with slot(library).open(V2) as part:
        assert part.size == 0
        assert list(files(library.root)) == [f"images/tech/{part.name}"]


def left_by_others(library: FolderLibrary, sizes: dict[str, int]) -> None:
    """Leave part files of these validators."""
    with slot(library).open(V1) as part:
        name = part.name
        part.discard()
    for validator, size in sizes.items():
        path = library.root / "images/tech" / name.replace(V1, validator or "00000000")
        path.write_bytes(bytes(size))


def test_all_leftovers_go_that_other_processes_left(library: FolderLibrary) -> None:
    left_by_others(library, {V1: 1, V2: 2, "": 3})
    with slot(library_at(library.root)).open("44444444") as part:
        assert list(files(library.root)) == [f"images/tech/{part.name}"]


def test_the_leftover_that_is_furthest_on_is_continued(library: FolderLibrary) -> None:
    left_by_others(library, {V1: 3, V2: 5, "": 9})
    assert slot(library_at(library.root)).resume_point() == (V2, 5)


def test_a_leftover_under_an_older_template_is_not_continued(tmp_path: Path) -> None:
    """Else `open` would make a new file, and the download would begin in its middle."""
    old = library_at(tmp_path, "{folder}/{run_id}{ext}")
    old.create()
    with slot(old).open(V1) as part:
        part.write(b"half")
    new = library_at(tmp_path, "{folder}/{run_id}-{output_id}{ext}")
    assert slot(new).resume_point() is None
    with slot(new).open(V1) as part:
        assert part.size == 0
        assert len(files(tmp_path)) == 1  # and the old one goes


def test_a_leftover_that_is_gone_is_none(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"half")
        part.discard()
    assert slot(library).resume_point() is None


@pytest.mark.parametrize("kind", ["link", "hard link", "fifo", "folder"])
def test_what_is_planted_under_a_parts_name_is_no_leftover(
    library: FolderLibrary, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    with slot(library).open(V1) as part:
        planted = library.root / "images/tech" / part.name
    planted.unlink()
    match kind:
        case "link":
            planted.symlink_to(tmp_path / "outside")
        case "hard link":
            planted.hardlink_to(tmp_path / "outside")
        case "fifo":
            os.mkfifo(planted)
        case "folder":
            planted.mkdir()
    assert slot(library).resume_point() is None
    with suppress(PermanentError), slot(library).open(V1) as part:
        part.write(b"x")
    assert (tmp_path / "outside").read_bytes() == b"precious"


def test_a_folder_under_a_parts_name_is_told_and_not_tried_for_ever(library: FolderLibrary) -> None:
    with slot(library).open("") as part:
        planted = library.root / "images/tech" / part.name
    planted.unlink()
    planted.mkdir()
    with pytest.raises(PermanentError) as caught:
        save(slot(library), b"x")
    assert caught.value.code is ErrorCode.STORAGE
    assert "remove it and retry" in str(caught.value)


def test_a_part_file_that_another_floradl_writes_is_passing_trouble(library: FolderLibrary) -> None:
    with slot(library).open(""), pytest.raises(TransientError) as caught:
        save(slot(library_at(library.root)), b"x")
    assert caught.value.code is ErrorCode.STORAGE
    assert caught.value.retry_after is not None


def test_a_leftover_that_another_floradl_writes_is_not_thrown_away(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"half")
        with pytest.raises(TransientError):
            slot(library).open(V2)
        assert part.read(10, 0) == b"half"
        assert list(files(library.root).values()) == [b"half"]


def test_a_folder_that_was_moved_while_a_file_arrived_is_passing_trouble(library: FolderLibrary) -> None:
    """Else the sidecar would name a path where nothing is."""
    with slot(library).open(V1) as part:
        part.write(b"x")
        (library.root / "images/tech").rename(library.root / "archive")
        with pytest.raises(TransientError) as caught:
            slot(library).publish(part, ".png", hashlib.sha256(b"x").hexdigest(), None)
    assert caught.value.code is ErrorCode.STORAGE
    assert save(slot(library), b"x") == "images/tech/run_a-o.png"


def test_a_part_file_that_somebody_removed_is_passing_trouble(library: FolderLibrary) -> None:
    with slot(library).open(V1) as part:
        part.write(b"x")
        part.discard()
        with pytest.raises(TransientError) as caught:
            slot(library).publish(part, ".png", hashlib.sha256(b"x").hexdigest(), None)
    assert caught.value.code is ErrorCode.STORAGE


@pytest.mark.parametrize("planted", ["images", "images/tech"])
def test_a_link_in_place_of_a_folder_is_refused(library: FolderLibrary, tmp_path: Path, planted: str) -> None:
    (tmp_path / "outside").mkdir()
    (library.root / planted).parent.mkdir(exist_ok=True)
    (library.root / planted).symlink_to(tmp_path / "outside")
    with pytest.raises(PermanentError) as caught:
        save(slot(library), b"x")
    assert caught.value.code is ErrorCode.STORAGE
    assert os.listdir(tmp_path / "outside") == []


def test_two_processes_that_save_the_same_outputs_at_once_leave_one_file_each(library: FolderLibrary) -> None:
    code = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_library import TransientError, library_at, output, run, save, slot
library = library_at(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
for number in range(60):
    while True:
        try:
            save(slot(library, run(f"run_{number}")), bytes([number]))
            break
        except TransientError:
            pass
"""
    command = [sys.executable, "-c", code, str(library.root), str(Path(__file__).parent)]
    processes = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
    for process in processes:
        process.communicate(b"\n")
        assert process.returncode == 0
    assert files(library.root) == {f"images/tech/run_{number}-o.png": bytes([number]) for number in range(60)}


# Sidecars


def test_a_sidecar_is_found_again(library: FolderLibrary) -> None:
    path = library.write_sidecar(sidecar(), 1_700_000_000.0)
    assert path == "runs/tech/run_a.json"
    assert (library.root / path).stat().st_mtime == 1_700_000_000.0
    assert library.find_sidecar(Reference("run_a", "tech")) == sidecar()


@pytest.mark.parametrize("technique", [None, "other", "tech_123"])
def test_a_sidecar_is_found_under_the_technique_it_was_first_named_by(
    library: FolderLibrary, technique: str | None
) -> None:
    library.write_sidecar(sidecar(), None)
    library.write_sidecar(sidecar("run_b", "other"), None)
    assert library.find_sidecar(Reference("run_a", technique)) == sidecar()


def test_no_sidecar_is_none(library: FolderLibrary) -> None:
    assert library.find_sidecar(Reference("run_a", "tech")) is None
    library.write_sidecar(sidecar("run_b"), None)
    assert library.find_sidecar(Reference("run_a", "tech")) is None


def test_a_sidecar_replaces_the_runs_own(library: FolderLibrary) -> None:
    library.write_sidecar(sidecar(), None)
    newer = sidecar(path="images/x.png")
    assert library.write_sidecar(newer, None) == "runs/tech/run_a.json"
    assert library.find_sidecar(Reference("run_a", "tech")) == newer
    assert list(files(library.root)) == ["runs/tech/run_a.json"]


def test_a_folder_in_the_place_of_a_sidecar_is_named(library: FolderLibrary) -> None:
    (library.root / "runs/tech/run_a.json").mkdir(parents=True)
    with pytest.raises(TransientError, match=r"Is a directory \('run_a\.json'\)"):
        library.write_sidecar(sidecar(), None)


def test_sidecars_of_runs_that_differ_in_case_only_are_kept_apart(library: FolderLibrary) -> None:
    runs = ("run_a", "run_A")
    paths = {run_id: library.write_sidecar(sidecar(run_id), None) for run_id in runs}
    assert len({path.casefold() for path in paths.values()}) == 2
    for fresh in (library, library_at(library.root)):
        for run_id in runs:
            found = fresh.find_sidecar(Reference(run_id, "tech"))
            assert found is not None
            assert found.run_id == run_id
            assert fresh.write_sidecar(sidecar(run_id), None) == paths[run_id]


def test_a_twin_that_came_later_does_not_move_a_sidecar(library: FolderLibrary) -> None:
    library.write_sidecar(sidecar("run_a"), None)
    (library.root / "runs/tech/RUN_A.json").write_bytes(b"{}")
    fresh = library_at(library.root)
    assert fresh.write_sidecar(sidecar("run_a"), None) == "runs/tech/run_a.json"


def test_what_is_no_sidecar_counts_as_none_and_is_kept(library: FolderLibrary) -> None:
    path = library.root / "runs/tech/run_a.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"notes": "mine"')
    assert library.find_sidecar(Reference("run_a", "tech")) is None
    assert library.write_sidecar(sidecar(), None) == "runs/tech/run_a.json"
    assert library.find_sidecar(Reference("run_a", "tech")) == sidecar()
    assert (library.root / "runs/tech/run_a.json.unreadable").read_bytes() == b'{"notes": "mine"'
    path.write_bytes(b"mine again")
    library.write_sidecar(sidecar(), None)
    assert (library.root / "runs/tech/run_a.json.unreadable").read_bytes() == b'{"notes": "mine"'
    assert (library.root / "runs/tech/run_a.json.unreadable-2").read_bytes() == b"mine again"


def test_an_empty_sidecar_is_replaced(library: FolderLibrary) -> None:
    path = library.root / "runs/tech/run_a.json"
    path.parent.mkdir(parents=True)
    path.touch()
    library.write_sidecar(sidecar(), None)
    assert list(files(library.root)) == ["runs/tech/run_a.json"]


def test_a_link_in_place_of_a_sidecar_is_replaced_and_what_it_points_to_kept(
    library: FolderLibrary, tmp_path: Path
) -> None:
    (tmp_path / "outside").write_bytes(b"precious")
    path = library.root / "runs/tech/run_a.json"
    path.parent.mkdir(parents=True)
    path.symlink_to(tmp_path / "outside")
    assert library.find_sidecar(Reference("run_a", "tech")) is None
    library.write_sidecar(sidecar(), None)
    assert (tmp_path / "outside").read_bytes() == b"precious"
    assert library.find_sidecar(Reference("run_a", "tech")) == sidecar()


@pytest.mark.parametrize("planted", ["runs", "runs/tech", "runs/tech/run_a.json"])
def test_whatever_stands_in_a_sidecars_way_its_run_is_not_failed_for_it(
    library: FolderLibrary, tmp_path: Path, planted: str
) -> None:
    """All else of the run is on disk: it waits until the way is free."""
    way = library.root / planted
    way.parent.mkdir(parents=True, exist_ok=True)
    if planted.endswith(".json"):
        way.mkdir()
    else:
        (tmp_path / "outside").mkdir()
        way.symlink_to(tmp_path / "outside")
    with pytest.raises(TransientError) as caught:
        library.write_sidecar(sidecar(), None)
    assert caught.value.code is ErrorCode.STORAGE
    way.rmdir() if planted.endswith(".json") else way.unlink()
    assert library.write_sidecar(sidecar(), None) == "runs/tech/run_a.json"


def test_files_among_the_techniques_are_passed_over(library: FolderLibrary) -> None:
    library.write_sidecar(sidecar(), None)
    (library.root / "runs/README.txt").write_text("mine")
    (library.root / "runs/link").symlink_to("tech")
    assert library.find_sidecar(Reference("run_b", "other")) is None


# What sidecars and journal say


def test_a_file_is_held_if_it_is_there_in_its_size(library: FolderLibrary, tmp_path: Path) -> None:
    path = save(slot(library), b"12345")
    assert holds(library, path, 5)
    assert not holds(library, path, 4)
    assert not holds(library, "images/tech/none.png", 5)
    assert not holds(library, "images/none/run_a-o.png", 5)
    (tmp_path / "outside").write_bytes(b"12345")
    (library.root / "images/link").symlink_to(tmp_path / "outside")
    (library.root / "images/folder").symlink_to(library.root / "images/tech")
    assert not holds(library, "images/link", 5)
    assert not holds(library, "images/folder/run_a-o.png", 5)
    assert not holds(library, f"{path}/below", 5)


@pytest.mark.parametrize(
    "path", ["", "/etc/passwd", "../outside", "a/../../outside", "a//b", "x" * 300, "a\0b"]
)
def test_a_path_that_leads_elsewhere_is_not_held(library: FolderLibrary, tmp_path: Path, path: str) -> None:
    (tmp_path / "outside").touch()
    assert not holds(library, path, 0)


# What the disk says


@contextmanager
def mounted(where: Path, options: str) -> Iterator[None]:
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "floradl", where], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", where], check=True)


@pytest.mark.root
def test_a_full_disk_pauses_and_what_arrived_stays(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=256k"):
        library = library_at(tmp_path / "disk")
        library.create()
        with slot(library).open(V1) as part:
            part.write(bytes(100_000))
        with (
            pytest.raises(ServicePausedError) as caught,
            slot(library).open(V1) as part,
        ):
            part.write(bytes(1_000_000))
        assert caught.value.reason is PauseReason.DISK_FULL
        left = slot(library).resume_point()
        assert left is not None
        assert left[1] > 100_000
        with pytest.raises(ServicePausedError) as caught:
            library.write_sidecar(sidecar(), None)
        assert caught.value.reason is PauseReason.DISK_FULL
        (tmp_path / "disk/images/tech" / part.name).unlink()  # room is made
        library.write_sidecar(sidecar(), None)
        assert list(files(tmp_path / "disk")) == ["runs/tech/run_a.json"]


@pytest.mark.root
def test_a_read_only_disk_pauses_and_what_is_on_it_is_read(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=256k"):
        library = library_at(tmp_path / "disk")
        library.create()
        path = save(slot(library), b"x")
        library.write_sidecar(sidecar(), None)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path / "disk"], check=True)
        assert holds(library, path, 1)
        assert library.find_sidecar(Reference("run_a", "tech")) == sidecar()
        writes: list[Use] = [
            lambda library: save(slot(library), b"y"),
            lambda library: save(slot(library, run("run_b", "new")), b"y"),
            lambda library: library.write_sidecar(sidecar(), None),
        ]
        for write in writes:
            with pytest.raises(ServicePausedError) as caught:
                write(library)
            assert caught.value.reason is PauseReason.LIBRARY_READ_ONLY


@pytest.mark.root
def test_a_disk_that_is_unmounted_pauses_and_the_folder_below_stays_empty(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=256k"):
        library = library_at(tmp_path / "disk")
        library.create()
        save(slot(library), b"x")
    with pytest.raises(ServicePausedError) as caught:
        save(slot(library), b"y")
    assert caught.value.reason is PauseReason.LIBRARY_MISSING
    assert os.listdir(tmp_path / "disk") == []


@pytest.mark.root
def test_a_library_that_is_somebody_elses_pauses(library: FolderLibrary, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    os.seteuid(65534)
    try:
        with pytest.raises(ServicePausedError) as caught:
            save(slot(library), b"x")
    finally:
        os.seteuid(0)
    assert caught.value.reason is PauseReason.LIBRARY_READ_ONLY


def test_a_file_too_large_for_the_file_system_is_not_tried_again(library: FolderLibrary) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(PermanentError) as caught:
            save(slot(library), bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.code is ErrorCode.TOO_LARGE


def test_a_name_too_long_for_the_file_system_names_the_setting(tmp_path: Path) -> None:
    library = library_at(tmp_path, max_name_bytes=400)
    library.create()
    with pytest.raises(PermanentError, match=r"output\.max_name_bytes"):
        save(slot(library, run("run_" + "x" * 250), output("y" * 100)), b"x")


def test_too_many_open_files_is_trouble_that_passes(library: FolderLibrary) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        with pytest.raises(TransientError):
            library.write_sidecar(sidecar(), None)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, PauseReason.DISK_FULL),
        (errno.EDQUOT, PauseReason.DISK_FULL),
        (errno.EROFS, PauseReason.LIBRARY_READ_ONLY),
        (errno.EACCES, PauseReason.LIBRARY_READ_ONLY),
        (errno.EPERM, PauseReason.LIBRARY_READ_ONLY),
        (errno.ENOTCONN, PauseReason.LIBRARY_MISSING),
        (errno.ESTALE, PauseReason.LIBRARY_MISSING),
        (errno.ELOOP, ErrorCode.STORAGE),
        (errno.ENOTDIR, ErrorCode.STORAGE),
        (errno.EISDIR, ErrorCode.STORAGE),
        (errno.ENAMETOOLONG, ErrorCode.STORAGE),
        (errno.EFBIG, ErrorCode.TOO_LARGE),
        (errno.EIO, None),
        (errno.ENOENT, None),
    ],
)
def test_each_error_of_the_disk_has_its_meaning(
    number: int, expected: PauseReason | ErrorCode | None
) -> None:
    error = library_error(OSError(number, os.strerror(number), "name"), Path("/library"))
    meaning: type[FloradlError]
    match expected:
        case PauseReason():
            meaning = ServicePausedError
        case ErrorCode():
            meaning = PermanentError
        case None:
            meaning = TransientError
    assert type(error) is meaning
    assert expected in {None, getattr(error, "reason", None), getattr(error, "code", None)}
    assert os.strerror(number) in str(error)


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENODEV])
def test_a_library_that_does_not_open_pauses_all(number: int) -> None:
    error = unopened(OSError(number, os.strerror(number)), Path("/library"))
    assert isinstance(error, ServicePausedError)
    assert error.reason is PauseReason.LIBRARY_MISSING


# Equal bytes under one name


BY_LABEL = "{folder}/{label}{ext}"


def named(library: FolderLibrary, run_id: str, path: str) -> None:
    library.write_sidecar(sidecar(run_id, "tech", path), None)


def test_a_file_that_another_runs_sidecar_names_is_not_shared(tmp_path: Path) -> None:
    """Of two sidecars that name one file the first that is pruned, moved or edited harms the other."""
    library = library_at(tmp_path / "library", BY_LABEL)
    library.create()
    first = save(slot(library, run("run_a", label="cat")), b"x")
    named(library, "run_a", first)
    again = library_at(library.root, BY_LABEL)
    second = save(slot(again, run("run_b", label="cat")), b"x")
    named(again, "run_b", second)
    assert (first, second) == ("images/cat.png", "images/cat-2.png")
    third = save(slot(again, run("run_c", label="cat")), b"x")  # which knows what it wrote itself, too
    assert third == "images/cat-3.png"


def test_a_run_adopts_its_own_file_where_names_do_not_tell_runs_apart(tmp_path: Path) -> None:
    library = library_at(tmp_path / "library", BY_LABEL)
    library.create()
    for run_id in ("run_a", "run_b"):
        named(library, run_id, save(slot(library, run(run_id, label="cat")), b"x"))
    again = library_at(library.root, BY_LABEL)
    assert save(slot(again, run("run_b", label="cat")), b"x") == "images/cat-2.png"
    assert save(slot(again, run("run_a", label="cat")), b"x") == "images/cat.png"
    assert len(list((library.root / "images").iterdir())) == 2


def test_a_file_that_no_sidecar_names_is_adopted_whatever_the_template(tmp_path: Path) -> None:
    library = library_at(tmp_path / "library", BY_LABEL)
    library.create()
    path = save(slot(library, run(label="cat")), b"x")
    assert save(slot(library_at(library.root, BY_LABEL), run(label="cat")), b"x") == path


def test_a_file_of_another_output_that_is_under_way_is_not_shared(tmp_path: Path) -> None:
    library = library_at(tmp_path / "library", BY_LABEL)
    library.create()
    path = save(slot(library, run("run_a", label="cat")), b"x")
    for of, which, expected in (
        (run("run_a", label="cat"), output(), path),
        (run("run_b", label="cat"), output(), "images/cat-2.png"),
        (run("run_a", label="cat"), output("other"), "images/cat-3.png"),
    ):
        again = library_at(library.root, BY_LABEL)
        again.under_way = lambda: {path: ("run_a", "o"), "images/cat-2.png": ("run_b", "o")}
        assert save(slot(again, of, which), b"x") == expected


def test_outputs_of_one_run_do_not_share_a_file_where_the_template_names_the_run_alone(
    tmp_path: Path,
) -> None:
    library = library_at(tmp_path / "library", "{folder}/{run_id}{ext}")
    library.create()
    named(library, "run_a", save(slot(library), b"x"))
    again = library_at(library.root, "{folder}/{run_id}{ext}")
    assert save(slot(again, None, output("other")), b"x") == "images/run_a-2.png"
