"""What a service manager hears of a daemon, and when: each beat, by a clock that the test holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hands import Hands
from managing import Ear, listening

from floradl.daemon.systemd import ServiceManager, Supervision, SystemdView, describe
from floradl.errors import PauseReason
from floradl.queue.heartbeat import LivePause, Transfer

WATCHDOG = 120.0


@pytest.fixture
def ear(tmp_path: Path) -> Iterator[Ear]:
    with listening(tmp_path) as ear:
        yield ear


@pytest.fixture
def clock() -> Hands:
    return Hands()


@pytest.fixture
def supervision(ear: Ear, clock: Hands) -> Supervision:
    return Supervision(ServiceManager(ear.address, WATCHDOG), clock.monotonic)


def said(ear: Ear, key: str) -> list[str]:
    return [message[key] for message in ear.listen() if key in message]


def started(supervision: Supervision) -> None:
    supervision.ready()
    supervision.beat("Waiting for runs", well=True)


def beats(supervision: Supervision, clock: Hands, seconds: int, *, well: bool = True) -> None:
    for _ in range(seconds):
        clock.now += 1
        supervision.beat("Waiting for runs", well=well)


# The watchdog


def test_a_quiet_hour_of_a_daemon_that_is_well_feeds_the_watchdog_in_time(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    supervision.ready()
    started = clock.now
    at: list[float] = []
    for _ in range(3600):
        clock.now += 1
        supervision.beat("Waiting for runs", well=True)
        if len(said(ear, "WATCHDOG")) > len(at):
            at.append(clock.now)
    gaps = [later - earlier for earlier, later in zip([started, *at], [*at, clock.now], strict=True)]
    assert max(gaps) <= WATCHDOG / 2
    assert len(at) < 3600 * 4 / WATCHDOG  # and it does not wake the machine up more than it must


def test_a_daemon_that_is_stuck_feeds_it_no_more(ear: Ear, supervision: Supervision, clock: Hands) -> None:
    supervision.ready()
    beats(supervision, clock, 60)
    before = len(said(ear, "WATCHDOG"))
    beats(supervision, clock, 300, well=False)
    assert len(said(ear, "WATCHDOG")) == before > 0


def test_one_that_goes_on_again_feeds_it_at_once(ear: Ear, supervision: Supervision, clock: Hands) -> None:
    supervision.ready()
    beats(supervision, clock, 100, well=False)
    assert said(ear, "WATCHDOG") == []
    beats(supervision, clock, 1)
    assert said(ear, "WATCHDOG") == ["1"]


def test_where_no_watchdog_is_wanted_none_is_fed(ear: Ear, clock: Hands) -> None:
    supervision = Supervision(ServiceManager(ear.address), clock.monotonic)
    supervision.ready()
    beats(supervision, clock, 600)
    assert said(ear, "WATCHDOG") == []


# The start


def test_a_start_that_takes_long_asks_for_time_while_it_gets_on(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    beats(supervision, clock, 60)
    pleas = said(ear, "EXTEND_TIMEOUT_USEC")
    assert {int(usec) for usec in pleas} == {30_000_000}
    assert 60 / 30 < len(pleas) <= 60 / 5
    assert said(ear, "WATCHDOG") == said(ear, "READY") == []


def test_a_start_that_hangs_asks_for_none(ear: Ear, supervision: Supervision, clock: Hands) -> None:
    beats(supervision, clock, 60, well=False)
    assert said(ear, "EXTEND_TIMEOUT_USEC") == []


def test_once_ready_no_time_is_asked_for(ear: Ear, supervision: Supervision, clock: Hands) -> None:
    supervision.ready()
    beats(supervision, clock, 60)
    assert said(ear, "READY") == ["1"]
    assert said(ear, "EXTEND_TIMEOUT_USEC") == []


def test_that_it_is_ready_is_said_again_until_it_is_heard(tmp_path: Path, clock: Hands) -> None:
    supervision = Supervision(ServiceManager(str(tmp_path / "notify"), WATCHDOG), clock.monotonic)
    supervision.ready()
    beats(supervision, clock, 3)
    with listening(tmp_path) as ear:
        beats(supervision, clock, 10)
        assert said(ear, "READY") == ["1"]


def test_where_nobody_listens_nothing_fails(clock: Hands) -> None:
    supervision = Supervision(ServiceManager(None), clock.monotonic)
    beats(supervision, clock, 3)
    supervision.reloading()
    supervision.reloaded(None)
    supervision.ready()
    supervision.stopping()


# Reloads and the end


def test_a_reload_tells_its_moment_and_then_that_it_is_over(ear: Ear, supervision: Supervision) -> None:
    started(supervision)
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    supervision.reloading()
    supervision.reloaded(None)
    begun, over = ear.listen()[1:]
    assert begun["RELOADING"] == "1"
    assert before <= int(begun["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    assert over["READY"] == "1"


def test_a_reload_during_the_start_does_not_make_it_ready(ear: Ear, supervision: Supervision) -> None:
    supervision.reloading()
    supervision.reloaded(None)
    assert ear.listen() == []


def test_a_broken_configuration_is_told_until_it_is_mended(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    started(supervision)
    supervision.reloaded("config.yaml, line 3: no size")
    beats(supervision, clock, 20)
    assert said(ear, "STATUS")[-1] == "Waiting for runs; config.yaml, line 3: no size"
    supervision.reloaded(None)
    assert said(ear, "STATUS")[-1] == "Waiting for runs"


def test_the_end_is_announced(ear: Ear, supervision: Supervision) -> None:
    supervision.ready()
    supervision.stopping()
    assert ear.listen()[-1]["STOPPING"] == "1"


# The line for a person


def test_a_line_is_told_once_and_a_new_one_within_seconds(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    supervision.ready()
    for second in range(20):
        clock.now += 1
        supervision.beat("Waiting for runs" if second < 10 else "Working on 1 run", well=True)
    assert said(ear, "STATUS") == ["Waiting for runs", "Working on 1 run"]


def test_a_line_that_changes_all_the_time_is_told_now_and_then(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    supervision.ready()
    for second in range(60):
        clock.now += 1
        supervision.beat(f"{second} MB came in", well=True)
        ear.listen()  # a socket's queue is short
    assert len(said(ear, "STATUS")) == 12


def test_the_first_line_after_the_start_is_not_held_back(
    ear: Ear, supervision: Supervision, clock: Hands
) -> None:
    supervision.beat("Starting", well=True)
    supervision.ready()
    beats(supervision, clock, 1)
    assert said(ear, "STATUS") == ["Starting", "Waiting for runs"]


def test_no_secret_is_in_a_line_and_it_is_not_endless(ear: Ear, supervision: Supervision) -> None:
    supervision.beat("https://media.flora.ai/a.png?X-Goog-Signature=abcdef " + "x" * 5000, well=True)
    (line,) = said(ear, "STATUS")
    assert "abcdef" not in line
    assert len(line) == 300


@pytest.mark.parametrize(
    ("view", "line"),
    [
        (
            SystemdView(starting=True, open_runs=3),
            "Starting: reading what there is in library, journal and inbox",
        ),
        (SystemdView(), "Waiting for runs"),
        (SystemdView(ended=1812), "Waiting for runs; 1,812 finished since the start"),
        (SystemdView(open_runs=1), "Working on 1 run"),
        (
            SystemdView(
                open_runs=12,
                transfers=(Transfer("a", 1_000_000, 4_000_000), Transfer("b", 500_000, 2_000_000)),
            ),
            "Working on 12 runs; 2 files coming in (1.5 MB of 6 MB)",
        ),
        (
            SystemdView(open_runs=1, transfers=(Transfer("a", 1500, None),)),
            "Working on 1 run; 1 file coming in (1.5 kB)",
        ),
        (SystemdView(open_runs=2, quiet=720), "Working on 2 runs; nothing has moved for 12 minutes"),
    ],
)
def test_a_person_reads_what_goes_on(view: SystemdView, line: str) -> None:
    assert describe(view) == line


def test_a_person_reads_why_nothing_goes_on_even_during_the_start() -> None:
    since = time.mktime((2026, 11, 25, 3, 12, 0, 0, 0, -1))
    pause = LivePause(PauseReason.KEY_REFUSED, "FLORA refused the key: put a good one in place", since)
    told = "Paused since 25 Nov 03:12 (key_refused): FLORA refused the key: put a good one in place"
    assert (
        describe(SystemdView(open_runs=2, paused=pause))
        == describe(SystemdView(starting=True, paused=pause))
        == told
    )
