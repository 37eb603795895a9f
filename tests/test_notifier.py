"""When people are told: bundled, at most once a minute, not again and again, and over a restart."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from studio import logged, until

from floradl.errors import ConfigError, ErrorCode
from floradl.models import QueuedRun, RunFailure, RunState
from floradl.notify import notifier as of
from floradl.notify.daily import DayReport, sum_up
from floradl.notify.news import Message, Topic
from floradl.notify.notifier import Doors, Notifier, NotifyOptions
from floradl.notify.sending import NotSentError
from floradl.notify.targets import Target, Webhook
from floradl.queue.event_log import EventLog
from floradl.queue.heartbeat import LivePause
from floradl.redaction import Secret

pytestmark = pytest.mark.anyio
ONE = Webhook("line 1 (https)", Secret("https://one.example/"))
OTHER = Webhook("line 2 (https)", Secret("https://other.example/"))
ALL = frozenset(Topic)
START = dt.datetime(2026, 11, 23, 12, 0).timestamp()  # noqa: DTZ001 - the local noon


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look all the time: the clock that counts is the test's."""

    async def soon(_: float) -> None:
        await anyio.sleep(0.001)

    monkeypatch.setattr(of, "next_tick", soon)
    monkeypatch.setattr(of, "_READ_EVERY", 0.0)


