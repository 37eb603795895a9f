"""What is small or needs no transfer does not wait behind what takes hours: real processes and sockets."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing

import anyio
import pytest
from studio import Home, wait_until

from floradl.clock import Clocks
from floradl.errors import PauseReason
from floradl.models import FinishedRun, QueuedRun, RemoteOutput, RemoteRun
from floradl.polling.circuit_breaker import CircuitBreaker
from floradl.polling.due_queue import DueQueue
from floradl.runs.slots import DownloadSlots, Load, load_of
from floradl.simulator import Do, Fault, Match, OutputSpec, Simulator

FILM = (OutputSpec("film", "videoUrl", size=3_000_000),)
WALL = 300  # runs: more than there are places for such


@pytest.fixture
def walled(home: Home, simulator: Simulator) -> Iterator[Home]:
    """A daemon whose transfers are all taken by films that take for ever, and many more films that wait."""
    simulator.faults.add(Fault(match=Match(host="media", path="*.mp4"), do=Do(drip=4000)))
    for number in range(WALL):
        simulator.add_run(f"run_film{number}", technique="campaign", outputs=FILM, duration=0.1)
    home.drop("".join(f"campaign/run_film{number}\n" for number in range(WALL)), "films.txt")
    with home.daemon(FLORADL_DOWNLOAD__CONCURRENCY="4"):
        wait_until(lambda: len(home.events("run_completed")) == WALL)
        yield home


def test_films_that_wait_for_a_place_do_not_count_as_downloading(walled: Home) -> None:
    wait_until(lambda: walled.status()["counts"]["downloading"] == 256)
    assert walled.status()["counts"]["running"] == WALL - 256


def test_films_that_wait_for_a_place_are_shown_as_ended_at_flora(walled: Home) -> None:
    def shown() -> set[int]:
        return {run["progress"] for run in walled.status()["runs"] if run["state"] == "running"}

    wait_until(lambda: shown() == {100})


def test_words_and_pictures_do_not_wait_behind_a_wall_of_films(walled: Home, simulator: Simulator) -> None:
    words = [OutputSpec("words", "text", text="Lower.")]
    simulator.add_run("run_words", technique="campaign", outputs=words, duration=0.1)
    simulator.add_run("run_failed", technique="campaign", fail=("safety_blocked", "Not this."), duration=0.1)
    simulator.add_run("run_still", technique="campaign", outputs=[OutputSpec("a", "imageUrl")], duration=0.1)
    simulator.add_run("run_later", technique="campaign", outputs=words, duration=2.0)
    walled.drop("campaign/run_words\ncampaign/run_failed\ncampaign/run_still\ncampaign/run_later\n")
    for name in ("words", "failed", "still", "later"):
        walled.finished(f"campaign/run_{name}")
    assert not [event for event in walled.events("output_saved") if event["output"] == "film"]


def test_what_waits_for_a_place_gets_it_and_is_asked_about_once(home: Home, simulator: Simulator) -> None:
    runs = 600
    pictures = [OutputSpec("a", "imageUrl", size=2000)]
    for number in range(runs):
        simulator.add_run(f"run_{number}", technique="campaign", outputs=pictures, duration=0.1)
    home.drop("".join(f"campaign/run_{number}\n" for number in range(runs)))
    assert home.run("once", timeout=120.0).returncode == 0
    assert home.status()["counts"]["done"] == runs
    assert len(simulator.asked("api")) < runs / 4


def test_a_run_that_comes_last_is_not_asked_about_last(home: Home, simulator: Simulator) -> None:
    """A crowd that goes on, more than may be asked about in minutes, and no lists."""
    simulator.rate_limit, simulator.listing = 6.0, False
    for number in range(500):
        simulator.add_run(f"run_{number}", technique="campaign", duration=86_400.0)
    words = [OutputSpec("words", "text", text="Lower.")]
    simulator.add_run("run_last", technique="campaign", outputs=words, duration=0.1)
    home.drop("".join(f"campaign/run_{number}\n" for number in range(500)))
    with home.daemon():
        wait_until(lambda: any(request.status == 429 for request in simulator.asked("api")))
        home.drop("campaign/run_last\n", "last.txt")
        home.finished("campaign/run_last")
    assert len({request.run_id for request in simulator.asked("api")}) < 400


def outputs(*types: str) -> list[RemoteOutput]:
    return [RemoteOutput(f"output_{nth}", kind, "x") for nth, kind in enumerate(types)]


@pytest.mark.parametrize(
    ("types", "load"),
    [
        ((), Load.NOTHING),
        (("text", "text"), Load.NOTHING),
        (("text", "imageUrl"), Load.SMALL),
        (("documentUrl",), Load.SMALL),
        (("imageUrl", "videoUrl"), Load.LARGE),
        (("audioUrl",), Load.LARGE),
        (("modelUrl",), Load.LARGE),
    ],
)
def test_a_run_s_load_is_told_by_the_kinds_of_its_outputs(types: tuple[str, ...], load: Load) -> None:
    assert load_of(outputs(*types)) is load


class Slots:
    """Slots for one film at a time, with room for `waiting` more; `begun` says whose turn came."""

    def __init__(self, waiting: int = 10) -> None:
        self.breaker = CircuitBreaker(DueQueue(time.monotonic, 1.0), Clocks())
        self.polled_again: list[str] = []
        self.slots = DownloadSlots(
            self.breaker, self.polled_again.extend, {Load.LARGE: 1, Load.SMALL: 1}, waiting
        )
        self.begun: list[str] = []
        self.ends: dict[str, anyio.Event] = {}

    def offer(self, *run_ids: str, kind: str = "videoUrl") -> None:
        for run_id in run_ids:
            answer = RemoteRun(run_id, "completed", 100.0, None, outputs=tuple(outputs(kind)))
            self.slots.offer(FinishedRun(QueuedRun(run_id=run_id, queued_at=0.0), answer))

    def is_full(self) -> bool:
        return not self.slots.room

    async def work(self, finished: FinishedRun) -> None:
        self.begun.append(finished.run.run_id)
        end = self.ends[finished.run.run_id] = anyio.Event()
        await end.wait()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        with closing(self.slots):
            async with anyio.create_task_group() as group:
                group.start_soon(self.slots.serve, self.work)
                await anyio.wait_all_tasks_blocked()
                yield
                group.cancel_scope.cancel()

    async def end(self, run_id: str) -> None:
        self.ends[run_id].set()
        await anyio.wait_all_tasks_blocked()


@pytest.mark.anyio
async def test_a_slot_that_is_free_goes_to_the_run_that_waits_longest() -> None:
    slots = Slots()
    async with slots.serving():
        slots.offer("run_1", "run_2", "run_3")
        await anyio.wait_all_tasks_blocked()
        assert slots.begun == ["run_1"]
        await slots.end("run_1")
        slots.offer("run_4")
        await anyio.wait_all_tasks_blocked()
        assert slots.begun == ["run_1", "run_2"]
        await slots.end("run_2")
        await slots.end("run_3")
        assert slots.begun == ["run_1", "run_2", "run_3", "run_4"]


@pytest.mark.anyio
async def test_a_slot_for_films_is_none_for_pictures_and_the_other_way_round() -> None:
    slots = Slots()
    async with slots.serving():
        slots.offer("run_1", "run_2")
        slots.offer("run_still", kind="imageUrl")
        await anyio.wait_all_tasks_blocked()
        assert sorted(slots.begun) == ["run_1", "run_still"]


@pytest.mark.anyio
async def test_runs_that_there_is_no_room_for_are_polled_again_once_there_is() -> None:
    slots = Slots(waiting=2)
    async with slots.serving():
        for number in range(6):  # the first is at work, the second waits for the slot
            slots.offer(f"run_{number}")
            await anyio.wait_all_tasks_blocked()
        assert slots.is_full()
        assert slots.polled_again == []
        await slots.end("run_0")
        assert not slots.is_full()
        assert slots.polled_again == ["run_4"]
        await slots.end("run_1")
        assert slots.polled_again == ["run_4", "run_5"]


@pytest.mark.anyio
async def test_no_work_begins_in_a_pause() -> None:
    slots = Slots()
    async with slots.serving():
        slots.breaker.begin(PauseReason.CREDITS, "none left")
        slots.offer("run_1")
        await anyio.wait_all_tasks_blocked()
        assert slots.begun == []
        slots.breaker.end()
        await anyio.wait_all_tasks_blocked()
        assert slots.begun == ["run_1"]
