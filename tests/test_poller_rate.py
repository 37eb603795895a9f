"""How many requests polling takes and how late a run's end is noticed, with hundreds of runs in flight.

The parts that decide are the real ones; FLORA is a table, and time passes only while all of them wait.
"""

from __future__ import annotations

import asyncio
import functools
import math
import random
from collections.abc import Callable
from statistics import mean
from typing import TypeAlias

import anyio
import pytest
import virtual
from polling import World

from floradl.errors import ApiUnavailableError, ErrorCode, TransientError
from floradl.flora.rate_limit import RateLimiter
from floradl.flora.schema import RunPage
from floradl.models import Reference, RemoteOutput, RemoteRun
from floradl.simulator.api import TokenBucket

pytestmark = pytest.mark.no_cover  # hours of polling: measured, they would take three times as long

OUTPUTS = (RemoteOutput("a", "text", "words"),)
LATENCY = 0.02
SEEDS = (1, 2, 3)
SHORT = (120, 12.0)


Progress: TypeAlias = Callable[[float, float], float]
"""What a run of some age says, which will take some duration (seconds)."""


def nothing(_age: float, _duration: float) -> float:
    return 0.0


class Workspace:
    """Runs that begin now and take `durations` seconds, and how FLORA answers for them."""

    def __init__(
        self,
        durations: list[float],
        *,
        listing: bool = True,
        rate: float = math.inf,
        chance: float = 0.0,
        progress: Progress = nothing,
    ) -> None:
        self.now = asyncio.get_running_loop().time
        self.began = self.now()
        self.ends = {f"run_{n:04}": self.began + seconds for n, seconds in enumerate(durations)}
        self.told: dict[str, float] = {}
        self.asked: list[tuple[float, bool]] = []  # when, and whether it was throttled
        self._listing, self._rate, self._chance = listing, rate, chance
        self._progress = progress
        self._dice = random.Random(9)
        self._bucket = TokenBucket()
        self._pace = RateLimiter(self.now)

    async def run(self, reference: Reference) -> RemoteRun:
        await self._request(patient=True)
        answer = self._answer(reference.run_id)
        if answer.finished:
            self._pace.paid()
        return answer

    async def page(self, kind: str, cursor: str | None = None) -> RunPage:
        await self._request()
        if not self._listing:
            raise TransientError(f"this key may not list {kind}", ErrorCode.FORBIDDEN)
        start = int(cursor or 0)
        listed = list(self.ends)[start : start + 100]
        return RunPage(
            tuple(self._answer(run_id) for run_id in listed),
            str(start + 100) if start + 100 < len(self.ends) else None,
        )

    async def _request(self, *, patient: bool = False) -> None:
        async with self._pace.turn(patient=patient):
            await anyio.sleep(LATENCY)
            throttled = self._dice.random() < self._chance
            wait = self._bucket.take(self.now(), self._rate, 5.0) if self._rate < math.inf else 0.0
            self.asked.append((self.now(), throttled or wait > 0))
            if throttled or wait > 0:
                self._pace.throttled(math.ceil(wait) or 1)
                raise ApiUnavailableError("too many requests", retry_after=math.ceil(wait) or 1)
            self._pace.answered()

    def _answer(self, run_id: str) -> RemoteRun:
        now, end = self.now(), self.ends[run_id]
        age = now - self.began
        if now < end:
            progress = self._progress(age, end - self.began)
            return RemoteRun(run_id, "running", progress, self.began, age=age)
        self.told.setdefault(run_id, now)
        return RemoteRun(run_id, "completed", 100.0, self.began, completed_at=end, outputs=OUTPUTS, age=age)

    @property
    def requests(self) -> float:
        """How many a run."""
        return len(self.asked) / len(self.ends)

    @property
    def delays(self) -> list[float]:
        return [told - self.ends[run_id] for run_id, told in self.told.items()]


async def follow(workspace: Workspace) -> Workspace:
    """Poll until the end of each run is known."""
    world = World(workspace, workspace.now)
    world.make_due(*workspace.ends)
    async with world.serving():
        while len(workspace.told) < len(workspace.ends):  # noqa: ASYNC110 - FLORA sets no event
            await anyio.sleep(0.05)
    return workspace


