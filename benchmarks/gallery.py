"""Row n: the gallery of a library of 100,000 outputs, its thumbnails, and the commands that ask its index."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.figures import Figure, median_seconds
from benchmarks.home import clean_environ
from benchmarks.plan import BenchmarkError, Plan, tell
from benchmarks.processes import peak_memory
from floradl.clock import rfc3339
from floradl.gallery.thumbnails import Maker

HOST = "127.0.0.1"
SHAPES = ((1024, 1024), (1344, 768), (768, 1344), (1152, 896))  # of a million pixels
_WORDS = ("amber", "bright", "cedar", "drift", "ember", "fjord", "grove", "haze", "iris", "jade", "kite")
_TECHNIQUES, _APART, _AGAIN = 20, 120.0, 15
_PATIENCE = 300.0  # seconds
_RATE = 60  # thumbnails a second that are asked for


def gallery(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Measure the first look at a library, what the page asks for then, and thumbnails."""
    count = plan.size(100_000, 500)
    plan.need_space(count * 9000)
    library = plan.work / "gallery" / "library"
    _fill(library, count)
    tell(f"n: a library of {count:,} outputs is made")
    begun = time.monotonic()
    with _served(library) as (port, process):
        _wait(lambda: _ask(port, "/api/status")["indexing"] is None, process)
        built = time.monotonic() - begun
        tiles = median_seconds(lambda: (_ask(port, "/api/view"), _ask(port, "/api/outputs?limit=200")), 1)
        middle = median_seconds(lambda: _ask(port, f"/api/outputs?limit=200&cursor=@{count // 2}"), _AGAIN)
        words = iter((*_WORDS, *_WORDS))
        found = median_seconds(lambda: _search(port, next(words)), _AGAIN)
        memory = peak_memory(process.pid) / 1e6
    return [
        _figure("index built", built, 20.0, " s"),
        _figure("view and first page, asked for the first time", tiles, 0.5, " s"),
        _figure("a page from the middle", middle, 0.1, " s"),
        _figure("a search: page and view", found, 0.1, " s"),
        _figure("memory of the server", memory, 150.0, " MB"),
        _figure(f"{_RATE} thumbnails of 1-MP JPEGs", _thumbnails(plan), 1.0, " s"),
        *_commands(library),
    ]


def _commands(library: Path) -> list[Figure]:
    """Measure the commands that ask the index, from the start of their process to its end."""
    any_file = next((library / "images" / "technique-0").iterdir())
    bars = {
        ("find", "amber", "drift"): 0.1,
        ("find", "r"): 0.1,
        ("which", str(any_file)): 0.1,
        ("stats",): 1.0,
        ("costs",): 1.0,
    }
    environ = {**clean_environ(), "FLORADL_HOME": str(library.parent)}

    def run(line: Sequence[str]) -> None:
        whole = [sys.executable, "-m", "floradl", *line]
        done = subprocess.run(
            whole, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False
        )
        if done.returncode not in {0, 1}:  # the files' hashes are made up: `which` knows none of them
            raise BenchmarkError(f"{line[0]} ended with {done.returncode}: {done.stderr.decode()[-300:]}")

    figures = []
    for line, bar in bars.items():
        run(line)  # sidecars of a moment ago are looked at again
        seconds = median_seconds(partial(run, line), _AGAIN)
        shown = f"{line[0]} FILE" if line[0] == "which" else " ".join(line)
        figures.append(_figure(f"`{shown}`, a process", seconds, bar, " s"))
    return figures


def _search(port: int, word: str) -> None:
    _ask(port, f"/api/outputs?limit=200&q={word}")
    _ask(port, f"/api/view?q={word}")


