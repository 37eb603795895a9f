"""The hook that tells of a pause: when, and that it really does."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

import anyio
import pytest
from hooked import Hook, configure
from mounting import in_memory
from studio import TEST_TIMEOUT, Home, queue, wait_until

from floradl.hooks.command import HookSettings
from floradl.hooks.pauses import PauseHook, PauseNotice
from floradl.queue.base import SentPause
from floradl.queue.heartbeat import LivePause
from floradl.simulator import Simulator

DAY = 86_400.0
WRONG = "sk_live_not_this_one"
FULL = LivePause("disk_full", "it is full", 5000.0)
REFUSED = LivePause("key_refused", "it is refused", 5000.0)

# When


def telling(*told: SentPause, wall: float = 5000.0) -> PauseNotice:
    """One that begins at 0 seconds by the monotonic clock."""
    return PauseNotice(told, 0.0, wall)


def test_a_new_pause_is_told_at_once_and_once() -> None:
    says = telling()
    assert says.due(FULL, 0.0) == FULL
    says.note(FULL, 0.0, 5000.0)
    assert says.due(FULL, 1.0) is None
    assert says.due(FULL, DAY - 1) is None


def test_it_is_told_again_each_day_while_it_lasts() -> None:
    says = telling()
    for day in range(7):
        assert says.due(FULL, day * DAY) == FULL
        says.note(FULL, day * DAY, 5000.0 + day * DAY)


def test_another_reason_is_another_pause() -> None:
    says = telling()
    says.note(FULL, 0.0, 5000.0)
    assert says.due(REFUSED, 1.0) == REFUSED


def test_one_that_comes_and_goes_is_told_each_ten_minutes_at_most() -> None:
    says = telling()
    says.note(FULL, 0.0, 5000.0)
    assert says.ended(None) == [SentPause("disk_full", 5000.0, 5000.0, over=True)]
    again = LivePause("disk_full", "it is full", 5100.0)
    assert says.due(again, 100.0) is None
    assert says.due(again, 600.0) == again


def test_an_end_is_noted_once_and_only_of_what_has_ended() -> None:
    says = telling()
    says.note(FULL, 0.0, 5000.0)
    assert says.ended("disk_full") == []
    assert len(says.ended("key_refused")) == 1
    assert says.ended(None) == []


def test_a_pause_goes_on_over_a_restart() -> None:
    says = telling(SentPause("disk_full", 1000.0, 1000.0))
    assert says.due(FULL, 0.0) is None
    assert says.due(FULL, DAY - 4000) == LivePause("disk_full", "it is full", 1000.0)


def test_one_that_was_over_before_the_restart_is_a_new_one() -> None:
    assert telling(SentPause("disk_full", 1000.0, 1000.0, over=True)).due(FULL, 0.0) == FULL


@pytest.mark.parametrize("wall", [0.0, 5000.0 + 400 * DAY])
def test_a_clock_that_jumped_meanwhile_costs_a_day_at_most(wall: float) -> None:
    says = telling(SentPause("disk_full", 1000.0, 5000.0), wall=wall)
    assert says.due(FULL, DAY) is not None


# As a process


@pytest.fixture
def hook(home: Home) -> Hook:
    """A hook for pauses, configured."""
    hook = Hook(home)
    configure(home, hooks={"paused": hook.words})
    return hook


def test_a_refused_key_is_told_with_its_reason(home: Home, simulator: Simulator, hook: Hook) -> None:
    with home.daemon(FLORA_API_KEY=WRONG):
        queue(home, simulator, "run_a")
        call = hook.called()[0]
        status = home.status()["paused"]
        wait_until(lambda: home.events("hook_done"))
    assert call.argument == "key_refused"
    assert {name: call.given[name] for name in status} == status
    assert (call.given["schema_version"], call.given["home"]) == (1, str(home.path))
    assert "FLORADL_EVENT=paused" in call.environ
    assert WRONG not in call.environ + str(call.given)


def test_a_restart_a_day_later_tells_how_long_it_has_lasted(
    home: Home, simulator: Simulator, hook: Hook
) -> None:
    with home.daemon(FLORA_API_KEY=WRONG):
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: told(home))
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as journal, journal:
        journal.execute("UPDATE pauses_told SET since = since - 604800, told_at = told_at - 90000")
    with home.daemon(FLORA_API_KEY=WRONG):
        first, second = hook.called(2)
    assert second.given["since"] < first.given["since"]


@pytest.mark.anyio
async def test_what_was_told_before_a_restart_is_not_told_again_the_same_day(hook: Hook) -> None:
    now = time.time()
    looks = 0

    def look() -> tuple[LivePause | None, bool]:
        nonlocal looks
        looks += 1
        if looks > 2:
            group.cancel_scope.cancel()
        return LivePause("disk_full", "it is full", now), True

    async def remember(_: SentPause) -> None:
        raise AssertionError

    orders = HookSettings({"paused": tuple(hook.words)}, 10.0, {})
    async with anyio.create_task_group() as group:
        await PauseHook(orders, "/home").serve([SentPause("disk_full", now, now)], look, remember)
    assert hook.calls() == []


def told(home: Home) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as journal:
        return journal.execute("SELECT reason, over FROM pauses_told").fetchall()


def test_that_it_is_over_is_remembered(home: Home, simulator: Simulator, hook: Hook) -> None:
    key = home.path / "key"
    key.write_text(WRONG)
    with home.daemon(FLORA_API_KEY="", FLORA_API_KEY_FILE=str(key)):
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: told(home) == [("key_refused", 0)])
        key.write_text(simulator.key)
        home.finished("campaign/run_a")
        wait_until(lambda: told(home) == [("key_refused", 1)])


def test_one_that_fails_is_tried_again(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write(f'echo x >>"{home.path}/tries"; [ $(wc -l <"{home.path}/tries") -ge 3 ] || exit 7')
    with home.daemon(FLORA_API_KEY=WRONG):
        queue(home, simulator, "run_a")
        hook.called()
        wait_until(lambda: home.events("hook_done"))
        (failed,) = home.events("hook_failed")
    assert "exit code 7" in failed["message"]


def test_one_that_hangs_keeps_nothing_from_going_on(home: Home, simulator: Simulator, hook: Hook) -> None:
    hook.write(f'touch "{home.path}/begun"; sleep 100')
    key = home.path / "key"
    key.write_text(WRONG)
    with home.daemon(FLORA_API_KEY="", FLORA_API_KEY_FILE=str(key)) as process:
        queue(home, simulator, "run_a")
        wait_until((home.path / "begun").exists)
        key.write_text(simulator.key)
        home.finished("campaign/run_a")
        process.terminate()
        assert process.wait(TEST_TIMEOUT) == 0


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass


@pytest.mark.root
def test_a_journal_that_nothing_more_fits_into_is_told(home: Home, simulator: Simulator, hook: Hook) -> None:
    with in_memory(home.state, "1m"), home.daemon():
        fill(home.state / "ballast")
        for number in range(40):  # until the room that its log has is used up
            queue(home, simulator, f"run_{number}")
        assert hook.called()[0].argument == "disk_full"
        (home.state / "ballast").unlink()
        home.finished("campaign/run_39")