def followed(
    seed: int,
    crowd: tuple[int, float] = (200, 40.0),
    *,
    listing: bool = True,
    rate: float = math.inf,
    chance: float = 0.0,
    progress: Progress = nothing,
) -> Workspace:
    """Follow so many runs that take so many seconds in the median, until the end of each is known."""
    random.seed(seed)
    dice = random.Random(seed)
    runs, typical = crowd
    durations = [typical * dice.lognormvariate(0, 0.5) for _ in range(runs)]

    async def work() -> Workspace:
        return await follow(
            Workspace(durations, listing=listing, rate=rate, chance=chance, progress=progress)
        )

    return virtual.run(work())


def test_two_hundred_in_flight_cost_little_more_than_half_a_request_each() -> None:
    seen = [followed(seed) for seed in SEEDS]
    assert mean(each.requests for each in seen) <= 0.6
    assert mean(delay for each in seen for delay in each.delays) <= 1.5


def test_without_lists_a_quarter_is_saved_over_a_loop_that_knows_as_little() -> None:
    seen = [followed(seed, listing=False) for seed in SEEDS]
    requests, delay = compared(seen)
    assert requests <= 0.82
    assert requests * delay <= 0.88  # either can be had at the expense of the other


@functools.cache
def measured(progress: Progress) -> tuple[float, float]:
    """Return requests and mean detection where lists are forbidden, both to the loop of five seconds."""
    return compared([followed(seed, listing=False, progress=progress) for seed in (201, 202)])


def compared(seen: list[Workspace]) -> tuple[float, float]:
    """Return requests and mean detection, both to the loop of five seconds."""
    taken = [end - each.began for each in seen for end in each.ends.values()]
    requests = mean(each.requests for each in seen) / mean(math.ceil(t / 5) + 1 for t in taken)
    delay = mean(delay for each in seen for delay in each.delays) / mean(-t % 5 for t in taken)
    return requests, delay


def even(age: float, duration: float) -> float:
    return math.floor(100 * age / duration)


def test_short_runs_without_lists_are_noticed_sooner_than_by_the_loop_for_no_more_requests() -> None:
    requests, delay = compared([followed(seed, SHORT, listing=False, progress=even) for seed in range(8)])
    assert requests <= 1.0
    assert delay <= 0.75


def test_short_runs_of_an_unknown_technique_do_not_wait_for_each_other() -> None:
    requests, delay = compared([followed(seed, SHORT, listing=False) for seed in range(8)])
    assert requests <= 1.05
    assert requests * delay <= 0.8


@pytest.mark.parametrize(
    "progress",
    [
        even,
        lambda age, duration: 100 * (age / duration) ** 3,
    ],
    ids=["linear", "convex"],
)
def test_progress_that_tells_of_the_end_saves_questions_and_time(progress: Progress) -> None:
    requests, delay = measured(progress)
    assert requests <= 0.75
    assert delay <= 1.0


@pytest.mark.parametrize(
    "progress",
    [
        lambda _age, _duration: 99.0,
        lambda age, _duration: min(99.0, 4 * age),
        lambda age, _duration: 99 * (1 - math.exp(-age / 20)),
        lambda age, duration: (0.0, 10.0, 50.0, 90.0)[int(4 * age / duration)],
        lambda age, duration: 100 * abs(math.sin(5 * age / duration + duration)),
        lambda age, duration: 100 * (1 - age / duration),
    ],
    ids=[
        "stuck at 99",
        "stuck at 99 after a while",
        "slower and slower",
        "jumping",
        "to and fro",
        "backwards",
    ],
)
def test_progress_that_tells_nothing_does_little_harm(progress: Progress) -> None:
    requests, delay = measured(progress)
    without = measured(nothing)
    assert requests <= without[0] * 1.1
    assert requests * delay <= without[0] * without[1] * 1.15


def test_two_requests_a_second_are_enough_for_two_hundred_in_flight() -> None:
    seen = followed(1, rate=2.0)
    late = [throttled for moment, throttled in seen.asked if moment > seen.began + 60]
    assert sum(late) < 0.01 * len(late)
    assert mean(seen.delays) <= 5.0
    assert max(seen.delays) < 30.0


@pytest.mark.parametrize("rate", [2.0, math.inf])
def test_a_429_now_and_then_starves_nobody(rate: float) -> None:
    seen = followed(1, rate=rate, chance=0.05)
    assert mean(seen.delays) <= 5.0
    assert max(seen.delays) < 30.0


def test_one_run_alone_is_heard_of_no_later_than_by_a_loop_of_five_seconds() -> None:
    seen = [followed(seed, (1, 40.0)) for seed in range(40)]
    assert mean(delay for each in seen for delay in each.delays) < 2.5
    assert max(each.requests for each in seen) < 40
