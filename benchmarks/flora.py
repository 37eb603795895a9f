"""A simulated FLORA in a process of its own: `python -m benchmarks.flora SCRIPT REPORT`.

It plays the script until SIGTERM, and then writes what it saw.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.plan import BenchmarkError
from benchmarks.script import TECHNIQUE, Report, Request, Script, crowd_id
from floradl.simulator import OutputSpec, RequestRecord, ScriptedRun, Simulator, serve
from floradl.simulator.state import StatePage

_DAY = 86_400.0
_OVER = {"completed", "failed"}


class Flora:
    """A simulator that runs; `finish` ends it."""

    def __init__(self, process: subprocess.Popen[str], report: Path) -> None:
        line = (process.stdout.readline() if process.stdout else "").strip()
        if not line:
            raise BenchmarkError("the simulator does not come up")
        self._process = process
        self._report = report
        self.base_url: str
        self.key: str
        self.base_url, self.key = json.loads(line)

    def finish(self) -> Report:
        """End it, and return what it saw."""
        self._process.terminate()
        self._process.wait(60)
        return msgspec.json.decode(self._report.read_bytes(), type=Report)


@contextmanager
def simulated(script: Script, folder: Path) -> Iterator[Flora]:
    """Play `script` in another process until the block ends; `folder` is for its files."""
    folder.mkdir(parents=True, exist_ok=True)
    played, report = folder / "script.json", folder / "report.json"
    played.write_bytes(msgspec.json.encode(script))
    with (folder / "simulator.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.flora", str(played), str(report)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            process_group=0,
        )
    try:
        yield Flora(process, report)
    finally:
        process.kill()
        process.communicate()


class _Watched(Simulator):
    """Notes when a client is told that a run is over, by the run's own answer or in a list."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.told: dict[str, float] = {}
        self.crowd: frozenset[str] = frozenset()

    def run(self, run_id: str) -> ScriptedRun | None:
        if run_id in self.crowd and super().run(run_id) is None:
            self.add_run(run_id, technique=TECHNIQUE, duration=_DAY)
        return super().run(run_id)

    def record(self, record: RequestRecord) -> None:
        super().record(record)
        if record.host == "api" and record.status == 200 and record.run_id is not None:
            self._tell(self.run(record.run_id), record.time)

    def page(self, wanted: Callable[[ScriptedRun], bool], limit: int, cursor: str | None) -> StatePage:
        page = super().page(wanted, limit, cursor)
        now = self.now()
        for run in page.runs:
            self._tell(run, now)
        return page

    def _tell(self, run: ScriptedRun | None, now: float) -> None:
        if run is not None and run.status(now) in _OVER:
            self.told.setdefault(run.run_id, now)


async def _play(script: Script, report: Path) -> None:
    simulator = _Watched(
        rate_limit=script.rate_limit,
        listing=script.listing,
        page_limit=script.page_limit,
        progress=script.progress,
    )
    simulator.crowd = frozenset(map(crowd_id, range(script.crowd)))
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with serve(simulator) as base_url:
        began = time.time()
        for run in script.runs:
            outputs = [
                OutputSpec(output.output_id, output.type, text=output.content)
                if output.type == "text"
                else OutputSpec(output.output_id, output.type, url=output.content)
                for output in run.outputs
            ]
            simulator.add_run(
                run.run_id,
                technique=TECHNIQUE,
                outputs=outputs,
                duration=run.duration,
                created=began - run.age,
            )
        print(json.dumps([base_url, simulator.key]), flush=True)
        await stop.wait()
    asked = simulator.asked("api")
    ends = {run.run_id: began - run.age + run.duration for run in script.runs}
    seen = Report(
        began=began,
        requests=tuple(Request(record.time, record.status, record.path) for record in asked),
        ended=ends,
        told=simulator.told,
    )
    partial = report.with_suffix(".partial")
    partial.write_bytes(msgspec.json.encode(seen))
    partial.rename(report)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the measurement ends it
    asyncio.run(_play(msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Script), Path(sys.argv[2])))
