"""What `RunQueue` promises, held against every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path

import anyio
import databases
import pytest
from hypothesis import given, strategies as st
from memory_queue import MemoryQueue
from msgspec.structs import replace
from queues import postgres_queue, serving, sqlite_queue

from floradl.errors import ErrorCode
from floradl.models import (
    Action,
    LeftFile,
    OutputKind,
    QueuedRun,
    Reference,
    RunFailure,
    RunNames,
    RunRequest,
    RunState,
    SavedOutput,
)
from floradl.queue.base import (
    DELIVERIES_KEPT,
    DURATIONS_KEPT,
    DeliveryRecord,
    HookEvent,
    LateCost,
    RunQueue,
    SentPause,
)
from floradl.queue.sqlite import SqliteQueue

pytestmark = pytest.mark.anyio
OPEN = (RunState.WAITING, RunState.RUNNING, RunState.DOWNLOADING)
ENDED = (RunState.DONE, RunState.PARTIAL, RunState.FAILED)
OUTPUT = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path="images/o.png", bytes=3)
FILE = LeftFile("job.txt", 1, 2, "abc", refused=False)

Opens = Callable[[], AbstractAsyncContextManager[RunQueue]]


@contextmanager
def opens(engine: str, tmp_path: Path) -> Iterator[Opens]:
    """Give what opens a queue of that engine; one that outlives its process is the same each time."""
    if engine == "postgresql":
        with databases.prepared() as (server, name):
            yield partial(postgres_queue, server.server(name))
    elif engine == "sqlite":
        yield partial(sqlite_queue, tmp_path)
    else:
        yield in_memory if engine == "sqlite in memory" else lambda: serving(MemoryQueue())


@asynccontextmanager
async def in_memory() -> AsyncIterator[RunQueue]:
    with SqliteQueue.in_memory() as queue:
        async with serving(queue):
            yield queue


@pytest.fixture(params=["sqlite", "sqlite in memory", "memory", "postgresql"])
async def queue(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RunQueue]:
    with opens(request.param, tmp_path) as opened:
        async with opened() as queue:
            yield queue


@pytest.fixture(params=["sqlite", "postgresql"])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opens]:
    """What opens a queue that outlives its process: all engines but those in memory."""
    with opens(request.param, tmp_path) as opened:
        yield opened


def order(run_id: str = "run_a", action: Action = Action.FETCH, **named: str) -> RunRequest:
    return RunRequest(Reference(run_id, named.get("technique")), named.get("label"), action)


async def submit(queue: RunQueue, *orders: RunRequest, now: float = 1.0, retry: bool = True) -> list[str]:
    """Submit twice where nothing may come of the second time: each call may be repeated."""
    touched = await queue.submit(orders, now, retry_failed=retry)
    if not any(order.action is Action.RETRY for order in orders):
        assert await queue.submit(orders, now, retry_failed=retry) == []
    return touched


async def bring_to(queue: RunQueue, state: RunState, run_id: str = "run_a") -> None:
    """Have a run in `state`, with something saved of it."""
    await submit(queue, order(run_id))
    if state is RunState.FORGOTTEN:
        await submit(queue, order(run_id, Action.FORGET), now=2.0)
    elif state is not RunState.WAITING:
        failure = RunFailure(ErrorCode.NETWORK, "no way") if state is RunState.FAILED else None
        run = QueuedRun(
            run_id=run_id, state=state, queued_at=1.0, tries=3, waited=9.0, progress=40.0, error=failure
        )
        await queue.update(run, 2.0)
    await queue.save_outputs(run_id, {"o": OUTPUT})


async def get(queue: RunQueue, run_id: str = "run_a") -> QueuedRun:
    run = await queue.get(run_id)
    assert run is not None
    return run


# What job files do


async def test_a_new_run_waits(queue: RunQueue) -> None:
    assert await queue.get("run_a") is None
    assert await submit(queue, order(technique="tech", label="mine"), now=5.0) == ["run_a"]
    assert await get(queue) == QueuedRun(run_id="run_a", technique="tech", label="mine", queued_at=5.0)


@pytest.mark.parametrize("state", [*OPEN, RunState.DONE, RunState.FORGOTTEN])
async def test_what_is_submitted_again_stays_as_it_is(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, state)
    before = await get(queue)
    assert await submit(queue, order(), now=9.0) == []
    assert await get(queue) == before
    assert await queue.saved_outputs("run_a") == {"o": OUTPUT}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
async def test_a_failed_run_is_queued_again_when_it_is_submitted_again(
    queue: RunQueue, state: RunState
) -> None:
    await bring_to(queue, state)
    assert await submit(queue, order(), now=9.0) == ["run_a"]
    assert await get(queue) == QueuedRun(run_id="run_a", queued_at=9.0)
    assert await queue.saved_outputs("run_a") == {}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
async def test_a_failed_run_stays_failed_where_retry_failed_is_not_asked_for(
    queue: RunQueue, state: RunState
) -> None:
    await bring_to(queue, state)
    before = await get(queue)
    assert await submit(queue, order(), now=9.0, retry=False) == []
    assert await get(queue) == before


@pytest.mark.parametrize("state", [RunState.DONE, RunState.FORGOTTEN])
async def test_retry_fetches_a_done_or_forgotten_run_anew(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, state)
    assert await submit(queue, order(action=Action.RETRY), now=9.0) == ["run_a"]
    assert await get(queue) == QueuedRun(run_id="run_a", queued_at=9.0, force=True)
    assert await queue.saved_outputs("run_a") == {}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
async def test_retry_keeps_what_a_failed_run_has_in_the_library(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, state)
    assert await submit(queue, order(action=Action.RETRY), now=9.0, retry=False) == ["run_a"]
    assert await get(queue) == QueuedRun(run_id="run_a", queued_at=9.0)


@pytest.mark.parametrize("state", OPEN)
async def test_retry_leaves_a_run_under_way_as_it_is(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, state)
    before = await get(queue)
    assert await submit(queue, order(action=Action.RETRY), now=9.0) == []
    assert await get(queue) == before


async def test_retry_of_an_unknown_run_fetches_it_anew(queue: RunQueue) -> None:
    assert await submit(queue, order(action=Action.RETRY), now=9.0) == ["run_a"]
    assert (await get(queue)).force


@pytest.mark.parametrize("action", [Action.RETRY, Action.FETCH])
async def test_the_kinds_of_a_request_that_queues_a_run_again_replace_those_before(
    queue: RunQueue, action: Action
) -> None:
    first = RunRequest(Reference("run_a"), kinds=(OutputKind.IMAGE,), meta={"client": "ACME"})
    await submit(queue, first)
    await queue.update(replace(await get(queue), state=RunState.PARTIAL), 2.0)
    assert await submit(queue, replace(first, action=action, kinds=(OutputKind.TEXT,)), now=9.0) == ["run_a"]
    found = await get(queue)
    assert (found.wanted_kinds, found.meta) == ((OutputKind.TEXT,), {"client": "ACME"})


async def test_a_retry_that_names_no_kinds_keeps_those_that_were_wanted(queue: RunQueue) -> None:
    await submit(queue, RunRequest(Reference("run_a"), kinds=(OutputKind.IMAGE,)))
    await queue.update(replace(await get(queue), state=RunState.FAILED), 2.0)
    assert await submit(queue, order(action=Action.RETRY), now=9.0) == ["run_a"]
    assert (await get(queue)).wanted_kinds == (OutputKind.IMAGE,)


async def test_the_kinds_of_a_retry_hold_until_the_run_is_done_and_then_those_before(queue: RunQueue) -> None:
    await submit(queue, RunRequest(Reference("run_a"), kinds=(OutputKind.IMAGE,)))
    await queue.update(replace(await get(queue), state=RunState.DONE), 2.0)
    retry = RunRequest(Reference("run_a"), action=Action.RETRY, kinds=(OutputKind.TEXT,))
    await submit(queue, retry, now=3.0)
    await queue.update(replace(await get(queue), state=RunState.FAILED), 4.0)
    await submit(queue, order(action=Action.RETRY), now=5.0)
    assert (await get(queue)).wanted_kinds == (OutputKind.TEXT,)
    await queue.update(replace(await get(queue), state=RunState.DONE), 6.0)
    await submit(queue, order(action=Action.RETRY), now=7.0)
    assert (await get(queue)).wanted_kinds == (OutputKind.IMAGE,)


async def test_outputs_that_are_listed_after_a_retry_of_a_kind_are_chosen_as_before_it(
    queue: RunQueue,
) -> None:
    retry = RunRequest(Reference("run_a"), action=Action.RETRY, kinds=(OutputKind.TEXT,))
    await submit(queue, RunRequest(Reference("run_a"), kinds=(OutputKind.IMAGE,)))
    await queue.update(replace(await get(queue), state=RunState.DONE), 2.0)
    await submit(queue, retry, now=3.0)
    await queue.update(replace(await get(queue), state=RunState.DONE), 4.0)
    assert await queue.reopen(["run_a"], 5.0) == ["run_a"]
    assert (await get(queue)).wanted_kinds == (OutputKind.IMAGE,)


async def test_the_kinds_of_a_request_leave_a_run_under_way_alone(queue: RunQueue) -> None:
    await submit(queue, order())
    retry = RunRequest(Reference("run_a"), action=Action.RETRY, kinds=(OutputKind.TEXT,))
    assert await submit(queue, retry, now=9.0) == []
    assert (await get(queue)).wanted_kinds == ()


@pytest.mark.parametrize("state", RunState)
async def test_forget_drops_a_run_in_any_state(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, state)
    assert await submit(queue, order(action=Action.FORGET), now=9.0) == []
    assert (await get(queue)).state is RunState.FORGOTTEN
    assert (await get(queue)).error is None
    assert await queue.saved_outputs("run_a") == {}
    assert await queue.open_ids() == []


async def test_a_run_can_be_forgotten_before_it_is_known(queue: RunQueue) -> None:
    await submit(queue, order(action=Action.FORGET))
    assert await submit(queue, order(), now=2.0) == []
    assert (await get(queue)).state is RunState.FORGOTTEN


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.DONE, RunState.FAILED])
async def test_forget_wins_over_an_update_under_way(queue: RunQueue, state: RunState) -> None:
    await bring_to(queue, RunState.DOWNLOADING)
    under_way = await get(queue)
    await submit(queue, order(action=Action.FORGET), now=9.0)
    await queue.update(replace(under_way, state=state), 10.0)
    assert (await get(queue)).state is RunState.FORGOTTEN


async def test_the_technique_label_and_time_first_named_stay(queue: RunQueue) -> None:
    await submit(queue, order(technique="tech", label="mine"))
    run = QueuedRun(run_id="run_a", technique="other", label="x", state=RunState.FAILED, queued_at=2.0)
    await queue.update(run, 2.0)
    assert (await get(queue)).queued_at == 1.0
    for action in Action:
        await queue.submit([order(action=action, technique="third", label="y")], 3.0, retry_failed=True)
        assert ((await get(queue)).technique, (await get(queue)).label) == ("tech", "mine")


async def test_a_technique_that_is_found_out_later_fills_the_place_of_none(queue: RunQueue) -> None:
    await submit(queue, order(label="mine"))
    found = QueuedRun(run_id="run_a", technique="found", state=RunState.RUNNING, queued_at=1.0)
    await queue.update(found, 2.0)
    await queue.update(replace(found, technique="other"), 3.0)
    assert ((await get(queue)).technique, (await get(queue)).label) == ("found", "mine")


def more(run_id: str = "run_a") -> RunRequest:
    return RunRequest(Reference(run_id, "late"), "late", meta={"shot": "12"})


@pytest.mark.parametrize("state", [state for state in RunState if state is not RunState.FORGOTTEN])
async def test_a_later_reference_completes_a_run_without_technique_label_and_meta(
    queue: RunQueue, state: RunState
) -> None:
    await bring_to(queue, state)
    await submit(queue, more(), now=9.0, retry=False)
    found = await get(queue)
    assert (found.technique, found.label, found.meta, found.state) == ("late", "late", {"shot": "12"}, state)
    assert found.queued_at == 1.0
    # The sidecar of one that has ended lacks it.
    assert await queue.incomplete_ids(5) == ([] if state.open else ["run_a"])


async def test_a_later_reference_completes_what_is_missing_and_changes_nothing_else(queue: RunQueue) -> None:
    await submit(queue, order(technique="tech"))
    await queue.submit([more()], 9.0, retry_failed=False)
    assert ((await get(queue)).technique, (await get(queue)).label) == ("tech", "late")


async def test_a_forgotten_run_is_not_completed(queue: RunQueue) -> None:
    await bring_to(queue, RunState.FORGOTTEN)
    before = await get(queue)
    await submit(queue, more(), now=9.0)
    assert await get(queue) == before
    assert await queue.incomplete_ids(5) == []


@pytest.mark.parametrize("again", [Action.FETCH, Action.RETRY])
async def test_a_run_that_is_queued_again_is_completed_and_its_sidecar_will_be_new(
    queue: RunQueue, again: Action
) -> None:
    await bring_to(queue, RunState.FAILED)
    request = RunRequest(Reference("run_a", "late"), "late", again)
    assert await queue.submit([request], 9.0, retry_failed=True) == ["run_a"]
    assert ((await get(queue)).technique, (await get(queue)).label) == ("late", "late")
    assert await queue.incomplete_ids(5) == []


async def test_a_run_that_was_completed_while_it_was_saved_is_incomplete_at_its_end(queue: RunQueue) -> None:
    await bring_to(queue, RunState.DOWNLOADING)
    under_way = await get(queue)
    await queue.submit([more()], 9.0, retry_failed=False)
    await queue.finish(replace(under_way, state=RunState.DONE), 10.0, "runs/_unknown/run_a.json")
    assert (await get(queue)).technique == "late"
    assert await queue.incomplete_ids(5) == ["run_a"]


async def test_an_end_that_says_all_of_a_run_leaves_nothing_incomplete(queue: RunQueue) -> None:
    await queue.submit([more()], 1.0, retry_failed=False)
    await queue.finish(replace(await get(queue), state=RunState.DONE), 10.0, "runs/late/run_a.json")
    assert await queue.incomplete_ids(5) == []


async def test_incomplete_runs_are_reported_until_they_are_noted_complete(queue: RunQueue) -> None:
    changed = queue.incomplete.next()
    await queue.note_incomplete([])
    assert not changed.is_set()
    await queue.note_incomplete(["run_a", "run_b", "run_a"])
    assert changed.is_set()
    assert sorted(await queue.incomplete_ids(5)) == ["run_a", "run_b"]
    assert len(await queue.incomplete_ids(1)) == 1
    await queue.note_complete(["run_a"])
    await queue.note_complete(["run_a", "run_c"])
    assert await queue.incomplete_ids(5) == ["run_b"]


async def test_a_run_that_becomes_incomplete_wakes_who_waits_for_that(queue: RunQueue) -> None:
    await bring_to(queue, RunState.DONE)
    changed = queue.incomplete.next()
    await queue.submit([order()], 8.0, retry_failed=True)
    assert not changed.is_set()
    await queue.submit([more()], 9.0, retry_failed=True)
    assert changed.is_set()


async def test_late_costs_are_due_at_their_time_the_earliest_first(queue: RunQueue) -> None:
    assert await queue.next_late_cost() is None
    late = [LateCost("run_b", 20.0, 1, 5.0), LateCost("run_a", 10.0), LateCost("run_c", 30.0, 2)]
    await queue.put_late_costs(late)
    assert await queue.next_late_cost() == 10.0
    assert await queue.late_costs(20.0, 5) == [late[1], late[0]]
    assert await queue.late_costs(20.0, 1) == [late[1]]
    assert await queue.late_costs(9.0, 5) == []


async def test_a_late_cost_is_put_off_or_settled(queue: RunQueue) -> None:
    await queue.put_late_costs([LateCost("run_a", 10.0), LateCost("run_b", 10.0)])
    await queue.put_late_costs([LateCost("run_a", 250.0, 1)], ["run_b", "run_c"])
    assert await queue.late_costs(1000.0, 5) == [LateCost("run_a", 250.0, 1)]


async def test_a_run_that_ends_without_its_cost_is_looked_at_later(queue: RunQueue) -> None:
    await submit(queue, order())
    ended = replace(await get(queue), state=RunState.DONE)
    changed = queue.incomplete.next()
    await queue.finish(ended, 10.0, "runs/x.json")
    assert (changed.is_set(), await queue.next_late_cost()) == (False, None)
    await queue.finish(ended, 10.0, "runs/x.json", LateCost("run_a", 70.0, 0, 5.0))
    assert (changed.is_set(), await queue.next_late_cost()) == (True, 70.0)


async def test_names_of_techniques_are_kept(queue: RunQueue) -> None:
    assert await queue.technique_names() == {}
    campaign = RunNames(technique_id="tech_1", technique_name="Campaign")
    await queue.put_technique_names({"campaign": RunNames(technique_id="tech_1"), "tech_1": campaign})
    await queue.put_technique_names({"campaign": campaign})
    assert await queue.technique_names() == {"campaign": campaign, "tech_1": campaign}


async def test_what_is_to_be_completed_later_survives_a_restart(durable: Opens) -> None:
    names = {"campaign": RunNames(technique_id="tech_1")}
    async with durable() as queue:
        await queue.note_incomplete(["run_a"])
        await queue.put_late_costs([LateCost("run_b", 10.0, 1, 5.0)])
        await queue.put_technique_names(names)
    async with durable() as queue:
        assert await queue.incomplete_ids(5) == ["run_a"]
        assert await queue.late_costs(10.0, 5) == [LateCost("run_b", 10.0, 1, 5.0)]
        assert await queue.technique_names() == names


async def test_the_kinds_and_meta_of_a_request_are_kept_and_an_update_keeps_them(queue: RunQueue) -> None:
    wish = RunRequest(Reference("run_a"), kinds=(OutputKind.VIDEO, OutputKind.TEXT), meta={"shot": "12, é"})
    await queue.submit([wish], 1.0, retry_failed=False)
    await queue.update(QueuedRun(run_id="run_a", state=RunState.RUNNING, queued_at=1.0), 2.0)
    found = await get(queue)
    assert (found.kinds, found.meta) == (wish.kinds, wish.meta)


async def test_the_names_of_a_run_are_kept_until_an_update_brings_others(queue: RunQueue) -> None:
    await submit(queue, order())
    names = RunNames(technique_id="tech_1", project_name="Spring")
    await queue.update(replace(await get(queue), names=names), 2.0)
    await queue.update(replace(await get(queue), names=RunNames()), 3.0)
    assert (await get(queue)).names == names


async def test_a_run_id_is_case_sensitive(queue: RunQueue) -> None:
    assert await submit(queue, order("run_a"), order("run_A")) == ["run_a", "run_A"]


async def test_a_run_named_twice_in_one_submit_is_one(queue: RunQueue) -> None:
    assert await submit(queue, order(), order()) == ["run_a"]


@given(
    st.sampled_from(["sqlite", "memory"]),
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(Action), st.booleans()),
            st.sampled_from([RunState.RUNNING, RunState.DOWNLOADING, *ENDED]),
        ),
        max_size=12,
    ),
)
def test_what_is_forgotten_comes_back_by_retry_alone(
    tmp_path_factory: pytest.TempPathFactory, engine: str, steps: list[tuple[Action, bool] | RunState]
) -> None:
    async def main() -> None:
        with opens(engine, tmp_path_factory.mktemp("state")) as opened:
            async with opened() as queue:
                forgotten = False
                for number, step in enumerate(steps):
                    if isinstance(step, RunState):
                        if await queue.get("run_a") is not None:
                            await queue.update(QueuedRun(run_id="run_a", state=step, queued_at=1.0), number)
                    else:
                        touched = await queue.submit([order(action=step[0])], number, retry_failed=step[1])
                        forgotten = step[0] is Action.FORGET or (forgotten and step[0] is not Action.RETRY)
                        # What is to be worked on is returned, so that it is worked on at once.
                        assert not touched or (await get(queue)).state is RunState.WAITING
                    run = await queue.get("run_a")
                    assert (run is not None and run.state is RunState.FORGOTTEN) == forgotten

    anyio.run(main)


@pytest.mark.parametrize("retry", [True, False])
async def test_new_runs_are_counted_for_each_job_as_they_would_be_submitted(
    queue: RunQueue, *, retry: bool
) -> None:
    for state in RunState:
        await bring_to(queue, state, f"run_{state}")
    known = [order(f"run_{state}") for state in RunState]
    jobs: list[list[RunRequest]] = [
        [],
        [order("run_new"), order("run_new")],
        [order("run_new"), *known],
        [replace(each, action=Action.RETRY) for each in known],
        [replace(each, action=Action.FORGET) for each in (*known, order("run_new"))],
    ]
    before = await queue.counts()
    assert await queue.count_new(jobs, retry_failed=retry) == [0, 1, 3 if retry else 1, 4, 0]
    assert await queue.counts() == before
    assert len(await queue.submit(jobs[2], 9.0, retry_failed=retry)) == (3 if retry else 1)


# Rows


async def test_a_run_is_read_back_as_it_was_put(queue: RunQueue) -> None:
    run = QueuedRun(
        run_id="run_ü",
        technique="tech",
        label="ein Wort, 你好",
        state=RunState.DOWNLOADING,
        queued_at=1.5,
        detected_at=2.5,
        waited=3.5,
        tries=4,
        progress=55.5,
        error=RunFailure(ErrorCode.NETWORK, "no way"),
        force=True,
    )
    for _ in range(2):
        await queue.update(run, 1.0)
        assert await get(queue, "run_ü") == run


async def test_no_secret_is_kept_in_an_error(queue: RunQueue) -> None:
    error = RunFailure(ErrorCode.NETWORK, "it said https://media.flora.ai/a.png?signature=planted")
    await queue.update(QueuedRun(run_id="run_a", queued_at=1.0, error=error), 1.0)
    found = (await get(queue)).error
    assert found is not None
    assert found.message.startswith("it said https://media.flora.ai/a.png")
    assert "planted" not in found.message


async def test_outputs_are_saved_by_run_and_key(queue: RunQueue) -> None:
    newer = replace(OUTPUT, bytes=4)
    await queue.save_outputs("run_a", {"o": OUTPUT})
    await queue.save_outputs("run_a", {"o\x002": OUTPUT})
    await queue.save_outputs("run_b", {"o": OUTPUT})
    for _ in range(2):
        await queue.save_outputs("run_a", {"o": newer})
    assert await queue.saved_outputs("run_a") == {"o": newer, "o\x002": OUTPUT}
    await queue.finish(QueuedRun(run_id="run_a", state=RunState.DONE, queued_at=1.0), 1.0, None)
    assert await queue.saved_outputs("run_a") == {}
    assert await queue.saved_outputs("run_b") == {"o": OUTPUT}


async def put_all(queue: RunQueue) -> None:
    for number, state in enumerate(RunState):
        await queue.update(QueuedRun(run_id=f"run_{state}", state=state, queued_at=number), number)


async def test_open_runs_under_way_come_before_those_that_wait_each_oldest_first(queue: RunQueue) -> None:
    await put_all(queue)
    await submit(queue, order("run_late"), now=9.0)
    await submit(queue, order("run_early"), now=-1.0)
    under_way, waiting = ["run_running", "run_downloading"], ["run_early", "run_waiting", "run_late"]
    assert await queue.open_ids() == under_way + waiting


async def test_runs_are_counted_by_state(queue: RunQueue) -> None:
    assert (await queue.counts()).states == dict.fromkeys(RunState, 0)
    await put_all(queue)
    assert (await queue.counts()).states == dict.fromkeys(RunState, 1)


async def test_the_oldest_open_run_is_the_one_that_waits_the_longest(queue: RunQueue) -> None:
    assert (await queue.counts()).oldest_open is None
    await submit(queue, order("run_a"), now=5.0)
    await submit(queue, order("run_b"), now=6.0)
    assert (await queue.counts()).oldest_open == 5.0
    await queue.finish(replace(await get(queue), state=RunState.DONE), 7.0, None)
    assert (await queue.counts()).oldest_open == 6.0


async def test_recovered_runs_are_added_where_they_are_not_known(queue: RunQueue) -> None:
    await submit(queue, order("run_a"))
    rows = [(QueuedRun(run_id=f"run_{name}", state=RunState.DONE, queued_at=1.0), 2.0) for name in "abc"]
    assert await queue.recover(rows) == 2
    assert await queue.recover(rows) == 0
    assert (await get(queue)).state is RunState.WAITING
    assert await get(queue, "run_b") == rows[1][0]


async def test_ended_runs_are_reopened_where_flora_lists_more(queue: RunQueue) -> None:
    for state in RunState:
        run = QueuedRun(run_id=f"run_{state}", queued_at=1.0, state=state, force=True, tries=2, waited=3.0)
        await queue.update(run, 1.0)
        await queue.save_outputs(run.run_id, {"o": OUTPUT})
    names = [f"run_{state}" for state in RunState]
    assert await queue.reopen([*names, "run_nobody"], 2.0) == [f"run_{state}" for state in ENDED]
    assert await queue.reopen([*names, "run_nobody"], 2.0) == []
    assert await get(queue, "run_done") == QueuedRun(run_id="run_done", queued_at=1.0, state=RunState.RUNNING)
    assert (await get(queue, "run_downloading")).state is RunState.DOWNLOADING
    assert (await get(queue, "run_forgotten")).state is RunState.FORGOTTEN
    assert await queue.saved_outputs("run_done") == {"o": OUTPUT}


# How long runs take


async def detect(queue: RunQueue, run_id: str, seconds: float, technique: str | None = "t") -> None:
    """Record that a run's end was detected, twice."""
    await queue.submit([order(run_id, technique=technique or "")], 1.0, retry_failed=False)
    run = QueuedRun(
        run_id=run_id, technique=technique, queued_at=1.0, detected_at=2.0, state=RunState.DOWNLOADING
    )
    for _ in range(2):
        await queue.update_all([(run, seconds)], 2.0)


