"""A library in a bucket as a user has it: a real object store, commands, a daemon, the gallery, a program."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from object_stores import Line, Store, answer
from studio import TEST_TIMEOUT, Home, served, wait_until
from test_gallery_command import asked, gallery

import floradl
from floradl.library.object_client import ObjectClient
from floradl.simulator import OutputSpec, Simulator

OUTPUTS = (
    OutputSpec("a", "imageUrl", size=40_000),
    OutputSpec("b", "videoUrl", size=90_000),
    OutputSpec("words", "text", text="Bring the horizon down a little."),
)
PICTURE, CLIP = "images/campaign/run_a-a.png", "videos/campaign/run_a-b.mp4"


class Bucket:
    """A home whose library is below `prefix` in a bucket, and the bucket itself."""

    def __init__(self, path: Path, store: Store, prefix: str, simulator: Simulator) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.store = store
        self.url = str(store.url(prefix))
        self.objects: ObjectClient = store.client(prefix)
        self.settings = {
            "FLORADL_OUTPUT__DIR": self.url,
            "FLORADL_OUTPUT__ENDPOINT": store.access.endpoint or "",
            **store.access.environ,
        }
        self.home = Home(path, simulator, **self.settings)

    def run(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run a command; return its output."""
        done = self.home.run(*arguments, timeout=2 * TEST_TIMEOUT, **settings)
        assert done.returncode == code, done.stderr
        return done.stdout

    def told(self, *arguments: str, code: int = 0, **settings: str) -> str:
        """Run a command; return what it says on stderr."""
        done = self.home.run(*arguments, timeout=2 * TEST_TIMEOUT, **settings)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stderr

    def verify(self, *options: str, code: int = 0) -> dict[str, str]:
        """Return the problems that `verify` finds, by path."""
        document = json.loads(self.run("verify", "--json", *options, code=code))
        return {problem["path"]: problem["problem"] for problem in document["problems"]}


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    simulator = Simulator()
    film = OutputSpec("film", "videoUrl", size=10_000_000)  # it is sent in parts
    simulator.add_run("run_large", technique="campaign", outputs=(film,), duration=0.1)
    for name in ("run_a", "run_b", "run_c", "run_d"):
        simulator.add_run(name, technique="campaign", outputs=OUTPUTS, duration=0.1)
    with served(simulator):
        yield simulator


@pytest.fixture
def bucket(tmp_path: Path, stores: Callable[[str], Store], simulator: Simulator) -> Bucket:
    """An empty one."""
    return Bucket(tmp_path / "home", stores("s3"), tmp_path.name, simulator)


@pytest.fixture(scope="module")
def filled(
    tmp_path_factory: pytest.TempPathFactory, stores: Callable[[str], Store], simulator: Simulator
) -> Bucket:
    """One with two runs, for tests that only read it."""
    bucket = Bucket(tmp_path_factory.mktemp("filled"), stores("s3"), "filled", simulator)
    bucket.run("get", "campaign/run_a", "campaign/run_b")
    return bucket


def test_what_a_daemon_saves_in_a_bucket_is_verified_shown_and_brought_back(bucket: Bucket) -> None:
    home = bucket.home
    with home.daemon(), gallery(home) as (port, _):
        home.drop("campaign/run_a\ncampaign/run_large\n")
        outputs = wait_until(
            lambda: len(found := asked(port, "/api/outputs").json()["outputs"]) == 4 and found
        )
        assert bucket.verify() == {}
        assert bucket.verify("--quick") == {}
        whole = bucket.objects.read(PICTURE) or b""
        bucket.objects.overwrite(PICTURE, whole[::-1])
        bucket.objects.delete(CLIP)
        for options in ([], ["--quick"]):
            assert bucket.verify(*options, code=1) == {PICTURE: "damaged", CLIP: "missing"}
        bucket.run("verify", "--repair", "--missing")
        assert bucket.verify() == {}
        assert bucket.objects.read(PICTURE) == whole
        assert bucket.objects.read(f"{PICTURE}.damaged") == whole[::-1]
        url = next(output["url"] for output in outputs if output["path"] == PICTURE)
        film = asked(port, "/files/videos/campaign/run_large-film.mp4", Range="bytes=-5")
        assert film.headers["content-range"] == "bytes 9999995-9999999/10000000"
        answer = asked(port, url, Range="bytes=8-15")
        assert (answer.status_code, answer.content) == (206, whole[8:16])
        run = asked(port, "/api/runs/run_a").json()
        assert run["run"]["outputs"][0]["stored_etag"]
        assert run["files"][0]["absolute"] == f"{bucket.url}/{PICTURE}"


