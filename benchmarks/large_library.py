"""Row m: a library of 200,000 files beside one of 100."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from subprocess import Popen

import anyio
from msgspec.structs import replace

from benchmarks.crowd import served
from benchmarks.figures import Figure, number
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home
from benchmarks.plan import Plan, tell
from benchmarks.script import TECHNIQUE, PlayedOutput, PlayedRun, Script, words
from floradl.models import Reference, RunRequest, RunState

_FILES = 4  # of each run
_FEW = 25  # runs
_TIMES = 20  # one more run
_AT_ONCE = 1_000  # rows
_LASTING = "run_lasting"
_DAY = 86_400.0
_PER = 20_000  # files
_RENAMED = 50_000  # files


def large_library(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure a start, a look at all files, one more run, and a new layout."""
    many, folder = plan.size(50_000, 200), plan.work / "libraries"
    few_ids = [f"run_{nth:06}" for nth in range(_FEW)]
    new_ids = [f"run_new_{nth}" for nth in range(_TIMES)]
    played = [_texts(run_id) for run_id in (*few_ids, *new_ids)]
    with simulated(Script((*played, words(_LASTING, _DAY))), folder) as flora:
        few, large = (_home(folder / name, flora, few_ids) for name in ("few", "large"))
        _grow(large, few_ids[0], many - _FEW)
        tell(f"m: a library of {many * _FILES} files is made")
        quick = large.measured("verify", "--quick")
        start = _start(large)
        small: list[float] = []
        big: list[float] = []
        with _daemon(few) as beside_few, _daemon(large) as beside_many:
            turns = [(few, beside_few, small), (large, beside_many, big)]
            for run_id in new_ids:
                for home, process, seconds in turns:
                    seconds.append(_one_more(home, process, run_id))
                turns.reverse()  # neither always comes first
        asked = next(request.time - start for request in flora.finish().requests if request.time > start)
    little, much = median(small), median(big)
    per = quick.cpu * _PER / (many * _FILES)
    large.environ["FLORADL_OUTPUT__TEMPLATE"] = "{folder}/{technique}/{date}-{run_id}-{output_id}{ext}"
    renamed = large.measured("relayout").cpu * _RENAMED / (many * _FILES)
    tell(f"m: one more run {much:.3f} s to {little:.3f} s, first request after {asked:.2f} s")
    return [
        _one("start until the first request", asked, 1.0, " s"),
        _one(f"CPU of `verify --quick` for {_PER:,} files", per, 1.0, " s"),
        _one(f"CPU of `relayout` for {_RENAMED:,} files", renamed, 60.0, " s"),
        Figure(
            row="m",
            what=f"one more run, to the same at {_FEW * _FILES} files",
            ours=f"{number(much)} s",
            peer=f"{number(little)} s",
            values=(much / little,),
            bar=1.2,
        ),
    ]


def _texts(run_id: str) -> PlayedRun:
    outputs = (PlayedOutput(f"output_{nth}", "text", f"Words {nth}.\n") for nth in range(_FILES))
    return PlayedRun(run_id, 1.0, tuple(outputs), age=60.0)


def _home(path: Path, flora: Flora, run_ids: Sequence[str]) -> Home:
    home = Home(path, flora)
    home.drop(run_ids)
    home.once()
    return home


def _grow(home: Home, model: str, runs: int) -> None:
    """Add runs to a library and its queue that are as `model` is, as floradl would have left them."""
    sidecar = home.library / "runs" / TECHNIQUE / f"{model}.json"
    content = sidecar.read_bytes()
    files = [home.library / output["path"] for output in json.loads(content)["outputs"]]
    rows: dict[str, str] = {}
    for nth in range(runs):
        run_id = f"run_grown_{nth:06}"
        for source in files:
            _copy(source, source.with_name(source.name.replace(model, run_id)))
        grown = sidecar.with_name(f"{run_id}.json")
        grown.write_bytes(content.replace(model.encode(), run_id.encode()))
        rows[run_id] = str(grown.relative_to(home.library))
    anyio.run(_record, home.state, rows)
    os.sync()


def _copy(source: Path, target: Path) -> None:
    """Copy a small file with its time."""
    target.write_bytes(source.read_bytes())
    times = source.stat()
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


async def _record(state: Path, rows: dict[str, str]) -> None:
    async with served(state) as queue:

        async def finish(run_id: str) -> None:
            run = await queue.get(run_id)
            if run is not None:
                await queue.finish(replace(run, state=RunState.DONE), time.time(), rows[run_id])

        requests = [RunRequest(Reference(run_id, TECHNIQUE)) for run_id in rows]
        await queue.submit(requests, time.time(), retry_failed=False)
        for begin in range(0, len(requests), _AT_ONCE):
            async with anyio.create_task_group() as group:
                for request in requests[begin : begin + _AT_ONCE]:
                    group.start_soon(finish, request.reference.run_id)


def _start(home: Home) -> float:
    """Start the daemon with one run that goes on; returns when that was (unix seconds)."""
    home.drop([_LASTING])
    with home.daemon():
        time.sleep(2)
    started = time.time()
    with home.daemon():
        time.sleep(3)
    return started


@contextmanager
def _daemon(home: Home) -> Iterator[Popen[bytes]]:
    with home.daemon() as process:
        time.sleep(2)
        yield process


def _one_more(home: Home, process: Popen[bytes], run_id: str) -> float:
    """Drop one more run; returns the seconds until its sidecar stands."""
    sidecar = home.library / "runs" / TECHNIQUE / f"{run_id}.json"
    begun = time.monotonic()
    home.drop([run_id], run_id)
    home.wait(process, sidecar.exists, 60, every=0.002)
    return time.monotonic() - begun


def _one(what: str, value: float, bar: float, unit: str) -> Figure:
    return Figure(row="m", what=what, values=(value,), bar=bar, unit=unit)
