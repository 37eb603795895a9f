"""The index of a library: it holds what the sidecars say, whatever happens to its file."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from galleries import Shelf, picture

from floradl.errors import ServicePausedError
from floradl.index import library_index
from floradl.index.document import read_document
from floradl.index.library_index import Changes, LibraryIndex
from floradl.index.tables import IndexDamagedError
from floradl.index.views import View


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "library")


def shown(index: LibraryIndex, view: View | None = None) -> list[str]:
    return [output.run_id for output in index.views.page(view or View(), 500).outputs]


def settle(shelf: Shelf) -> None:
    """Let all folders look as if nothing had changed for long."""
    before = time.time_ns() - 10**11
    for folder in (shelf.root / "runs").iterdir():
        os.utime(folder, ns=(before, before))


def test_outputs_are_listed_by_day_and_moment_the_newest_first(shelf: Shelf) -> None:
    shelf.put("run_old", day="2026-11-01")
    shelf.put("run_new", {}, {}, day="2026-11-03")
    shelf.put("run_mid", day="2026-11-02")
    with shelf.indexed() as index:
        assert shown(index) == ["run_new", "run_new", "run_mid", "run_old"]
        layout = index.views.layout(View())
    assert [(day.day, day.count) for day in layout.days] == [
        ("2026-11-03", 2),
        ("2026-11-02", 1),
        ("2026-11-01", 1),
    ]


def test_the_layout_has_the_ratio_of_each_picture_in_the_order_of_the_pages(shelf: Shelf) -> None:
    for nth, size in enumerate([(200, 100), (100, 200), (90, 90)]):
        shelf.put(f"run_{nth}", {"data": picture(*size)}, day=f"2026-11-0{nth + 1}")
    shelf.put("run_text", {"kind": "text", "data": b"words", "text": "words"}, day="2026-10-01")
    with shelf.indexed() as index:
        ratios = [day.ratios for day in index.views.layout(View()).days]
        sizes = [(output.width, output.height) for output in index.views.page(View(), 10).outputs]
    assert ratios == ["100", "50", "200", "100"]
    assert sizes == [(90, 90), (100, 200), (200, 100), (None, None)]


def test_pages_follow_one_another_by_cursor_though_a_run_comes_in_between(shelf: Shelf) -> None:
    for nth in range(10):
        shelf.put(f"run_{nth}", day=f"2026-11-{nth + 10}")
    with shelf.indexed() as index:
        first = index.views.page(View(), 4)
        index.add([shelf.put("run_later", day="2026-11-28")])
        second = index.views.page(View(), 4, first.cursor)
        third = index.views.page(View(), 4, second.cursor)
    ids = [output.run_id for page in (first, second, third) for output in page.outputs]
    assert ids == [f"run_{nth}" for nth in reversed(range(10))]
    assert (first.total, second.total, third.cursor) == (10, 11, None)


def test_a_cursor_with_a_number_leads_into_the_middle(shelf: Shelf) -> None:
    for nth in range(10):
        shelf.put(f"run_{nth}", day=f"2026-11-{nth + 10}")
    with shelf.indexed() as index:
        page = index.views.page(View(), 2, "@6")
        assert [output.run_id for output in page.outputs] == ["run_3", "run_2"]
        assert index.views.page(View(), 2, "@99").outputs == []
        for wrong in ("@x", "1.2", "'; DROP TABLE runs", "@-1"):
            with pytest.raises(ValueError, match="cursor"):
                index.views.page(View(), 2, wrong)


def test_filters_narrow_the_view_and_their_counts_say_what_else_there_is(shelf: Shelf) -> None:
    shelf.put(
        "run_a",
        {"kind": "image"},
        {"kind": "text", "data": b"x", "text": "x"},
        technique="camera",
        label="Spring",
    )
    shelf.put("run_b", {"kind": "image"}, technique="tagline", project_id="prj_1", project_name="Atlas")
    shelf.put("run_c", {"kind": "image"}, technique="tagline", project_id="prj_2")
    with shelf.indexed() as index:
        assert sorted(shown(index, View(technique=("tagline",)))) == ["run_b", "run_c"]
        assert shown(index, View(kind=("text",))) == ["run_a"]
        assert shown(index, View(label=("Spring",), kind=("image",))) == ["run_a"]
        assert shown(index, View(project=("Atlas",))) == ["run_b"]
        assert sorted(shown(index, View(project=("Atlas", "prj_2")))) == ["run_b", "run_c"]
        assert shown(index, View(technique=("none",))) == []
        facets = index.views.layout(View(technique=("camera",), kind=("image",))).facets
    assert facets["technique"] == [("tagline", 2), ("camera", 1)]
    assert sorted(facets["kind"]) == [("image", 1), ("text", 1)]
    assert facets["label"] == [("Spring", 1)]
    assert facets["project"] == []


@pytest.mark.parametrize(
    "query",
    [
        "spring",
        "SPR",
        "späte spring",
        "spate",
        "camera-move",
        "atlas",
        "prj_77",
        "kunde",
        "lighthouse",
        "run_find",
        "写真",
        "真",
    ],
)
def test_a_search_finds_the_beginnings_of_words_of_label_technique_project_meta_and_texts(
    shelf: Shelf, query: str
) -> None:
    shelf.put(
        "run_find",
        {"kind": "text", "data": b"t", "text": "A lighthouse, 東京の写真."},
        technique="camera-move",
        label="Späte Spring drafts",
        project_id="prj_77",
        project_name="Atlas",
        meta={"client": "Kunde GmbH"},
    )
    shelf.put("run_other", technique="tagline")
    with shelf.indexed() as index:
        assert shown(index, View(q=query)) == ["run_find"]
        assert index.views.layout(View(q=query)).total == 1


@pytest.mark.parametrize(
    "query", ['"', "a OR b", "NEAR(", "said:x", "*", "-", "(((", "'; --", "\0", "^run", "'\" *"]
)
def test_what_is_an_operator_elsewhere_is_searched_as_words(shelf: Shelf, query: str) -> None:
    shelf.put("run_one")
    with shelf.indexed() as index:
        assert shown(index, View(q=query)) in ([], ["run_one"])


def test_a_broad_search_and_a_narrow_one_list_alike(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    for nth in range(12):
        shelf.put(f"run_{nth}", label="spring" if nth % 2 else "autumn", day=f"2026-11-{nth + 10}")
    with shelf.indexed() as index:
        narrow = (shown(index, View(q="spring")), index.views.layout(View(q="spring")))
        whole = (shown(index, View(q="r")), index.views.layout(View(q="r")))
    monkeypatch.setattr("floradl.index.views._FEW", 0)
    with shelf.indexed() as index:
        assert (shown(index, View(q="spring")), index.views.layout(View(q="spring"))) == narrow
        assert (shown(index, View(q="r")), index.views.layout(View(q="r"))) == whole
        view = View(q="spring", since=1794787200.0)  # 2026-11-16
        first = index.views.page(view, 1)
        second = index.views.page(view, 9, first.cursor)
        assert [(page.total, len(page.outputs)) for page in (first, second)] == [(3, 1), (3, 2)]
    assert narrow[0] == [f"run_{nth}" for nth in (11, 9, 7, 5, 3, 1)]
    assert len(whole[0]) == 12


def test_since_leaves_out_what_is_older(shelf: Shelf) -> None:
    shelf.put("run_old", day="2026-11-01")
    shelf.put("run_new", day="2026-11-20")
    with shelf.indexed() as index:
        assert shown(index, View(since=1794787200.0)) == ["run_new"]  # 2026-11-16


def test_a_run_is_found_by_its_id_and_a_file_by_its_bytes_and_path(shelf: Shelf) -> None:
    path = shelf.put("run_a", {"data": picture(8, 8)})
    with shelf.indexed() as index:
        run = index.run("run_a")
        assert run is not None
        assert (run.path, run.result) == (path, "complete")
        file = index.by_path("images/run_a-1.png")
        assert file is not None
        assert index.by_sha256(file.sha256 or "") == [file]
        assert (file.run_id, file.kind) == ("run_a", "image")
        assert index.run("run_b") is None
        assert index.by_path("images") is None


def test_outputs_that_are_not_on_disk_are_not_shown_and_unknown_keys_do_no_harm(shelf: Shelf) -> None:
    shelf.put(
        "run_a",
        {"kind": "video", "path": None, "skipped": {"reason": "kind"}},
        {"kind": "image", "path": None, "removed": {"at": "2026-11-20T00:00:00Z", "reason": "prune"}},
        {"kind": "hologram", "path": "other/x.holo"},
        new_key={"of": "a later version"},
    )
    with shelf.indexed() as index:
        assert [output.kind for output in index.views.page(View(), 10).outputs] == ["hologram"]


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", "images/../../x", "a\\b", ""])
def test_a_sidecar_that_leads_out_of_the_library_is_not_taken(shelf: Shelf, path: str) -> None:
    shelf.put("run_evil", {"path": path})
    shelf.put("run_good")
    with shelf.indexed() as index:
        assert shown(index) == ["run_good"]


def test_what_is_no_sidecar_costs_itself_alone(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("run_good")
    folder = shelf.root / "runs" / "campaign"
    (folder / "broken.json").write_bytes(b"{")
    (folder / "list.json").write_text("[]")
    (folder / "bytes.json").write_bytes(b"\xff\xfe")
    (folder / "folder.json").mkdir()
    (tmp_path / "elsewhere.json").write_text(
        shelf.sidecar("run_good").read_text().replace("run_good", "run_linked")
    )
    (folder / "link.json").symlink_to(tmp_path / "elsewhere.json")
    (folder / "notes.txt").write_text("mine")
    with shelf.indexed() as index:
        assert shown(index) == ["run_good"]


def test_the_index_is_read_again_from_the_library_where_it_was_deleted_or_damaged(shelf: Shelf) -> None:
    shelf.put("run_a")
    with shelf.indexed():
        pass
    file = shelf.place / "index.sqlite3"
    for spoil in (
        file.unlink,
        lambda: file.write_bytes(b"no database" * 500),
        lambda: file.write_bytes(file.read_bytes()[:5000]),
    ):
        spoil()
        with shelf.indexed() as index:
            assert shown(index) == ["run_a"]


def test_the_index_of_another_library_is_not_taken_for_this_ones(shelf: Shelf, tmp_path: Path) -> None:
    shelf.put("run_a")
    with shelf.indexed():
        pass
    shelf.root.rename(tmp_path / "moved")
    moved = Shelf(tmp_path / "moved")
    moved.put("run_b")
    with moved.indexed() as index:
        assert sorted(shown(index)) == ["run_a", "run_b"]
        assert index.run("run_a") is not None


def test_only_what_changed_is_read_again(shelf: Shelf) -> None:
    shelf.put("run_a")
    shelf.put("run_b", technique="other")
    settle(shelf)
    with shelf.indexed() as index:
        assert index.rebuild() == Changes([], 0)
        shelf.put("run_c", technique="other")
        assert index.rebuild() == Changes(["run_c"], 0)
        shelf.put("run_a", label="renamed")
        assert index.rebuild() == Changes(["run_a"], 0)
        assert {
            output.label for output in index.views.page(View(), 9).outputs if output.run_id == "run_a"
        } == {"renamed"}


def test_what_is_gone_from_the_library_is_gone_from_the_index(shelf: Shelf) -> None:
    shelf.put("run_a")
    shelf.put("run_b")
    shelf.put("run_c", technique="other")
    with shelf.indexed() as index:
        shelf.sidecar("run_a").unlink()
        assert index.add(["runs/campaign/run_a.json", "images/x.png"]) == Changes([], 1)
        assert sorted(shown(index)) == ["run_b", "run_c"]
        shutil.rmtree(shelf.root / "runs" / "other")
        index.rebuild()
        assert shown(index) == ["run_b"]
        assert index.views.layout(View()).total == 1


def test_a_run_that_moved_to_another_technique_is_there_once(shelf: Shelf) -> None:
    shelf.put("run_a", technique="_unknown")
    with shelf.indexed() as index:
        shelf.sidecar("run_a", "_unknown").unlink()
        index.add([shelf.put("run_a", technique="campaign"), "runs/_unknown/run_a.json"])
        assert shown(index) == ["run_a"]


def test_an_answer_that_was_remembered_is_forgotten_once_the_library_changed(shelf: Shelf) -> None:
    shelf.put("run_a")
    with shelf.indexed() as index, shelf.indexed() as other:
        assert index.views.layout(View()).total == 1
        other.add([shelf.put("run_b")])  # as another process would
        assert index.views.layout(View()).total == 2


@pytest.mark.parametrize(
    ("said", "cost"),
    [({"charged_cost": 1}, 1.0), ({"chargedCost": 0.5}, 0.5), ({"charged_cost": "x"}, None), (None, None)],
)
def test_the_cost_of_a_run_is_read_whatever_it_was_called(
    shelf: Shelf, said: dict[str, object] | None, cost: float | None
) -> None:
    document = read_document((shelf.root / shelf.put("run_a", run=said)).read_bytes())
    assert document is not None
    assert document.cost == cost


def test_a_damage_that_shows_later_is_said_and_the_next_to_open_it_finds_a_new_one(shelf: Shelf) -> None:
    for nth in range(300):
        shelf.put(f"run_{nth}", label=f"label {nth} " * 30)
    with shelf.indexed():
        pass
    file = shelf.place / "index.sqlite3"
    data = bytearray(file.read_bytes())
    data[8192:] = os.urandom(len(data) - 8192)
    file.write_bytes(data)
    index = LibraryIndex(shelf.place, shelf.library)
    with pytest.raises(IndexDamagedError, match=r"index\.sqlite3"):
        index.views.page(View(q="label"), 10)
    index.close()
    with shelf.indexed() as anew:
        assert anew.views.layout(View()).total == 300


@pytest.fixture
def store(tmp_path: Path) -> Shelf:
    """A library that is seen as one in a store is."""
    return Shelf(tmp_path / "library", a_store=True)


def test_a_store_is_indexed_from_one_listing_and_what_changed_alone_is_read_again(store: Shelf) -> None:
    store.put("run_a", {"data": picture(200, 100)})
    store.put("run_b", technique="other")
    with store.indexed() as index:
        assert sorted(shown(index)) == ["run_a", "run_b"]
        found = index.views.page(View(technique=("campaign",)), 9).outputs
        assert [(output.width, output.height) for output in found] == [(200, 100)]
        store.door.calls.clear()
        assert index.rebuild() == Changes([], 0, listed=2)
        assert store.door.calls == {"listing": 1}
        store.put("run_b", {}, {}, technique="other")
        assert index.rebuild() == Changes(["run_b"], 0, listed=2)
        assert store.door.calls["listing"] == 2
        assert sorted(shown(index)) == ["run_a", "run_b", "run_b"]


def test_what_is_gone_from_a_store_is_gone_from_the_index_and_a_store_that_is_away_empties_nothing(
    store: Shelf,
) -> None:
    store.put("run_a")
    store.put("run_b")
    with store.indexed() as index:
        store.sidecar("run_b").unlink()
        assert index.rebuild() == Changes([], 1, listed=1)
        (store.root / ".floradl-library").unlink()
        with pytest.raises(ServicePausedError):
            index.rebuild()
        assert shown(index) == ["run_a"]


def test_what_is_no_sidecar_in_a_store_costs_itself_alone(store: Shelf) -> None:
    store.put("run_a", {"data": b"no picture"}, {"path": "images/gone.png"})
    store.sidecar("run_b").write_text("{")
    (store.root / "runs" / "loose.json").write_text("{}")
    with store.indexed() as index:
        assert shown(index) == ["run_a", "run_a"]


SCATTERED = {"outputs_by_path", "outputs_by_sha256"}


def indexes(index: LibraryIndex) -> set[str]:
    with index._file.reading() as db:
        return {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'index'")}


def test_very_many_runs_are_put_in_before_their_files_are_sorted_by_path_and_bytes(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_index, "_MANY", 3)
    for nth in range(5):
        shelf.put(f"run_{nth}", technique=f"technique-{nth % 2}")
    seen: list[bool] = []
    index = LibraryIndex(shelf.place, shelf.library)
    try:
        index.rebuild(lambda _done, _total: seen.append(bool(SCATTERED & indexes(index))))
        assert not any(seen)
        assert indexes(index) >= SCATTERED
        found = index.views.page(View(), 1).outputs[0]
        assert index.by_path(found.path) is not None
    finally:
        index.close()


def test_an_index_whose_making_was_killed_is_made_whole_by_the_next_look(shelf: Shelf) -> None:
    shelf.put("run_a")
    with shelf.indexed() as index:
        index._file.put_off_scattered()
        index.rebuild()
        assert indexes(index) >= SCATTERED
