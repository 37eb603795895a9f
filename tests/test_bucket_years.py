"""Living with a library in a bucket: renaming, removing, moving, finding, and what a kill leaves of each."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from object_stores import IMPATIENT, Line, Request, Store
from shelves import FOLDERS, LONG_AGO, KilledError
from studio import TEST_TIMEOUT, served, wait_until
from test_bucket import CLIP, OUTPUTS, PICTURE, Bucket

from floradl.index.freshness import note_looked
from floradl.index.tables import FILE_NAME, IndexFile
from floradl.library import xmp
from floradl.library.object_client import ObjectClient
from floradl.library.object_store import ObjectLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.relayout import Relayout, plan_relayout
from floradl.library.retention import Pruner, expired_files
from floradl.library.sidecar import Sidecar, Times
from floradl.models import OutputKind, RemovalReason, Result, SavedOutput
from floradl.simulator import Simulator

WORDS = "text/campaign/run_a-words.txt"
BY_RUN = {"FLORADL_OUTPUT__TEMPLATE": "{run_id}/{output_id}{ext}"}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    for name in ("run_a", "run_b", "run_c"):
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
        environ = {
            **bucket.home.environ,
            **settings,
            "FLORADL_OUTPUT__ENDPOINT": f"http://127.0.0.1:{line.port}",
        }
        process.append(
            subprocess.Popen(bucket.home.command(*arguments), env=environ, stdout=subprocess.DEVNULL)
        )
        code = process[0].wait(TEST_TIMEOUT)
    assert code in {0, -signal.SIGKILL}
    return code != 0


def test_relayout_renames_the_objects_of_a_bucket(bucket: Bucket) -> None:
    dry = bucket.run("relayout", "--dry-run", code=0, **BY_RUN)
    assert f"{PICTURE} -> run_a/a.png" in dry
    assert PICTURE in files(bucket)
    assert bucket.run("relayout", code=0, **BY_RUN) == "3 files of 3 renamed, 0 sidecars moved\n"
    assert files(bucket) == {"run_a/a.png", "run_a/b.mp4", "run_a/words.txt"}
    assert bucket.verify() == {}
    assert bucket.run("relayout", code=0, **BY_RUN) == "0 files of 3 renamed, 0 sidecars moved\n"


def test_prune_removes_objects_and_their_sidecar_says_so(bucket: Bucket) -> None:
    dry = bucket.run("prune", "--kind", "video", "--older-than", "0", "--dry-run")
    assert f"would remove  {CLIP} (90 kB" in dry
    assert bucket.run("prune", "--kind", "video", "--older-than", "0") == "1 file removed, 90 kB\n"
    assert removed(bucket) == ["pruned"]
    assert files(bucket) == {PICTURE, WORDS}
    assert bucket.verify() == bucket.verify("--quick") == {}
    bucket.run("get", "campaign/run_a")
    assert removed(bucket) == ["pruned"]
    bucket.run("retry", "--kind", "video", "campaign/run_a")
    bucket.run("once")
    assert removed(bucket) == []
    assert files(bucket) == {PICTURE, CLIP, WORDS}
    assert bucket.verify() == {}


def test_a_daemon_removes_what_a_bucket_is_not_to_keep_any_longer(bucket: Bucket) -> None:
    keep = {"FLORADL_LIBRARY__KEEP__VIDEO": "1s"}
    assert "library.keep: the daemon keeps video for 1s" in bucket.run("check", code=0, **keep)
    with bucket.home.daemon(**keep):
        wait_until(lambda: bucket.home.events("files_pruned"))
    assert removed(bucket) == ["kept_long"]
    assert files(bucket) == {PICTURE, WORDS}
    assert bucket.verify() == {}


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
    bucket.run("get", "campaign/run_b", code=0, **xmp)
    assert "3 XMP files written" in bucket.run("verify", "--repair", "--quick", code=0, **xmp)
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


def test_find_lists_a_bucket_once_a_minute_and_sees_what_this_machine_saved_meanwhile(bucket: Bucket) -> None:
    listings = []
    with Line(bucket.store.port) as line:
        endpoint = {"FLORADL_OUTPUT__ENDPOINT": f"http://127.0.0.1:{line.port}"}

        def find(*words: str) -> str:
            line.seen.clear()
            found = bucket.run("find", *words, "--paths", code=0, **endpoint)
            listings.append(sum("list-type=2" in each.target for each in line.seen))
            return found

        assert PICTURE in find("run_a")
        assert find("run_b") == ""
        bucket.run("get", "campaign/run_b")
        assert f"{bucket.url}/images/campaign/run_b-a.png" in find("run_b")
        assert find("nothing") == ""
        assert listings == [1, 0, 1, 0]  # `get` writes no event
        bucket.home.drop("campaign/run_c\n")
        bucket.run("once")
        assert f"{bucket.url}/images/campaign/run_c-a.png" in find("run_c")
        assert listings[-1] == 0
        bucket.run("relayout", code=0, **BY_RUN)
        assert f"{bucket.url}/run_b/a.png" in find("run_b")
        assert listings[-1] == 1
        with closing(IndexFile(bucket.home.state / FILE_NAME, bucket.url)) as index:
            note_looked(index, time.time() - 61)
        bucket.objects.delete("runs/campaign/run_b.json")  # by another machine
        assert find("run_b") == ""
        assert listings[-1] == 1


def test_verify_quick_of_a_bucket_is_one_listing_once_find_has_read_its_sidecars(bucket: Bucket) -> None:
    def requests() -> tuple[int, int]:
        """Return how many listings it makes, and how many objects it reads but for the marker."""
        with Line(bucket.store.port) as line:
            settings = {"FLORADL_OUTPUT__ENDPOINT": f"http://127.0.0.1:{line.port}"}
            assert "3 files of 1 run verified" in bucket.run("verify", "--quick", code=0, **settings)
            asked = [each.target for each in line.seen if ".floradl-library" not in each.target]
        listings = [target for target in asked if "list-type=2" in target]
        return len(listings), len(asked) - len(listings)

    bucket.run("verify", "--quick")
    assert requests() == (1, 1)  # its sidecar is not known yet
    bucket.run("find", "horizon")
    assert requests() == (1, 0)
    assert "1 output removed" in bucket.run("prune", "--kind", "video", "--older-than", "0") + bucket.run(
        "verify", "--quick"
    )
    bucket.run("find", "horizon")
    whole = bucket.objects.read(PICTURE) or b""
    bucket.objects.overwrite(PICTURE, whole[::-1])
    bucket.objects.delete(WORDS)
    bucket.objects.create("images/mine.png", b"mine")
    assert bucket.verify("--quick", code=1) == {PICTURE: "damaged", WORDS: "missing"}
    assert "images/mine.png: no sidecar names it" in bucket.run("verify", "--quick", code=1)


def test_a_library_moves_into_a_bucket_to_another_one_and_back(bucket: Bucket, tmp_path: Path) -> None:
    second = str(bucket.store.url(f"{tmp_path.name}-second"))
    folder = str(tmp_path / "folder")
    before = {key: bucket.objects.read(key) for key in files(bucket)}
    bucket.run("move-library", second)
    assert f"was moved to {second}: set output.dir to that" in bucket.told("verify", code=5)
    bucket.run("move-library", folder, FLORADL_OUTPUT__DIR=second)
    assert {key: Path(folder, key).read_bytes() for key in before} == before
    bucket.run("verify", FLORADL_OUTPUT__DIR=folder)
    third = str(bucket.store.url(f"{tmp_path.name}-third"))
    bucket.run("move-library", third, FLORADL_OUTPUT__DIR=folder)
    bucket.run("verify", FLORADL_OUTPUT__DIR=third)


def test_relayout_and_prune_of_a_bucket_that_are_killed_are_finished_by_the_next(bucket: Bucket) -> None:
    whole = sorted(bucket.objects.read(key) or b"" for key in files(bucket))
    assert killed_at(bucket, 3, "relayout", **BY_RUN)
    bucket.run("relayout", code=0, **BY_RUN)
    assert sorted(bucket.objects.read(key) or b"" for key in files(bucket)) == whole
    assert bucket.verify() == {}
    words = ["prune", "--kind", "video", "--kind", "image", "--older-than", "0"]
    assert killed_at(bucket, 2, *words)
    bucket.run(*words)
    assert removed(bucket) == ["pruned", "pruned"]
    assert files(bucket) == {"run_a/words.txt"}
    assert bucket.verify() == {}


class MortalClient(ObjectClient):
    """A client whose process is killed after so many `steps`, each a change of the store."""

    steps: int | None = None

    def _change(self, work: Callable[[], None]) -> None:
        if self.steps is not None:
            self.steps -= 1
            if self.steps < 0:
                raise KilledError
        work()

    def create(self, key: str, data: bytes, content_type: str | None = None, sha256: str = "") -> None:
        self._change(lambda: ObjectClient.create(self, key, data, content_type, sha256))

    def replace(self, key: str, data: bytes, etag: str) -> None:
        self._change(lambda: ObjectClient.replace(self, key, data, etag))

    def delete(self, key: str) -> None:
        self._change(lambda: ObjectClient.delete(self, key))


class FarShelf:
    """A library below a prefix of a bucket that is filled by hand, and renamed and pruned by a mortal."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._store, self._prefix = store, prefix
        self.paths = PathPlan.parse("{run_id}{ext}", FOLDERS, 255)
        self.objects = store.client(prefix)
        self.opened().create()

    def opened(self, steps: int | None = None) -> ObjectLibrary:
        client = MortalClient(self._store.url(self._prefix), self._store.access, IMPATIENT)
        library = ObjectLibrary(client, self.paths)
        client.steps = steps
        return library

    def put(self, run_id: str, path: str) -> Sidecar:
        data = path.encode()
        self.objects.create(path, data)
        output = SavedOutput(
            output_id="a",
            type="videoUrl",
            kind=OutputKind.VIDEO,
            path=path,
            bytes=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            downloaded_at=LONG_AGO,
        )
        times = Times(completed_at=LONG_AGO, finished_at=LONG_AGO)
        reference = f"campaign/{run_id}"
        sidecar = Sidecar(
            reference=reference,
            technique="campaign",
            run_id=run_id,
            result=Result.COMPLETE,
            outputs=(output,),
            times=times,
        )
        self.opened().write_sidecar(sidecar, None)
        return sidecar

    def relayout(self, steps: int | None = None) -> int:
        library = self.opened(steps)
        work = Relayout(library, plan_relayout(library, self.paths, None, ()), keep_times=True)
        work.run()
        assert work.problems == []
        return work.renamed

    def prune(self, steps: int | None = None) -> None:
        library = self.opened(steps)
        expiry = expired_files(library, {OutputKind.VIDEO: 1.0}, time.time())
        assert (
            Pruner(library, RemovalReason.PRUNED, time.time, keep_times=True).prune(expiry.files).left == []
        )

    def files(self) -> dict[str, bytes | None]:
        """Return the content of all but marker and sidecars, by key; each sidecar names what is there."""
        keys = [each.key for each in self.objects.list() if not each.key.startswith((".", "runs/"))]
        found = {key: self.objects.read(key) for key in keys}
        named = [output for each in self.opened().scan() if each.sidecar for output in each.sidecar.outputs]
        there = {key: data for key, data in found.items() if not key.endswith(".xmp")}
        assert {output.path for output in named if output.path} == set(there)
        for output in named:
            assert (output.path is None) == (output.removed is not None)
            if output.path is not None:
                assert hashlib.sha256(there[output.path] or b"").hexdigest() == output.sha256
        return found


