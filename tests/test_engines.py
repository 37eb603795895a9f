"""One run's whole life over each queue with each library: dropped, saved once, verified, retried."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
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


def in_database(folder: Path, server: databases.PostgresServer, name: str) -> dict[str, str]:
    """Return the settings of the queue in a database."""
    password = folder / "password"
    password.write_text(databases.PASSWORD)
    password.chmod(0o600)
    return {"FLORADL_QUEUE__ENGINE": server.url(name), "FLORADL_QUEUE__PASSWORD_FILE": str(password)}


@pytest.fixture(params=["sqlite", "postgresql"])
def queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The settings of a queue with nothing in it."""
    if request.param == "sqlite":
        yield {}
        return
    with databases.prepared() as (server, name):
        yield in_database(tmp_path, server, name)


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
    log = home.state / "events.ndjson"
    return log.read_text().count('"event":"run_finished"') if log.exists() else 0


def asked(simulator: Simulator) -> list[str]:
    """Return the outputs that the media host was asked for, as often as it was."""
    return sorted(str(each.output_id) for each in simulator.requests if each.host == "media")


def add_runs(simulator: Simulator, *run_ids: str) -> None:
    for run_id in run_ids:
        simulator.add_run(run_id, technique="campaign", outputs=OUTPUTS[:1], duration=0.0)


def test_two_fleets_by_mistake_on_one_bucket_save_each_run_once_and_lose_nothing(
    tmp_path: Path, simulator: Simulator, stores: Callable[[str], Store]
) -> None:
    add_runs(simulator, "run_one", "run_other", "run_both")
    bucket = Bucket(stores("s3"), tmp_path.name)
    with databases.prepared() as (server, name), databases.prepared() as (_, another):
        homes = []
        for number, database in enumerate((name, another)):
            folder = tmp_path / str(number)
            folder.mkdir()
            homes.append(Home(folder, simulator, **in_database(folder, server, database), **bucket.settings))
        one, other = homes
        with one.daemon(), other.daemon():
            one.drop("campaign/run_one\ncampaign/run_both\n")
            other.drop("campaign/run_other\ncampaign/run_both\n")
            wait_until(lambda: [ends(home) for home in homes] == [2, 2])
        runs = ("run_one", "run_other", "run_both")
        files = {f"images/campaign/{run_id}-a.png" for run_id in runs}
        assert bucket.names() == {".floradl-library", *files, *(f"runs/campaign/{run}.json" for run in runs)}
        assert [home.run("verify", "--quick").returncode for home in homes] == [0, 0]
        assert [home.status()["counts"]["done"] for home in homes] == [2, 2]  # each knows its own


def test_a_database_restored_from_an_older_backup_costs_no_file_and_no_second_download(
    tmp_path: Path, simulator: Simulator
) -> None:
    add_runs(simulator, "run_before", "run_open", "run_since", "run_later")
    library = Folder(tmp_path / "library")
    with databases.prepared() as (server, name):
        home = Home(tmp_path, simulator, **in_database(tmp_path, server, name), **library.settings)
        home.drop("campaign/run_before\n")
        assert home.run("once").returncode == 0
        assert home.run("add", "campaign/run_open").returncode == 0  # into the database: no daemon is here
        backup = f"{name}_restored"
        server.execute(f'CREATE DATABASE "{backup}" TEMPLATE "{name}"')
        try:
            home.drop("campaign/run_since\n")
            assert home.run("once").returncode == 0
            files, requested = library.names(), asked(simulator)
            assert (len(files), requested) == (7, ["a"] * 3)
            server.execute("DELETE FROM floradl_facts WHERE name = 'filled'", backup)
            home.environ |= in_database(tmp_path, server, backup)
            home.drop("campaign/run_since\ncampaign/run_later\n", "again.txt")
            assert home.run("once").returncode == 0
            assert home.status()["counts"]["done"] == 4
            assert (len(library.names()), asked(simulator)) == (9, ["a"] * 4)  # the new one alone
            assert files < library.names()
        finally:
            server.execute(f'DROP DATABASE "{backup}" WITH (FORCE)')