async def test_durations_are_kept_once_by_technique_the_oldest_first(queue: RunQueue) -> None:
    await detect(queue, "run_a", 3.0)
    await detect(queue, "run_b", 1.0)
    await detect(queue, "run_c", 5.0, technique=None)
    assert await queue.durations() == {"t": [3.0, 1.0], "": [5.0]}
    await queue.update_all([(QueuedRun(run_id="run_d", queued_at=1.0), 7.0)], 1.0)  # nothing was detected
    assert await queue.durations() == {"t": [3.0, 1.0], "": [5.0]}


async def test_only_the_last_durations_of_a_technique_are_kept(queue: RunQueue) -> None:
    await detect(queue, "run_other", 1.0, technique="other")
    for number in range(DURATIONS_KEPT + 3):
        await detect(queue, f"run_{number}", number)
    found = await queue.durations()
    assert found["t"] == list(range(3, DURATIONS_KEPT + 3))
    assert found["other"] == [1.0]


# The end of a run, and the hooks that hear of it


async def finish(queue: RunQueue, run_id: str, sidecar: str | None = None, times: int = 2) -> None:
    for _ in range(times):
        await queue.finish(QueuedRun(run_id=run_id, queued_at=1.0, state=RunState.DONE), 2.0, sidecar)


async def test_without_a_hook_no_event_is_kept(queue: RunQueue) -> None:
    await submit(queue, order())
    await finish(queue, "run_a", "a.json")
    assert (await get(queue)).state is RunState.DONE
    await queue.outbox.expect(finished=True)
    assert await queue.outbox.after(0) == []