def test_relayout_in_a_bucket_that_is_killed_at_any_request_is_finished_by_the_next(
    stores: Callable[[str], Store], tmp_path: Path
) -> None:
    steps, was_killed = 0, True
    while was_killed:
        shelf = FarShelf(stores("s3"), f"{tmp_path.name}-{steps}")
        shelf.put("run_a", "x/a.mp4")
        shelf.objects.create("x/a.mp4.xmp", b"xmp")
        shelf.put("run_b", "run_c.mp4")  # the two change places
        shelf.put("run_c", "run_b.mp4")
        was_killed = False
        try:
            shelf.relayout(steps)
        except KilledError:
            was_killed = True
            shelf.relayout()
        assert shelf.files() == {
            "run_a.mp4": b"x/a.mp4",
            "run_a.mp4.xmp": b"xmp",
            "run_b.mp4": b"run_c.mp4",
            "run_c.mp4": b"run_b.mp4",
        }
        assert shelf.relayout() == 0
        steps += 1
    assert steps > 12


def test_prune_in_a_bucket_that_is_killed_at_any_request_is_finished_by_the_next(
    stores: Callable[[str], Store], tmp_path: Path
) -> None:
    steps, was_killed = 0, True
    while was_killed:
        shelf = FarShelf(stores("s3"), f"{tmp_path.name}-{steps}")
        saved = shelf.put("run_a", "a.mp4")
        shelf.put("run_b", "b.mp4")
        shelf.objects.create("a.mp4.xmp", xmp.render(saved, saved.outputs[0]))
        was_killed = False
        try:
            shelf.prune(steps)
        except KilledError:
            was_killed = True
            shelf.prune()
        assert shelf.files() == {}
        steps += 1
    assert steps > 6
