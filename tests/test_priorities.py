"""What is small or needs no transfer does not wait behind what takes hours: real processes and sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from studio import Home, wait_until

from floradl.models import RemoteOutput
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
    status = walled.status()
    assert status["counts"]["running"] == WALL - 256
    assert {run["progress"] for run in status["runs"] if run["state"] == "running"} == {100}


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
        home.finished("campaign/run_last", 20.0)
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


def test_a_place_that_is_free_goes_to_the_one_who_waits_longest_and_to_no_newcomer() -> None:
    slots = DownloadSlots({Load.LARGE: 1})
    assert slots.take("run_1", Load.LARGE)
    assert not slots.take("run_2", Load.LARGE)
    assert not slots.take("run_3", Load.LARGE)
    assert slots.next("run_2") == []
    slots.leave(Load.LARGE)
    assert slots.next("run_1") == ["run_2"]
    assert not slots.take("run_4", Load.LARGE)
    assert slots.take("run_2", Load.LARGE)
    slots.leave(Load.LARGE)
    assert slots.next("run_2") == ["run_3"]


def test_one_who_gets_a_place_by_itself_is_not_called_for_another() -> None:
    """A pause may have put it back: taken on twice, it would be saved by two at once."""
    slots = DownloadSlots({Load.LARGE: 1})
    assert slots.take("run_1", Load.LARGE)
    assert not slots.take("run_2", Load.LARGE)
    slots.leave(Load.LARGE)
    assert slots.take("run_2", Load.LARGE)
    slots.leave(Load.LARGE)
    assert slots.next("run_2") == []


def test_a_place_that_its_owner_does_not_come_for_goes_to_the_next() -> None:
    slots = DownloadSlots({Load.LARGE: 1})
    assert slots.take("run_1", Load.LARGE)
    for name in ("run_2", "run_3"):
        assert not slots.take(name, Load.LARGE)
    slots.leave(Load.LARGE)
    assert slots.next("run_1") == ["run_2"]
    assert slots.next("run_2") == ["run_3"]