def _fill(library: Path, count: int) -> None:
    chance = random.Random(1)
    pictures = [picture(size, "PNG") for size in SHAPES]
    library.mkdir(parents=True)
    (library / ".floradl-library").touch()
    for number in range(_TECHNIQUES):
        (library / "runs" / f"technique-{number}").mkdir(parents=True)
        (library / "images" / f"technique-{number}").mkdir(parents=True)
    for nth in range(count):
        technique, run_id = f"technique-{nth % _TECHNIQUES}", f"run_{nth:08}"
        path, data = f"images/{technique}/{run_id}-output_1.png", pictures[nth % len(pictures)]
        (library / path).write_bytes(data)
        label = " ".join(chance.sample(_WORDS, 3)) if nth % 3 == 0 else None
        at = rfc3339(time.time() - nth * _APART)
        sidecar = {
            "schema_version": 1,
            "reference": f"{technique}/{run_id}",
            "technique": technique,
            "run_id": run_id,
            "label": label,
            "project_id": f"prj_{nth % 7}",
            "result": "complete",
            "run": {"run_id": run_id, "status": "completed", "charged_cost": 0.04},
            "outputs": [
                {
                    "output_id": "output_1",
                    "type": "imageUrl",
                    "kind": "image",
                    "path": path,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(run_id.encode()).hexdigest(),
                    "content_type": "image/png",
                    "checked": ["length"],
                    "integrity": "length_only",
                }
            ],
            "times": {"created_at": at, "completed_at": at, "finished_at": at},
        }
        (library / "runs" / technique / f"{run_id}.json").write_text(json.dumps(sidecar, indent=2))


def picture(size: tuple[int, int], form: str) -> bytes:
    """Return a picture's bytes; a JPEG's are as many as a photo has."""
    made = io.BytesIO()
    small = (
        Image.effect_noise((size[0] // 16, size[1] // 16), 60) if form == "JPEG" else Image.new("L", (4, 4))
    )
    small.resize(size).convert("RGB").save(made, form, quality=88)
    return made.getvalue()


@contextmanager
def served_gallery(library: Path) -> Iterator[int]:
    """Serve the gallery of a library; gives its port once all is read. Raises `BenchmarkError`."""
    with _served(library) as (port, process):
        _wait(lambda: _ask(port, "/api/status")["indexing"] is None, process)
        yield port


@contextmanager
def _served(library: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    with socket.socket() as free:
        free.bind((HOST, 0))
        port: int = free.getsockname()[1]
    home = library.parent
    environ = {**clean_environ(), "HOME": str(home), "FLORADL_HOME": str(home)}
    line = [sys.executable, "-m", "floradl", "gallery", "--listen", f"{HOST}:{port}"]
    with subprocess.Popen(line, env=environ, stderr=subprocess.DEVNULL) as process:
        try:
            yield port, process
        finally:
            process.kill()


def _wait(is_so: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError):
            if is_so():
                return
        time.sleep(0.1)
    raise BenchmarkError("the gallery did not come up")


def _ask(port: int, path: str) -> Any:
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"{path} is answered with {answer.status}")
        return json.loads(data)
    finally:
        connection.close()


def _thumbnails(plan: Plan) -> float:
    """Return how long `_RATE` thumbnails take."""
    files = [plan.work / f"picture-{nth}.jpg" for nth in range(len(SHAPES))]
    for file, size in zip(files, SHAPES, strict=True):
        file.write_bytes(picture(size, "JPEG"))
    maker = Maker(os.environ)
    rounds = plan.size(20, 1)
    try:
        made = [_made(maker, file) for file in files]  # the process is up then
        if not all(made):
            raise BenchmarkError("a picture has no thumbnail")
        begun = time.monotonic()
        for _ in range(rounds):
            for file in files:
                _made(maker, file)
        return (time.monotonic() - begun) / (rounds * len(files)) * _RATE
    finally:
        maker.end()


def _made(maker: Maker, path: Path) -> bytes | None:
    with path.open("rb") as file:
        return maker.make(file)


def _figure(what: str, value: float, bar: float, unit: str) -> Figure:
    return Figure(row="n", what=what, values=(value,), bar=bar, unit=unit)