def test_the_files_of_a_run_in_a_bucket_are_named_by_their_urls(filled: Bucket) -> None:
    paths = filled.run("get", "--print", "path", "campaign/run_a").splitlines()
    assert sorted(paths) == sorted(filled.run("open", "campaign/run_a").splitlines())
    assert f"{filled.url}/{PICTURE}" in paths
    found = json.loads(filled.run("status", "--json", "campaign/run_a"))["runs"][0]
    assert found["sidecar"] == f"{filled.url}/runs/campaign/run_a.json"
    assert (sorted(found["files"]), found["missing"]) == (sorted(paths), [])
    assert filled.run("open", "--last").startswith(f"{filled.url}/")
    assert filled.told("get", "campaign/run_b").endswith(f"library: {filled.url}\n")


def test_a_hook_gets_the_url_of_a_sidecar_in_a_bucket_and_its_content(bucket: Bucket, tmp_path: Path) -> None:
    script = tmp_path / "hook"
    lines = (f"cat > {tmp_path}/stdin", f"pwd > {tmp_path}/pwd", f'echo "$1" > {tmp_path}/argument')
    script.write_text("\n".join(("#!/bin/sh", *lines, "")))
    script.chmod(0o755)
    bucket.home.drop("campaign/run_c\n")
    bucket.run("once", FLORADL_HOOKS__RUN_FINISHED=str(script))
    assert (tmp_path / "argument").read_text() == f"{bucket.url}/runs/campaign/run_c.json\n"
    assert (tmp_path / "pwd").read_text() == "/\n"
    assert json.loads((tmp_path / "stdin").read_text())["run_id"] == "run_c"


def test_a_lost_queue_is_filled_from_the_sidecars_of_a_bucket(filled: Bucket, simulator: Simulator) -> None:
    filled.run("once")
    shutil.rmtree(filled.home.state)
    filled.home.drop("campaign/run_a\n")
    before = len(simulator.requests)
    filled.run("once")
    assert filled.home.status()["counts"]["done"] == 2
    assert len(simulator.requests) == before


def test_retry_and_forget_work_over_a_bucket(bucket: Bucket) -> None:
    bucket.home.drop("campaign/run_c\n")
    bucket.run("once")
    bucket.objects.delete("images/campaign/run_c-a.png")
    bucket.run("retry", "campaign/run_c")
    bucket.run("once")
    assert bucket.verify() == {}
    bucket.run("forget", "campaign/run_c")
    bucket.run("once")
    assert bucket.home.status()["counts"]["forgotten"] == 1


def test_another_prefix_without_the_files_pauses_and_names_both_ways_out(
    bucket: Bucket, tmp_path: Path
) -> None:
    bucket.home.drop("campaign/run_c\n")
    bucket.run("once")
    elsewhere = bucket.store.url(f"{tmp_path.name}-elsewhere")
    for told in (
        bucket.told("once", code=5, FLORADL_OUTPUT__DIR=str(elsewhere)),
        bucket.run("check", code=1, FLORADL_OUTPUT__DIR=str(elsewhere)),
    ):
        assert f"{elsewhere} has no files of the 1 run done so far: they are in {bucket.url}" in told
        assert "put an empty object with the name .floradl-library there" in told


def test_a_marker_that_is_gone_pauses(bucket: Bucket) -> None:
    bucket.run("get", "campaign/run_c")
    bucket.objects.delete(".floradl-library")
    assert f"{bucket.url} does not carry .floradl-library" in bucket.told("verify", code=5)
    assert "FAIL  library: " in bucket.run("check", code=1)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "planted"}, "the credentials are wrong (SignatureDoesNotMatch)"),
        ({"AWS_ACCESS_KEY_ID": "AKIDPLANTED"}, "the store does not know this key (InvalidAccessKeyId)"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no credentials were found"),
    ],
    ids=["secret", "key", "none"],
)
def test_wrong_credentials_of_a_bucket_are_told_by_check_and_at_start_and_shown_nowhere(
    bucket: Bucket, wrong: dict[str, str], told: str
) -> None:
    said = [bucket.run("check", code=1, **wrong)]
    said += [bucket.told(*words.split(), code=2, **wrong) for words in ("run", "once", "get campaign/run_c")]
    for each in said:
        assert told in each
        assert bucket.url in each
        assert "planted" not in each.lower()


