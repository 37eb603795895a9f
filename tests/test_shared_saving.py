"""What a daemon that shares its queue does with a leased run: all real but the queue, which is in memory."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from shared_queue import SharedQueue, SharedStore
from studio import Home, check_library, logged, until
from wire import Silent

from floradl.app import App, working
from floradl.config.load import Options, load_config
from floradl.models import Reference, RunRequest, RunState
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

pytestmark = pytest.mark.anyio
TWO = (OutputSpec("a", "imageUrl", size=30_000), OutputSpec("b", "videoUrl", size=200_000))


@asynccontextmanager
async def at_work(home: Home, store: SharedStore, name: str) -> AsyncIterator[App]:
    """Run what a daemon runs."""
    queue = SharedQueue(store, name)
    config = load_config(Options(), home.environ)
    home.state.mkdir(parents=True, exist_ok=True)
    async with working(config, home.environ, queue, Silent()) as works, anyio.create_task_group() as group:
        works.library.create()
        group.start_soon(works.scheduler.serve)
        yield works
        group.cancel_scope.cancel()


async def add(works: App, run_id: str) -> None:
    request = RunRequest(Reference(run_id, "campaign"))
    works.scheduler.enqueue(await works.queue.submit([request], time.time(), retry_failed=True))


async def test_a_lease_that_is_lost_in_the_middle_of_a_run_is_no_bug_and_announces_nothing(
    tmp_path: Path, simulator: Simulator
) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=TWO, duration=0)
    simulator.faults.add(Fault(match=Match(host="media", output="b"), do=Do(delay=1.0)))
    home = Home(tmp_path, simulator)
    store = SharedStore(time.monotonic)
    with logged() as events:
        async with at_work(home, store, "one") as works:
            await add(works, "run_a")
            await until(lambda: len(simulator.asked("media", "run_a")) == 2)
            store.fences["run_a"] += 1  # another daemon has it
            store.leases["run_a"].owner = "other"
            await until(lambda: any(event["event"] == "lease_lost" for event in events))
    names = {event["event"] for event in events}
    assert not names & {"bug", "run_finished"}
    assert store.rows._runs["run_a"].state is RunState.DOWNLOADING
    assert home.sidecar("campaign/run_a") is None


async def test_an_expired_url_is_renewed_by_the_poller_alone(tmp_path: Path, simulator: Simulator) -> None:
    simulator.add_run("run_a", technique="campaign", outputs=TWO, duration=0)
    simulator.faults.add(Fault(match=Match(host="media"), times=2, do=Do(expire=True)))
    home = Home(tmp_path, simulator)
    store = SharedStore(time.monotonic)
    with logged() as events:
        async with at_work(home, store, "one") as works:
            await add(works, "run_a")
            await until(lambda: store.rows._runs["run_a"].state is RunState.DONE)
    assert "bug" not in {event["event"] for event in events}
    assert len(simulator.asked("api", "run_a")) == 2
    assert len(store.saves) == 2
    check_library(home, simulator)
