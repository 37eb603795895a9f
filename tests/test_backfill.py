"""What is learned of a run after its end completes its sidecar: more names of it, and its cost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Any

import anyio
import pytest
from memory_library import MemoryLibrary
from memory_queue import MemoryQueue
from polling import Clock, World
from studio import Home, check_library, until, wait_until

from floradl.clock import Clocks
from floradl.errors import ErrorCode, PauseReason, TransientError
from floradl.flora.schema import RunPage
from floradl.flora.technique_names import TechniqueNames
from floradl.library.sidecar import Sidecar
from floradl.models import QueuedRun, Reference, RemoteRun, Result, RunNames, RunState
from floradl.queue.base import LateCost
from floradl.runs import backfill as module
from floradl.runs.backfill import LOOKS, Backfill, BackfillOptions, late_cost, next_look
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator
from floradl.simulator.faults import FaultBook

pytestmark = pytest.mark.anyio
PICTURE = (OutputSpec("a", "imageUrl", size=3000),)
NO_COST = Do(missing_field="charged_cost")
RUN = QueuedRun(run_id="run_a", technique="campaign", state=RunState.DONE, queued_at=0.0)


def completed_at_flora(run_id: str = "run_a", cost: float | None = None, **fields: Any) -> RemoteRun:
    return RemoteRun(run_id, "completed", 100.0, fields.pop("created_at", 500.0), charged_cost=cost, **fields)


# When it is looked for


def test_a_missing_cost_is_looked_for_after_one_five_and_sixty_minutes() -> None:
    late = late_cost(RUN, completed_at_flora(), 1000.0)
    looks = []
    while late is not None:
        looks.append(late.look_at - 1000.0)
        late = next_look(late, late.look_at)
    assert looks == [60.0, 300.0, 3600.0] == list(LOOKS)


def test_a_cost_that_is_known_or_a_run_without_an_end_is_not_looked_for() -> None:
    assert late_cost(RUN, completed_at_flora(cost=0.0), 1000.0) is None
    assert late_cost(RUN, None, 1000.0) is None
    assert late_cost(RUN, RemoteRun("run_a", "running", 40.0, None), 1000.0) is None


def test_looks_that_were_missed_meanwhile_are_made_up_for_by_one() -> None:
    late = LateCost("run_a", 1060.0)
    assert next_look(late, 1400.0) == LateCost("run_a", 4600.0, 2)
    assert next_look(late, 9000.0) is None


# How it is looked for


class Lists:
    """Shows runs, newest first, `size` to a page; there are no single requests."""

    def __init__(self, *runs: RemoteRun, size: int = 100) -> None:
        self.runs = {"technique_runs": list(runs), "generations": list[RemoteRun]()}
        self.size = size
        self.error: TransientError | None = None
        self.asked: list[str] = []

    async def run(self, reference: Reference) -> RemoteRun:
        raise AssertionError(f"a single request for {reference}")

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        self.asked.append(f"{kind} {cursor or 0}")
        if self.error is not None:
            raise self.error
        start = int(cursor or 0)
        end = start + self.size
        found = self.runs[kind]
        return RunPage(tuple(found[start:end]), str(end) if end < len(found) else None)


class Place:
    """A backfill with all that it works with, in memory."""

    def __init__(self, lists: Lists) -> None:
        self.clock = Clock()
        self.lists = lists
        self.world = World(lists, self.clock)
        self.queue: MemoryQueue = self.world.rows
        self.library = MemoryLibrary()
        self.names = TechniqueNames()
        self.charged: list[float] = []
        self.backfill = Backfill(
            self.world.poller,
            self.world.breaker,
            self.queue,
            self.library,
            self.names,
            BackfillOptions(clocks=Clocks(self.clock, self.clock), charge=self.charged.append),
        )

    async def end(self, run_id: str, *, technique: str | None = "campaign", due: float | None = None) -> None:
        """Record a run as done, its sidecar without a cost; `due` is when that is looked for."""
        run = QueuedRun(run_id=run_id, technique=technique, state=RunState.DONE, queued_at=0.0)
        sidecar = Sidecar(
            reference=str(run.reference),
            technique=technique,
            run_id=run_id,
            result=Result.COMPLETE,
            run={"run_id": run_id},
        )
        self.library.write_sidecar(sidecar, None)
        late = None if due is None else LateCost(run_id, due, 0, 500.0)
        await self.queue.finish(run, 0.0, "x", late)

    def cost(self, run_id: str) -> object:
        found = self.library.find_sidecar(Reference(run_id))
        assert found is not None
        assert found.run is not None
        return found.run.get("charged_cost")


async def test_a_hundred_late_costs_cost_one_request() -> None:
    place = Place(Lists(*(completed_at_flora(f"run_{number}", 0.05) for number in range(100))))
    for number in range(100):
        await place.end(f"run_{number}", due=60.0)
    place.clock.now = 60.0
    await place.backfill.catch_up()
    assert place.lists.asked == ["technique_runs 0"]
    assert {place.cost(f"run_{number}") for number in range(100)} == {0.05}
    assert place.charged == [0.05] * 100
    assert await place.queue.next_late_cost() is None


async def test_where_no_cost_is_due_nothing_is_requested() -> None:
    place = Place(Lists(completed_at_flora(cost=0.05)))
    await place.end("run_a", due=60.0)
    place.clock.now = 59.0
    await place.backfill.catch_up()
    assert place.lists.asked == []
    assert await place.queue.next_late_cost() == 60.0


async def test_a_cost_that_is_not_settled_yet_is_looked_for_again_and_given_up_after_an_hour() -> None:
    place = Place(Lists(completed_at_flora()))
    await place.end("run_a", due=60.0)
    for moment in LOOKS:
        assert await place.queue.next_late_cost() == moment
        place.clock.now = moment
        await place.backfill.catch_up()
    assert await place.queue.next_late_cost() is None
    assert len(place.lists.asked) == 3
    assert place.cost("run_a") is None
    assert place.charged == []


async def test_pages_are_read_down_to_where_the_run_must_be_and_no_further() -> None:
    newer = [completed_at_flora(f"run_n{number}", created_at=2000.0 - number) for number in range(2)]
    older = [completed_at_flora(f"run_o{number}", created_at=300.0 - number) for number in range(4)]
    place = Place(Lists(*newer, *older, size=1))
    await place.end("run_a", due=60.0)
    place.clock.now = 60.0
    await place.backfill.catch_up()
    assert place.lists.asked == ["technique_runs 0", "technique_runs 1", "technique_runs 2"]


async def test_a_run_far_down_in_a_busy_workspace_is_not_looked_for_without_end() -> None:
    newer = [completed_at_flora(f"run_n{number}", created_at=2000.0) for number in range(50)]
    place = Place(Lists(*newer, size=1))
    await place.end("run_a", due=60.0)
    place.clock.now = 60.0
    await place.backfill.catch_up()
    assert len(place.lists.asked) == 5


async def test_a_run_without_a_technique_is_looked_for_among_the_generations_too() -> None:
    place = Place(Lists())
    place.lists.runs["generations"] = [completed_at_flora(cost=0.04)]
    await place.end("run_a", technique=None, due=60.0)
    place.clock.now = 60.0
    await place.backfill.catch_up()
    assert place.lists.asked == ["technique_runs 0", "generations 0"]
    assert place.cost("run_a") == 0.04


async def test_a_list_that_is_refused_ends_the_look_and_trouble_that_may_pass_does_not() -> None:
    place = Place(Lists())
    await place.end("run_a", due=60.0)
    place.clock.now = 60.0
    place.lists.error = TransientError("no", ErrorCode.FORBIDDEN)
    await place.backfill.catch_up()
    assert await place.queue.next_late_cost() == 300.0
    place.clock.now = 300.0
    place.lists.error = TransientError("503")
    with pytest.raises(TransientError):
        await place.backfill.catch_up()
    assert await place.queue.next_late_cost() == 300.0


async def test_nothing_is_looked_for_in_a_pause() -> None:
    place = Place(Lists(completed_at_flora(cost=0.05)))
    await place.end("run_a", due=60.0)
    place.clock.now = 60.0
    place.world.breaker.begin(PauseReason.KEY_REFUSED, "no")
    await place.backfill.catch_up()
    assert place.lists.asked == []


async def test_names_that_come_with_a_late_cost_complete_the_sidecar_too() -> None:
    place = Place(Lists(completed_at_flora(cost=0.05, names=RunNames(project_id="prj_1"))))
    await place.end("run_a", due=60.0)
    place.clock.now = 60.0
    await place.backfill.catch_up()
    found = place.library.find_sidecar(Reference("run_a"))
    assert found is not None
    assert found.project_id == "prj_1"


async def test_a_library_that_is_gone_costs_no_completion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_AFTER_TROUBLE", 0.01)
    place = Place(Lists())
    await place.end("run_a")
    place.library.missing = True
    tries: list[int] = []
    together = place.library.together

    def counted(works: Any) -> Any:
        tries.append(len(works))
        return together(works)

    monkeypatch.setattr(place.library, "together", counted)
    async with anyio.create_task_group() as group:
        group.start_soon(place.backfill.serve)
        await place.queue.note_incomplete(["run_a"])
        place.names.keep("campaign", RunNames(technique_id="tech_1", technique_name="Campaign"))
        await until(lambda: len(tries) > 1)
        assert await place.queue.incomplete_ids(5) == ["run_a"]
        place.library.missing = False

        def is_named() -> bool:
            found = place.library.find_sidecar(Reference("run_a"))
            return found is not None and found.technique_name == "Campaign"

        await until(is_named)
        with anyio.fail_after(60):
            while await place.queue.incomplete_ids(5):  # noqa: ASYNC110 - no event tells
                await anyio.sleep(0.005)
        group.cancel_scope.cancel()


# As a user sees it


def ended(home: Home, path: str) -> Callable[[], dict[str, Any] | None]:
    """Return what reads a sidecar by its place."""

    def read() -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads((home.library / path).read_bytes())
        except FileNotFoundError:
            return None
        return found

    return read


def test_a_later_reference_completes_a_done_run_at_once_and_its_files_stay(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="api", path="*/runs/*"), do=Do(missing_field="poll_url")))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    with home.daemon():
        home.drop("run_a", "first.txt")
        before = home.finished("run_a")
        assert before["technique"] is None
        asked = len(simulator.requests)
        home.drop("runs:\n- {run: run_a, technique: campaign, label: spring}\n", "second.yaml")
        sidecar = home.finished("campaign/run_a")
        row = wait_until(lambda: home.run("status", "--json", "--all").stdout)
    assert (sidecar["reference"], sidecar["label"]) == ("campaign/run_a", "spring")
    assert sidecar["outputs"] == before["outputs"]
    assert home.sidecar("run_a") is None
    assert "campaign/run_a" in row
    assert len(simulator.requests) == asked
    check_library(home, simulator)


def test_once_completes_a_done_run_although_another_one_fails(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(host="api", path="*/runs/*"), do=Do(missing_field="poll_url")))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    simulator.add_run("run_b", technique="campaign", fail=("internal_error", "no"), duration=0)
    home.drop("run_a")
    assert home.run("once").returncode == 0
    home.drop("campaign/run_a\ncampaign/run_b\n", "second.txt")
    assert home.run("once").returncode == 3
    assert home.sidecar("campaign/run_a") is not None
    assert home.sidecar("run_a") is None


def test_get_completes_the_sidecar_of_a_done_run_and_fetches_nothing(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="api", path="*/runs/*"), do=Do(missing_field="poll_url")))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    assert home.run("get", "run_a").returncode == 0
    assert home.sidecar("run_a") is not None
    asked = len(simulator.requests)
    assert home.run("get", "campaign/run_a").returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["outputs"][0]["path"] == "images/_unknown/run_a-a.png"
    assert home.sidecar("run_a") is None
    assert len(simulator.requests) == asked


def test_a_partial_run_without_a_technique_is_tried_again_under_its_own_and_leaves_one_sidecar(
    home: Home, simulator: Simulator
) -> None:
    outputs = (*PICTURE, OutputSpec("b", "imageUrl", size=2000))
    simulator.add_run("run_a", technique="campaign", outputs=outputs, duration=0)
    no_poll_url = Fault(match=Match(host="api", path="*/runs/*"), times=1, do=Do(missing_field="poll_url"))
    simulator.faults.add(no_poll_url)
    simulator.faults.add(Fault(match=Match(host="media", output="b"), times=1, do=Do(status=403, html=True)))
    home.run("get", "run_a", FLORADL_POLL__GIVE_UP_AFTER="1s")
    first = home.sidecar("run_a") or home.sidecar("campaign/run_a")
    assert first is not None
    assert home.run("get", "run_a").returncode == 0
    found = [path.relative_to(home.library) for path in (home.library / "runs").rglob("run_a.json")]
    assert len(found) == 1
    check_library(home, simulator)


def test_a_download_that_began_under_no_technique_is_resumed_where_it_is(
    home: Home, simulator: Simulator
) -> None:
    film = OutputSpec("film", "videoUrl", size=3_000_000, rate=600_000)
    simulator.faults.add(Fault(match=Match(host="api", path="*/runs/*"), do=Do(missing_field="poll_url")))
    simulator.add_run("run_a", technique="campaign", outputs=(film,), duration=0)
    with home.daemon() as daemon:
        home.drop("run_a")
        wait_until(lambda: [part for part in home.library.rglob(".*.part") if part.stat().st_size > 500_000])
        daemon.kill()
    size = next(home.library.rglob(".*.part")).stat().st_size
    simulator.faults = FaultBook()  # now the technique is known
    with home.daemon():
        sidecar = home.finished("run_a")
    assert sidecar["outputs"][0]["path"] == "videos/_unknown/run_a-film.mp4"
    ranges = [request.range for request in simulator.asked("media") if request.range]
    assert int(ranges[-1].removeprefix("bytes=").split("-")[0]) > size // 2
    check_library(home, simulator)


def make_due(home: Home) -> None:
    """Let the time of the next look come."""
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as db, db:
        assert db.execute("UPDATE late_costs SET look_at = look_at - 60").rowcount == 1


def test_a_late_cost_completes_the_sidecar_by_a_list_after_a_restart(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="api"), times=1, do=NO_COST))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    with home.daemon() as daemon:
        home.drop("campaign/run_a")
        before = home.finished("campaign/run_a")
        wait_until(lambda: home.status()["counts"]["done"] == 1)
        daemon.terminate()
        daemon.wait()
    assert "charged_cost" not in before["run"]
    single = [request for request in simulator.asked("api") if "/runs/" in request.path]
    make_due(home)
    with home.daemon():
        after = wait_until(
            lambda: (found := home.sidecar("campaign/run_a")) and "charged_cost" in found["run"] and found
        )
    assert after["run"] == {**before["run"], "charged_cost": 0.05}
    assert after["project_id"] == "prj_simulator"
    assert [request for request in simulator.asked("api") if "/runs/" in request.path] == single


def test_once_looks_for_costs_that_are_due(home: Home, simulator: Simulator) -> None:
    simulator.faults.add(Fault(match=Match(host="api"), times=1, do=NO_COST))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    asked = len(simulator.requests)
    assert home.run("once").returncode == 0
    assert len(simulator.requests) == asked  # nothing is due
    make_due(home)
    assert home.run("once").returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["run"]["charged_cost"] == 0.05


def test_a_crash_before_the_row_of_a_sidecar_does_not_lose_its_late_cost(
    home: Home, simulator: Simulator
) -> None:
    simulator.faults.add(Fault(match=Match(host="api"), times=1, do=NO_COST))
    simulator.add_run("run_a", technique="campaign", outputs=PICTURE, duration=0)
    home.drop("campaign/run_a")
    assert home.run("once").returncode == 0
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as db, db:
        db.execute("UPDATE runs SET state = 'waiting'")
        db.execute("DELETE FROM late_costs")
    assert home.run("once").returncode == 0
    make_due(home)
    assert home.run("once").returncode == 0
    sidecar = home.sidecar("campaign/run_a")
    assert sidecar is not None
    assert sidecar["run"]["charged_cost"] == 0.05
