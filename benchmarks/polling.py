"""Rows d, e, e2 and f: how often FLORA is asked, and how soon a run's end is noticed.

In real time: floradl's own times (intervals, back-off, what it learns of durations) are seconds, and a
clock that ran faster for the runs alone would change what is measured. All wait most of the time, so they
run side by side, each against a simulator of its own that plays the same runs.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import mean

from msgspec import Struct

from benchmarks.figures import Figure, Scale, ratio
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home, clean_environ
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.processes import running, tail
from benchmarks.script import TECHNIQUE, PlayedRun, Report, Script, words
from benchmarks.tools import LIBRARY, PEERS

_SIGMA = 0.5  # of the durations' logarithm
_FASTER = 20.0  # how much the quick form compresses, floradl's interval and the peer's too
_INTERVAL, _PEER_INTERVAL = 2.0, 5.0
_FIRST_MINUTE = 60.0
_STARVED = 30.0  # seconds after its end that a run may be told of: floradl's own longest gap
_TIMEOUT = 900.0


class _Crowd(Struct, frozen=True):
    """Runs that are in flight at once: how many, and the median of what they take, in seconds."""

    runs: int
    median: float

    def play(self, plan: Plan, seed: int) -> tuple[PlayedRun, ...]:
        dice = random.Random(seed)
        median = plan.seconds(self.median, self.median / _FASTER)
        durations = [median * dice.lognormvariate(0, _SIGMA) for _ in range(plan.size(self.runs, 30))]
        return tuple(words(f"run_{seed}_{nth:04}", seconds) for nth, seconds in enumerate(durations))


class _Setting(Struct, frozen=True):
    """What a racer follows, and how the API answers it: with lists or not, and how often (a second)."""

    crowd: _Crowd
    listing: bool = True
    rate: float | None = None
    official: bool = False
    """Whether a loop around FLORA's own library follows the runs, not floradl."""


_LONG, _SHORT = _Crowd(200, 40.0), _Crowd(120, 12.0)
_SETTINGS = {
    "d": _Setting(_LONG),
    "e": _Setting(_LONG, listing=False),
    "f": _Setting(_LONG, rate=2.0),
    "e2": _Setting(_SHORT, listing=False),
    "loop": _Setting(_LONG, official=True),
    "loop2": _Setting(_SHORT, official=True),
}
_PEERS = {"d": "loop", "e": "loop", "e2": "loop2"}


def polling(plan: Plan, rows: Sequence[str]) -> list[Figure]:
    """Measure those of d, e, e2 and f that are wanted, once for each seed."""
    peers = {_PEERS[row] for row in rows if row in _PEERS} if LIBRARY in plan.tools.found else set()
    seen: dict[str, list[Report]] = {name: [] for name in (*rows, *sorted(peers))}
    for seed in range(1, plan.pairs + 1):
        tell(f"{', '.join(rows)}: seed {seed}")
        with ExitStack() as ends:
            racers = {name: ends.enter_context(_race(plan, name, seed)) for name in seen}
            reports = {name: racer.report() for name, racer in racers.items()}
        for name, report in reports.items():
            tell(
                f"{name}, seed {seed}: {_requests(report):.2f} requests a run, "
                f"noticed after {mean(report.delays):.2f} s"
            )
            seen[name].append(report)
    judged: dict[str, Callable[[Plan, Sequence[Report], Sequence[Report]], list[Figure]]] = {
        "d": _listed,
        "e": partial(_unlisted, "e", (0.75, 1.0)),
        "e2": partial(_unlisted, "e2", (1.0, 0.75)),
        "f": _limited,
    }
    return [
        figure for row in rows for figure in judged[row](plan, seen[row], seen.get(_PEERS.get(row, ""), []))
    ]


class _Racer(Struct, frozen=True):
    """A client that follows the runs, and the FLORA that it asks."""

    process: subprocess.Popen[bytes]
    log: Path
    flora: Flora

    def report(self) -> Report:
        """Wait for its end, and tell what FLORA saw. Raises `BenchmarkError` where it does not end well."""
        try:
            code = self.process.wait(_TIMEOUT)
        except subprocess.TimeoutExpired:
            raise BenchmarkError(f"some runs were not noticed within {_TIMEOUT:.0f} s") from None
        if code:
            raise BenchmarkError(f"a client of the polled runs ended with {code}: {tail(self.log)}")
        return self.flora.finish()


