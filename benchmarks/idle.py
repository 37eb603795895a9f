"""Row i: what a daemon takes that has nothing to do, and how soon it begins when something comes.

Processor time is the kernel's own account in nanoseconds. A wake-up is a thread that had gone to sleep by
itself and runs again: the kernel counts the former (voluntary context switches), thread by thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from benchmarks.figures import Figure
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home
from benchmarks.plan import Plan, tell
from benchmarks.script import TECHNIQUE, Script, words

_BETWEEN = 1.0  # seconds, at least
_VOLUNTARY = "voluntary_ctxt_switches:"


class Usage(Struct, frozen=True):
    """What the threads of a process have taken so far: nanoseconds and sleeps, by thread."""

    nanoseconds: dict[int, int]
    sleeps: dict[int, int]


def idle(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure an idle daemon with nothing behind it, and with many finished runs."""
    many = plan.size(10_000, 50)
    dropped = [f"run_dropped_{nth}" for nth in range(plan.size(20, 5))]
    run_ids = [f"run_{number:06}" for number in range(many)]
    folder = plan.work / "idle"
    script = Script(tuple(words(run_id, duration=1.0, age=60.0) for run_id in (*run_ids, *dropped)))
    with simulated(script, folder) as flora:
        none = _home(folder, "none", flora, [])
        return [
            *_look(plan, none, 0),
            *_look(plan, _home(folder, "many", flora, run_ids), many),
            _begin(none, flora, dropped),
        ]


def _begin(home: Home, flora: Flora, run_ids: list[str]) -> Figure:
    """Drop one job file after the other; the time from each to the first request about its run."""
    dropped: dict[str, float] = {}
    with home.daemon() as process:
        for nth, run_id in enumerate(run_ids):
            time.sleep(_BETWEEN + nth / len(run_ids))  # at no moment of its own in the daemon's rhythm
            dropped[run_id] = time.time()
            home.drop([run_id], run_id)
            sidecar = home.library / "runs" / TECHNIQUE / f"{run_id}.json"
            home.wait(process, sidecar.exists, 30)
    first: dict[str, float] = {}
    for request in flora.finish().requests:
        first.setdefault(request.path.rpartition("/")[2], request.time)
    seconds = [1000 * (first[run_id] - dropped[run_id]) for run_id in run_ids]
    tell("i: first request after " + ", ".join(f"{each:.0f}" for each in seconds) + " ms")
    what = "from a job file's drop to the first request"
    return Figure(row="i", what=what, values=tuple(seconds), bar=90.0, unit=" ms")


def _home(folder: Path, name: str, flora: Flora, run_ids: list[str]) -> Home:
    home = Home(folder / name, flora)
    if run_ids:
        home.drop(run_ids)
        cost = home.once()
        tell(f"i: {len(run_ids)} runs worked off in {cost.wall:.1f} s, CPU {cost.cpu:.1f} s")
    return home


def _look(plan: Plan, home: Home, runs: int) -> list[Figure]:
    with home.daemon() as process:
        time.sleep(plan.seconds(15, 1))  # until its start is over, and the threads it needed are gone
        spans = [_span(process.pid, plan.seconds(30, 2)) for _ in range(plan.pairs)]
    tell(f"i: with {runs} finished runs: " + ", ".join(f"{share:.3f} %" for share, _ in spans))
    shares, wakes = zip(*spans, strict=True)
    return [
        Figure(row="i", what=f"CPU with {runs} finished runs", values=shares, bar=0.15, unit=" %"),
        Figure(row="i", what=f"wake-ups with {runs} finished runs", values=wakes, bar=25.0, unit=" /s"),
    ]


def _span(pid: int, length: float) -> tuple[float, float]:
    """Wait for `length` seconds; returns the share of a core (percent) and wake-ups a second."""
    begun, before = time.monotonic(), usage(pid)
    time.sleep(length)
    after, seconds = usage(pid), time.monotonic() - begun
    share = 100 * _grown(before.nanoseconds, after.nanoseconds) / 1e9 / seconds
    return share, _grown(before.sleeps, after.sleeps) / seconds


def usage(pid: int) -> Usage:
    """Read what the threads of a process have taken."""
    nanoseconds, sleeps = {}, {}
    for thread in Path(f"/proc/{pid}/task").iterdir():
        try:
            spent = (thread / "schedstat").read_text().split()
            status = (thread / "status").read_text().splitlines()
        except FileNotFoundError:  # it ended
            continue
        number = int(thread.name)
        nanoseconds[number] = int(spent[0])
        sleeps[number] = next(int(line.split()[1]) for line in status if line.startswith(_VOLUNTARY))
    return Usage(nanoseconds, sleeps)


def _grown(before: dict[int, int], after: dict[int, int]) -> int:
    return sum(value - before.get(thread, 0) for thread, value in after.items())
