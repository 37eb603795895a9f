"""`relayout`: files go where today's template, labels and names put them; a kill loses nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from memory_library import MemoryLibrary
from shelves import KilledError, Shelf

from floradl.library.path_plan import PathPlan
from floradl.library.relayout import Relayout, plan_relayout
from floradl.library.retention import Pruner, files_of
from floradl.library.template import Template
from floradl.library.transfer import Copier
from floradl.models import OutputKind, RemovalReason

BY_LABEL = "{label}/{run_id}{ext}"


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "library", BY_LABEL)


def relayout(shelf: Shelf, steps: int | None = None, **options: Any) -> Relayout:
    library = shelf.opened(steps)
    plan = plan_relayout(library, shelf.paths, options.get("wanted"), options.get("open_runs", ()))
    work = Relayout(library, plan, keep_times=True)
    work.run()
    return work


def by_template(shelf: Shelf, template: str) -> None:
    shelf.paths = PathPlan(Template.parse(template), {kind: kind.value for kind in OutputKind}, 255)


def test_files_are_renamed_to_where_a_new_label_puts_them(shelf: Shelf) -> None:
    shelf.put("run_a", {"old/run_a.mp4": "one"}, label="spring")
    shelf.put("run_b", {"spring/run_b.mp4": "two"}, label="spring")
    assert relayout(shelf).renamed == 1
    assert shelf.files() == {"spring/run_a.mp4": "one", "spring/run_b.mp4": "two"}
    assert not (shelf.root / "old").exists()
    shelf.check()
    assert relayout(shelf).renamed == 0


def test_files_change_places_in_a_circle(shelf: Shelf) -> None:
    shelf.put("run_a", {"run_b.mp4": "a"})
    shelf.put("run_b", {"run_c.mp4": "b"})
    shelf.put("run_c", {"run_a.mp4": "c"})
    assert relayout(shelf).problems == []
    assert shelf.files() == {"run_a.mp4": "a", "run_b.mp4": "b", "run_c.mp4": "c"}
    shelf.check()


def test_outputs_of_one_run_change_places(shelf: Shelf) -> None:
    by_template(shelf, "{output_id}{ext}")
    shelf.put("run_a", {"b.mp4": "first", "a.mp4": "second"})
    relayout(shelf)
    assert shelf.files() == {"a.mp4": "first", "b.mp4": "second"}
    shelf.check()


def test_a_name_that_changes_in_case_only_is_renamed(shelf: Shelf) -> None:
    by_template(shelf, "{label}{ext}")
    shelf.put("run_a", {"spring.mp4": "one"}, label="Spring")
    relayout(shelf)
    assert shelf.files() == {"Spring.mp4": "one"}
    shelf.check()


def test_a_folder_that_differs_in_case_only_is_used_as_it_is(shelf: Shelf) -> None:
    shelf.put("run_a", {"Spring/run_a.mp4": "one"}, label="Spring")
    shelf.put("run_b", {"old/run_b.mp4": "two"}, label="spring")
    assert relayout(shelf).problems == []
    assert shelf.files() == {"Spring/run_a.mp4": "one", "Spring/run_b.mp4": "two"}
    shelf.check()
    assert relayout(shelf).renamed == 0


def test_a_taken_name_gives_way_to_the_next_free_one(shelf: Shelf) -> None:
    by_template(shelf, "{label}{ext}")
    (shelf.root / "spring.mp4").write_text("somebody's own")
    shelf.put("run_a", {"x/a.mp4": "a"}, label="spring")
    shelf.put("run_b", {"x/b.mp4": "b"}, label="spring")
    relayout(shelf)
    assert shelf.files() == {"spring.mp4": "somebody's own", "spring-2.mp4": "a", "spring-3.mp4": "b"}
    assert relayout(shelf).renamed == 0


def test_a_numbered_name_stays_where_those_before_it_are_taken(shelf: Shelf) -> None:
    by_template(shelf, "{label}{ext}")
    for run_id, path in (("run_a", "spring-3.mp4"), ("run_b", "spring-2.mp4"), ("run_c", "spring.mp4")):
        shelf.put(run_id, {path: run_id}, label="spring")
    before = shelf.files()
    assert relayout(shelf).renamed == 0
    assert shelf.files() == before


def test_what_stands_beside_a_file_goes_along(shelf: Shelf) -> None:
    shelf.put("run_a", {"old/run_a.mp4": "one"}, label="spring")
    (shelf.root / "old/run_a.mp4.xmp").write_text("xmp")
    (shelf.root / "old/run_a.mp4.damaged").write_text("damaged")
    relayout(shelf)
    assert sorted(shelf.files()) == [
        "spring/run_a.mp4",
        "spring/run_a.mp4.damaged",
        "spring/run_a.mp4.xmp",
    ]


def test_a_sidecar_goes_to_the_technique_that_is_known_by_now(shelf: Shelf) -> None:
    url = "https://app.flora.ai/api/v1/techniques/campaign/runs/run_a"
    shelf.put("run_a", {"x/run_a.mp4": "one"}, technique=None, run={"run_id": "run_a", "poll_url": url})
    work = relayout(shelf)
    assert work.sidecars_moved == 1
    assert [str(path.relative_to(shelf.root)) for path in shelf.root.glob("runs/*/*")] == [
        "runs/campaign/run_a.json"
    ]
    assert shelf.read("run_a").reference == "campaign/run_a"
    shelf.check()


def test_a_sidecar_that_somebody_moved_or_renamed_goes_back(shelf: Shelf) -> None:
    shelf.put("run_a", {"run_a.mp4": "one"})
    (shelf.root / "runs/elsewhere").mkdir()
    (shelf.root / "runs/campaign/run_a.json").rename(shelf.root / "runs/elsewhere/my run.json")
    relayout(shelf)
    assert [str(path.relative_to(shelf.root)) for path in shelf.root.glob("runs/*/*")] == [
        "runs/campaign/run_a.json"
    ]
    shelf.check()


def test_two_sidecars_of_one_run_are_left_and_reported(shelf: Shelf) -> None:
    shelf.put("run_a", {"run_a.mp4": "one"})
    (shelf.root / "runs/other").mkdir()
    twin = (shelf.root / "runs/campaign/run_a.json").read_bytes()
    (shelf.root / "runs/other/run_a.json").write_bytes(twin)
    work = relayout(shelf)
    assert [problem.path for problem in work.problems] == ["runs/other/run_a.json"]
    assert shelf.files() == {"run_a.mp4": "one"}


def test_open_runs_and_runs_that_were_not_named_stay(shelf: Shelf) -> None:
    for run_id in ("run_a", "run_b", "run_c"):
        shelf.put(run_id, {f"x/{run_id}.mp4": run_id})
    relayout(shelf, wanted={"run_a", "run_b"}, open_runs={"run_b"})
    assert sorted(shelf.files()) == ["run_a.mp4", "x/run_b.mp4", "x/run_c.mp4"]


def test_a_file_that_is_gone_is_counted_and_its_name_kept_free(shelf: Shelf) -> None:
    by_template(shelf, "{label}{ext}")
    shelf.put("run_a", {"spring.mp4": "gone"}, label="spring")
    shelf.put("run_b", {"x/b.mp4": "two"}, label="spring")
    (shelf.root / "spring.mp4").unlink()
    library = shelf.opened()
    plan = plan_relayout(library, shelf.paths, None, ())
    assert plan.missing == 1
    Relayout(library, plan, keep_times=True).run()
    assert shelf.files() == {"spring-2.mp4": "two"}


def test_what_was_removed_stays_removed(shelf: Shelf) -> None:
    sidecar = shelf.put("run_a", {"x/run_a.mp4": "one"})
    Pruner(shelf.library, RemovalReason.PRUNED, lambda: 1.0, keep_times=True).prune(files_of(sidecar))
    before = shelf.read("run_a")
    assert relayout(shelf).renamed == 0
    assert shelf.read("run_a") == before


def test_a_library_that_is_no_folder_is_renamed_by_its_door(shelf: Shelf) -> None:
    shelf.put("run_a", {"run_b.mp4": "a"})
    shelf.put("run_b", {"run_a.mp4": "b"})
    far = MemoryLibrary()
    assert Copier(shelf.library, far).copy().failures == []
    plan = plan_relayout(far, shelf.paths, None, ())
    work = Relayout(far, plan, keep_times=True)
    work.run()
    assert work.problems == []
    assert sorted(far.files()) == ["run_a.mp4", "run_b.mp4"]
    for entry in far.scan():
        assert entry.sidecar is not None
        assert entry.sidecar.outputs[0].path == f"{entry.sidecar.run_id}.mp4"


def test_an_extension_that_somebody_wrote_in_capitals_is_kept(shelf: Shelf) -> None:
    shelf.put("run_a", {"best/Cover.MP4": "one"})
    relayout(shelf)
    assert shelf.files() == {"run_a.mp4": "one"}


def test_a_relayout_that_is_killed_at_any_step_is_finished_by_the_next(tmp_path: Path) -> None:
    def fill(name: str) -> Shelf:
        shelf = Shelf(tmp_path / name, BY_LABEL)
        shelf.put("run_a", {"x/run_a.mp4": "a one", "x/run_a-2.mp4": "a two"}, label="spring")
        (shelf.root / "x/run_a.mp4.xmp").write_text("xmp of a one")
        shelf.put("run_b", {"run_c.mp4": "b"})
        shelf.put("run_c", {"run_b.mp4": "c"})
        shelf.put(
            "run_d", {"d/run_d.mp4": "d"}, technique=None, technique_id="tech_1", run={"run_id": "run_d"}
        )
        return shelf

    whole = fill("whole")
    relayout(whole)
    expected = whole.files()
    assert len(expected) == 6
    steps = 0
    while True:
        shelf = fill(f"killed-{steps}")
        try:
            relayout(shelf, steps)
        except KilledError:
            relayout(shelf)
            assert shelf.files() == expected
            shelf.check()
            assert relayout(shelf).renamed == 0
            steps += 1
            continue
        break
    assert steps > 16
