"""Several daemons that share a queue: how they scale, how soon they act, and what the one that polls costs.

    .venv/bin/python benchmarks/fleet.py [scale|small|drop|idle|failures]...    # without a name: all

It needs Debian's PostgreSQL (`failures` SeaweedFS, too), runs on the helpers of the tests, and takes minutes.
Nothing is judged but by `failures`, where machines are killed and stopped, and the database is restarted.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import databases
from machines import Machines
from object_stores import seaweed
from studio import served, wait_until
from test_fleet_failures import BucketFleet, check_bucket, check_hooks, survive

from floradl.queue.sharing import RUN_LEASE
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

_RATE, _FILM = 100_000, 500_000  # bytes a second that the media host gives a connection, and of a film
_WATCHED = 25.0  # seconds
_TICK = os.sysconf("SC_CLK_TCK")


@contextmanager
def fleet(*names: str) -> Iterator[Machines]:
    """Give machines whose daemons run, and the first of them polls."""
    simulator = Simulator()
    with (
        tempfile.TemporaryDirectory(prefix="floradl-fleet-") as folder,
        served(simulator),
        databases.prepared() as (server, name),
        Machines(Path(folder), simulator, server, name) as found,
    ):
        for each in names:
            found.start(each, FLORADL_POLL__INTERVAL="2s", FLORADL_LOG__LEVEL="info")
            found.poller()
        yield found


def processor(pid: int) -> float:
    """Return the processor's seconds that a process has taken."""
    values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(values[11]) + int(values[12])) / _TICK


def _some_done(machines: Machines, count: int) -> bool:
    found: int = machines.server.execute("SELECT count(*) FROM runs WHERE state = 'done'", machines.name)[0][
        0
    ]
    return found >= count


def scale() -> None:
    """Measure films over connections that the media host caps, by one, two and four daemons."""
    alone = 0.0
    for count in (1, 2, 4):
        names = [f"m{number}" for number in range(count)]
        with fleet(*names) as machines:
            machines.simulator.faults.add(Fault(match=Match(host="media"), do=Do(drip=_RATE)))
            runs = [f"run_{number}" for number in range(150 * count)]
            machines.add_runs(*runs, outputs=(OutputSpec("a", "videoUrl", size=_FILM),), duration=0.0)
            machines.home(names[-1]).drop("".join(f"campaign/{run_id}\n" for run_id in runs))
            done = "SELECT count(*) FROM runs WHERE state = 'done'"
            wait_until(partial(_some_done, machines, 14 * count))
            before, began = machines.server.execute(done, machines.name)[0][0], time.monotonic()
            time.sleep(_WATCHED)
            saved = machines.server.execute(done, machines.name)[0][0] - before
            rate = saved * _FILM / (time.monotonic() - began) / 1e6
        alone = alone or rate
        print(f"scale: {count} daemons, {rate:.1f} MB/s, {rate / alone / count:.2f} of linear", flush=True)


def small(total: int = 5000) -> None:
    """Measure many small runs over four daemons."""
    names = [f"m{number}" for number in range(4)]
    with fleet(*names) as machines:
        runs = [f"run_{number}" for number in range(total)]
        machines.add_runs(*runs, duration=0.0)
        began = time.monotonic()
        for number, name in enumerate(names):
            machines.home(name).drop("".join(f"campaign/{run_id}\n" for run_id in runs[number::4]))
        machines.all_done(runs, 600.0)
        took = time.monotonic() - began
        spent = sum(processor(process.pid) for process in machines.processes.values())
        machines.check_announced(runs)
        machines.check_library()
    print(
        f"small: {total} runs over 4 daemons in {took:.1f} s, {total / took:.0f}/s, "
        f"{1000 * spent / total:.1f} ms of the processor for each",
        flush=True,
    )


def _more_requests(simulator: Simulator, than: int) -> bool:
    return len(simulator.requests) > than


def drop() -> None:
    """Measure how soon a job file at one machine makes another request the run."""
    with fleet("poller", "other") as machines:
        delays = []
        for number in range(20):
            run_id = f"run_{number}"
            machines.add_runs(run_id, duration=0.0)
            asked = len(machines.simulator.requests)
            dropped = time.monotonic()
            machines.home("other").drop(f"campaign/{run_id}\n", f"{run_id}.txt")
            wait_until(partial(_more_requests, machines.simulator, asked))
            delays.append(time.monotonic() - dropped)
            machines.all_done([run_id])
    median, most = statistics.median(delays), max(delays)
    print(f"drop: {1000 * median:.0f} ms in the median, {1000 * most:.0f} ms at most", flush=True)


def idle(total: int = 20_000) -> None:
    """Measure what the poller takes with many open runs, and of that without answers, by their line."""
    with fleet("poller") as machines:
        runs = [f"run_{number}" for number in range(total)]
        machines.add_runs(*runs, duration=100_000.0)
        machines.home("poller").drop("".join(f"campaign/{run_id}\n" for run_id in runs))
        query = "SELECT count(*) FROM runs WHERE state = 'running'"
        # The lists show the newest ten thousand; the others take their turn, some a second.
        wait_until(lambda: machines.server.execute(query, machines.name)[0][0] >= min(total, 9000), 600.0)
        pid = machines.processes["poller"].pid
        shares, answers = [], []
        for _ in range(60):
            asked, before, since = len(machines.simulator.requests), processor(pid), time.monotonic()
            time.sleep(1.0)
            took = time.monotonic() - since
            shares.append((processor(pid) - before) / took)
            answers.append((len(machines.simulator.requests) - asked) / took)
    cost, between = statistics.linear_regression(answers, shares)
    print(
        f"idle: {total} open runs, {100 * statistics.mean(shares):.1f} % of a core with "
        f"{statistics.mean(answers):.0f} answers/s, {1000 * cost:.1f} ms each, "
        f"{100 * between:.1f} % between them",
        flush=True,
    )


def failures(total: int = 5000) -> None:
    """Kill a daemon and the poller, stop another past its lease, and restart the database amid many runs."""
    simulator = Simulator()
    with (
        tempfile.TemporaryDirectory(prefix="floradl-fleet-") as folder,
        tempfile.TemporaryDirectory(prefix="floradl-store-") as objects,
        served(simulator),
        databases.running() as server,
        server.database() as name,
        seaweed(Path(objects)) as store,
        BucketFleet(Path(folder), simulator, server, name) as machines,
    ):
        runs = [f"run_{number}" for number in range(total)]
        machines.add_runs(*runs, duration=0.0)
        machines.start_all(store, "fleet", short_leases=False)
        machines.poller()
        began = time.monotonic()
        machines.drop_everywhere(runs)
        survive(machines, runs, lease=RUN_LEASE, seconds=900.0)
        took = time.monotonic() - began
        check_bucket(store, "fleet", simulator, runs)
        check_hooks(machines, runs)
        hooks = machines.hooked().total()
    print(f"failures: {total} runs in {took:.0f} s, each saved once, {hooks} calls of the hook", flush=True)


def main() -> None:
    """Measure what is named, or all."""
    wanted = sys.argv[1:] or ["scale", "small", "drop", "idle", "failures"]
    try:
        for each in (scale, small, drop, idle, failures):
            if each.__name__ in wanted:
                each()
    finally:
        databases.stop_shared()


if __name__ == "__main__":
    main()
