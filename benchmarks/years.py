"""Row y: what three years leave behind, a million runs: on disk, at a start, and for the commands that ask.

Queue, event log and watch folder get there through floradl's own code, by a clock that is passed in. Sidecars
are written as floradl writes them, without their files.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import anyio
import msgspec

from benchmarks.crowd import served
from benchmarks.figures import Figure, median_seconds
from benchmarks.flora import Flora, simulated
from benchmarks.home import Home
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.processes import resident_memory
from benchmarks.script import Script, words
from floradl.clock import rfc3339
from floradl.errors import ErrorCode
from floradl.models import QueuedRun, Reference, RunFailure, RunNames, RunRequest, RunState
from floradl.queue.base import LateCost
from floradl.queue.event_log import EventLog
from floradl.queue.sqlite import SqliteQueue
from floradl.sources.inbox import Inbox

_DAY = 86_400.0
_SPAN = 3 * 365 * _DAY
_KEEP = 30 * _DAY  # queue.keep
_MB = 1_000_000
_TECHNIQUES, _LABELS = 40, 300
_ROWS_AT_ONCE = 5_000
_LAST = 20_000  # runs that pass through `submit` and `finish`, one by one
_JOBS_A_DAY = 5
_EVENTS = 400_000  # more than all files of the log hold
_ASKED = 5  # times
_LASTING, _LATER = "run_lasting", "run_later"
_DISK, _START, _MEMORY, _ANSWER = 1500.0, 2.0, 120.0, 1.0  # bytes a run, seconds, MB, seconds


def years(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Make what three years leave behind, and measure it."""
    runs, folder = plan.size(1_000_000, 1_000), plan.work / "years"
    plan.need_space(runs * 12_000)
    with simulated(Script((words(_LASTING, _DAY), words(_LATER, 1.0, age=60.0))), folder) as flora:
        home = Home(folder / "home", flora)
        with home.daemon():
            pass  # it makes the folders
        inbox = _jobs(home.path / "inbox", plan.size(round(_SPAN / _DAY), 60))
        anyio.run(_live, home.state, runs, plan.size(_LAST, 200), plan.size(_EVENTS, 1_000))
        tell(f"y: the queue of {runs:,} runs is made")
        _sidecars(home.library, runs)
        tell(f"y: {runs:,} sidecars are written")
        indexed = home.measured("stats").wall
        tell(f"y: the index is made in {indexed:.0f} s")
        state = home.state
        journal, index = (_size(state, name) for name in ("journal.sqlite3", "index.sqlite3"))
        events = _size(state, "events") / _MB
        return [
            _one("journal, a run", journal / runs, 300.0, " B"),
            _one("index, a run", index / runs, _DISK, " B"),
            _one("event log", events, 70.0, " MB"),
            _one("job files kept, of those a month brings", inbox / (_JOBS_A_DAY * 30), 1.1, ""),
            *_commands(home, runs),
            *_started(plan, home, flora, state),
        ]


def run_id(nth: int) -> str:
    """Return the id of a run; they come in no order, as FLORA's do."""
    return "run_" + hashlib.blake2b(str(nth).encode(), digest_size=8).hexdigest()


def _jobs(watch_dir: Path, days: int) -> int:
    """Drop job files on each of so many days to come, and have them taken; return how many lie there then."""
    now = time.time()
    today = now
    inbox = Inbox(watch_dir, keep=_KEEP, wall=lambda: today)
    inbox.prepare()
    for day in range(days):
        today = now + day * _DAY
        for nth in range(_JOBS_A_DAY):
            name = watch_dir / f"job-{day}-{nth}.txt"
            name.write_text("technique-1/run_1\n" if nth else "no run: at all\n")
        while (found := inbox.scan()).jobs or found.rejected:
            inbox.accept(found.jobs)
        inbox.sweep()
    kept = [path for place in ("accepted", "rejected") for path in (watch_dir / place).iterdir()]
    for path in kept:
        path.unlink()  # what is measured next is not these
    return sum(not path.name.endswith(".error.txt") for path in kept)