@contextmanager
def _race(plan: Plan, name: str, seed: int) -> Iterator[_Racer]:
    """Start the racer that `_SETTINGS` calls `name`, with a FLORA of its own; both end with the block."""
    setting = _SETTINGS[name]
    folder, runs = plan.work / f"{name}-{seed}", setting.crowd.play(plan, seed)
    rate = setting.rate and plan.seconds(setting.rate, setting.rate * _FASTER)
    follow = _official if setting.official else _floradl
    script = Script(runs, rate_limit=rate, listing=setting.listing, progress=plan.progress)
    with (
        simulated(script, folder) as flora,
        follow(plan, folder, flora, runs) as racer,
    ):
        yield racer


@contextmanager
def _floradl(plan: Plan, folder: Path, flora: Flora, runs: tuple[PlayedRun, ...]) -> Iterator[_Racer]:
    settings = {"FLORADL_POLL__INTERVAL": f"{plan.seconds(_INTERVAL, _INTERVAL / _FASTER) * 1000:.0f}ms"}
    home = Home(folder / "home", flora, settings)
    home.drop(run.run_id for run in runs)
    with home.working_off() as process:
        yield _Racer(process, home.log, flora)


@contextmanager
def _official(plan: Plan, folder: Path, flora: Flora, runs: tuple[PlayedRun, ...]) -> Iterator[_Racer]:
    """Follow each run by a loop around the official library, as its users write it."""
    run_ids, log = folder / "run-ids.txt", folder / "peer.log"
    run_ids.write_text("".join(f"{run.run_id}\n" for run in runs))
    interval = plan.seconds(_PEER_INTERVAL, _PEER_INTERVAL / _FASTER) * 1000
    command = [plan.tools.path("node"), str(PEERS / "official_loop.cjs"), TECHNIQUE]
    command += [f"{interval:.0f}", str(run_ids)]
    environ = {**clean_environ(), "FLORA_BASE_URL": flora.base_url, "FLORA_API_KEY": flora.key}
    with running(command, environ, log) as process:
        yield _Racer(process, log, flora)


def _listed(plan: Plan, seen: Sequence[Report], peers: Sequence[Report]) -> list[Figure]:
    return [
        _plain(
            "d", "API requests a run", [_requests(report) for report in seen], 0.6, _peer(peers, _requests)
        ),
        _plain(
            "d", "mean detection", [_delay(report) for report in seen], 1.5, _peer(peers, _delay, " s"), " s"
        ),
        *_completeness("d", plan, seen),
    ]


def _unlisted(
    row: str, bars: tuple[float, float], plan: Plan, seen: Sequence[Report], peers: Sequence[Report]
) -> list[Figure]:
    paired = list(zip(seen, peers, strict=True))
    requests = [(_requests(ours), _requests(peer)) for ours, peer in paired]
    delays = [(_delay(ours), _delay(peer)) for ours, peer in paired]
    return [
        ratio(row, "API requests, to the 5 s loop", requests, bars[0], Scale(" a run")),
        ratio(row, "mean detection, to the 5 s loop", delays, bars[1], Scale()),
        *_completeness(row, plan, seen),
    ]


def _limited(plan: Plan, seen: Sequence[Report], _peers: Sequence[Report]) -> list[Figure]:
    after = plan.seconds(_FIRST_MINUTE, _FIRST_MINUTE / _FASTER)
    throttled = [_throttled(report, after) for report in seen]
    return [
        _plain("f", "throttled after the first minute", throttled, 1.0, unit=" %"),
        _plain("f", "mean detection", [_delay(report) for report in seen], 5.0, unit=" s"),
        _plain("f", "API requests a run", [_requests(report) for report in seen]),
        *_completeness("f", plan, seen),
    ]


def _completeness(row: str, plan: Plan, seen: Sequence[Report]) -> list[Figure]:
    limit = plan.seconds(_STARVED, _STARVED / _FASTER)
    starved = [float(len(report.ended) - sum(delay <= limit for delay in report.delays)) for report in seen]
    return [
        _plain(row, f"runs noticed after {_STARVED:.0f} s or never", starved, 0.0),
        _plain(row, "slowest detection", [max(report.delays) for report in seen], unit=" s"),
    ]


def _plain(
    row: str, what: str, values: Sequence[float], bar: float | None = None, peer: str = "", unit: str = ""
) -> Figure:
    return Figure(row=row, what=what, values=tuple(values), bar=bar, peer=peer, unit=unit)


def _peer(peers: Sequence[Report], amount: Callable[[Report], float], unit: str = "") -> str:
    return Scale(unit).show([amount(report) for report in peers]) if peers else "not here"


def _requests(report: Report) -> float:
    return len(report.requests) / len(report.ended)


def _delay(report: Report) -> float:
    return mean(report.delays)


def _throttled(report: Report, after: float) -> float:
    """Return the share of requests that were answered 429, in per cent, once `after` seconds have passed."""
    late = [request.status == 429 for request in report.requests if request.time > report.began + after]
    return 100 * mean(late) if late else 0.0
