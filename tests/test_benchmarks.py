from __future__ import annotations

from pathlib import Path

from benchmarks import results
from benchmarks.figures import HEADER, Figure, Scale, cells, markdown, ratio
from benchmarks.script import Report

_MACHINE = ("2 cores", "a disk")


def _line(row: str, result: str) -> tuple[str, ...]:
    return (row, "work", "time", "1 s", "2 s", result, "≤ 1", "yes")


def test_a_result_is_the_median_of_the_pairs_ratios() -> None:
    figure = ratio("a", "wall", [(1.0, 2.0), (9.0, 1.0), (3.0, 4.0)], 0.8, Scale())
    assert figure.value == 0.75
    assert figure.met


def test_a_bar_that_is_missed_is_said_so_unless_nothing_is_judged() -> None:
    figure = Figure(row="h", what="RSS", values=(121.0,), bar=120.0, unit=" MB")
    assert cells(figure, "work", judged=True)[-1] == "NO"
    assert cells(figure, "work", judged=False)[-1] == "not judged"


def test_a_table_has_even_columns() -> None:
    lines = markdown([HEADER, _line("a", "0.5"), _line("b", "a longer one")])
    assert len({len(line) for line in lines}) == 1


def test_rows_that_were_not_measured_now_stay_in_the_results(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write([_line("b", "0.8"), _line("a", "1.0")], _MACHINE, "v1", path)
    results.write([_line("b", "0.6")], _MACHINE, "v2", path)
    rows = [line for line in path.read_text().splitlines() if line.startswith(("| a", "| b"))]
    assert len(rows) == 2
    assert "1.0" in rows[0]
    assert "v1" in rows[0]
    assert "0.6" in rows[1]
    assert "v2" in rows[1]


def test_rows_from_another_machine_go(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    results.write([_line("a", "1.0")], _MACHINE, "v1", path)
    results.write([_line("b", "0.6")], ("8 cores", "a disk"), "v1", path)
    assert "| a " not in path.read_text()


def test_detection_counts_from_a_runs_end() -> None:
    report = Report(0.0, (), ended={"run_a": 10.0, "run_b": 20.0}, told={"run_a": 11.5})
    assert report.delays == [1.5]
