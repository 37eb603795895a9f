"""Row g: a hundred thousand queued runs."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import anyio
import msgspec

from benchmarks.figures import Figure, number
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home
from benchmarks.plan import Plan, tell
from benchmarks.processes import peak_memory
from benchmarks.script import TECHNIQUE, Script, words
from floradl.models import Reference, RunRequest, RunState
from floradl.queue.sqlite import SqliteQueue

_DAY = 86_400.0
_LATEST = "run_latest"
_MB = 1_000_000
_FEW = 100
_TIMES = 200  # transactions a cost is the median of


def crowd(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure how a crowd is taken in, started with, looked at and worked on."""
    run_ids = [f"run_{number:06}" for number in range(plan.size(100_000, 2_000))]
    folder = plan.work / "crowd"
    latest = words(_LATEST, duration=1.0, age=60.0)
    with simulated(Script((latest, *(words(run_id, _DAY) for run_id in run_ids))), folder) as flora:
        home = Home(folder / "home", flora)
        figures = [*_first_life(home, run_ids), *_second_life(plan, home, flora)]
    return [*figures, *_costs(folder / "few", home.state)]


def _first_life(home: Home, run_ids: list[str]) -> list[Figure]:
    references = "".join(f"{TECHNIQUE}/{run_id}\n" for run_id in run_ids)
    with home.daemon() as process:
        begun = time.monotonic()
        _, handed_in = home.run("add", stdin=references)
        home.wait(process, lambda: home.taken() >= len(run_ids), 300)
        taken_in = time.monotonic() - begun
        tell(f"g: {len(run_ids)} runs handed in after {handed_in:.2f} s, taken in after {taken_in:.2f} s")
        looks = [home.run("status", "--json")[1] for _ in range(5)]
        memory = peak_memory(process.pid)
    return [
        _one("`add` until all is durable", taken_in, 5.0, " s"),
        _one("of that, the command `add`", handed_in, None, " s"),
        _one("`status --json` beside the daemon", median(looks), 0.3, " s"),
        _one("peak RSS while taking in", memory / _MB, 120.0, " MB"),
    ]


def _second_life(plan: Plan, home: Home, flora: Flora) -> list[Figure]:
    started = time.time()
    with home.daemon() as process:
        time.sleep(plan.seconds(10, 2))
        late = _latest(home, plan.seconds(60, 5))
        memory = peak_memory(process.pid)
    stopped, (_, alone) = time.time(), home.run("status", "--json")
    asked = [
        request.time - started for request in flora.finish().requests if started < request.time < stopped
    ]
    tell(f"g: first request {min(asked):.2f} s after the start, {len(asked)} requests since")
    return [
        _one("start until the first request", min(asked), 1.0, " s"),
        _one("peak RSS after a start", memory / _MB, 120.0, " MB"),
        _one("`status --json` without a daemon", alone, 0.3, " s"),
        _one("a run that comes last and is finished, until it is here", late, 5.0, " s"),
    ]


def _latest(home: Home, limit: float) -> float:
    """Drop one more run beside the crowd; returns the seconds until its sidecar stands, or `limit`."""
    begun = time.monotonic()
    home.drop([_LATEST], "latest")
    sidecar = home.library / "runs" / TECHNIQUE / f"{_LATEST}.json"
    while not sidecar.exists() and time.monotonic() - begun < limit:
        time.sleep(0.02)
    return time.monotonic() - begun


def _costs(few: Path, many: Path) -> list[Figure]:
    """Compare what a transaction costs beside few and many other runs, taking turns.

    The bar of 1.2 is "the same" with room for the noise of a disk.
    """
    few.mkdir()
    adding: tuple[list[float], list[float]] = ([], [])
    finishing: tuple[list[float], list[float]] = ([], [])

    async def measure() -> None:
        async with served(few) as beside_few, served(many) as beside_many:
            orders = [_order(f"run_few_{nth}") for nth in range(_FEW)]
            await beside_few.submit(orders, time.time(), retry_failed=False)
            for nth in range(_TIMES):
                for queue, added, finished in zip((beside_few, beside_many), adding, finishing, strict=True):
                    added.append(await _timed_add(queue, f"run_new_{nth}"))
                    finished.append(await _timed_finish(queue, f"run_new_{nth}"))

    anyio.run(measure)
    return [_compared("add one run", adding), _compared("finish one run", finishing)]


@asynccontextmanager
async def served(state_dir: Path) -> AsyncIterator[SqliteQueue]:
    """Work with the queue of a state folder that no daemon works with."""
    queue = SqliteQueue.open(state_dir)
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(queue.serve)
            yield queue
            queue.close()
    finally:
        queue.disconnect()


async def _timed_add(queue: SqliteQueue, run_id: str) -> float:
    begun = time.perf_counter()
    await queue.submit([_order(run_id)], time.time(), retry_failed=True)
    return time.perf_counter() - begun


async def _timed_finish(queue: SqliteQueue, run_id: str) -> float:
    run = await queue.get(run_id)
    if run is None:
        raise LookupError(run_id)
    begun = time.perf_counter()
    await queue.finish(msgspec.structs.replace(run, state=RunState.DONE), time.time(), None)
    return time.perf_counter() - begun


def _compared(what: str, costs: tuple[list[float], list[float]]) -> Figure:
    few, many = median(costs[0]), median(costs[1])
    return Figure(
        row="g",
        what=f"{what}, to the same at {_FEW}",
        ours=f"{number(many * 1000)} ms",
        peer=f"{number(few * 1000)} ms",
        values=(many / few,),
        bar=1.2,
    )


def _one(what: str, value: float, bar: float | None, unit: str) -> Figure:
    return Figure(row="g", what=what, values=(value,), bar=bar, unit=unit)


def _order(run_id: str) -> RunRequest:
    return RunRequest(Reference(run_id, TECHNIQUE))
