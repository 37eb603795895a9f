"""One run's whole life over each queue with each library: dropped, saved once, verified, retried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import databases
import pytest
from object_stores import Store
from studio import Home, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

OUTPUTS = (
    OutputSpec("a", "imageUrl", size=3000),
    OutputSpec("b", "videoUrl", size=40_000),
    OutputSpec("words", "text", text="Bring the horizon down a little."),
)
SIDECAR = "runs/campaign/run_a.json"
FILES = {
    "a": "images/campaign/run_a-a.png",
    "b": "videos/campaign/run_a-b.mp4",
    "words": "text/campaign/run_a-words.txt",
}


class Folder:
    """A library in a folder, by the paths of its files."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.settings = {"FLORADL_OUTPUT__DIR": str(place)}

    def read(self, path: str) -> bytes | None:
        file = self._place / path
        return file.read_bytes() if file.exists() else None

    def delete(self, path: str) -> None:
        (self._place / path).unlink()

    def names(self) -> set[str]:
        return {str(path.relative_to(self._place)) for path in self._place.rglob("*") if path.is_file()}


class Bucket:
    """A library in a bucket, by the keys of its objects."""

    def __init__(self, store: Store, prefix: str) -> None:
        self._objects = store.client(prefix)
        self.settings = {
            "FLORADL_OUTPUT__DIR": str(store.url(prefix)),
            "FLORADL_OUTPUT__ENDPOINT": store.access.endpoint or "",
            **store.access.environ,
        }
        self.read, self.delete = self._objects.read, self._objects.delete

    def names(self) -> set[str]:
        return {found.key for found in self._objects.list()}


@pytest.fixture(params=["sqlite", "postgresql"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings of a queue with nothing in it."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            yield {}
            return
        server, name = stack.enter_context(databases.prepared())
        password = tmp_path / "password"
        password.write_text(databases.PASSWORD)
        password.chmod(0o600)
        yield {
            "FLORADL_QUEUE__ENGINE": server.url(name),
            "FLORADL_QUEUE__PASSWORD_FILE": str(password),
        }


@pytest.fixture(params=["folder", "s3", "az"])
def library(
    request: pytest.FixtureRequest, tmp_path: Path, stores: Callable[[str], Store]
) -> Folder | Bucket:
    """A library with nothing in it."""
    if request.param == "folder":
        return Folder(tmp_path / "elsewhere")
    return Bucket(stores(request.param), tmp_path.name)


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator, queue: dict[str, str], library: Folder | Bucket) -> Home:
    (tmp_path / "home").mkdir()
    return Home(tmp_path / "home", simulator, **queue, **library.settings)


def test_a_run_is_saved_once_sidecar_last_verified_and_retried_over_any_queue_and_library(
    home: Home, library: Folder | Bucket, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=OUTPUTS, duration=0.0)
    simulator.faults.add(Fault(match=Match(output="b"), do=Do(delay=0.3), times=1))
    run = simulator.run("run_a")
    assert run is not None
    bodies = {output.output_id: run.body(number).read() for number, output in enumerate(OUTPUTS[:2])}
    bodies["words"] = b"Bring the horizon down a little."

    def sidecar() -> Any:
        """Return the sidecar, where there is one: then all that it names is there."""
        if (data := library.read(SIDECAR)) is None:
            return None
        assert {name: library.read(path) for name, path in FILES.items()} == bodies
        return json.loads(data)

    with home.daemon():
        home.drop("campaign/run_a\n", "first.txt")
        found = wait_until(sidecar)
        assert found["result"] == "complete"
        assert [output["path"] for output in found["outputs"]] == list(FILES.values())
        wait_until(lambda: ends(home) == 1)
        home.drop("run_a\n", "again.txt")
        wait_until((home.inbox / "accepted/again.txt").exists)

        library.delete(FILES["a"])
        assert home.run("verify", "--quick").returncode == 1
        assert asked(simulator) == ["a", "b"]
        assert home.run("retry", "run_a").returncode == 0
        wait_until(lambda: ends(home) == 2)
        assert sidecar()["outputs"][0]["sha256"] == found["outputs"][0]["sha256"]
        assert library.names() == {".floradl-library", SIDECAR, *FILES.values()}
    assert home.run("verify", "--quick").returncode == 0
    assert home.status()["counts"]["done"] == 1


def ends(home: Home) -> int:
    """Count how often the end of a run was recorded."""
    return (home.state / "events.ndjson").read_text().count('"event":"run_finished"')


def asked(simulator: Simulator) -> list[str]:
    """Return the outputs that the media host was asked for, as often as it was."""
    return sorted(str(each.output_id) for each in simulator.requests if each.host == "media")
