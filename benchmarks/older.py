"""Row j: what a few small files cost, beside an older build of floradl itself."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.figures import Figure, Scale, ratio
from benchmarks.home import Home
from benchmarks.media import batch
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.processes import Cost
from benchmarks.script import TECHNIQUE
from benchmarks.transfers import Track, run_id, tell_pair, track

_OLD = "3dd595b"
"""The commit that is compared with."""
_BAR = 0.5
_SOURCE = Path(__file__).parent.parent
_OFTEN = 4  # times as many pairs as elsewhere: each takes a second


def older(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure `get` and `once` of one run of four images; nothing where the history is not here."""
    if _git("cat-file", "-e", f"{_OLD}^{{commit}}").returncode:
        tell(f"row j is left out: the history with {_OLD} is not here (git fetch --unshallow)")
        return []
    python = _install(plan.work / "older")
    commands: dict[str, Callable[[Home], Cost]] = {"get": _get, "once": _once}
    seen: dict[str, list[tuple[Cost, Cost]]] = {name: [] for name in commands}
    with track(plan, batch([4], 200_000)) as racers:
        for name, interpreter in (("warm", sys.executable), ("warm-old", python)):
            _race(racers, name, interpreter, _get)  # so that both are compiled
        for nth in range(plan.pairs * plan.size(_OFTEN, 1)):
            for name, command in commands.items():
                ours = _race(racers, f"{name}-{nth}", sys.executable, command)
                theirs = _race(racers, f"{name}-{nth}-old", python, command)
                tell_pair(f"j, {name}", nth, ours, theirs)
                seen[name].append((ours, theirs))
    return [figure for name, pairs in seen.items() for figure in _figures(name, pairs)]


def _install(folder: Path) -> str:
    """Install the old build into a virtual environment of its own; returns its interpreter."""
    tell(f"j: installing {_OLD}")
    source, venv = folder / "source", folder / "venv"
    source.mkdir(parents=True)
    archive = folder / "source.tar"
    for done in (
        _git("archive", f"--output={archive}", _OLD),
        _run("tar", "-xf", str(archive), "-C", str(source)),
        _run(sys.executable, "-m", "venv", str(venv)),
        _run(str(venv / "bin/pip"), "install", "-q", "-c", str(source / "constraints.txt"), str(source)),
    ):
        if done.returncode:
            raise BenchmarkError(f"{_OLD} cannot be installed: {done.stderr[-1000:]}")
    return str(venv / "bin/python")


def _race(racers: Track, name: str, python: str, command: Callable[[Home], Cost]) -> Cost:
    home = Home(racers.plan.work / name, racers.flora, racers.settings, python)
    cost = command(home)
    home.check_files(len(racers.batch.files), racers.batch.size)
    return cost


def _get(home: Home) -> Cost:
    return home.measured("get", f"{TECHNIQUE}/{run_id(0)}")


def _once(home: Home) -> Cost:
    home.drop([run_id(0)])
    return home.once()


def _figures(name: str, pairs: Sequence[tuple[Cost, Cost]]) -> list[Figure]:
    walls, cpus = [(ours.wall, old.wall) for ours, old in pairs], [(ours.cpu, old.cpu) for ours, old in pairs]
    return [
        ratio("j", f"wall of `{name}`, to {_OLD}", walls, _BAR, Scale()),
        ratio("j", f"CPU of `{name}`, to {_OLD}", cpus, _BAR, Scale()),
    ]


def _git(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run("git", "-C", str(_SOURCE), *arguments)


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
