"""Machines that share a queue in PostgreSQL: what each does, and what becomes of one that fails."""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import preload
import pytest
import yaml
from hooked import Hook
from machines import Machines, Way, machines
from studio import TEST_TIMEOUT, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

LONG_ELECTIONS = Path(__file__).parent / "long_elections.py"


@pytest.fixture
def fleet(tmp_path: Path, simulator: Simulator) -> Iterator[Machines]:
    with machines(tmp_path, simulator) as found:
        yield found


def numbered(count: int, name: str = "run") -> list[str]:
    return [f"{name}_{number}" for number in range(count)]


def slow_media(simulator: Simulator, rate: float = 20_000) -> None:
    """Let each transfer of 60 kB take some seconds."""
    simulator.faults.add(Fault(match=Match(host="media"), do=Do(drip=rate)))


def test_a_job_at_one_machine_is_requested_by_the_poller_and_saved_by_all(fleet: Machines) -> None:
    one, other = fleet.start("one"), fleet.start("other")
    runs = numbered(60)
    fleet.add_runs(*runs)
    fleet.poller()
    one.drop("".join(f"campaign/{run_id}\n" for run_id in runs[:40]))
    other.drop("".join(f"campaign/{run_id}\n" for run_id in runs[20:]))  # a third of them is dropped twice
    fleet.all_done(runs)
    fleet.check_library()
    fleet.check_announced(runs)
    assert len(fleet.simulator.asked("media")) == 60
    status = other.status()
    assert status["counts"]["done"] == 60
    assert [daemon["polls"] for daemon in status["daemons"]].count(True) == 1
    shown = one.run("status").stdout
    assert "2 daemons" in shown
    assert str(other.state) in shown
    told = one.run("status", "campaign/run_59")
    assert told.returncode == 0
    assert "campaign/run_59  done" in told.stdout


def test_relayout_and_move_library_are_refused_beside_the_daemon_of_another_machine(fleet: Machines) -> None:
    one = fleet.start("one")
    other = fleet.home("other")
    wait_until(lambda: one.status().get("daemons"))
    for words in (["relayout"], ["move-library", str(fleet.folder / "new")]):
        refused = other.run(*words)
        assert refused.returncode == 5
        assert f"{one.state} already works with the queue" in refused.stderr
        assert "One that ended counts for a minute" in refused.stderr
    fleet.processes["one"].terminate()
    fleet.processes["one"].wait()
    assert one.run("relayout").returncode == 0


@pytest.mark.slow
def test_a_killed_worker_s_runs_are_saved_by_another_and_announced_once(fleet: Machines) -> None:
    poller, _ = (fleet.start(name, short_leases=True) for name in ("poller", "worker"))
    fleet.poller()
    slow_media(fleet.simulator)
    runs = numbered(24)
    fleet.add_runs(*runs, outputs=(OutputSpec("a", "videoUrl", size=60_000),))
    poller.drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    wait_until(lambda: len(fleet.simulator.asked("media")) >= 20)
    doomed = next(name for name in ("worker", "poller") if name != fleet.poller())
    fleet.kill(doomed)
    fleet.all_done(runs)
    fleet.check_library()
    fleet.check_announced(runs, lost=True)


@pytest.mark.slow
def test_a_worker_stopped_past_its_leases_and_continued_announces_nothing(fleet: Machines) -> None:
    for name in ("one", "other"):
        fleet.start(name, short_leases=True)
    zombie = next(name for name in ("one", "other") if name != fleet.poller())
    slow_media(fleet.simulator)
    runs = numbered(24)
    fleet.add_runs(*runs, outputs=(OutputSpec("a", "videoUrl", size=60_000),))
    fleet.home("one").drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    of_zombie = f"state = 'downloading' AND name LIKE '%/{zombie}/%'"
    held = f"SELECT count(*) FROM runs JOIN daemons ON owner = daemon WHERE {of_zombie}"
    wait_until(lambda: fleet.server.execute(held, fleet.name)[0][0] > 3)
    fleet.stop_in_its_tracks(zombie)
    fleet.all_done(runs)
    fleet.kill(zombie, signal.SIGCONT)
    wait_until(lambda: fleet.home(zombie).events("lease_lost"))
    fleet.kill(next(name for name in ("one", "other") if name != zombie), signal.SIGTERM)
    # It is well, and what it had in hand is at its end long before it is done with this one.
    fleet.add_runs("run_last", outputs=(OutputSpec("a", "videoUrl", size=90_000),))
    fleet.home(zombie).drop("campaign/run_last", "last.txt")
    fleet.all_done(["run_last"])
    fleet.check_announced([*runs, "run_last"])
    fleet.check_library()


