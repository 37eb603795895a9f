"""Daemons that share a queue: one polls, all save, and a run is announced once, whatever happens to them."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import Any, Final, cast

import anyio
import pytest
from fleet import FILM, PICTURE, Fleet, in_fleet

from floradl.errors import ErrorCode, PauseReason, ServicePausedError
from floradl.models import QueuedRun, RunFailure, RunState
from floradl.queue.sharing import NewsKind, RunNews
from floradl.retry import RetryIn
from floradl.runs.ready_runs import ReadyRuns

TAKEN_OVER: Final = 10.0  # seconds, at most, after a crash: docs/scale-out.md says so


def numbered(count: int) -> list[str]:
    return [f"run_{number}" for number in range(count)]


def test_one_daemon_is_elected_and_requests_what_another_one_took_in() -> None:
    async def work(fleet: Fleet) -> None:
        one, other = await fleet.start("one"), await fleet.start("other")
        await anyio.sleep(1.0)
        assert [one.scheduler.polls, other.scheduler.polls] == [True, False]
        added_at = fleet.now()
        fleet.add("run_a", at=other)
        await fleet.until(lambda: fleet.flora.asked, 0.3)
        assert fleet.flora.asked[0][1:] == ("one", "run_a")
        assert fleet.flora.asked[0][0] - added_at < 0.3
        fleet.flora.finish("run_a")
        await fleet.all_end()
        assert fleet.flora.askers() == {"one"}

    in_fleet(work)


def test_all_daemons_save_and_each_run_is_announced_once() -> None:
    async def work(fleet: Fleet) -> None:
        daemons = [await fleet.start(name) for name in "abcd"]
        await anyio.sleep(1.0)
        runs = numbered(400)
        fleet.flora.add(*runs)
        fleet.flora.finish(*runs)
        for number, daemon in enumerate(daemons):
            fleet.add(*runs[number::4], at=daemon)
        await fleet.all_end()
        assert Counter(run_id for daemon in daemons for run_id in daemon.finished) == Counter(runs)
        assert all(len(daemon.finished) > 50 for daemon in daemons)
        assert len(fleet.store.saves) == 400

    in_fleet(work)


def test_large_runs_leave_room_for_small_ones() -> None:
    async def work(fleet: Fleet) -> None:
        daemon = await fleet.start("one")
        daemon.saver.seconds = 60.0
        films = ["film_1", "film_2", "film_3", "film_4", "film_5"]
        fleet.flora.add(*films, "picture")
        fleet.flora.finish(*films, outputs=FILM)
        fleet.flora.finish("picture", outputs=PICTURE)
        fleet.add(*films, at=daemon)
        await fleet.until(lambda: len(daemon.saver.begun) == 2)  # as many as transfers
        fleet.add("picture", at=daemon)
        await fleet.until(lambda: "picture" in daemon.saver.begun, 10.0)
        assert len(daemon.saver.begun) == 3

    in_fleet(work)


@pytest.mark.parametrize(("most_large", "room"), [(None, 16), (4, 5), (100, 16)])
def test_a_daemon_leases_no_more_large_runs_than_its_library_lets_in(
    most_large: int | None, room: int
) -> None:
    nobody = cast("Any", None)
    ready = ReadyRuns(nobody, nobody, lambda: 16, most_large=most_large)
    assert ready.room().large == room


def test_who_may_not_poll_any_more_lets_another_daemon_be_elected() -> None:
    async def work(fleet: Fleet) -> None:
        one = await fleet.start("one")
        await fleet.until(lambda: one.scheduler.polls)
        other = await fleet.start("other")
        one.may_poll = False
        stopped_at = fleet.now()
        one.election.ask_now()
        await fleet.until(lambda: other.scheduler.polls)
        assert not one.scheduler.polls
        assert fleet.now() - stopped_at <= 0.3

    in_fleet(work)


def test_a_poller_that_cannot_renew_its_lease_stops_before_another_one_begins() -> None:
    async def work(fleet: Fleet) -> None:
        one = await fleet.start("one")
        await fleet.until(lambda: one.scheduler.polls)
        other = await fleet.start("other")
        fleet.add(*numbered(30), at=one)
        await anyio.sleep(5.0)
        one.queue.cut = True
        cut_at = fleet.now()
        both = False
        while not other.scheduler.polls:
            await anyio.sleep(0.01)
            both = both or (one.scheduler.polls and other.scheduler.polls)
        assert not both
        assert fleet.now() - cut_at <= TAKEN_OVER
        assert fleet.flora.askers(since=fleet.now()) <= {"other"}
        one.queue.mend()
        fleet.flora.finish(*numbered(30))
        await fleet.all_end()
        assert not one.scheduler.polls
        assert sorted(one.finished + other.finished) == sorted(numbered(30))

    in_fleet(work)


def test_a_poller_that_was_stopped_past_its_lease_polls_no_more() -> None:
    async def work(fleet: Fleet) -> None:
        one = await fleet.start("one")
        await fleet.until(lambda: one.scheduler.polls)
        other = await fleet.start("other")
        one.queue.stopped = True  # its calls hang, as those of a process that does not run
        await fleet.until(lambda: other.scheduler.polls, TAKEN_OVER)
        assert not one.scheduler.polls
        one.queue.stopped = False
        await anyio.sleep(20.0)
        assert [one.scheduler.polls, other.scheduler.polls] == [False, True]

    in_fleet(work)


@pytest.mark.no_cover
def test_the_next_poller_keeps_the_times_of_the_polls_and_sends_no_burst() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.flora.lists = False
        one = await fleet.start("one")
        await fleet.until(lambda: one.scheduler.polls)
        runs = numbered(200)
        fleet.add(*runs, at=one)
        await anyio.sleep(60.0)
        other = await fleet.start("other")
        one.may_poll = False
        one.election.ask_now()
        await fleet.until(lambda: other.scheduler.polls)
        began = fleet.now()
        await anyio.sleep(1.0)
        asked = [at for at, name, _ in fleet.flora.asked if name == "other" and at <= began + 1]
        assert len(asked) < 120  # of 200, which are polled each half a minute
        assert len(other.open_runs) == 200

    in_fleet(work)


def test_a_clock_that_is_an_hour_off_changes_nothing() -> None:
    async def work(fleet: Fleet) -> None:
        one = await fleet.start("one", clock_off=3600.0)
        await fleet.until(lambda: one.scheduler.polls)
        other = await fleet.start("other", clock_off=-3600.0)
        fleet.add(*numbered(20), at=other)
        await anyio.sleep(20.0)
        one.may_poll = False
        one.election.ask_now()
        await fleet.until(lambda: other.scheduler.polls)
        fleet.flora.finish(*numbered(20))
        assert await fleet.all_end() < 60.0
        assert sorted(one.finished + other.finished) == sorted(numbered(20))

    in_fleet(work)


def test_a_worker_whose_lease_is_over_announces_nothing() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        zombie = await fleet.start("zombie")
        poller.saver.seconds = 1.0
        zombie.saver.seconds = 45.0
        poller.saver.full = ServicePausedError("full", PauseReason.DISK_FULL)
        fleet.flora.add("run_a")
        fleet.flora.finish("run_a")
        fleet.add("run_a", at=poller)
        await fleet.until(lambda: zombie.saver.begun)
        zombie.queue.stopped = True
        poller.saver.full = None
        await fleet.all_end()
        assert poller.finished == ["run_a"]
        zombie.queue.stopped = False
        await anyio.sleep(60.0)
        assert zombie.finished == []
        assert poller.finished == ["run_a"]
        assert zombie.ready.in_hand == 0

    in_fleet(work)


def test_a_run_goes_back_to_the_poller_for_fresh_urls_and_is_saved_then() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        fleet.flora.add("run_a")
        fleet.flora.finish("run_a")
        row = QueuedRun(
            run_id="run_a", queued_at=0.0, tries=1, error=RunFailure(ErrorCode.EXPIRED, "the URL ran out")
        )
        poller.saver.outcomes["run_a"] = [RetryIn(row, 2.0, "the URL ran out"), RetryIn(row, 5.0)]
        fleet.add("run_a", at=poller)
        took = await fleet.all_end()
        assert len(fleet.flora.asked) == 3
        assert took < 2.0  # the first time that is no trouble
        assert poller.finished == ["run_a"]

    in_fleet(work)


def test_a_full_disk_pauses_one_daemon_alone_and_its_runs_are_saved_elsewhere() -> None:
    async def work(fleet: Fleet) -> None:
        full = await fleet.start("full")
        await fleet.until(lambda: full.scheduler.polls)
        other = await fleet.start("other")
        full.saver.full = ServicePausedError("the disk is full", PauseReason.DISK_FULL)
        runs = numbered(60)
        fleet.flora.add(*runs)
        fleet.flora.finish(*runs)
        fleet.add(*runs, at=full)
        await fleet.all_end()
        assert sorted(other.finished) == sorted(runs)
        assert full.scheduler.polls
        assert other.scheduler.paused is None
        pause = full.scheduler.paused
        assert pause is not None
        assert pause.reason is PauseReason.DISK_FULL
        # There is room again: that is seen without the network, and tried by a run where one is ready.
        full.saver.full = None
        await fleet.until(lambda: full.scheduler.paused is None, 30.0)
        more = [f"more_{run_id}" for run_id in runs]
        fleet.flora.add(*more)
        fleet.flora.finish(*more)
        fleet.add(*more, at=full)
        await fleet.all_end()
        assert full.finished

    in_fleet(work)


@pytest.mark.no_cover
def test_a_pause_that_the_look_at_the_disk_deceives_is_tried_by_one_run_at_a_time() -> None:
    async def work(fleet: Fleet) -> None:
        daemon = await fleet.start("one")
        await fleet.until(lambda: daemon.scheduler.polls)
        quota = ServicePausedError("quota", PauseReason.DISK_FULL)
        daemon.saver.full = quota
        runs = numbered(40)
        fleet.flora.add(*runs)
        fleet.flora.finish(*runs)
        fleet.add(*runs, at=daemon)
        await fleet.until(lambda: daemon.scheduler.paused)
        await anyio.sleep(1.0)
        begun = len(daemon.saver.begun)

        async def there_seems_to_be_room(needed: int) -> None:
            del needed

        daemon.saver.check_room = there_seems_to_be_room  # type: ignore[method-assign]
        await anyio.sleep(120.0)
        assert daemon.scheduler.paused is not None
        assert 0 < len(daemon.saver.begun) - begun < 20
        daemon.saver.full = None
        await fleet.all_end(1000.0)
        assert sorted(daemon.finished) == sorted(runs)

    in_fleet(work)


def test_a_daemon_without_the_library_lets_another_one_poll() -> None:
    async def work(fleet: Fleet) -> None:
        one = await fleet.start("one")
        await fleet.until(lambda: one.scheduler.polls)
        other = await fleet.start("other")
        one.saver.full = ServicePausedError("not mounted", PauseReason.LIBRARY_MISSING)
        fleet.flora.add("run_a", "run_b")
        fleet.flora.finish("run_a", "run_b")
        fleet.add("run_a", "run_b", at=one)
        await fleet.until(lambda: other.scheduler.polls, 10.0)
        await fleet.all_end()
        assert not one.scheduler.polls

    in_fleet(work)


def test_a_daemon_without_a_key_saves_and_never_polls() -> None:
    async def work(fleet: Fleet) -> None:
        worker = await fleet.start("worker")
        worker.may_poll = False
        worker.election.ask_now()
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        fleet.flora.add("run_a", "run_b", "run_c")
        fleet.flora.finish("run_a", "run_b", "run_c")
        poller.saver.full = ServicePausedError("full", PauseReason.DISK_FULL)
        fleet.add("run_a", "run_b", "run_c", at=worker)
        await fleet.all_end()
        assert fleet.flora.askers() == {"poller"}
        assert sorted(worker.finished) == ["run_a", "run_b", "run_c"]

    in_fleet(work)


def test_a_poller_whose_key_is_refused_lets_a_daemon_with_a_good_one_poll() -> None:
    async def work(fleet: Fleet) -> None:
        bad = await fleet.start("bad")
        await fleet.until(lambda: bad.scheduler.polls)
        good = await fleet.start("good")
        fleet.flora.refused.add("bad")
        runs = numbered(30)
        fleet.add(*runs, at=bad)
        fleet.flora.finish(*runs)
        await fleet.until(lambda: good.scheduler.polls, 10.0)
        await fleet.all_end(30.0)
        await fleet.until(
            lambda: bad.scheduler.paused is None, 60.0
        )  # another one polls, and it saves as ever
        asked = len(fleet.flora.asked)
        await anyio.sleep(100.0)
        assert not any(name == "bad" for _, name, _ in fleet.flora.asked[asked:])
        fleet.flora.refused.clear()
        good.may_poll = False
        await fleet.until(lambda: bad.scheduler.polls, 700.0)

    in_fleet(work)


@pytest.mark.no_cover
def test_where_all_keys_are_refused_the_pause_lasts_and_is_over_with_one_good_key() -> None:
    async def work(fleet: Fleet) -> None:
        fleet.flora.refused |= {"one", "other"}
        one, other = await fleet.start("one"), await fleet.start("other")
        fleet.add("run_a", at=one)
        fleet.flora.finish("run_a")
        pauses: list[str] = []
        one.scheduler.on_pause(partial(pauses.append, "one"))
        other.scheduler.on_pause(partial(pauses.append, "other"))
        await anyio.sleep(3600.0)
        assert len(pauses) <= 6
        assert 10 < len(fleet.flora.asked) < 300
        fleet.flora.refused.remove("other")
        other.scheduler.probe_now()  # its key has changed
        await fleet.until(lambda: other.scheduler.polls, 30.0)
        await fleet.all_end(30.0)
        assert other.scheduler.paused is None

    in_fleet(work)


def test_a_webhook_at_one_daemon_makes_the_poller_request_the_run() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        other = await fleet.start("other")
        fleet.add("run_a", at=other)
        await anyio.sleep(100.0)
        await fleet.until(lambda: fleet.now() - fleet.flora.asked[-1][0] > 0.1)  # no request is under way
        fleet.flora.finish("run_a")
        asked = len(fleet.flora.asked)
        other.scheduler.poll_now("run_a")
        await fleet.until(lambda: len(fleet.flora.asked) > asked, 0.3)
        await fleet.all_end(1.0)
        other.scheduler.poll_now("run_b", new=True)  # which the webhook itself has queued
        assert (other.accepted, poller.accepted) == (["run_a", "run_b"], [])

    in_fleet(work)


def test_news_that_were_missed_are_made_up_for() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        other = await fleet.start("other")
        fleet.add("gone", "stays", at=poller)
        await anyio.sleep(1.0)
        poller.queue.cut = True
        fleet.store.rows._runs["gone"] = QueuedRun(run_id="gone", queued_at=0.0, state=RunState.FORGOTTEN)
        fleet.store.tell(RunNews(NewsKind.GONE, "gone"), but="other")
        fleet.add("new", at=other)
        poller.queue.mend()
        await fleet.until(lambda: poller.open_runs.knows("new") and not poller.open_runs.knows("gone"), 1.0)
        assert poller.open_runs.knows("stays")

    in_fleet(work)


def test_a_run_that_is_retried_elsewhere_after_its_end_was_missed_is_polled_again() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        other = await fleet.start("other")
        poller.saver.full = ServicePausedError("full", PauseReason.DISK_FULL)
        fleet.flora.add("run_a")
        fleet.flora.finish("run_a")
        fleet.add("run_a", at=poller)
        await fleet.until(lambda: other.saver.begun)
        poller.queue.deaf = True
        await fleet.all_end()
        await anyio.sleep(1.0)
        poller.queue.deaf = False
        fleet.add("run_a", at=other)
        await fleet.all_end(10.0)
        assert other.finished == ["run_a", "run_a"]

    in_fleet(work)


@pytest.mark.no_cover
def test_more_finished_runs_than_can_be_saved_wait_at_flora() -> None:
    async def work(fleet: Fleet) -> None:
        daemon = await fleet.start("one")
        await fleet.until(lambda: daemon.scheduler.polls)
        daemon.saver.seconds = 5.0
        runs = numbered(300)
        fleet.flora.add(*runs)
        fleet.flora.finish(*runs)
        most = 0
        fleet.add(*runs, at=daemon)
        while fleet.states()[RunState.DONE] < 300:
            await anyio.sleep(0.1)
            most = max(most, len(fleet.store.ready) - len(fleet.store.leases))
        assert most <= 100 + 50
        assert sorted(daemon.finished) == sorted(runs)

    in_fleet(work, most_ready=50)


def test_a_stop_gives_the_leases_back() -> None:
    async def work(fleet: Fleet) -> None:
        poller = await fleet.start("poller")
        await fleet.until(lambda: poller.scheduler.polls)
        fleet.flora.add("run_a")
        fleet.flora.finish("run_a")
        poller.saver.seconds = 1000.0
        fleet.add("run_a", at=poller)
        await fleet.until(lambda: poller.saver.begun)
        assert "run_a" in fleet.store.leases
        await fleet._stack.aclose()
        assert fleet.store.leases == {}
        assert fleet.store.poller is None
        other = await fleet.start("other")
        assert await fleet.all_end() < 5.0
        assert other.finished == ["run_a"]

    in_fleet(work)
