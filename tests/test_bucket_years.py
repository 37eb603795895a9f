"""Living with a library in a bucket: renaming, removing, moving, finding, and what a kill leaves of each."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_stores import Line, Request, Store
from studio import TEST_TIMEOUT, served
from test_bucket import CLIP, OUTPUTS, PICTURE, Bucket

from floradl.simulator import Simulator

WORDS = "text/campaign/run_a-words.txt"
BY_RUN = {"FLORADL_OUTPUT__TEMPLATE": "{run_id}/{output_id}{ext}"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    for name in ("run_a", "run_b"):
        simulator.add_run(name, technique="campaign", outputs=OUTPUTS, duration=0.1)
    with served(simulator):
        yield simulator


@pytest.fixture
def bucket(tmp_path: Path, stores: Callable[[str], Store], simulator: Simulator) -> Bucket:
    """One with a run."""
    bucket = Bucket(tmp_path / "home", stores("s3"), tmp_path.name, simulator)
    bucket.run("get", "campaign/run_a")
    return bucket


def files(bucket: Bucket) -> set[str]:
    """Return the keys of all but sidecars and the marker."""
    return {each.key for each in bucket.objects.list() if not each.key.startswith(("runs/", "."))}


def removed(bucket: Bucket) -> list[str]:
    """Return why each removed output of the run is."""
    sidecar = json.loads(bucket.objects.read("runs/campaign/run_a.json") or b"")
    found = [output for output in sidecar["outputs"] if output["removed"]]
    assert all(output["path"] is None and len(output["sha256"]) == 64 for output in found)
    return [output["removed"]["reason"] for output in found]


def killed_at(bucket: Bucket, change: int, *arguments: str, **settings: str) -> bool:
    """Run a command whose process is killed at its so many-th change of the store; False where it ended."""
    process: list[subprocess.Popen[bytes]] = []
    changes: list[Request] = []
    with Line(bucket.store.port) as line:

        def act(request: Request) -> object:
            if request.method in {"PUT", "POST", "DELETE"}:
                changes.append(request)
                if len(changes) == change:
                    process[0].send_signal(signal.SIGKILL)
                    return Line.LOST if change % 2 else Line.CUT  # after it was done, or before
            return None

        line.act = act
        environ = {**bucket.home.environ, **settings, "FLORADL_OUTPUT__ENDPOINT": f"http://127.0.0.1:{line.port}"}
        process.append(
            subprocess.Popen(bucket.home.command(*arguments), env=environ, stdout=subprocess.DEVNULL)
        )
        code = process[0].wait(TEST_TIMEOUT)
    assert code in {0, -signal.SIGKILL}
    return code != 0


def test_relayout_renames_the_objects_of_a_bucket(bucket: Bucket) -> None:
    dry = bucket.run("relayout", "--dry-run", **BY_RUN)
    assert f"{PICTURE} -> run_a/a.png" in dry
    assert PICTURE in files(bucket)
    assert bucket.run("relayout", **BY_RUN) == "3 files of 3 renamed, 0 sidecars moved\n"
    assert files(bucket) == {"run_a/a.png", "run_a/b.mp4", "run_a/words.txt"}
    assert bucket.verify() == {}
    assert bucket.run("relayout", **BY_RUN) == "0 files of 3 renamed, 0 sidecars moved\n"


def test_prune_removes_objects_and_their_sidecar_says_so(bucket: Bucket) -> None:
    dry = bucket.run("prune", "--kind", "video", "--older-than", "0", "--dry-run")
    assert f"would remove  {CLIP} (90 kB" in dry
    assert bucket.run("prune", "--kind", "video", "--older-than", "0") == "1 file removed, 90 kB\n"
    assert removed(bucket) == ["pruned"]
    assert files(bucket) == {PICTURE, WORDS}
    assert bucket.verify() == bucket.verify("--quick") == {}


def test_verify_finds_an_object_that_was_moved_and_accepts_one_that_was_deleted(bucket: Bucket) -> None:
    bucket.objects.create("best/cover.png", bucket.objects.read(PICTURE) or b"")
    bucket.objects.delete(PICTURE)
    bucket.objects.delete(CLIP)
    accepted = bucket.run("verify", "--accept-missing", code=1)
    assert "it lies there now: --repair has its sidecar say so" in accepted
    assert removed(bucket) == ["missing"]
    assert "it was moved, and its sidecar says so now" in bucket.run("verify", "--repair")
    assert bucket.verify() == {}
    assert files(bucket) == {"best/cover.png", WORDS}


def test_xmp_is_written_beside_objects(bucket: Bucket) -> None:
    xmp = {"FLORADL_OUTPUT__XMP": "true"}
    bucket.run("get", "campaign/run_b", **xmp)
    assert "3 XMP files written" in bucket.run("verify", "--repair", "--quick", **xmp)
    for run in ("run_a", "run_b"):
        data = bucket.objects.read(f"images/campaign/{run}-a.png.xmp") or b""
        assert f"<dc:identifier>{run}</dc:identifier>".encode() in data
    assert bucket.verify() == {}
    bucket.run("prune", "--kind", "image", "--older-than", "0")
    assert not {each for each in files(bucket) if each.startswith("images/")}


def test_what_was_saved_in_a_bucket_is_found_and_counted(bucket: Bucket, tmp_path: Path) -> None:
    picture = tmp_path / "a copy"
    picture.write_bytes(bucket.objects.read(PICTURE) or b"")
    assert bucket.run("find", "horizon", "--paths").splitlines()[0] == f"{bucket.url}/{PICTURE}"
    assert f"campaign/run_a, image a: {PICTURE}" in bucket.run("which", str(picture))
    assert "1 run" in bucket.run("stats")
    assert json.loads(bucket.run("costs", "--json"))["total"]["runs"] == 1


def test_a_library_moves_into_a_bucket_to_another_one_and_back(bucket: Bucket, tmp_path: Path) -> None:
    second = str(bucket.store.url(f"{tmp_path.name}-second"))
    folder = str(tmp_path / "folder")
    before = {key: bucket.objects.read(key) for key in files(bucket)}
    bucket.run("move-library", second)
    bucket.told("verify", code=5)
    bucket.run("move-library", folder, FLORADL_OUTPUT__DIR=second)
    assert {key: Path(folder, key).read_bytes() for key in before} == before
    bucket.run("verify", FLORADL_OUTPUT__DIR=folder)
    third = str(bucket.store.url(f"{tmp_path.name}-third"))
    bucket.run("move-library", third, FLORADL_OUTPUT__DIR=folder)
    bucket.run("verify", FLORADL_OUTPUT__DIR=third)


@pytest.mark.parametrize("change", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_relayout_of_a_bucket_that_is_killed_is_finished_by_the_next(bucket: Bucket, change: int) -> None:
    before = {key: bucket.objects.read(key) for key in sorted(files(bucket))}
    print(killed_at(bucket, change, "relayout", **BY_RUN))
    print(files(bucket))
    print(bucket.run("relayout", **BY_RUN))
    assert sorted(bucket.objects.read(key) or b"" for key in files(bucket)) == sorted(before.values())
    assert bucket.verify() == {}


@pytest.mark.parametrize("change", [1, 2, 3, 4, 5, 6, 7, 8, 9])
def test_prune_of_a_bucket_that_is_killed_is_finished_by_the_next(bucket: Bucket, change: int) -> None:
    words = "prune --kind video --kind image --older-than 0".split()
    print(killed_at(bucket, change, *words))
    bucket.run(*words)
    assert removed(bucket) == ["pruned", "pruned"]
    assert files(bucket) == {WORDS}
    assert bucket.verify() == {}