@pytest.mark.slow
def test_a_killed_poller_is_followed_by_another_within_ten_seconds(fleet: Machines) -> None:
    for name in ("one", "other", "third"):
        fleet.start(name)
    first = fleet.poller()
    fleet.kill(first)
    killed_at = time.monotonic()
    second = fleet.poller(but=[first])
    took = time.monotonic() - killed_at
    assert took < 10 + 10  # what a busy machine adds: test_shared_scheduler.py has the ten in virtual time
    runs = numbered(5)
    fleet.add_runs(*runs)
    third = next(name for name in fleet.processes if name not in {first, second})
    fleet.home(third).drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    fleet.all_done(runs)


@pytest.mark.slow
def test_a_stopped_poller_gives_all_back_at_once(fleet: Machines) -> None:
    for name in ("one", "other"):
        # The other hears that nobody polls: by itself it would stand for election minutes later.
        fleet.home(name).command = lambda *words: [sys.executable, str(LONG_ELECTIONS), *words]
        fleet.start(name)
    first = fleet.poller()
    slow_media(fleet.simulator)
    runs = numbered(8)
    fleet.add_runs(*runs, outputs=(OutputSpec("a", "videoUrl", size=60_000),))
    fleet.home(first).drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    wait_until(lambda: len(fleet.simulator.asked("media")) >= 8)
    fleet.kill(first, signal.SIGTERM)
    assert fleet.processes[first].wait(TEST_TIMEOUT) == 0
    leases = f"SELECT count(*) FROM runs JOIN daemons ON owner = daemon WHERE name LIKE '%/{first}/%'"
    assert fleet.server.execute(leases, fleet.name) == [(0,)]
    fleet.poller(but=[first])
    fleet.all_done(runs)
    fleet.check_announced(runs)


@pytest.mark.slow
def test_a_clock_an_hour_off_changes_nothing_that_is_shared(fleet: Machines, tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("3600")
    fleet.start("off", LD_PRELOAD=str(preload.library("clock")), WALL_CLOCK=str(clock))
    fleet.poller()
    right = fleet.start("right")
    runs = numbered(20)
    fleet.add_runs(*runs, duration=2.0)
    right.drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    fleet.all_done(runs)
    fleet.kill("off")
    more = numbered(5, "run_more")
    fleet.add_runs(*more)
    right.drop("".join(f"campaign/{run_id}\n" for run_id in more), "more.txt")
    fleet.all_done(more)
    fleet.check_announced([*runs, *more], lost=True)
    fleet.check_library()


@pytest.mark.slow
def test_a_machine_cut_off_from_the_database_loses_its_runs_and_comes_back(fleet: Machines) -> None:
    with Way(fleet.server.port) as way:
        far = fleet.start("far", port=way.port, short_leases=True)
        fleet.poller()
        near = fleet.start("near", short_leases=True)
        slow_media(fleet.simulator)
        runs = numbered(24)
        fleet.add_runs(*runs, outputs=(OutputSpec("a", "videoUrl", size=60_000),))
        near.drop("".join(f"campaign/{run_id}\n" for run_id in runs))
        wait_until(lambda: len(fleet.simulator.asked("media")) >= 20)
        way.cut()
        assert fleet.poller(but=["far"]) == "near"
        fleet.all_done(runs)
        wait_until(lambda: len(far.events("election_lost")) == 1)
        way.mend()
        more = numbered(5, "run_more")
        fleet.add_runs(*more)
        far.drop("".join(f"campaign/{run_id}\n" for run_id in more), "more.txt")
        fleet.all_done(more)
        fleet.check_announced([*runs, *more])
        fleet.check_library()


@pytest.mark.slow
def test_hooks_run_once_over_all_machines_and_those_of_a_dead_one_are_taken_over(fleet: Machines) -> None:
    hooks = {}
    for name in ("one", "other"):
        home = fleet.home(name)
        hooks[name] = Hook(home)
        (home.path / "config.yaml").write_text(yaml.safe_dump({"hooks": {"run_finished": hooks[name].words}}))
        fleet.start(name)
    fleet.poller()
    runs = numbered(40)
    fleet.add_runs(*runs)
    fleet.home("one").drop("".join(f"campaign/{run_id}\n" for run_id in runs))
    fleet.all_done(runs)
    wait_until(lambda: sum(len(hook.calls()) for hook in hooks.values()) >= 40)
    calls = Counter(call.given["run_id"] for hook in hooks.values() for call in hook.calls())
    assert calls == Counter(runs)
    assert fleet.server.execute("SELECT count(*) FROM outbox", fleet.name) == [(0,)]


def test_once_beside_no_daemon_works_off_the_shared_queue_and_ends(fleet: Machines) -> None:
    fleet.add_runs("run_a", "run_b")
    home = fleet.home("one")
    assert home.run("add", "campaign/run_a", "campaign/run_b").returncode == 0
    done = home.run("once")
    assert (done.returncode, "library:" in done.stderr) == (0, True)
    fleet.check_announced(["run_a", "run_b"])
    fleet.check_library()
    again = home.run("once")
    assert (again.returncode, "nothing to do" in again.stderr) == (0, True)
