"""XMP beside the files of a library: read back by exiftool and exiv2, never over what somebody else wrote."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from galleries import Shelf, picture
from msgspec.structs import replace
from studio import Home, queue

from floradl.errors import ServicePausedError, TransientError
from floradl.library import xmp
from floradl.library.sidecar import Sidecar, Times
from floradl.library.sidecar_files import SidecarFiles
from floradl.models import OutputKind, QueuedRun, RemoteRun, Result, SavedOutput
from floradl.runs.backfill import complete_sidecar
from floradl.simulator import OutputSpec, Simulator

RUN = (
    OutputSpec("a", "imageUrl", size=3000),
    OutputSpec("b", "imageUrl", size=9000),
    OutputSpec("words", "text", size=80),
)


def saved(output_id: str = "a", **known: Any) -> SavedOutput:
    return SavedOutput(output_id=output_id, type="imageUrl", kind=OutputKind.IMAGE, **known)


SIDECAR = Sidecar(
    reference="camera-move/run_a",
    technique="camera-move",
    technique_name="Camera & move",
    project_id="prj_1",
    project_name="Atlas <2>|b",
    model_id="kling-3",
    run_id="run_a",
    label='Späte "Spring" drafts\x07\ufffe',
    meta={"prompt": "a lighthouse ]]> at dawn"},
    result=Result.COMPLETE,
    run={"charged_cost": 0.25},
    outputs=(
        saved(path="images/run_a-1.png", sha256="ab" * 32, content_type="image/png"),
        saved("words", path="text/run_a-2.txt", text="A light\x00house & 東京\r\nstands <there>"),
    ),
    times=Times(completed_at="2026-11-20T12:34:56.000Z"),
)


def exif(path: Path) -> dict[str, Any]:
    """Return what exiftool reads of a file."""
    if shutil.which("exiftool") is None:
        pytest.skip("needs exiftool")
    done = subprocess.run(["exiftool", "-json", "-charset", "utf8", path], capture_output=True, check=True)
    (found,) = json.loads(done.stdout)
    assert "Warning" not in found
    assert "Error" not in found
    return dict(found)


def test_exiftool_reads_label_technique_project_texts_date_run_and_cost(tmp_path: Path) -> None:
    file = tmp_path / "run_a-1.png.xmp"
    file.write_bytes(xmp.render(SIDECAR, SIDECAR.outputs[0]))
    found = exif(file)
    assert found["Title"] == 'Späte "Spring" drafts'
    assert found["CreatorTool"] == "camera-move"
    assert found["Subject"] == ["Camera & move", "Atlas <2>|b"]
    assert found["HierarchicalSubject"] == ["Camera & move", "Atlas <2> b"]  # a | would make two levels
    assert found["Description"] == "A lighthouse & 東京\nstands <there>"
    assert found["Identifier"] == "run_a"
    assert found["CreateDate"] == found["DateTimeOriginal"] == "2026:11:20 12:34:56.000Z"
    assert str(found["ChargedCostUSD"]) == "0.25"
    assert found["AIPromptInformation"] == "a lighthouse ]]> at dawn"
    assert (found["AISystemUsed"], found["Model"], found["OutputID"]) == ("kling-3", "kling-3", "a")


def test_exiv2_reads_it_as_digikam_does(tmp_path: Path) -> None:
    if shutil.which("exiv2") is None:
        pytest.skip("needs exiv2")
    file = tmp_path / "run_a-1.png.xmp"
    file.write_bytes(xmp.render(SIDECAR, SIDECAR.outputs[0]))
    done = subprocess.run(["exiv2", "-PXkt", file], capture_output=True, text=True, check=True)
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.startswith("Xmp."))
    assert found["Xmp.dc.title"] == 'lang="x-default" Späte "Spring" drafts'
    assert found["Xmp.dc.subject"] == "Camera & move, Atlas <2>|b"
    assert found["Xmp.xmp.CreatorTool"] == "camera-move"
    assert found["Xmp.dc.identifier"] == "run_a"
    assert found["Xmp.photoshop.DateCreated"] == "2026-11-20T12:34:56.000Z"
    assert done.stderr == ""


def test_texts_are_bounded_and_whatever_they_hold_it_is_xml() -> None:
    everything = "".join(map(chr, [*range(0x300), 0x2028, 0xD800, 0xFFFE, 0xFFFF, 0x1F3A8])) * 200
    hostile = replace(
        SIDECAR, label=everything, technique="]]><x>", project_name="&#0;", meta={"prompt": everything}
    )
    hostile = replace(hostile, outputs=(saved(path="a", text=everything, content_type="a/b\x00<"),))
    data = xmp.render(hostile, hostile.outputs[0])
    ET.fromstring(data.decode().partition("?>\n")[2])
    assert len(data) < 200_000
    assert xmp.is_untouched(data)


def test_a_run_of_which_little_is_known_has_little(tmp_path: Path) -> None:
    bare = Sidecar(reference="run_b", run_id="run_b", result=Result.COMPLETE, outputs=(saved(path="b"),))
    file = tmp_path / "b.xmp"
    file.write_bytes(xmp.render(bare, bare.outputs[0]))
    found = exif(file)
    assert (found["Identifier"], found["CreatorTool"]) == ("run_b", "FLORA")
    assert not {"Title", "Description", "Subject", "CreateDate", "ChargedCostUSD"} & found.keys()


def test_only_what_nobody_changed_counts_as_ours() -> None:
    data = xmp.render(SIDECAR, SIDECAR.outputs[0])
    assert xmp.render(SIDECAR, SIDECAR.outputs[0]) == data
    assert xmp.is_untouched(data)
    assert not xmp.is_untouched(data.replace(b"drafts", b"finals"))
    assert not xmp.is_untouched(data.replace(b"floradl ", b"XMP Core "))
    assert not xmp.is_untouched(data[:200])
    assert not xmp.is_untouched(b"")


def test_each_file_gets_its_companion_and_its_bytes_stay_what_was_downloaded(
    home: Home, simulator: Simulator
) -> None:
    queue(home, simulator, "run_a", outputs=RUN)
    done = home.run("once", FLORADL_OUTPUT__XMP="true")
    assert done.returncode == 0, done.stderr
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    run = simulator.run("run_a")
    assert run is not None
    for index, output in enumerate(sidecar["outputs"]):
        data = (home.library / output["path"]).read_bytes()
        if output["type"] != "text":
            assert data == run.body(index).read()
        companion = home.library / f"{output['path']}.xmp"
        assert companion.stat().st_mtime == (home.library / output["path"]).stat().st_mtime
        assert exif(companion)["Identifier"] == "run_a"
    verified = home.run("verify")
    assert verified.returncode == 0, verified.stdout
    assert "no sidecar names" not in verified.stdout


def test_without_the_setting_there_is_none(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a")
    assert home.run("once").returncode == 0
    assert not [*home.library.rglob("*.xmp")]


def test_what_a_photo_manager_wrote_stays_and_ours_is_brought_up_to_date(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "library")
    shelf.library.companions = True
    shelf.put("run_a", {"data": picture()}, {"data": picture(9, 9)})
    outputs = (saved(path="images/run_a-1.png"), saved("b", path="images/run_a-2.png"))
    sidecar = replace(SIDECAR, outputs=outputs)
    first, second = (shelf.root / f"{output.path}.xmp" for output in outputs)
    assert shelf.library.write_companions(sidecar, 1.0) == 2
    assert shelf.library.write_companions(sidecar, 1.0) == 0
    edited = first.read_bytes().replace(b'x:xmptk="floradl', b'x:xmptk="XMP Core 4.4.0-Exiv2 ')
    first.write_bytes(edited)
    assert shelf.library.write_companions(replace(sidecar, run={"charged_cost": 2.5}), 1.0) == 1
    assert first.read_bytes() == edited
    assert b"2.5" in second.read_bytes()
    assert not [*shelf.root.rglob(".*.part")]


def test_companions_stand_before_the_sidecar_and_a_late_cost_reaches_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf = Shelf(tmp_path / "library")
    shelf.library.companions = True
    path = shelf.put("run_a", {"data": picture()})
    (shelf.root / path).unlink()
    run = QueuedRun(run_id="run_a", technique="camera-move", queued_at=0.0)
    sidecar = replace(SIDECAR, run={"run_id": "run_a"}, outputs=(saved(path="images/run_a-1.png"),))
    companion = shelf.root / "images/run_a-1.png.xmp"
    with monkeypatch.context() as patch:
        patch.setattr(SidecarFiles, "write", lambda *_: (_ for _ in ()).throw(TransientError("killed")))
        with pytest.raises(TransientError, match="killed"):
            shelf.library.write_sidecar(sidecar, None)
    assert xmp.is_untouched(companion.read_bytes())
    assert b"ChargedCost" not in companion.read_bytes()
    shelf.library.write_sidecar(sidecar, None)
    answer = RemoteRun("run_a", "completed", 100.0, None, charged_cost=0.75)
    complete_sidecar(shelf.library, run, answer)
    assert exif(companion)["ChargedCostUSD"] == 0.75


def test_nothing_is_written_beside_a_file_that_is_gone_or_through_a_link(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "library")
    shelf.put("run_a", {"data": picture()})
    outside = tmp_path / "outside"
    outside.write_text("mine")
    (shelf.root / "images/run_a-1.png.xmp").symlink_to(outside)
    gone = saved("b", path="images/gone/run_a-2.png")
    sidecar = replace(SIDECAR, outputs=(saved(path="images/run_a-1.png"), gone))
    assert shelf.library.write_companions(sidecar, None) == 0
    assert outside.read_text() == "mine"
    assert not (shelf.root / "images/gone").exists()


def test_a_name_without_room_for_the_ending_costs_the_companion_alone(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path / "library")
    name = "n" * 247 + ".png"
    shelf.put("run_a", {"data": picture(), "path": f"images/{name}"})
    sidecar = replace(SIDECAR, outputs=(saved(path=f"images/{name}"),))
    assert shelf.library.write_companions(sidecar, None) == 0


def test_verify_repair_writes_those_of_a_library_that_had_none(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a", "run_b", outputs=RUN)
    assert home.run("once").returncode == 0
    without = home.run("verify", "--repair")
    assert "XMP" not in without.stdout
    some = home.run("verify", "--repair", "--json", "campaign/run_b", FLORADL_OUTPUT__XMP="true")
    assert json.loads(some.stdout)["companions"] == 3
    done = home.run("verify", "--repair", "--quick", FLORADL_OUTPUT__XMP="true")
    assert done.returncode == 0, done.stdout
    assert "; 3 XMP files written" in done.stdout
    assert len([*home.library.rglob("*.xmp")]) == 6


def test_companions_are_no_files_of_the_gallerys_or_the_indexs(home: Home, simulator: Simulator) -> None:
    queue(home, simulator, "run_a", outputs=RUN)
    assert home.run("once", FLORADL_OUTPUT__XMP="true").returncode == 0
    paths = home.run("find", "--paths").stdout.splitlines()
    assert len(paths) == 3
    assert not [path for path in paths if path.endswith(".xmp")]
    assert json.loads(home.run("stats", "--json").stdout)["outputs"] == 3


def test_a_full_disk_at_a_companion_pauses_and_leaves_no_half_of_one(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", place], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount")
    try:
        shelf = Shelf(place / "library")
        shelf.put("run_a", {"data": picture()})
        with (place / "filler").open("wb", buffering=0) as filler, suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        sidecar = replace(SIDECAR, outputs=(saved(path="images/run_a-1.png"),))
        with pytest.raises(ServicePausedError):
            shelf.library.write_companions(sidecar, None)
        assert [path.name for path in (shelf.root / "images").iterdir()] == ["run_a-1.png"]
    finally:
        subprocess.run(["umount", place], check=True)
