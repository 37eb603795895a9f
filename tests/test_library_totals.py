"""`floradl which`, `stats` and `costs`: who made a file, and what a library holds and cost."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import random
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from galleries import Shelf, picture
from studio import Home

FAILURE = {"code": "provider_error", "message": "the provider went away"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


@pytest.fixture
def shelf(home: Home) -> Shelf:
    home.state.mkdir()
    return Shelf(home.library)


def answer(home: Home, *arguments: str) -> dict[str, Any]:
    done = home.run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_which_names_the_run_of_a_file_wherever_it_lies_now(home: Home, shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("run_a", {"data": picture(9, 9)}, label="spring")
    elsewhere = tmp_path / "hero, final.png"
    elsewhere.write_bytes(picture(9, 9))
    done = home.run("which", str(elsewhere))
    assert done.stdout == f"{elsewhere}: campaign/run_a (spring), image output_1: images/run_a-1.png\n"
    assert done.returncode == 0
    line = answer(home, "which", str(elsewhere))
    assert line["sha256"] == hashlib.sha256(picture(9, 9)).hexdigest()
    (run,) = line["runs"]
    assert (run["run_id"], run["output_id"]) == ("run_a", "output_1")
    assert run["path"] == str(shelf.root / "images/run_a-1.png")


def test_which_names_all_runs_that_made_the_same_bytes_those_whose_file_was_removed_too(
    home: Home, shelf: Shelf
) -> None:
    data = picture(7, 7)
    sha256 = hashlib.sha256(data).hexdigest()
    removed = {"path": None, "sha256": sha256, "removed": {"at": "2026-11-25T00:00:00Z", "reason": "prune"}}
    shelf.put("run_gone", removed, day="2026-11-22")
    shelf.put("run_twin", {"data": data}, {"data": data}, day="2026-11-21")
    done = home.run("which", str(shelf.root / "images/run_twin-1.png"))
    runs = [line.partition(": ")[2].partition(",")[0] for line in done.stdout.splitlines()]
    assert runs == ["campaign/run_gone", "campaign/run_twin", "campaign/run_twin"]
    assert "not in the library any more: removed" in done.stdout


def test_which_exits_1_for_a_file_of_no_run_and_tells_of_one_that_changed_in_its_place(
    home: Home, shelf: Shelf, tmp_path: Path
) -> None:
    shelf.put("run_a")
    (tmp_path / "mine.txt").write_text("mine")
    (shelf.root / "images/run_a-1.png").write_bytes(b"edited")
    done = home.run("which", str(tmp_path / "mine.txt"), str(shelf.root / "images/run_a-1.png"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "mine.txt: no run in the library made these bytes\n" in done.stderr
    assert "'floradl verify campaign/run_a'" in done.stderr
    missing = home.run("which", str(tmp_path / "nowhere.png"))
    assert missing.returncode == 2
    assert "No such file" in missing.stderr


def test_which_waits_for_nobody_where_a_fifo_is_named(home: Home, shelf: Shelf, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    shelf.put("run_a")
    done = home.run("which", str(tmp_path / "pipe"), "/dev/zero")
    assert done.returncode == 2
    assert f"{tmp_path / 'pipe'}: it is not a file" in done.stderr
    assert "/dev/zero: it is not a file" in done.stderr


def test_stats_count_runs_files_and_bytes_and_name_the_largest(home: Home, shelf: Shelf) -> None:
    shelf.put("run_a", {"data": b"x" * 3000}, {"kind": "video", "data": b"v" * 70_000}, day="2026-10-05")
    shelf.put("run_b", {"data": b"y" * 500}, technique="tagline")
    shelf.put("run_c", {"path": None, "error": FAILURE}, result="failed", error=FAILURE)
    skipped = {"path": None, "skipped": {"reason": "kind"}}
    shelf.put("run_d", skipped, {"path": None, "error": FAILURE}, result="partial")
    found = answer(home, "stats")
    assert (found["runs"], found["outputs"], found["bytes"]) == (4, 3, 73_500)
    assert found["results"] == {"complete": 2, "failed": 1, "partial": 1}
    assert found["failures"] == {"provider_error": 2}
    assert found["absent"] == {"failed": 2, "skipped": 1}
    assert found["kinds"] == [
        {"name": "video", "outputs": 1, "bytes": 70_000},
        {"name": "image", "outputs": 2, "bytes": 3500},
    ]
    assert {each["name"]: each["bytes"] for each in found["techniques"]} == {
        "campaign": 73_000,
        "tagline": 500,
    }
    assert [each["name"] for each in found["months"]] == ["2026-10", "2026-11"]
    assert [file["run_id"] for file in found["largest"]] == ["run_a", "run_a", "run_b"]
    shown = home.run("stats").stdout
    assert "4 runs (2 complete, 1 failed, 1 partial)" in shown
    assert f"  70 kB  {shelf.root}/videos/run_a-2.mp4" in shown


def test_stats_of_an_empty_library_are_zeros(home: Home, shelf: Shelf) -> None:
    found = answer(home, "stats")
    assert (found["library"], found["runs"], found["largest"]) == (str(shelf.root), 0, [])
    assert "0 runs" in home.run("stats").stdout


def test_costs_add_up_to_the_last_digit(home: Home, shelf: Shelf) -> None:
    chance = random.Random(7)
    costs = [f"{chance.randrange(1, 10**7)}e-{chance.randrange(3, 9)}" for _ in range(300)]
    for nth, cost in enumerate(costs):
        shelf.put(f"run_{nth}", {"path": None}, run={"charged_cost": float(cost)})
    total = home.run("costs", "--json").stdout
    exact = sum(Decimal(repr(float(cost))) for cost in costs)
    assert json.loads(total, parse_float=Decimal)["total"]["usd"] == exact
    assert Fraction(exact) != Fraction(sum(map(float, costs)))  # which floats would not have


def test_costs_are_at_least_so_much_where_one_is_not_known(home: Home, shelf: Shelf) -> None:
    shelf.put("run_a", run={"charged_cost": 0.1}, model_id="m1")
    shelf.put("run_b", run={"chargedCost": 0.2}, model_id="m1", label="spring", day="2026-10-02")
    shelf.put("run_c", run={}, technique="tagline", project_name="Atlas")
    done = home.run("costs")
    assert done.stdout.splitlines() == [
        "technique  runs            USD",
        "campaign      2           0.30",
        "tagline       1  at least 0.00",
        "total         3  at least 0.30",
    ]
    assert "the cost of 1 run is not known" in done.stderr
    found = answer(home, "costs", "--by", "model")
    assert [(each["name"], each["usd"]) for each in found["groups"]] == [("m1", 0.3), (None, 0)]
    assert found["total"] == {"name": "total", "runs": 3, "unknown": 1, "at_least": True, "usd": 0.3}


@pytest.mark.parametrize(
    ("by", "rows"),
    [
        ("month", [["2026-10", "1", "0", "0.20"], ["2026-11", "2", "1", "1200.50"]]),
        ("label", [["", "2", "1", "1200.50"], ['spring, "new"', "1", "0", "0.20"]]),
        ("project", [["Atlas", "1", "0", "1200.50"], ["", "2", "1", "0.20"]]),
    ],
)
def test_costs_as_csv_are_a_table_for_spreadsheets(
    home: Home, shelf: Shelf, by: str, rows: list[list[str]]
) -> None:
    shelf.put("run_a", run={"charged_cost": 1200.5}, project_name="Atlas")
    shelf.put("run_b", run={"charged_cost": 0.2}, label='spring, "new"', day="2026-10-02")
    shelf.put("run_c", run=None)
    done = home.run("costs", "--by", by, "--csv")
    assert [*csv.reader(done.stdout.splitlines())] == [[by, "runs", "unknown", "usd"], *rows]


def test_csv_holds_no_formula_of_a_spreadsheet_and_nothing_that_steers_a_terminal(
    home: Home, shelf: Shelf
) -> None:
    labels = {
        "=HYPERLINK(A1)": "'=HYPERLINK(A1)",
        "+1": "'+1",
        "-cmd|' /C calc'!A0": "'-cmd|' /C calc'!A0",
        "@SUM(1)": "'@SUM(1)",
        " =1+1": "' =1+1",
        "\uff1d1": "'\uff1d1",
        "\t=1": "'\\t=1",
        "two\nlines\x1b[31m": "two\\nlines\\x1b[31m",
        "spring-2 = fine": "spring-2 = fine",
        "👩\u200d🎨": "👩\u200d🎨",
    }
    for nth, label in enumerate(labels):
        shelf.put(f"run_{nth}", run={"charged_cost": 1.5}, label=label)
    done = home.run("costs", "--by", "label", "--csv")
    rows = [*csv.reader(done.stdout.splitlines())]
    assert {row[0] for row in rows[1:]} == set(labels.values())
    assert {row[3] for row in rows[1:]} == {"1.50"}


def test_costs_since_count_only_what_ended_later(home: Home, shelf: Shelf) -> None:
    shelf.put("run_a", run={"charged_cost": 1}, day="2026-10-02")
    shelf.put("run_b", run={"charged_cost": 2}, day="2026-11-02")
    assert answer(home, "costs", "--since", "2026-11-01")["total"]["usd"] == 2


def test_a_cost_that_came_late_is_counted(home: Home, shelf: Shelf) -> None:
    shelf.put("run_a", run={})
    assert answer(home, "costs")["total"]["unknown"] == 1
    shelf.put("run_a", run={"charged_cost": 0.5})
    total = answer(home, "costs")["total"]
    assert (total["unknown"], total["usd"]) == (0, 0.5)


def test_what_is_no_cost_is_an_unknown_one(home: Home, shelf: Shelf) -> None:
    wrong = (True, -1, "3", 1e300, None)
    for nth, cost in enumerate(wrong):
        shelf.put(f"run_{nth}", {"path": None}, run={"charged_cost": cost})
    assert answer(home, "costs")["total"]["unknown"] == len(wrong)
