"""A wall clock that jumps a day forth or back: no storm of requests, no standstill, no false alarm.

The clock is faked for the processes of floradl alone, by a preloaded library; the simulator's goes on.
"""

from __future__ import annotations

import itertools
import os
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import preload
import pytest
from studio import Home, check_library, wait_until

from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

PICTURE = (OutputSpec("picture", "imageUrl"),)
DAY = 86_400

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="preloads a library as Linux does")


class Clock:
    """The wall clock of floradl's processes, in seconds off this machine's."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set(0)

    def set(self, seconds: int) -> None:
        beside = self.path.with_name("clock-to-be")
        beside.write_text(f"{seconds:+d}")
        beside.replace(self.path)

    def environ(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(preload.library("clock")), "WALL_CLOCK": str(self.path)}


@pytest.fixture
def clock(tmp_path: Path) -> Clock:
    return Clock(tmp_path / "clock")


@pytest.fixture
def home(tmp_path: Path, simulator: Simulator, clock: Clock) -> Home:
    folder = tmp_path / "home"
    folder.mkdir()
    return Home(folder, simulator, FLORADL_POLL__INTERVAL="500ms", **clock.environ())


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_the_clock_is_faked(home: Home, clock: Clock) -> None:
    clock.set(DAY)
    with home.daemon():
        (started,) = home.events("started")
    ahead = datetime.fromisoformat(started["timestamp"]) - datetime.now(UTC)
    assert timedelta(hours=23) < ahead < timedelta(hours=25)


def test_a_jump_causes_neither_a_storm_nor_a_standstill(
    home: Home, simulator: Simulator, clock: Clock
) -> None:
    steps = (DAY, 0, -DAY, 0, DAY)
    runs = [
        simulator.add_run(f"run_{n}", technique="campaign", outputs=PICTURE, duration=6) for n in range(10)
    ]
    late = [
        simulator.add_run(f"run_late_{n}", technique="campaign", outputs=PICTURE, duration=0)
        for n in range(len(steps))
    ]
    with home.daemon() as process:
        home.drop("\n".join(map(str, runs)))
        wait_until(lambda: simulator.asked("api"))
        before, used = simulator.counters.api, cpu(process.pid)
        for step, run in zip(steps, late, strict=True):
            clock.set(step)
            home.drop(str(run), run.run_id)
            home.finished(str(run))
        for run in runs:
            home.finished(str(run))
        # As often as without a jump: the list twice a second for some six seconds, and each run at its end.
        assert simulator.counters.api - before < 60
        assert cpu(process.pid) - used < 3
    assert all(request.status == 200 for request in simulator.asked("media"))
    assert len(simulator.asked("media")) == len(runs) + len(late)
    check_library(home, simulator)


@pytest.mark.parametrize("step", [DAY, -DAY])
def test_a_daemon_is_well_after_a_jump(home: Home, clock: Clock, step: int) -> None:
    with home.daemon():
        wait_until(lambda: home.run("status", "--check").returncode == 0)
        clock.set(step)
        # What it last wrote is a day old now, or of tomorrow: it notices, and waits for no other news.
        wait_until(lambda: home.run("status", "--check").returncode == 0)


def test_a_pause_lifts_after_a_jump(home: Home, simulator: Simulator, clock: Clock) -> None:
    runs = [
        str(simulator.add_run(f"run_{n}", technique="campaign", outputs=PICTURE, duration=0))
        for n in range(2)
    ]
    with home.daemon():
        home.drop(runs[0])
        home.finished(runs[0])
        marker = home.library / ".floradl-library"
        marker.unlink()
        home.drop(runs[1])
        wait_until(lambda: home.events("paused"))
        clock.set(-DAY)
        marker.touch()
        home.finished(runs[1])


@pytest.mark.parametrize("off", [DAY, -DAY])
def test_retry_after_as_a_date_is_honoured_whatever_our_clock_says(
    home: Home, simulator: Simulator, clock: Clock, off: int
) -> None:
    clock.set(off)
    run = str(simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0))
    moment = datetime.now(UTC) + timedelta(seconds=6)
    busy = Do(status=429, code="rate_limited", retry_after=format_datetime(moment, usegmt=True))
    for host in ("api", "media"):
        simulator.faults.add(Fault(do=busy, match=Match(host=host), times=1))
    with home.daemon():
        home.drop(run)
        home.finished(run)
    for host in ("api", "media"):
        refused, *again = [request for request in simulator.requests if request.host == host]
        assert refused.status == 429
        assert again[0].time >= moment.timestamp() - 1.5


def test_what_was_put_away_stays_when_the_clock_jumps_a_day(
    home: Home, simulator: Simulator, clock: Clock
) -> None:
    run = str(simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0))
    home.drop(run, "job")
    for step in itertools.accumulate((0, DAY, -2 * DAY)):
        clock.set(step)
        assert home.run("once").returncode == 0
        assert (home.inbox / "accepted" / "job").exists()
    assert len(simulator.asked("media")) == 1