async def _live(state: Path, runs: int, last: int, events: int) -> None:
    """Put so many runs into the queue, the `last` of them through all that a run passes; write events."""
    until = time.time() - _DAY
    async with served(state) as queue:
        await queue.outbox.expect(finished=True)
        rows = ((_row(nth, until - _SPAN + _SPAN * nth / runs)) for nth in range(runs - last))
        while some := list(itertools.islice(rows, _ROWS_AT_ONCE)):
            await queue.recover([(run, run.queued_at + 60) for run in some])
        passed = [_row(nth, until - _SPAN + _SPAN * nth / runs) for nth in range(runs - last, runs)]
        for start in range(0, last, 500):
            await _pass(queue, passed[start : start + 500])
        left = [await queue.outbox.after(0), await queue.late_costs(time.time(), 10), await queue.open_ids()]
        if any(left):
            raise BenchmarkError(f"done runs left something in the queue: {left}")
        await queue.outbox.expect(finished=False)
    await _events(state, events)


async def _pass(queue: SqliteQueue, runs: Sequence[QueuedRun]) -> None:
    """Take runs through the queue: asked for, told by a webhook, done, looked at for costs, announced."""
    requests = [RunRequest(Reference(run.run_id, run.technique), run.label) for run in runs]
    await queue.submit(requests, runs[0].queued_at, retry_failed=False)

    async def one(run: QueuedRun, request: RunRequest) -> None:
        at = run.queued_at
        await queue.note_delivery(f"d-{run.run_id}", request, at, known_only=True, retry_failed=False)
        open_run = msgspec.structs.replace(run, state=RunState.RUNNING, error=None)
        await queue.update_all([(open_run, 30.0)], at + 30)
        await queue.finish(run, at + 60, f"{run.run_id}.json", LateCost(run.run_id, at + 120))

    async with anyio.create_task_group() as group:
        for run, request in zip(runs, requests, strict=True):
            group.start_soon(one, run, request)
    await queue.put_late_costs((), [run.run_id for run in runs])
    for told in await queue.outbox.after(0):
        await queue.outbox.drop(told)


async def _events(state: Path, count: int) -> None:
    log = EventLog(state)
    async with anyio.create_task_group() as group:
        group.start_soon(log.serve)
        for start in range(0, count, 2_000):
            for nth in range(start, min(start + 2_000, count)):
                log.finished(_row(nth, time.time()), f"runs/technique-1/{run_id(nth)}.json", 3, 3_000_000)
            await anyio.sleep(0.03)
        group.cancel_scope.cancel()
    await log.aclose()


def _row(nth: int, at: float) -> QueuedRun:
    failed = nth % 100 == 0
    return QueuedRun(
        run_id=run_id(nth),
        technique=f"technique-{nth % _TECHNIQUES}",
        label=_label(nth),
        state=RunState.FAILED if failed else RunState.DONE,
        queued_at=at,
        detected_at=at + 30,
        progress=100.0,
        error=RunFailure(ErrorCode.RUN_FAILED, "FLORA: safety_blocked: Not this.") if failed else None,
        meta=_meta(nth),
        names=RunNames(
            technique_id=f"tech_{nth % _TECHNIQUES:016}", technique_name=f"Technique {nth % _TECHNIQUES}"
        ),
    )


def _label(nth: int) -> str | None:
    return f"campaign {nth % _LABELS}" if nth % 3 == 0 else None


def _meta(nth: int) -> dict[str, str]:
    return {"shot": str(nth)} if nth % 10 == 0 else {}  # from a table: each has its own


