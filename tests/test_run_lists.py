"""What the account's history lists: read down to a moment, whatever its pages do meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from floradl.errors import ErrorCode, TransientError
from floradl.flora.schema import RunPage, decode_page
from floradl.models import RemoteRun
from floradl.sources import history
from floradl.sources.history import OVERLAP, HistoryRange, RunFilter, pages, server_now, wanted, workspace_of

pytestmark = pytest.mark.anyio
NOW = 1_795_460_000.0


def run(run_id: str, created_at: float | None = None, **raw: Any) -> RemoteRun:
    return RemoteRun(run_id, "completed", 100.0, created_at, raw={"run_id": run_id, **raw})


class Lists:
    """Pages one after another; `cursors` lead from each to the next."""

    def __init__(
        self, *found: Sequence[RemoteRun], cursors: Callable[[int], str | None] | None = None
    ) -> None:
        self.found = found
        self.cursors = cursors or (lambda at: str(at + 1) if at + 1 < len(found) else None)
        self.asked: list[str | None] = []
        self.troubles: list[TransientError] = []

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        assert kind == "technique_runs"
        self.asked.append(cursor)
        if self.troubles:
            raise self.troubles.pop()
        at = int(cursor or 0) % len(self.found)
        return RunPage(tuple(self.found[at]), self.cursors(at))


async def ids(lists: Lists) -> list[str]:
    return [run.run_id async for page in pages(lists, "technique_runs") for run in page.runs]


async def test_all_pages_are_read_to_the_end() -> None:
    assert await ids(Lists([run("run_3")], [run("run_2")], [run("run_1")])) == ["run_3", "run_2", "run_1"]


async def test_a_run_that_shifts_to_the_next_page_is_given_once() -> None:
    lists = Lists([run("run_3"), run("run_2")], [run("run_2"), run("run_1"), run("run_1")])
    assert await ids(lists) == ["run_3", "run_2", "run_1"]


async def test_a_cursor_that_leads_in_a_circle_ends() -> None:
    lists = Lists([run("run_1")], [run("run_2")], cursors=lambda at: str(1 - at))
    assert await ids(lists) == ["run_1", "run_2"]
    assert len(lists.asked) <= 3


async def test_cursors_that_are_always_new_and_lead_nowhere_end() -> None:
    lists = Lists([run("run_1")])
    lists.cursors = lambda _at: str(len(lists.asked) + 1)
    assert await ids(lists) == ["run_1"]
    assert len(lists.asked) == 4


async def test_an_empty_page_is_not_the_end_where_a_cursor_follows() -> None:
    assert await ids(Lists([run("run_2")], [], [run("run_1")])) == ["run_2", "run_1"]


async def test_small_trouble_in_the_middle_costs_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "backoff", lambda _tries, _cap: 0.0)
    lists = Lists([run("run_2")], [run("run_1")])
    lists.troubles = [TransientError("busy")] * 4
    assert await ids(lists) == ["run_2", "run_1"]
    lists.troubles = [TransientError("busy")] * 5
    with pytest.raises(TransientError):
        await ids(lists)


async def test_a_list_that_is_forbidden_is_not_asked_for_again() -> None:
    lists = Lists([run("run_1")])
    lists.troubles = [TransientError("no", ErrorCode.FORBIDDEN)]
    with pytest.raises(TransientError):
        await ids(lists)
    assert lists.asked == [None]


def taken(reach: HistoryRange, page: RunPage) -> list[str]:
    return [run.run_id for run in reach.take(page)]


def test_the_first_look_goes_as_far_back_as_since_says() -> None:
    page = RunPage((run("run_2", NOW - 50), run("run_1", NOW - 150)), "more")
    reach = HistoryRange.of(page, None, 100.0, NOW)
    assert taken(reach, page) == ["run_2"]
    assert reach.goes_on(page, news=True)
    older = RunPage((run("run_0", NOW - 200),), "more")
    assert taken(reach, older) == []
    assert not reach.goes_on(older, news=True)


def test_later_looks_go_on_where_the_last_one_ended_with_an_overlap() -> None:
    mark = NOW - 10 * OVERLAP
    page = RunPage((run("run_2", mark - OVERLAP + 1), run("run_1", mark - OVERLAP - 1)), None)
    assert taken(HistoryRange.of(page, mark, 100.0, NOW), page) == ["run_2"]


def test_the_server_s_clock_counts_and_not_ours() -> None:
    aged = RemoteRun("run_1", "running", 0.0, NOW - 50, age=50.0)
    assert server_now(RunPage((aged,), None), NOW + 86_400) == NOW
    assert taken(
        HistoryRange.of(RunPage((aged,), None), None, 100.0, NOW + 86_400), RunPage((aged,), None)
    ) == ["run_1"]


def test_a_run_without_a_time_is_as_old_as_the_one_before_it() -> None:
    page = RunPage(
        tuple(run(*each) for each in (("run_4",), ("run_3", NOW), ("run_2",), ("run_1", 1.0), ("run_0",))),
        None,
    )
    assert taken(HistoryRange.of(page, None, 100.0, NOW), page) == ["run_4", "run_3", "run_2"]


def test_of_a_list_without_any_times_one_page_is_taken_first_and_later_what_is_new() -> None:
    page = RunPage((run("run_2"), run("run_1")), "more")
    first = HistoryRange.of(page, None, 100.0, NOW)
    assert taken(first, page) == ["run_2", "run_1"]
    assert not first.goes_on(page, news=True)
    later = HistoryRange.of(page, 0.0, 100.0, NOW)
    assert later.goes_on(page, news=True)
    assert not later.goes_on(page, news=False)


@pytest.mark.parametrize("unit", [1, 1000])
def test_times_in_seconds_and_milliseconds_are_the_same(unit: int) -> None:
    body = {"technique_runs": [{"run_id": "run_1", "status": "failed", "created_at": NOW * unit}], "meta": {}}
    page = decode_page(json.dumps(body).encode(), "technique_runs")
    reach = HistoryRange.of(page, None, 100.0, NOW)
    assert taken(reach, page) == ["run_1"]
    assert reach.newest == NOW


# What is wanted, and how it is called


def names(wants: RunFilter, kind: str, *runs: RemoteRun) -> list[str]:
    return [str(reference) for _, reference in wants.references(kind, runs)]


def of_technique(run_id: str, technique_id: str, **raw: Any) -> RemoteRun:
    return run(run_id, technique={"technique_id": technique_id, "name": "A name"}, **raw)


class Slugs:
    async def technique_id(self, name: str) -> str:
        return {"campaign": "tech_1"}[name]


async def test_only_runs_of_the_techniques_that_are_named_are_wanted_under_the_user_s_names() -> None:
    wants = await wanted(Slugs(), [], ["campaign", "tech_2"])
    runs = [of_technique("run_1", "tech_1"), of_technique("run_2", "tech_2"), of_technique("run_3", "tech_3")]
    assert names(wants, "technique_runs", *runs, run("run_4")) == ["campaign/run_1", "tech_2/run_2"]
    assert names(wants, "generations", run("run_5")) == ["run_5"]


async def test_only_runs_of_the_projects_that_are_named_are_wanted() -> None:
    wants = await wanted(Slugs(), ["prj_a"], [])
    runs = [run("run_1", project_id="prj_a"), run("run_2", project_id="prj_b"), run("run_3")]
    assert names(wants, "generations", *runs) == ["run_1"]


def test_a_run_is_called_as_its_poll_url_does_else_by_its_technique_s_id() -> None:
    polled = RemoteRun(
        "run_1",
        "running",
        0.0,
        None,
        poll_url="https://app.flora.ai/api/v1/techniques/campaign/runs/run_1",
        raw={"run_id": "run_1", "technique": {"technique_id": "tech_1"}},
    )
    assert names(RunFilter(), "technique_runs", polled, of_technique("run_2", "tech_1")) == [
        "campaign/run_1",
        "tech_1/run_2",
    ]


def test_a_poll_url_of_another_run_and_an_id_that_is_none_name_nothing() -> None:
    strange = RemoteRun(
        "run_1", "running", 0.0, None, poll_url="https://x/techniques/a/runs/run_9", raw={"run_id": "run_1"}
    )
    assert names(RunFilter(), "technique_runs", strange, run("../etc"), of_technique("run_2", "a/b")) == [
        "run_1",
        "run_2",
    ]


def test_camel_case_is_understood() -> None:
    listed = RemoteRun(
        "run_1",
        "running",
        0.0,
        None,
        raw={
            "runId": "run_1",
            "technique": {"techniqueId": "tech_1"},
            "projectId": "prj_a",
            "workspaceId": "ws_1",
        },
    )
    assert names(RunFilter(frozenset({"prj_a"})), "technique_runs", listed) == ["tech_1/run_1"]
    assert workspace_of(RunPage((listed,), None)) == "ws_1"
