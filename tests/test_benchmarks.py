from __future__ import annotations

import os
from argparse import ArgumentTypeError
from pathlib import Path

import pytest

from benchmarks import disk, results, transfers
from benchmarks.__main__ import MEASUREMENTS, WORK, _clear, parse_rows
from benchmarks.figures import HEADER, Figure, Scale, cells, markdown, ratio
from benchmarks.media import batch
from benchmarks.plan import Plan
from benchmarks.processes import peak_memory, resident_memory
from benchmarks.script import Report
from benchmarks.tools import Tools

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


def test_each_row_is_described_and_measured_once() -> None:
    measured = [row for measurement in MEASUREMENTS for row in measurement.rows]
    assert sorted(measured) == sorted(WORK)


def test_rows_are_named_with_commas_or_spaces() -> None:
    assert parse_rows("a, B2,e2") == {"a", "b2", "e2"}
    with pytest.raises(ArgumentTypeError, match="'a,z'"):
        parse_rows("a,z")


def test_what_racers_left_is_removed_before_the_disk_gets_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan(False, 1, tmp_path, Tools({}))
    what = batch([100], 10)
    (tmp_path / "first").mkdir()
    monkeypatch.setattr(transfers, "_PASSED_OVER", 0.0)
    transfers._take_away(plan, what, tmp_path / "first")
    assert len(list((tmp_path / "aside").iterdir())) == 1
    monkeypatch.setattr(Plan, "has_space", lambda *_: False)
    transfers.make_room(plan, what)
    assert not (tmp_path / "aside").exists()


def test_what_racers_left_stays_until_the_next_row(tmp_path: Path) -> None:
    (tmp_path / transfers.ASIDE / "left").mkdir(parents=True)
    (tmp_path / "served").mkdir()
    _clear(tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / transfers.ASIDE]


def test_each_racer_has_a_new_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "_BESIDE", 8 << 20)
    with disk.new_file_systems(tmp_path, 1 << 20) as renew:
        if renew is None:
            pytest.skip("may not mount a file system")
        folder = renew()
        assert folder.is_mount()
        (folder / "left").touch()
        assert not (renew() / "left").exists()
    assert not list(tmp_path.iterdir())


def test_racers_share_a_file_system_where_none_can_be_mounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(disk, "_BESIDE", 1 << 20)
    monkeypatch.setattr(disk, "_MAKE", ("mkfs.of-no-kind",))
    with disk.new_file_systems(tmp_path, 1 << 20) as renew:
        assert renew is None
    assert "racers share a file system" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_memory_that_is_resident_now_is_no_more_than_the_peak() -> None:
    assert 0 < resident_memory(os.getpid()) <= peak_memory(os.getpid())