def _sidecars(library: Path, runs: int) -> None:
    until = time.time() - _DAY
    for nth in range(_TECHNIQUES):
        (library / "runs" / f"technique-{nth}").mkdir(parents=True, exist_ok=True)
    for nth in range(runs):
        data = msgspec.json.encode(_sidecar(nth, until - _SPAN + _SPAN * nth / runs))
        path = f"{library}/runs/technique-{nth % _TECHNIQUES}/{run_id(nth)}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        os.write(fd, data)
        os.close(fd)


def _sidecar(nth: int, at: float) -> dict[str, object]:
    row, when = _row(nth, at), rfc3339(at)
    error = None if row.error is None else {"code": row.error.code, "message": row.error.message}
    run = {"run_id": row.run_id, "status": "completed", "charged_cost": 0.04 + nth % 7 / 100}
    return {
        "schema_version": 1,
        "reference": str(row.reference),
        "technique": row.technique,
        "technique_id": row.names.technique_id,
        "technique_name": row.names.technique_name,
        "project_id": f"prj_{nth % 7}",
        "run_id": row.run_id,
        "label": row.label,
        "meta": row.meta,
        "result": "failed" if row.error else "complete",
        "run": run,
        "outputs": [] if row.error else [_output(row, name) for name in ("output_1", "output_2")],
        "error": error,
        "times": {"created_at": when, "completed_at": when, "finished_at": when},
    }


def _output(row: QueuedRun, output_id: str) -> dict[str, object]:
    return {
        "output_id": output_id,
        "type": "imageUrl",
        "kind": "image",
        "path": f"images/{row.technique}/{row.run_id}-{output_id}.png",
        "bytes": 183_204,
        "sha256": hashlib.sha256(f"{row.run_id} {output_id}".encode()).hexdigest(),
        "content_type": "image/png",
        "integrity": "length_only",
        "checked": ["length"],
    }


def _commands(home: Home, runs: int) -> Iterator[Figure]:
    file = home.path / "a-file.png"
    file.write_bytes(b"of no run")
    lines = {
        ("status",): _ANSWER,
        ("status", "--json"): _ANSWER,
        ("status", run_id(runs // 2)): _ANSWER,
        ("find", "campaign", "17"): _ANSWER,
        ("find", "--label", "campaign 18"): _ANSWER,
        ("costs",): _ANSWER,
    }
    home.run("find", "campaign", "17")  # what was written a moment ago is looked at again
    for line, bar in lines.items():
        seconds = median_seconds(partial(home.run, *line), _ASKED)
        yield _one(f"`{' '.join(line)}`", seconds, bar, " s")
    yield _one("`status --all`", median_seconds(lambda: home.run("status", "--all"), 1), None, " s")


def _started(plan: Plan, home: Home, flora: Flora, state: Path) -> list[Figure]:
    """Start a daemon beside all of it, with one run that goes on; bring one more."""
    home.drop([_LASTING])
    with home.daemon():
        time.sleep(plan.seconds(5, 1))
    started = time.time()
    with home.daemon() as process:
        time.sleep(plan.seconds(15, 2))
        memory = resident_memory(process.pid) / _MB
        home.drop([_LATER], "later")
        home.wait(process, lambda: any(home.library.glob(f"runs/*/{_LATER}.json")), 60)
        found = home.run("find", "--label", "campaign 18")[1]
    asked = min(request.time - started for request in flora.finish().requests if request.time > started)
    tell(f"y: first request {asked:.2f} s after the start, {memory:.0f} MB")
    tell(f"y: the state folder has {_size(state, '') / _MB:.0f} MB")
    return [
        _one("start until the first request", asked, _START, " s"),
        _one("RSS of the daemon, idle", memory, _MEMORY, " MB"),
        _one("`find`, once a run has come", found, _ANSWER, " s"),
    ]


def _size(folder: Path, begins: str) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.name.startswith(begins))


def _one(what: str, value: float, bar: float | None, unit: str) -> Figure:
    return Figure(row="y", what=what, values=(value,), bar=bar, unit=unit)
