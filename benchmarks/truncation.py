"""How many cut files are taken as whole: `python -m benchmarks.truncation CORPUS [--old MODULE.py] [--list]`.

Each file of the corpus (`benchmarks.corpus` makes one) is judged whole, and cut to 25, 50, 75, 90 and 99 %
and by one byte. Taken is what is not called cut. `--old` judges by the `is_whole` of another module, too.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from floradl.download.truncation import is_whole

Judge = Callable[[Callable[[int, int], bytes], int, str], bool | None]


def cuts(size: int) -> list[int]:
    """Return the lengths that a file of `size` bytes is cut to, each shorter than the one before."""
    return [size - 1, *(size * percent // 100 for percent in (99, 90, 75, 50, 25))]


def load(path: Path) -> Judge:
    """Return the judge of a module that stands somewhere else."""
    spec = importlib.util.spec_from_file_location("before", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    judge: Judge = module.is_whole
    return judge


def judged(judge: Judge, data: bytes, extension: str) -> tuple[bool | None, list[bool | None], float]:
    """Return what is said of the whole file and of each cut, and the longest time in seconds."""
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        said, longest = [], 0.0
        for length in (len(data), *cuts(len(data))):
            os.ftruncate(file.fileno(), length)
            start = time.perf_counter()
            said.append(judge(lambda size, offset: os.pread(file.fileno(), size, offset), length, extension))
            longest = max(longest, time.perf_counter() - start)
    return said[0], said[1:], longest


def main() -> None:
    """Measure and print a table by extension."""
    parser = argparse.ArgumentParser(prog="benchmarks.truncation", description=__doc__)
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--old", type=Path)
    parser.add_argument("--list", action="store_true", help="name each file of which a cut is taken")
    options = parser.parse_args()
    judges: dict[str, Judge] = {"before": load(options.old)} if options.old else {}
    judges["now"] = is_whole
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: {name: [0, 0, 0, 0] for name in judges})
    files = [
        path for path in sorted(options.corpus.iterdir()) if path.is_file() and path.name != "README.txt"
    ]
    slowest = (0.0, "")
    for path in files:
        data = path.read_bytes()
        for name, judge in judges.items():
            whole, said, took = judged(judge, data, path.suffix.lower())
            row = rows[path.suffix.lower()][name]
            row[0] += 1
            row[1] += sum(verdict is not False for verdict in said)
            row[2] += whole is False
            row[3] += sum(verdict is True for verdict in said)
            if name == "now":
                slowest = max(slowest, (took, path.name))
                if whole is False or True in said or (options.list and any(v is not False for v in said)):
                    marks = "".join("T" if v else "-" if v is None else "." for v in (whole, *said))
                    print(f"{marks} {path.name}")
    print(f"{'':12}{'files':>6}" + "".join(f"{name:>20}" for name in judges))
    totals = {name: [0, 0, 0, 0] for name in judges}
    for extension, sides in sorted(rows.items()):
        cells = ""
        for name, (count, taken, refused, proved) in sides.items():
            cells += f"{taken:>8} of {6 * count:<5}{refused or '':>2}{proved or '':>2}"
            totals[name] = [a + b for a, b in zip(totals[name], sides[name], strict=True)]
        print(f"{extension:12}{sides['now'][0]:>6} {cells}")
    for name, (count, taken, refused, proved) in totals.items():
        print(
            f"{name}: {taken} of {6 * count} cuts taken as whole ({taken / max(1, 6 * count):.1%}), "
            f"{proved} of them called proven, {refused} whole files refused"
        )
    print(f"slowest judgement: {slowest[0] * 1000:.0f} ms ({slowest[1]})")


if __name__ == "__main__":
    main()
