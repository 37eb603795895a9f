"""Four machines, PostgreSQL, a bucket, and all that fails at once: each run is saved and announced once."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import databases
import pytest
import yaml
from machines import PICTURE, Machines
from object_stores import Line, Request, Store, answer
from studio import TEST_TIMEOUT, wait_until

from floradl.simulator import OutputSpec, Simulator

NAMES = ("one", "two", "three", "four")
DONE = "SELECT count(*) FROM runs WHERE state = 'done'"


class BucketFleet(Machines):
    """Machines whose library is below `prefix` in a bucket, each with a hook that notes its sidecar's URL."""

    def __init__(
        self, folder: Path, simulator: Simulator, server: databases.PostgresServer, name: str
    ) -> None:
        super().__init__(folder, simulator, server, name)
        self.hook = folder / "hook"
        self.hook.write_text('#!/bin/sh\ncat >/dev/null\nprintf \'%s\\n\' "$2" >>"$1"\n')
        self.hook.chmod(0o755)

    def start_all(
        self, store: Store, prefix: str, *, short_leases: bool, names: Sequence[str] = NAMES
    ) -> None:
        """Start them; their library is in a store."""
        settings = {
            "FLORADL_OUTPUT__DIR": str(store.url(prefix)),
            "FLORADL_OUTPUT__ENDPOINT": store.access.endpoint or "",
            "FLORADL_POLL__INTERVAL": "2s",
            "FLORADL_LOG__LEVEL": "info",
            **store.access.environ,
        }
        for name in names:
            home = self.home(name, port=None, short_leases=short_leases, **settings)
            words = [str(self.hook), str(home.path / "hooked")]
            (home.path / "config.yaml").write_text(yaml.safe_dump({"hooks": {"run_finished": words}}))
            self.start(name)

    def drop_everywhere(self, runs: list[str], file: str = "runs.txt") -> None:
        """Give each machine its part of the runs, and some that another one has, too."""
        for number, name in enumerate(NAMES):
            own = runs[number :: len(NAMES)] + runs[: len(runs) // 10]
            self.home(name).drop("".join(f"campaign/{run_id}\n" for run_id in own), file)

    def done(self) -> int:
        """Count the runs that are done."""
        return int(self.server.execute(DONE, self.name)[0][0])

    def hooked(self) -> Counter[str]:
        """Count how often the hook ran for each run, at all machines."""
        found: Counter[str] = Counter()
        for name in NAMES:
            path = self.folder / name / "hooked"
            lines = path.read_text().splitlines() if path.exists() else []
            found.update(line.rpartition("/")[2].removesuffix(".json") for line in lines)
        return found


def check_bucket(store: Store, prefix: str, simulator: Simulator, runs: list[str]) -> None:
    """Hold each object against what FLORA has: none lost, doubled or wrong, and one sidecar a run."""
    objects = store.client(prefix)
    paths = {each.key for each in objects.list()}
    named: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    for path in paths:
        if not path.startswith("runs/"):
            continue
        sidecar = json.loads(objects.read(path) or b"")
        seen[sidecar["run_id"]] += 1
        served = simulator.run(sidecar["run_id"])
        assert served is not None
        for index, output in enumerate(sidecar["outputs"]):
            data = objects.read(output["path"])
            assert data is not None, output
            expected = hashlib.sha256(served.body(index).read()).hexdigest()
            assert hashlib.sha256(data).hexdigest() == expected == output["sha256"]
            named[output["path"]] += 1
            named[path] += 1
    assert seen == Counter(runs)
    assert {path for path, count in named.items() if count != 1} == set()
    assert {path for path in paths if not path.startswith(".")} == named.keys()


def survive(fleet: BucketFleet, runs: list[str], *, lease: float, seconds: float) -> None:
    """Kill, stop, continue and restart while the runs are saved; wait until all are, and are announced."""
    doomed, zombie = [name for name in NAMES if name != fleet.poller()][:2]
    parts = [len(runs) * tenth // 10 for tenth in range(10)]
    wait_until(lambda: fleet.done() >= parts[1], seconds)
    fleet.kill(doomed)
    wait_until(lambda: fleet.done() >= parts[2], seconds)
    fleet.stop_in_its_tracks(zombie)
    stopped_at = time.monotonic()
    wait_until(lambda: fleet.done() >= parts[4], seconds)
    fleet.server.restart()
    wait_until(partial(_done_again, fleet, parts[6]), seconds)
    poller = fleet.poller(but=[doomed, zombie])
    fleet.kill(poller)
    wait_until(lambda: time.monotonic() - stopped_at > lease + 1.0, seconds)
    fleet.kill(zombie, signal.SIGCONT)
    wait_until(partial(_done_again, fleet, len(runs)), seconds)
    # Those of the dead are taken over once they are known to be gone.
    wait_until(lambda: fleet.server.execute("SELECT count(*) FROM outbox", fleet.name) == [(0,)], 150.0)


def _done_again(fleet: BucketFleet, count: int) -> bool:
    return fleet.done() >= count


def check_hooks(fleet: BucketFleet, runs: list[str]) -> None:
    """Check that the hook ran once for each run; only those at work when a machine was killed ran twice."""
    found = fleet.hooked()
    assert found.keys() == set(runs)
    twice = sum(count - 1 for count in found.values())
    assert twice <= 8, twice


@pytest.mark.slow
def test_a_fleet_over_a_bucket_loses_and_doubles_nothing_whatever_is_killed_stopped_and_restarted(
    tmp_path: Path, simulator: Simulator, stores: Callable[[str], Store]
) -> None:
    store = stores("s3")
    with (
        databases.running() as server,
        server.database() as name,
        BucketFleet(tmp_path, simulator, server, name) as fleet,
    ):
        runs = [f"run_{number}" for number in range(300)]
        fleet.add_runs(*runs, outputs=PICTURE, duration=0.0)
        fleet.start_all(store, tmp_path.name, short_leases=True)
        fleet.poller()
        fleet.drop_everywhere(runs)
        survive(fleet, runs, lease=3.0, seconds=TEST_TIMEOUT)
        check_bucket(store, tmp_path.name, simulator, runs)
        check_hooks(fleet, runs)
        assert not (fleet.announced() - Counter(runs))


@pytest.mark.slow
def test_a_bucket_that_refuses_a_fleet_for_a_while_costs_no_run(
    tmp_path: Path, simulator: Simulator, stores: Callable[[str], Store]
) -> None:
    store = stores("s3")
    refusals = (
        answer(503, "SlowDown"),
        answer(404, "NoSuchBucket"),
        answer(507, "InsufficientStorage"),
        answer(403, "ExpiredToken"),  # in the middle of uploads, too
    )
    with (
        databases.prepared() as (server, name),
        Line(store.port) as line,
        BucketFleet(tmp_path, simulator, server, name) as fleet,
    ):
        small = [f"run_{number}" for number in range(120)]
        films = [f"run_film_{number}" for number in range(8)]
        runs = [run for pair in zip(small[::15], films, strict=True) for run in pair]
        runs += [run for run in small if run not in runs]
        fleet.add_runs(*small, outputs=PICTURE, duration=0.0)
        fleet.add_runs(*films, outputs=(OutputSpec("a", "videoUrl", size=12_000_000),), duration=0.0)
        fleet.start_all(store.behind(line.port), tmp_path.name, short_leases=False, names=("one", "two"))
        fleet.poller()
        for number, refusal in enumerate(refusals):
            some = runs[number::4]
            fleet.home("one").drop("".join(f"campaign/{run_id}\n" for run_id in some), f"{number}.txt")
            wait_until(partial(_done_again, fleet, number * 32 + 3))
            line.act = partial(_writes, refusal)
            wait_until(partial(_passed, time.monotonic(), 4.0))
            line.act = lambda _: None
            wait_until(partial(_done_again, fleet, number * 32 + 28))
        wait_until(partial(_done_again, fleet, len(runs)))
        check_bucket(store, tmp_path.name, simulator, runs)
        fleet.check_announced(runs)


def _passed(since: float, seconds: float) -> bool:
    return time.monotonic() - since > seconds


def _writes(refusal: bytes, request: Request) -> bytes | None:
    """Refuse what writes; what is gone is gone for readers, too."""
    return refusal if request.method in {"PUT", "POST"} or b" 404 " in refusal else None
