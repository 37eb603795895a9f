"""A database that several machines share and that is restarted, or away: nothing is lost, and all go on."""

from __future__ import annotations

import time
from pathlib import Path

import databases
import pytest
from machines import Machines
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
        fleet.all_done(runs, 120.0)
        fleet.check_library()
        fleet.check_announced(runs)
        wait_until(lambda: "queue_unavailable" not in one.run("status", "--check").stdout)
