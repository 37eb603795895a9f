"""Row l: the memory that waiting takes, up to a million queued runs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, number
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home
from benchmarks.plan import Plan, tell
from benchmarks.processes import peak_memory, resident_memory
from benchmarks.script import TECHNIQUE, Script, crowd_id

_MB = 1_000_000
_QUICK = 2_000  # runs of the quick form
_BARS = {0: 40.0, 100_000: 65.0, 1_000_000: 160.0}  # MB
_TAKEN_IN, _FIRST_REQUEST = 25.0, 2.0  # seconds, for the most


def queued(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure daemons with no runs, with many, and with very many: all of them go on at FLORA."""
    folder, most = plan.work / "queued", max(_BARS)
    with simulated(Script((), crowd=plan.size(most, _QUICK)), folder) as flora:
        memory = [_waiting(plan, Home(folder / str(runs), flora), runs, bar) for runs, bar in _BARS.items()]
        return [*memory, *_taken_in(plan, folder, flora, most)]


def _waiting(plan: Plan, home: Home, runs: int, bar: float) -> Figure:
    """Measure what a daemon has in memory some time after its start, with so many runs queued."""
    if runs:
        _add(plan, home, runs)
    with home.daemon() as process:
        time.sleep(plan.seconds(15, 1))
        memory = resident_memory(process.pid) / _MB
    tell(f"l: {memory:.1f} MB with {runs} queued runs")
    return _one(f"RSS with {number(runs)} queued" if runs else "RSS, idle", memory, bar, " MB")


def _add(plan: Plan, home: Home, runs: int) -> tuple[float, int]:
    """Queue runs by `add`; returns the seconds until all are taken in, and the daemon's peak of memory."""
    count = min(runs, plan.size(runs, _QUICK))
    references = "".join(f"{TECHNIQUE}/{crowd_id(nth)}\n" for nth in range(count))
    with home.daemon() as process:
        begun = time.monotonic()
        home.run("add", stdin=references)
        home.wait(process, lambda: home.taken() >= count, 600)
        return time.monotonic() - begun, peak_memory(process.pid)


def _taken_in(plan: Plan, folder: Path, flora: Flora, runs: int) -> list[Figure]:
    home = Home(folder / "taken-in", flora)
    seconds, memory = _add(plan, home, runs)
    started = time.time()
    with home.daemon():
        time.sleep(plan.seconds(10, 2))
    asked = [request.time - started for request in flora.finish().requests if request.time > started]
    tell(f"l: {runs} runs taken in after {seconds:.1f} s, first request {min(asked):.2f} s after the start")
    return [
        _one(f"{number(runs)} runs taken in", seconds, _TAKEN_IN, " s"),
        _one("peak RSS meanwhile", memory / _MB, None, " MB"),
        _one(f"start until the first request, with {number(runs)} queued", min(asked), _FIRST_REQUEST, " s"),
    ]


def _one(what: str, value: float, bar: float | None, unit: str) -> Figure:
    return Figure(row="l", what=what, values=(value,), bar=bar, unit=unit)