async def test_events_are_kept_in_order_until_they_are_dropped(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    for name in "abc":
        await submit(queue, order(f"run_{name}"))
        await finish(queue, f"run_{name}")
    first, second, third = await queue.outbox.after(0)
    assert await queue.outbox.after(first) == [second, third]
    for _ in range(2):
        await queue.outbox.drop(third)
        assert await queue.outbox.get(third) is None
    await queue.submit([order("run_c", Action.RETRY)], 3.0, retry_failed=True)
    await finish(queue, "run_c", "c.json")
    (again,) = await queue.outbox.after(second)
    assert again > third  # a number is never used twice
    assert await queue.outbox.get(again) == HookEvent(again, await get(queue, "run_c"), "c.json", 0)
    assert (await get(queue, "run_c")).state is RunState.DONE


async def test_a_run_that_ends_once_is_reported_once(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    await finish(queue, "run_a", "a.json", times=3)
    assert len(await queue.outbox.after(0)) == 1


async def test_failed_tries_of_a_hook_are_counted(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    await finish(queue, "run_a", "a.json")
    (number,) = await queue.outbox.after(0)
    await queue.outbox.count_failure(number)
    await queue.outbox.count_failure(number)
    assert await queue.outbox.get(number) == HookEvent(number, await get(queue), "a.json", 2)
    await queue.outbox.count_failure(number + 1)  # of one that was dropped meanwhile


async def test_a_hook_event_that_is_given_up_is_passed_over(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    await finish(queue, "run_a", "a.json")
    await finish(queue, "run_b", "b.json")
    first, second = await queue.outbox.after(0)
    for _ in range(2):
        await queue.outbox.give_up(first)
    assert await queue.outbox.after(0) == [second]
    assert await queue.outbox.get(first) is None
    await submit(queue, order("run_a", action=Action.RETRY), now=3.0)
    await finish(queue, "run_a", "a.json")
    assert len(await queue.outbox.after(0)) == 2


async def test_a_run_that_was_forgotten_meanwhile_is_not_reported(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    await submit(queue, order())
    await submit(queue, order(action=Action.FORGET), now=2.0)
    await finish(queue, "run_a", "a.json")
    assert await queue.outbox.after(0) == []
    assert (await get(queue)).state is RunState.FORGOTTEN


async def test_events_go_with_their_hook(queue: RunQueue) -> None:
    await queue.outbox.expect(finished=True)
    await finish(queue, "run_a", "a.json")
    await queue.outbox.expect(finished=True)
    assert len(await queue.outbox.after(0)) == 1
    await queue.outbox.expect(finished=False)
    await queue.outbox.expect(finished=True)
    assert await queue.outbox.after(0) == []


async def test_the_last_pause_of_each_reason_is_kept(queue: RunQueue) -> None:
    full = SentPause("disk_full", 5.0, 6.0)
    refused = SentPause("key_refused", 1.0, 2.0, over=True)
    for pause in (SentPause("key_refused", 0.0, 0.0), full, refused, refused):
        await queue.outbox.put_pause(pause)
    assert sorted(await queue.outbox.pauses(), key=lambda pause: pause.reason) == [full, refused]


# The account's history, webhooks, job files that lie


async def test_a_mark_is_kept_of_each_list_and_workspace(queue: RunQueue) -> None:
    assert await queue.sync_mark("technique_runs", "ws") is None
    for mark in (0.0, 5.0, 5.0):
        await queue.set_sync_mark("technique_runs", "ws", mark)
        assert await queue.sync_mark("technique_runs", "ws") == mark
    assert await queue.sync_mark("generations", "ws") is None
    assert await queue.sync_mark("technique_runs", "other") is None


async def deliver(
    queue: RunQueue, delivery_id: str = "whd_1", now: float = 1.0, *, known_only: bool = False
) -> DeliveryRecord:
    return await queue.note_delivery(delivery_id, order(), now, known_only=known_only, retry_failed=True)


async def test_a_delivery_is_new_once_and_queues_its_run(queue: RunQueue) -> None:
    assert await deliver(queue) == DeliveryRecord(new=True, open=True, queued=True)
    assert await deliver(queue) == DeliveryRecord(new=False, open=True)
    await queue.update(QueuedRun(run_id="run_a", queued_at=1.0, state=RunState.FAILED), 2.0)
    assert await deliver(queue) == DeliveryRecord(new=False, open=False)
    assert await deliver(queue, "whd_2") == DeliveryRecord(new=True, open=True, queued=True)


async def test_a_delivery_of_an_unknown_run_queues_it_only_where_all_are_wanted(queue: RunQueue) -> None:
    assert await deliver(queue, known_only=True) == DeliveryRecord(new=True, open=False)
    assert await queue.get("run_a") is None
    await submit(queue, order())
    assert await deliver(queue, "whd_2", known_only=True) == DeliveryRecord(new=True, open=True)


async def test_a_delivery_leaves_a_failed_run_where_retry_failed_is_not_asked_for(queue: RunQueue) -> None:
    await bring_to(queue, RunState.FAILED)
    found = await queue.note_delivery("whd_1", order(), 1.0, known_only=False, retry_failed=False)
    assert found == DeliveryRecord(new=True, open=False)


async def test_deliveries_are_forgotten_when_nobody_may_repeat_them_any_more(queue: RunQueue) -> None:
    await deliver(queue)
    assert not (await deliver(queue, now=DELIVERIES_KEPT)).new
    assert (await deliver(queue, "whd_2", now=DELIVERIES_KEPT + 2.0)).new
    assert (await deliver(queue, now=DELIVERIES_KEPT + 2.0)).new


async def test_job_files_are_recorded_with_their_runs_and_dropped_by_name_and_age(queue: RunQueue) -> None:
    odd = LeftFile("b\udcff.txt", 1, 2, "", refused=True)
    newer = replace(FILE, size=3)
    assert await queue.submit([order()], 1.0, retry_failed=True, files=[FILE, odd]) == ["run_a"]
    assert await queue.submit((), 5.0, retry_failed=True, files=iter([newer])) == []
    assert await queue.left_files() == {"job.txt": newer, "b\udcff.txt": odd}
    await queue.drop_left_files(["job.txt", "b\udcff.txt"], before=4.0)
    assert await queue.left_files() == {"job.txt": newer}
    for _ in range(2):
        await queue.drop_left_files(["job.txt", "none"])
        assert await queue.left_files() == {}


# Calls


async def test_who_calls_at_once_gets_each_his_own_answer(queue: RunQueue) -> None:
    found: dict[str, list[str]] = {}

    async def one(run_id: str) -> None:
        found[run_id] = await queue.submit([order(run_id), order("run_all")], 1.0, retry_failed=True)

    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(one, f"run_{number}")
    # The run that all of them name is the first one's to be committed.
    assert sorted(run_id for answer in found.values() for run_id in answer) == sorted([*found, "run_all"])
    assert all(answer[0] == run_id for run_id, answer in found.items())
    assert queue.trouble is None


async def test_a_closed_queue_takes_no_calls(queue: RunQueue) -> None:
    queue.close()
    queue.close()
    with pytest.raises(anyio.ClosedResourceError):
        await queue.open_ids()
    with pytest.raises(anyio.ClosedResourceError):
        await queue.outbox.pauses()


async def test_what_was_recorded_is_there_after_a_restart(durable: Opens) -> None:
    async with durable() as queue:
        await queue.outbox.expect(finished=True)
        await queue.submit([order("run_a")], 1.0, retry_failed=True, files=[FILE])
        await queue.save_outputs("run_a", {"o": OUTPUT})
        await detect(queue, "run_b", 3.0)
        await finish(queue, "run_c", "c.json")
        await queue.outbox.count_failure(1)
        await queue.outbox.put_pause(SentPause("disk_full", 5.0, 6.0))
        await queue.set_sync_mark("technique_runs", "ws", 5.0)
        await deliver(queue)
    async with durable() as queue:
        assert await queue.open_ids() == ["run_b", "run_a"]
        assert await queue.saved_outputs("run_a") == {"o": OUTPUT}
        assert await queue.durations() == {"t": [3.0]}
        assert await queue.outbox.get(1) == HookEvent(1, await get(queue, "run_c"), "c.json", 1)
        assert await queue.outbox.pauses() == [SentPause("disk_full", 5.0, 6.0)]
        assert await queue.sync_mark("technique_runs", "ws") == 5.0
        assert not (await deliver(queue)).new
        assert await queue.left_files() == {FILE.name: FILE}
        await finish(queue, "run_b")  # nobody has said yet that there is a hook
        assert await queue.outbox.after(1) == []


async def test_a_download_that_begins_is_recorded_once_and_keeps_its_tries_from_then_on(
    queue: RunQueue,
) -> None:
    await bring_to(queue, RunState.RUNNING)
    begun = await queue.begin_download("run_a", 5.0)
    assert begun is not None
    run, saved = begun
    assert (run.state, run.tries, run.waited, run.progress, run.error) == (
        RunState.DOWNLOADING,
        0,
        0.0,
        100.0,
        None,
    )
    assert saved == {"o": OUTPUT}
    assert await get(queue) == run
    await queue.update(replace(run, tries=2, waited=7.0), 6.0)
    again = await queue.begin_download("run_a", 7.0)
    assert again is not None
    assert (again[0].tries, again[0].waited) == (2, 7.0)


async def test_no_download_begins_of_a_run_that_is_not_open(queue: RunQueue) -> None:
    assert await queue.begin_download("run_nobody", 1.0) is None
    for state in ENDED:
        await queue.update(QueuedRun(run_id=f"run_{state}", queued_at=1.0, state=state), 1.0)
        assert await queue.begin_download(f"run_{state}", 2.0) is None
        assert (await get(queue, f"run_{state}")).state is state


async def test_several_outputs_are_saved_at_once(queue: RunQueue) -> None:
    other = replace(OUTPUT, output_id="p")
    await queue.save_outputs("run_a", {"o": OUTPUT, "p": other})
    await queue.save_outputs("run_a", {})
    assert await queue.saved_outputs("run_a") == {"o": OUTPUT, "p": other}
