"""Row o: what a download loses beside a gallery whose thumbnails are asked for all the time."""

from __future__ import annotations

import hashlib
import http.client
import itertools
import json
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

from benchmarks.figures import Figure, Scale, ratio
from benchmarks.gallery import HOST, SHAPES, picture, served_gallery
from benchmarks.home import Home
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.transfers import Track, day_of_work, run_id, track

_PICTURES = 4000  # more than are made meanwhile
_AT_ONCE = 6  # thumbnails that a browser asks for
_PATIENCE = 600.0  # seconds
_TECHNIQUE = "shown"


def beside(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure the daemon with a day of work, alone and beside a page that is scrolled, in pairs."""
    pairs: list[tuple[float, float]] = []
    cpu: list[tuple[float, float]] = []
    made: list[int] = []
    with track(plan, day_of_work(plan)) as racers:
        for nth in range(plan.pairs):
            turns = [True, False] if nth % 2 else [False, True]  # neither always comes first
            took = {looked_at: _download(racers, looked_at, made) for looked_at in turns}
            (seconds, spent), (alone, spent_alone) = took[True], took[False]
            pairs.append((seconds, alone))
            cpu.append((spent, spent_alone))
            tell(
                f"o, pair {nth + 1}: {seconds:.2f} s beside {made[-1]} thumbnails, {alone:.2f} s alone "
                f"({seconds / alone:.3f}); CPU {spent:.2f} s, {spent_alone:.2f} s"
            )
    return [
        ratio("o", "wall, to the same without a gallery", pairs, 1.05, Scale()),
        ratio("o", "CPU of the daemon, to the same", cpu, None, Scale()),
        Figure(row="o", what="thumbnails made meanwhile", values=tuple(map(float, made))),
    ]


def _download(racers: Track, looked_at: bool, made: list[int]) -> tuple[float, float]:  # noqa: FBT001 - of a loop
    """Return how long the daemon takes for all runs of the track, and its processor time, in seconds."""
    home = Home(racers.plan.work / "beside", racers.flora, racers.settings)
    _shelve(home.library, racers.plan.size(_PICTURES, 40))
    runs = len(racers.batch.runs)
    folder = home.library / "runs" / "benchmark"
    try:
        with _looking(home, made) if looked_at else nullcontext(), home.daemon() as process:
            time.sleep(racers.plan.seconds(3, 0.5))
            begun = time.monotonic()
            home.drop(map(run_id, range(runs)))
            home.wait(
                process, lambda: folder.is_dir() and len(list(folder.glob("*.json"))) == runs, _PATIENCE
            )
            return time.monotonic() - begun, _spent(process.pid)
    finally:
        shutil.rmtree(home.path)


def _spent(pid: int) -> float:
    """Return the processor time (seconds) of a process and all that it started."""
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, stat[11:15])) / os.sysconf("SC_CLK_TCK")
    children = " ".join(each.read_text() for each in Path(f"/proc/{pid}/task").glob("*/children"))
    return own + sum(_spent(int(child)) for child in children.split())


def _shelve(library: Path, count: int) -> None:
    """Make a library of pictures without thumbnails, one file under many names."""
    (library / "runs" / _TECHNIQUE).mkdir(parents=True)
    (library / "images").mkdir()
    (library / ".floradl-library").touch()
    data = [picture(size, "JPEG") for size in SHAPES]
    for nth in range(count):
        path = library / "images" / f"shown-{nth}.jpg"
        if nth < len(data):
            path.write_bytes(data[nth])
        else:
            path.hardlink_to(library / "images" / f"shown-{nth % len(data)}.jpg")
        output = {"output_id": "output_1", "type": "imageUrl", "kind": "image", "path": f"images/{path.name}"}
        sidecar = {
            "schema_version": 1,
            "technique": _TECHNIQUE,
            "run_id": f"shown_{nth}",
            "result": "complete",
            "outputs": [{**output, "bytes": path.stat().st_size, "sha256": _sha256(nth)}],
            "times": {"completed_at": "2026-11-20T12:00:00.000Z"},
        }
        (library / "runs" / _TECHNIQUE / f"shown_{nth}.json").write_text(json.dumps(sidecar))


def _sha256(nth: int) -> str:
    return hashlib.sha256(str(nth).encode()).hexdigest()


@contextmanager
def _looking(home: Home, made: list[int]) -> Iterator[None]:
    """Ask a gallery of that home for thumbnails that were never made, for as long as the block lasts."""
    stop = threading.Event()
    numbers = itertools.count()

    def ask(port: int) -> None:
        while not stop.is_set():
            connection = http.client.HTTPConnection(HOST, port, timeout=30)
            with suppress(OSError, http.client.HTTPException):
                connection.request("GET", f"/thumbnails/{_sha256(next(numbers))}.webp")
                connection.getresponse().read()
            connection.close()

    with served_gallery(home.library) as port:
        before = next(numbers)
        threads = [threading.Thread(target=ask, args=(port,), daemon=True) for _ in range(_AT_ONCE)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            made.append(next(numbers) - before)
            stop.set()
    for thread in threads:
        thread.join(60)
        if thread.is_alive():
            raise BenchmarkError("a request for a thumbnail does not end")
