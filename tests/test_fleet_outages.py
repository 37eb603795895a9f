"""A database that several machines share and that is restarted, or away: nothing is lost, and all go on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import databases
import pytest
from machines import Machines, machines
from studio import wait_until

from floradl.simulator import Simulator

pytestmark = pytest.mark.slow


def test_a_database_restarted_under_load_and_gone_for_a_while_costs_no_run(
    tmp_path: Path, simulator: Simulator
) -> None:
    with (
        databases.running() as server,
        server.database() as name,
        Machines(tmp_path, simulator, server, name) as fleet,
    ):
        one, other = fleet.start("one"), fleet.start("other")
        fleet.poller()
        runs = [f"run_{number}" for number in range(300)]
        fleet.add_runs(*runs, duration=3.0)
        one.drop("".join(f"campaign/{run_id}\n" for run_id in runs[:150]))
        other.drop("".join(f"campaign/{run_id}\n" for run_id in runs[150:]))
        wait_until(lambda: len(simulator.asked("media")) > 20)
        server.restart()
        wait_until(lambda: len(simulator.asked("media")) > 60)
        server.stop()
        paused = wait_until(lambda: one.run("status", "--check").returncode in {0, 1})
        assert paused
        wait_until(lambda: "queue_unavailable" in one.run("status", "--check").stdout)
        time.sleep(15)
        server.start()
        fleet.all_done(runs)
        fleet.check_library()
        fleet.check_announced(runs)
        wait_until(lambda: "queue_unavailable" not in one.run("status", "--check").stdout)


def test_a_database_restored_from_an_older_backup_neither_doubles_nor_loses_runs(
    tmp_path: Path, simulator: Simulator
) -> None:
    def drop(*runs: str) -> None:
        fleet.home("one").drop("".join(f"campaign/{run_id}\n" for run_id in runs), f"{runs[0]}.txt")

    def stop() -> None:
        fleet.kill("one", signal.SIGTERM)
        fleet.processes["one"].wait(20)

    with machines(tmp_path, simulator) as fleet:
        server, name = fleet.server, fleet.name
        fleet.start("one")
        fleet.add_runs("run_before", "run_open", "run_after", duration=0.0)
        fleet.add_runs("run_slow", duration=20.0)
        drop("run_before")
        fleet.all_done(["run_before"])
        stop()
        # Queued, and not done when the backup is made.
        assert fleet.home("one").run("add", "campaign/run_open").returncode == 0
        server.execute(f"CREATE DATABASE older TEMPLATE {name}")
        fleet.start("one")
        drop("run_after", "run_slow")
        fleet.all_done(["run_open", "run_after"])
        stop()
        server.execute(f"DROP DATABASE {name}")
        server.execute(f"ALTER DATABASE older RENAME TO {name}")
        server.execute("DELETE FROM floradl_facts WHERE name = 'filled'", name)
        fleet.start("one")
        fleet.all_done(["run_before", "run_open", "run_after", "run_slow"])
        fleet.check_library()
        assert len(simulator.asked("media")) == 4