class World:
    """A state folder, a clock, and people; `refuses` says what an address answers, None for well."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.now = START
        self.sent: list[tuple[str, Message]] = []
        self.refuses: dict[str, NotSentError] = {}
        self.pause: LivePause | None = None
        self.sure = True
        self.targets: tuple[Target, ...] | ConfigError = (ONE,)
        self.tries = 0
        self.turns = 0
        self.log = EventLog(state, wall=lambda: self.now)

    def send(self, message: Message, target: Target) -> None:
        self.tries += 1
        if (refusal := self.refuses.get(target.name)) is not None:
            raise refusal
        self.sent.append((target.name, message))

    def read_targets(self) -> tuple[Target, ...]:
        self.turns += 1
        if isinstance(self.targets, ConfigError):
            raise self.targets
        return self.targets

    def fail(self, *names: str) -> None:
        for name in names:
            failure = RunFailure(ErrorCode.NOT_FOUND, "no such run")
            run = QueuedRun(
                run_id=name, technique="campaign", state=RunState.FAILED, queued_at=0.0, error=failure
            )
            self.log.finished(run, f"runs/campaign/{name}.json", 0, 0)
        self.log._write()

    @asynccontextmanager
    async def told(self, topics: frozenset[Topic] = ALL) -> AsyncIterator[Notifier]:
        """Have a notifier at work, from the moment it began."""
        options = NotifyOptions(topics, self.read_targets, "/srv/flora on nas")
        report: Callable[[dt.date, dt.date], list[DayReport]] = lambda first, until: sum_up(  # noqa: E731
            self.state, first, until, lambda _: 0.25
        )
        doors = Doors(lambda: (self.pause, self.sure), self.send, report, lambda: self.now)
        notifier = Notifier(self.state, options, doors)
        async with anyio.create_task_group() as group:
            group.start_soon(notifier.serve)
            await self.turned()
            yield notifier
            await self.turned()
            group.cancel_scope.cancel()

    async def turned(self) -> None:
        """Wait until it looked at all twice."""
        turns = self.turns
        await until(lambda: self.turns >= turns + 3)

    async def pass_by(self, seconds: float) -> None:
        self.now += seconds
        await self.turned()

    @property
    def titles(self) -> list[str]:
        return [message.title.removeprefix("floradl: ") for _, message in self.sent]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_what_happens_within_a_moment_is_one_message(world: World) -> None:
    async with world.told():
        world.fail("run_a", "run_b")
        await world.turned()
        assert world.titles == []
        await world.pass_by(4)
        assert world.titles == ["2 runs failed"]


async def test_there_is_at_most_a_message_a_minute_and_fewer_while_it_goes_on(world: World) -> None:
    async with world.told():
        for _ in range(4 * 3600 // 30):
            world.fail(f"run_{world.now}")
            world.now += 30
            if len(world.sent) < 4 or int(world.now) % 600 < 30:
                await world.turned()
    times = [message.facts["at"] for _, message in world.sent]
    gaps = [
        (dt.datetime.fromisoformat(later) - dt.datetime.fromisoformat(earlier)).total_seconds()
        for earlier, later in itertools.pairwise(times)
    ]
    assert gaps[:3] == sorted(gaps[:3])
    assert min(gaps) >= 60
    assert gaps[-1] >= 3600
    assert len(gaps) < 10


async def test_a_pause_is_told_once_again_each_day_and_when_it_is_over(world: World) -> None:
    async with world.told():
        world.pause = LivePause("key_refused", "FLORA refuses the key", world.now)
        await world.turned()
        await world.pass_by(4)
        assert world.titles == ["paused (key_refused)"]
        assert "FLORA refuses the key" in world.sent[0][1].text
        for _ in range(5):
            await world.pass_by(1200)
        assert world.titles == ["paused (key_refused)"]
        world.pause = None
        await world.turned()
        await world.pass_by(4)
        assert world.titles == ["paused (key_refused)", "goes on"]


async def test_a_pause_that_was_told_is_not_told_again_after_a_restart(world: World) -> None:
    world.pause = LivePause("disk_full", "no room", world.now)
    async with world.told():
        await world.pass_by(4)
        assert world.titles == ["paused (disk_full)"]
    world.now += 600
    async with world.told():
        await world.pass_by(70)
        assert world.titles == ["paused (disk_full)"]


async def test_what_was_not_sent_is_sent_after_a_restart_and_nothing_of_before_the_first(
    world: World,
) -> None:
    world.fail("run_of_before")
    world.refuses = {ONE.name: NotSentError("it is away")}
    async with world.told():
        world.fail("run_a")
        await world.turned()
        await world.pass_by(4)
        assert world.tries == 1
    world.fail("run_while_it_was_away")
    world.refuses = {}
    async with world.told():
        await world.pass_by(3600)
        await world.pass_by(3600)
    sent = [event["run_id"] for _, message in world.sent for event in message.facts["events"]]
    assert sent == ["run_a", "run_while_it_was_away"]


async def test_an_address_that_is_away_is_tried_less_and_less_and_told_of(world: World) -> None:
    world.targets = (ONE, OTHER)
    world.refuses = {ONE.name: NotSentError("one.example answers HTTP 503")}
    with logged() as lines:
        async with world.told() as notifier:
            world.fail("run_a")
            await world.turned()
            await world.pass_by(4)
            assert [name for name, _ in world.sent] == [OTHER.name]
            (trouble,) = notifier.troubles
            assert "line 1 (https) of notify.urls_file takes no message since" in trouble
            assert trouble.endswith("one.example answers HTTP 503")
            for _ in range(60):
                await world.pass_by(60)
            tries = world.tries - 1
            world.refuses = {}
            await world.pass_by(3600)
            assert not notifier.troubles
    assert 4 <= tries <= 9
    assert [line["event"] for line in lines].count("notify_failed") == 1
    assert [name for name, _ in world.sent] == [OTHER.name, ONE.name]


async def test_an_address_that_asks_for_time_gets_it(world: World) -> None:
    world.refuses = {ONE.name: NotSentError("HTTP 429", wait=1800)}
    async with world.told():
        world.fail("run_a")
        await world.turned()
        await world.pass_by(4)
        await world.pass_by(1700)
        assert world.tries == 1
        await world.pass_by(200)
        assert world.tries == 2


async def test_what_is_not_asked_for_is_not_told(world: World) -> None:
    async with world.told(frozenset({Topic.REJECTED})):
        world.fail("run_a")
        world.pause = LivePause("key_refused", "FLORA refuses the key", world.now)
        world.log.rejected("a.txt", "line 1: no reference")
        world.log._write()
        await world.turned()
        await world.pass_by(4)
    assert world.titles == ["1 job file refused"]


async def test_a_file_of_addresses_that_breaks_is_told_and_loses_nothing(world: World) -> None:
    async with world.told() as notifier:
        world.fail("run_a")
        await world.turned()
        world.targets = ConfigError("urls, line 1: this is not a URL")
        await world.pass_by(60)
        troubles = [notifier.troubles]
        world.targets = (ONE,)
        await world.pass_by(60)
        troubles.append(notifier.troubles)
        assert troubles == [("notify: urls, line 1: this is not a URL",), ()]
    assert world.titles == ["1 run failed"]


async def test_a_memory_that_is_damaged_begins_anew(world: World) -> None:
    (world.state / "notify.json").write_text("{")
    async with world.told():
        world.fail("run_a")
        await world.turned()
        await world.pass_by(4)
    assert world.titles == ["1 run failed"]
    assert json.loads((world.state / "notify.json").read_text())["position"]


async def test_the_day_before_is_summed_up_in_the_morning(world: World) -> None:
    async with world.told():
        run = QueuedRun(run_id="run_a", technique="campaign", state=RunState.DONE, queued_at=0.0)
        world.log.finished(run, "runs/campaign/run_a.json", 2, 3_000_000)
        world.fail("run_b")
        await world.turned()
        await world.pass_by(19.5 * 3600)  # half past seven
        assert "the day" not in " ".join(world.titles)
        await world.pass_by(3600)
        await world.pass_by(4)
        (line,) = [each for each in world.sent[-1][1].text.splitlines() if "2026-11-23" in each]
        assert "Monday 2026-11-23: 1 run complete, 1 failed, 2 files (3 MB), $0.50" in line
        assert world.sent[-1][1].facts["events"][0]["charged_usd"] == 0.5
        before = len(world.sent)
        await world.pass_by(3600)
        assert len(world.sent) == before