def test_check_says_that_a_bucket_can_be_used_and_leaves_nothing_there(bucket: Bucket) -> None:
    said = f"ok    library: {bucket.url} can be read and written, and replaces nothing"
    assert f"{said}; the library will be made at the first start" in bucket.run("check")
    assert list(bucket.objects.list()) == []
    bucket.run("get", "campaign/run_c")
    assert f"{said}\n" in bucket.run("check")


def test_check_warns_of_a_bucket_that_keeps_abandoned_uploads(bucket: Bucket) -> None:
    assert "warn  bucket: the bucket has no lifecycle rule" in bucket.run("check")


def test_a_bucket_that_is_none_is_told_at_start_with_exit_2(bucket: Bucket) -> None:
    no_bucket = answer(404, "NoSuchBucket")
    with Line(bucket.store.port) as line:
        line.act = lambda _: no_bucket
        endpoint = f"http://127.0.0.1:{line.port}"
        for words in ("once", "get campaign/run_c"):
            told = bucket.told(*words.split(), code=2, FLORADL_OUTPUT__ENDPOINT=endpoint)
            assert "there is no such bucket (NoSuchBucket). Create it, or correct `output.dir`" in told
        told = bucket.run("check", code=1, FLORADL_OUTPUT__ENDPOINT=endpoint)
        assert "FAIL  library: " in told
        assert "there is no such bucket" in told


def test_a_store_that_replaces_what_it_was_told_not_to_is_refused_by_check_and_at_start(
    bucket: Bucket,
) -> None:
    with Line(bucket.store.port) as line:
        done = b'HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\nETag: "x"\r\n\r\n'
        line.act = lambda request: done if request.method == "PUT" else None
        endpoint = f"http://127.0.0.1:{line.port}"
        told = bucket.run("check", code=1, FLORADL_OUTPUT__ENDPOINT=endpoint)
        for _ in range(2):  # whoever only starts it again is told the same
            refused = bucket.told("get", "campaign/run_a", code=2, FLORADL_OUTPUT__ENDPOINT=endpoint)
            assert "this store replaces what is there although it is told not to" in refused
    assert "this store replaces what is there although it is told not to" in told
    assert "honours If-None-Match" in told


def test_a_program_reads_and_fills_a_library_in_a_bucket(
    bucket: Bucket, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in bucket.store.access.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(bucket.home.path / "no-home"))
    settings = {
        "home": str(bucket.home.path),
        "output.endpoint": bucket.store.access.endpoint or "",
        "api.base_url": simulator.base_url,
        "network.trusted_private_hosts": "127.0.0.1",
    }
    with pytest.raises(floradl.ConfigError, match="neither a path nor a bucket"):
        floradl.Library("s3://-/x", settings=settings)
    (run,) = floradl.fetch_sync(
        "campaign/run_d", library=bucket.url, api_key=simulator.key, settings=settings
    )
    library = floradl.Library(bucket.url, settings=settings)
    assert [found.run_id for found in library.runs()] == ["run_d"]
    assert library.find("run_d") == run
    assert (run.ok, run.files, run.sidecar_path) == (True, (), None)
    assert run.sidecar_location == f"{bucket.url}/runs/campaign/run_d.json"
    assert run.locations[0] == f"{bucket.url}/images/campaign/run_d-a.png"
    with library.open(run.outputs[0]) as file:
        assert len(file.read()) == run.outputs[0].bytes == 40_000
    with pytest.raises(floradl.ConfigError, match="is no folder"):
        _ = library.path


@pytest.mark.slow
def test_a_store_that_is_away_pauses_the_daemon_which_resumes_once_it_answers(bucket: Bucket) -> None:
    home = bucket.home
    with Line(bucket.store.port) as line:
        endpoint = f"http://127.0.0.1:{line.port}"
        with home.daemon(FLORADL_OUTPUT__ENDPOINT=endpoint):
            line.act = lambda _: Line.CUT
            home.drop("campaign/run_c\n")
            paused = wait_until(lambda: home.status()["paused"])
            assert paused["reason"] == "library_missing"
            assert "the store does not answer" in paused["message"]
            line.act = lambda _: None
            wait_until(lambda: home.status()["counts"]["done"] == 1)
    assert bucket.verify() == {}
