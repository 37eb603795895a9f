"""Which outputs are wanted: kinds, rules, a run's own kinds, and what an earlier sidecar left out."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from floradl.errors import ErrorCode
from floradl.library.selection import OutputRule, Selection, asks_for_more
from floradl.models import (
    OutputKind,
    QueuedRun,
    RemoteOutput,
    RemoteRun,
    RemovalReason,
    Removed,
    RunFailure,
    RunNames,
    SavedOutput,
    Skipped,
    SkipReason,
)

IMAGE, VIDEO, TEXT = OutputKind.IMAGE, OutputKind.VIDEO, OutputKind.TEXT
ANSWER = RemoteRun(
    "run_a",
    "completed",
    100.0,
    None,
    outputs=(
        RemoteOutput("final", "imageUrl", "https://x.example/a?sig=1"),
        RemoteOutput("draft_1", "imageUrl", "https://x.example/b"),
        RemoteOutput("film", "videoUrl", "https://x.example/c"),
        RemoteOutput("words", "text", "a poem"),
    ),
)
NOTHING: dict[str, SavedOutput] = {}


def run(technique: str | None = "camera-move", **fields: Any) -> QueuedRun:
    return QueuedRun(run_id="run_a", technique=technique, queued_at=0.0, **fields)


def wanted(selection: Selection, run: QueuedRun) -> list[str]:
    return [output.output_id for output in selection.plan(run, ANSWER, NOTHING, NOTHING).wanted]


def saved(output_id: str, kind: OutputKind) -> SavedOutput:
    return SavedOutput(output_id=output_id, type=kind, kind=kind, path=f"{output_id}.x", bytes=3)


def left_out(output_id: str, kind: OutputKind, reason: SkipReason, size: int | None = None) -> SavedOutput:
    return SavedOutput(output_id=output_id, type=kind, kind=kind, bytes=size, skipped=Skipped(reason))


def test_without_a_choice_all_outputs_are_wanted() -> None:
    assert wanted(Selection(), run()) == ["final", "draft_1", "film", "words"]


def test_the_kinds_of_the_settings_leave_out_all_others() -> None:
    plan = Selection((VIDEO, TEXT)).plan(run(), ANSWER, NOTHING, NOTHING)
    assert [output.output_id for output in plan.wanted] == ["film", "words"]
    assert {key: output.skipped for key, output in plan.skipped.items()} == {
        "final": Skipped(SkipReason.KIND),
        "draft_1": Skipped(SkipReason.KIND),
    }


def test_an_output_that_is_left_out_is_named_without_path_error_or_query() -> None:
    found = Selection((TEXT,)).plan(run(), ANSWER, NOTHING, NOTHING).skipped["final"]
    assert (found.path, found.error, found.url) == (None, None, "https://x.example/a")


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([OutputRule("camera-*", kinds=(VIDEO,))], ["film"]),
        ([OutputRule("CAMERA-*", kinds=(VIDEO,))], ["film"]),
        ([OutputRule("camera", kinds=(VIDEO,))], ["final", "draft_1", "words"]),
        ([OutputRule(output_id="draft_*", skip=True)], ["final", "words"]),
        ([OutputRule(output_id="Draft_?", skip=True)], ["final", "words"]),
        ([OutputRule("camera-*", "draft_*", skip=True)], ["final", "words"]),
        ([OutputRule("other", "draft_*", skip=True)], ["final", "draft_1", "words"]),
        # the first that matches counts
        ([OutputRule(output_id="draft_1"), OutputRule(output_id="draft_*", skip=True)], None),
        ([OutputRule(output_id="f*"), OutputRule(skip=True)], ["final", "film"]),
    ],
)
def test_the_first_rule_that_matches_wins_over_the_kinds_of_the_settings(
    rules: list[OutputRule], expected: list[str] | None
) -> None:
    found = wanted(Selection((IMAGE, TEXT), tuple(rules)), run())
    assert found == (expected or ["final", "draft_1", "words"])


def test_what_a_rule_skips_says_so() -> None:
    plan = Selection((), (OutputRule(output_id="draft_*", skip=True),)).plan(run(), ANSWER, NOTHING, NOTHING)
    assert plan.skipped["draft_1"].skipped == Skipped(SkipReason.RULE)


def test_the_kinds_of_a_run_win_over_rules_and_settings() -> None:
    selection = Selection((IMAGE,), (OutputRule("camera-*", skip=True),))
    assert wanted(selection, run(kinds=(TEXT,))) == ["words"]


def test_a_rule_knows_a_technique_by_its_id_and_by_its_name_too() -> None:
    selection = Selection((), (OutputRule("tech_1*", skip=True), OutputRule("lens *", skip=True)))
    assert wanted(selection, run(None)) != []
    assert wanted(selection, run(None, names=RunNames(technique_id="tech_123"))) == []
    assert wanted(selection, run("tech_999", names=RunNames(technique_name="Lens Flare"))) == []


def test_a_rule_knows_the_technique_of_a_bare_run_id_by_its_poll_url() -> None:
    selection = Selection((), (OutputRule("camera-*", skip=True),))
    url = "https://app.flora.ai/api/v1/techniques/camera-move/runs/run_a"
    assert selection.plan(run(None), replace(ANSWER, poll_url=url), NOTHING, NOTHING).wanted == ()
    strange = replace(ANSWER, poll_url="https://app.flora.ai/nothing")
    assert len(selection.plan(run(None), strange, NOTHING, NOTHING).wanted) == 4


def test_a_text_over_the_largest_size_is_left_out_with_its_size() -> None:
    found = Selection(max_file_size=5).plan(run(), ANSWER, NOTHING, NOTHING).skipped
    assert found.keys() == {"words"}
    assert (found["words"].skipped, found["words"].bytes) == (Skipped(SkipReason.TOO_LARGE), 6)
    assert wanted(Selection(max_file_size=6), run()) == ["final", "draft_1", "film", "words"]


# What an earlier sidecar says

EARLIER = {
    "final": saved("final", IMAGE),
    "draft_1": left_out("draft_1", IMAGE, SkipReason.RULE),
    "film": left_out("film", VIDEO, SkipReason.TOO_LARGE, 900),
    "words": left_out("words", TEXT, SkipReason.KIND),
}
ON_DISK = {"final": EARLIER["final"]}


def again(selection: Selection, run: QueuedRun) -> tuple[list[str], list[str], list[str]]:
    plan = selection.plan(run, ANSWER, EARLIER, ON_DISK)
    return [output.output_id for output in plan.wanted], [*plan.kept], [*plan.skipped]


def test_what_was_left_out_once_stays_so_where_nobody_asks_for_it() -> None:
    assert again(Selection(), run()) == ([], ["final"], ["draft_1", "film", "words"])


def test_retry_with_a_kind_fetches_what_was_left_out_and_keeps_what_stands() -> None:
    assert again(Selection((IMAGE,)), run(retry_kinds=(TEXT,), force=True)) == (
        ["words"],
        ["final"],
        ["draft_1", "film"],
    )


def test_retry_after_a_change_of_settings_fetches_what_is_wanted_now_and_nothing_twice() -> None:
    assert again(Selection((IMAGE, TEXT)), run(force=True)) == (["draft_1", "words"], ["final"], ["film"])


def test_retry_of_a_partial_run_fetches_what_is_wanted_now_too() -> None:
    failed = SavedOutput(
        output_id="final", type="image", kind=IMAGE, error=RunFailure(ErrorCode.HTTP_ERROR, "451")
    )
    plan = Selection((IMAGE, TEXT)).plan(run(), ANSWER, EARLIER | {"final": failed}, {})
    assert [output.output_id for output in plan.wanted] == ["final", "draft_1", "words"]


def test_retry_where_nothing_left_out_is_wanted_fetches_the_files_anew() -> None:
    rules = (OutputRule(output_id="draft_*", skip=True),)
    selection = Selection((IMAGE,), rules)
    assert again(selection, run(force=True)) == (["final"], [], ["draft_1", "film", "words"])


def test_retry_asks_for_what_was_too_large_only_under_another_limit() -> None:
    video = run(retry_kinds=(VIDEO,), force=True)
    assert again(Selection(max_file_size=899), video)[0] == []
    assert again(Selection(max_file_size=900), video)[0] == ["film"]
    assert again(Selection(), video)[0] == ["film"]


def test_a_file_that_stands_is_kept_though_its_kind_is_not_wanted_any_more() -> None:
    assert again(Selection((TEXT,)), run(force=True))[1] == ["final"]


def test_a_file_that_is_gone_is_wanted_again() -> None:
    plan = Selection().plan(run(), ANSWER, EARLIER, {})
    assert [output.output_id for output in plan.wanted] == ["final"]


def test_only_a_run_that_names_the_kind_asks_for_more_than_a_complete_sidecar_has() -> None:
    outputs = EARLIER.values()
    assert asks_for_more(run(kinds=(TEXT,)), outputs)
    assert not asks_for_more(run(), outputs)
    assert not asks_for_more(run(kinds=(OutputKind.AUDIO,)), outputs)


def test_a_file_that_is_gone_is_fetched_again_by_a_retry_of_another_kind_and_not_given_up() -> None:
    plan = Selection().plan(run(retry_kinds=(TEXT,), force=True), ANSWER, EARLIER, {})
    assert [output.output_id for output in plan.wanted] == ["final", "words"]
    assert [*plan.skipped] == ["draft_1", "film"]


REMOVED = replace(
    saved("film", VIDEO),
    path=None,
    sha256="0" * 64,
    removed=Removed("2026-01-01T00:00:00Z", RemovalReason.PRUNED),
)
THERE = saved("final", IMAGE)


@pytest.mark.parametrize(
    ("fields", "is_back"),
    [
        ({}, False),
        ({"kinds": (VIDEO,)}, False),
        ({"force": True}, True),
        ({"force": True, "retry_kinds": (IMAGE,)}, False),
        ({"retry_kinds": (VIDEO,)}, True),
    ],
    ids=["added again", "added for its kind", "retried", "retried for another kind", "its kind retried"],
)
def test_only_a_retry_brings_back_what_was_removed(fields: dict[str, Any], is_back: bool) -> None:  # noqa: FBT001
    told = {"film": REMOVED, "final": THERE}
    plan = Selection().plan(run(**fields), ANSWER, told, {"final": THERE})
    assert ("film" in [output.output_id for output in plan.wanted]) is is_back
    if is_back or not fields:
        assert "final" in plan.kept  # what is there is not downloaded anew by that
    if not is_back:
        assert plan.skipped["film"] == REMOVED


def test_a_retry_of_what_was_removed_that_failed_is_forgotten_by_the_next_request() -> None:
    failed = replace(REMOVED, error=RunFailure(ErrorCode.NOT_FOUND, "gone"))
    assert Selection().plan(run(), ANSWER, {"film": failed}, NOTHING).skipped["film"] == REMOVED
