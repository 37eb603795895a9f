"""`benchmarks/run`: measure, and print one table."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from pathlib import Path

from benchmarks import (
    beside,
    crowd,
    gallery,
    idle,
    large_library,
    machine,
    older,
    polling,
    programs,
    queued,
    results,
    shared_queue,
    transfers,
    years,
)
from benchmarks.figures import HEADER, Figure, cells, markdown
from benchmarks.plan import BenchmarkError, Measurement, Plan, tell
from benchmarks.tools import LIBRARY, look

WORK = {
    "a": "4 files of 1 GiB",
    "b": "400 runs: 1,200 of 1 MB, 40 of 30 MB",
    "b2": "120 runs: 360 of 1 MB, 10 of 30 MB",
    "c": "2,000 of 200 kB, 30 ms late",
    "c2": "2,000 of 200 kB, 30 ms late, 64 connections",
    "d": "200 runs in flight, listed",
    "e": "200 runs in flight, listing forbidden",
    "e2": "120 runs of 12 s in flight, listing forbidden",
    "f": "200 runs in flight, 2 requests/s allowed",
    "g": "100,000 queued runs",
    "h": "16 files of 1 GiB at once",
    "i": "idle daemon",
    "j": "1 run of 4 images of 200 kB",
    "k": "400 runs: 1,200 of 1 MB, 40 of 30 MB",
    "l": "a daemon that waits",
    "m": "a library of 200,000 files in 50,000 runs",
    "n": "the gallery of 100,000 outputs",
    "o": "a download beside a gallery that is scrolled",
    "q": "a shared queue with 1,000 and 1,000,000 waiting runs",
    "y": "three years: 1,000,000 runs",
}
_TLS = ("nginx", "openssl")
NEEDS = {
    "a": (*_TLS, "aria2c", "curl"),
    "b": (*_TLS, "aria2c"),
    "b2": (*_TLS, "aria2c"),
    "c": (*_TLS, "nginx-echo", "aria2c"),
    "c2": (*_TLS, "nginx-echo", "aria2c"),
    "e": ("node", LIBRARY),
    "e2": ("node", LIBRARY),
    "h": _TLS,
    "j": _TLS,
    "k": _TLS,
    "q": ("initdb", "pg_ctl"),
}
MEASUREMENTS = (
    Measurement(("a",), transfers.large_files),
    Measurement(("b",), transfers.mixed_files),
    Measurement(("b2",), transfers.few_mixed_files),
    Measurement(("c",), transfers.distant_files),
    Measurement(("c2",), transfers.distant_files_at_once),
    Measurement(("k",), programs.programs),
    Measurement(("j",), older.older),
    Measurement(("h",), transfers.many_large_files),
    Measurement(("d", "e", "e2", "f"), polling.polling),
    Measurement(("g",), crowd.crowd),
    Measurement(("i",), idle.idle),
    Measurement(("l",), queued.queued),
    Measurement(("m",), large_library.large_library),
    Measurement(("n",), gallery.gallery),
    Measurement(("o",), beside.beside),
    Measurement(("q",), shared_queue.shared_queue),
    Measurement(("y",), years.years),
)


def main() -> int:
    """Measure what the arguments name; the exit code is 0 where everything worked, whatever the figures."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the folder goes then, too
    tools = look()
    load = os.getloadavg()[0]  # of the minute before: of others
    with tempfile.TemporaryDirectory(prefix="floradl-benchmarks-", dir=options.work) as folder:
        plan = Plan(
            options.quick, 1 if options.quick else options.pairs, Path(folder), tools, options.progress
        )
        described = machine.describe(plan.work, tools)
        version = machine.version()
        lines, failed = [], False
        for figures in _measured(plan, options.only):
            failed |= not figures
            lines += (new := [cells(figure, WORK[figure.row], judged=not plan.quick) for figure in figures])
            if new and not plan.quick:  # each at once: what all take, some hours, may be cut off
                results.write(new, described, f"{version}, {options.pairs} pairs, load {load:.1f}")
    if lines:
        print("\n".join([*markdown([HEADER, *sorted(lines)]), "", f"floradl {version}", *described]))
        tell(
            "the quick form: sizes and times are tiny, so the figures say nothing"
            if plan.quick
            else f"written to {results.PATH}"
        )
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Measure floradl beside its peers.")
    parser.add_argument(
        "--quick", action="store_true", help="see that all works, in a minute or two; judges nothing"
    )
    parser.add_argument("--only", type=parse_rows, default=set(WORK), metavar="a,c", help="these rows alone")
    parser.add_argument(
        "--pairs", type=int, default=5, metavar="N", help="repetitions of each comparison (5)"
    )
    parser.add_argument(
        "--work",
        type=Path,
        default=Path("/var/tmp"),
        metavar="DIR",
        help="where files are written: a disk, not memory (/var/tmp)",
    )
    parser.add_argument(
        "--progress",
        choices=("even", "lumpy"),
        default="even",
        help="how `progress` of polled runs grows (even)",
    )
    options = parser.parse_args()
    if options.pairs < 1:
        parser.error("--pairs is a number from 1")
    return options


def parse_rows(text: str) -> set[str]:
    """Return the rows that `text` names. Raises `ArgumentTypeError` for others."""
    rows = set(text.lower().replace(",", " ").split())
    if not rows or rows - set(WORK):
        raise argparse.ArgumentTypeError(f"rows are {', '.join(WORK)}, not {text!r}")
    return rows


def _measured(plan: Plan, wanted: Collection[str]) -> Iterator[list[Figure]]:
    """Yield the figures of each measurement of rows that are `wanted`; none where it did not work."""
    for measurement in MEASUREMENTS:
        rows = [row for row in measurement.rows if row in wanted and _can(plan, row)]
        if not rows:
            continue
        try:
            yield measurement.run(plan, rows)
        except (BenchmarkError, subprocess.SubprocessError, OSError) as error:
            yield []
            tell(f"row {', '.join(rows)} did not work: {error}")
        finally:
            _clear(plan.work)


def _can(plan: Plan, row: str) -> bool:
    missing = plan.tools.missing(NEEDS.get(row, ()))
    if missing:
        tell(f"row {row} is left out: {'; '.join(missing)}")
    return not missing


def _clear(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name == transfers.ASIDE:  # the next row would pay for its removal
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
