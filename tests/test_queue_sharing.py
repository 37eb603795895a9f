"""What daemons that share a queue on PostgreSQL agree on, each with its own connections."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, aclosing

import anyio
import databases
import pytest
from msgspec.structs import replace
from queues import postgres_queue
from studio import TEST_TIMEOUT, until

from floradl.errors import ErrorCode, LeaseLostError
from floradl.models import (
    Action,
    FinishedRun,
    LeftFile,
    OutputKind,
    QueuedRun,
    Reference,
    RunFailure,
    RunRequest,
    RunState,
    SavedOutput,
)
from floradl.queue.heartbeat import Snapshot
from floradl.queue.postgres import leases, rows, sharing as engine
from floradl.queue.postgres.connection import Connection
from floradl.queue.postgres.jobs import manager_of
from floradl.queue.postgres.queue import PostgresQueue
from floradl.queue.sharing import NewsKind, Released, Room, RunNews

pytestmark = pytest.mark.anyio
OUTPUT = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path="images/o.png", bytes=3)
ROOM = Room(4, 4)
FAILURE = RunFailure(ErrorCode.GAVE_UP, "no way")

Join = Callable[[str], Awaitable[PostgresQueue]]


@pytest.fixture
def database() -> Iterator[tuple[databases.PostgresServer, str]]:
    with databases.prepared() as found:
        yield found


@pytest.fixture
async def join(database: tuple[databases.PostgresServer, str]) -> AsyncIterator[Join]:
    """What gives one more daemon the shared queue."""
    server, name = database
    async with AsyncExitStack() as stack:

        async def join(daemon: str) -> PostgresQueue:
            return await stack.enter_async_context(postgres_queue(server.server(name), daemon))

        yield join


@pytest.fixture
async def one(join: Join) -> PostgresQueue:
    return await join("one")


@pytest.fixture
async def two(join: Join) -> PostgresQueue:
    return await join("two")


async def add(queue: PostgresQueue, *run_ids: str) -> None:
    orders = [RunRequest(Reference(run_id)) for run_id in run_ids]
    await queue.submit(orders, 1.0, retry_failed=False)


async def make_ready(queue: PostgresQueue, *run_ids: str) -> int:
    await add(queue, *run_ids)
    runs = [FinishedRun(QueuedRun(run_id=run_id, queued_at=1.0), failure=FAILURE) for run_id in run_ids]
    return await queue.sharing.hand_over(runs)


async def get(queue: PostgresQueue, run_id: str = "run_a") -> QueuedRun:
    run = await queue.get(run_id)
    assert run is not None
    return run


async def end(queue: PostgresQueue, run: QueuedRun) -> Released:
    await queue.finish(replace(run, state=RunState.DONE), 5.0, f"runs/{run.run_id}.json")
    return Released(ended=True)


def jobs(database: tuple[databases.PostgresServer, str]) -> list[tuple[str, str]]:
    server, name = database
    query = "SELECT args->>'run_id', status::text FROM procrastinate_jobs ORDER BY id"
    return server.execute(query, name)


# Who polls


async def test_one_daemon_is_elected_to_poll_and_the_next_once_it_resigned(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    assert await one.sharing.elect()
    assert await one.sharing.elect()
    assert not await two.sharing.elect()
    await two.sharing.resign()
    assert not await two.sharing.elect()
    await one.sharing.resign()
    assert await two.sharing.elect()
    assert not await one.sharing.elect()


async def test_a_poller_that_is_silent_for_its_lease_is_followed_by_another(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    assert await one.sharing.elect()
    server, name = database
    server.execute("UPDATE leases SET until = now() - interval '1 millisecond'", name)
    assert await two.sharing.elect()
    assert not await one.sharing.elect()


async def test_runs_are_counted_by_state_without_looking_at_them_whatever_changes_them(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    server, name = database
    ended = "SELECT 'old_' || n, 'done', n, n FROM generate_series(1, 500) AS n"
    server.execute(f"INSERT INTO runs (run_id, state, queued_at, changed_at) {ended}", name)

    async def live(queue: PostgresQueue, own: str) -> None:
        ids = [f"run_{own}{number}" for number in range(12)]
        for run_id in ids:
            await add(queue, run_id)
            await queue.update(replace(await get(queue, run_id), state=RunState.RUNNING), 2.0)
            await queue.begin_download(run_id, 3.0)
        for run_id in ids[:5]:
            await end(queue, await get(queue, run_id))
        await queue.submit([RunRequest(Reference(ids[5]), action=Action.FORGET)], 6.0, retry_failed=False)
        await queue.reopen(ids[:2], 7.0)

    async def fold() -> None:
        for _ in range(20):
            await two._db.call(rows.fold_counts)  # as whoever rescues does it, now and then

    async with anyio.create_task_group() as group:
        group.start_soon(live, one, "a")
        group.start_soon(live, two, "b")
        group.start_soon(fold)
        group.start_soon(fold)
    server.execute("DELETE FROM runs WHERE run_id = 'old_7'", name)
    counted = dict(server.execute("SELECT state, count(*) FROM runs GROUP BY state", name))
    found = {state.value: count for state, count in (await one.counts()).states.items() if count}
    assert found == counted == {"done": 505, "downloading": 12, "running": 4, "forgotten": 2}
    assert await one.sharing.count_open() == 16


async def test_the_rows_that_count_runs_are_added_up_by_whoever_rescues(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_RESCUE_EVERY", 0.01)
    server, name = database
    for number in range(70):
        await add(one, f"run_{number}")

    async def save(_finished: FinishedRun) -> Released:
        return Released(ended=False)

    async with anyio.create_task_group() as group:
        group.start_soon(one.sharing.serve_ready, save, lambda: ROOM)
        query = "SELECT state, runs FROM state_counts"
        await until(lambda: server.execute(query, name) == [("waiting", 70)])
        group.cancel_scope.cancel()


async def test_a_lease_is_taken_and_renewed_without_a_write_to_any_index(one: PostgresQueue) -> None:
    await make_ready(one, "run_a")

    async def written(connection: Connection) -> list[int]:
        kinds = ", ".join(
            f"pg_stat_get_xact_tuples_{kind}('runs'::regclass)" for kind in ("updated", "hot_updated")
        )
        return list(await (await connection.execute(f"SELECT {kinds}")).fetchone() or ())

    async def lease(connection: Connection) -> list[int]:
        before = await written(connection)
        worker = await manager_of(connection).register_worker()
        (leased,) = await leases.take(connection, ("one", worker), ROOM, ())
        await leases.renew(connection, "one", {"run_a": leased.fence})
        return [now - then for now, then in zip(await written(connection), before, strict=True)]

    assert await one._db.call(lease) == [2, 2]  # all of them heap-only tuples


async def test_when_runs_are_due_is_kept_for_the_next_poller(one: PostgresQueue, two: PostgresQueue) -> None:
    await add(one, "run_a", "run_b", "run_c")
    await make_ready(one, "run_r")
    await one.sharing.note_due({"run_a": 500.0, "run_r": 5.0, "run_nobody": 5.0})
    due = dict(await two.sharing.due())  # in any order: all were queued at the same time
    assert 490 < due.pop("run_a") <= 500
    assert due == {"run_b": 0, "run_c": 0}


# Who saves


async def test_ready_runs_are_saved_once_by_whichever_daemon_has_room(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    saved: list[str] = []
    wanted = {f"run_{number}" for number in range(40)}

    async def serve(queue: PostgresQueue) -> None:
        async def save(finished: FinishedRun) -> Released:
            found = await queue.begin_download(finished.run.run_id, 2.0)
            assert found is not None
            await queue.save_outputs(finished.run.run_id, {"o": OUTPUT})
            saved.append(finished.run.run_id)
            assert finished.failure == FAILURE
            return await end(queue, found[0])

        await queue.sharing.serve_ready(save, lambda: ROOM)

    async with anyio.create_task_group() as group:
        group.start_soon(serve, one)
        group.start_soon(serve, two)
        assert await make_ready(one, *wanted) == len(wanted)
        assert await make_ready(one, *wanted) <= len(wanted)
        with anyio.fail_after(TEST_TIMEOUT):
            while jobs(database) or len(saved) < len(wanted):  # noqa: ASYNC110 - of the database
                await anyio.sleep(0.02)
        group.cancel_scope.cancel()
    assert sorted(saved) == sorted(wanted)
    assert (await one.counts()).states[RunState.DONE] == len(wanted)
    assert await one.sharing.due() == []


async def serve_until(
    queue: PostgresQueue,
    save: Callable[[FinishedRun], Awaitable[Released]],
    over: anyio.Event,
    room: Callable[[], Room] = lambda: ROOM,
) -> None:
    """Serve ready runs until `over` is set."""
    with anyio.fail_after(TEST_TIMEOUT):
        async with anyio.create_task_group() as group:
            group.start_soon(queue.sharing.serve_ready, save, room)
            await over.wait()
            group.cancel_scope.cancel()


async def test_a_daemon_without_room_for_large_runs_takes_others(one: PostgresQueue) -> None:
    taken: list[str] = []
    over = anyio.Event()

    async def save(finished: FinishedRun) -> Released:
        taken.append(finished.run.run_id)
        over.set()
        return Released(ended=True)

    await make_ready(one, "run_a")
    with anyio.move_on_after(0.5):
        await serve_until(one, save, over, lambda: Room(4, 0))
    assert taken == []
    await serve_until(one, save, over, lambda: Room(0, 1))
    assert taken == ["run_a"]


async def test_a_run_whose_work_is_to_be_polled_again_is_returned_to_the_poller(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    await make_ready(one, "run_a")
    over = anyio.Event()

    async def save(_: FinishedRun) -> Released:
        return Released(ended=False, poll_in=90.0)

    async with aclosing(two.sharing.news()) as news:  # type: ignore[type-var]
        assert await anext(news) is None
        async with anyio.create_task_group() as group:
            group.start_soon(serve_until, one, save, over)
            with anyio.fail_after(TEST_TIMEOUT):
                assert await anext(news) == RunNews(NewsKind.RETURNED, "run_a", 90.0)
            over.set()
    ((run_id, due_in),) = await two.sharing.due()
    assert run_id == "run_a"
    assert 80 < due_in <= 90
    assert jobs(database) == []


async def test_a_run_that_could_not_be_saved_is_left_to_another_daemon(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    await make_ready(one, "run_a")
    tried, over = anyio.Event(), anyio.Event()

    async def refuse(_: FinishedRun) -> Released:
        tried.set()
        return Released(ended=False)

    async def save(finished: FinishedRun) -> Released:
        released = await end(two, finished.run)
        over.set()
        return released

    await serve_until(one, refuse, tried)
    await serve_until(two, save, over)
    assert (await get(one)).state is RunState.DONE


async def test_a_daemon_that_stops_gives_its_runs_back_at_once(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    await make_ready(one, "run_a")
    begun, over = anyio.Event(), anyio.Event()

    async def hang(_: FinishedRun) -> Released:
        begun.set()
        await anyio.sleep_forever()
        raise AssertionError

    async def save(finished: FinishedRun) -> Released:
        released = await end(two, finished.run)
        over.set()
        return released

    await serve_until(one, hang, begun)
    await serve_until(two, save, over)
    assert (await get(one)).state is RunState.DONE


# Who lost a lease


async def lease(queue: PostgresQueue, run_id: str = "run_a") -> None:
    """Have a run leased as if by `serve_ready`, for ever."""

    async def work(connection: Connection) -> None:
        await queue.sharing._register(connection)
        (leased,) = await leases.take(connection, (queue._daemon, queue.sharing._worker_id), ROOM, ())
        queue._fences[run_id] = leased.fence

    await queue._db.call(work)


def let_leases_end(database: tuple[databases.PostgresServer, str]) -> None:
    server, name = database
    server.execute("UPDATE runs SET lease_until = now() - interval '1 millisecond'", name)
    server.execute("UPDATE procrastinate_jobs SET status = 'todo'", name)


async def test_a_daemon_whose_run_another_has_by_now_writes_nothing_of_it(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    await one.outbox.expect(finished=True)
    await make_ready(one, "run_a")
    await lease(one)
    run, _ = await one.begin_download("run_a", 2.0) or pytest.fail("it is open")
    let_leases_end(database)
    await lease(two)
    before = await get(two)
    late = replace(run, state=RunState.FAILED)
    with pytest.raises(LeaseLostError):
        await one.begin_download("run_a", 3.0)
    with pytest.raises(LeaseLostError):
        await one.update(replace(run, tries=7), 3.0)
    with pytest.raises(LeaseLostError):
        await one.save_outputs("run_a", {"o": OUTPUT})
    with pytest.raises(LeaseLostError):
        await one.finish(late, 3.0, "runs/late.json")
    assert await get(two) == before
    assert await two.saved_outputs("run_a") == {}
    assert await one.outbox.after(0) == []
    await end(two, before)
    with pytest.raises(LeaseLostError):
        await one.finish(late, 4.0, "runs/late.json")
    assert (await get(one)).state is RunState.DONE


async def test_a_daemon_whose_lease_ran_out_goes_on_while_nobody_else_took_the_run(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    await make_ready(one, "run_a")
    await lease(one)
    let_leases_end(database)
    await end(one, await get(one))
    assert (await get(one)).state is RunState.DONE


async def test_work_on_a_run_that_another_daemon_leased_is_cancelled(
    one: PostgresQueue,
    database: tuple[databases.PostgresServer, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "_RENEW_EVERY", 0.0)
    monkeypatch.setattr(engine, "_LOOK_EVERY", 0.05)
    await make_ready(one, "run_a")
    cancelled = anyio.Event()
    rooms = iter([ROOM])

    async def hang(_: FinishedRun) -> Released:
        server, name = database  # at once: the lease would be renewed in between
        server.execute("UPDATE runs SET fence = fence + 1, owner = 'two'", name)
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()
        raise AssertionError

    await serve_until(one, hang, cancelled, lambda: next(rooms, Room(0, 0)))


async def test_a_run_that_is_forgotten_is_lost_to_whoever_downloads_it(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    await make_ready(one, "run_a")
    await lease(one)
    await two.submit([RunRequest(Reference("run_a"), action=Action.FORGET)], 3.0, retry_failed=False)
    with pytest.raises(LeaseLostError):
        await one.save_outputs("run_a", {"o": OUTPUT})
    assert await one.begin_download("run_a", 3.0) is None


async def test_a_poller_that_was_replaced_changes_nothing_of_runs_that_went_on_since(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    await add(one, "run_a", "run_b")
    old = [replace(await get(one, run_id), state=RunState.RUNNING, tries=9) for run_id in ("run_a", "run_b")]
    await make_ready(two, "run_a", "run_b")
    await end(two, await get(two, "run_b"))
    for run in old:
        await one.update(run, 9.0)
    assert (await get(two, "run_a")).tries == 0
    assert (await get(two, "run_b")).state is RunState.DONE
    assert await one.sharing.hand_over([FinishedRun(run, failure=FAILURE) for run in old]) == 1
    assert (await get(two, "run_b")).state is RunState.DONE


# News


async def test_daemons_hear_what_others_did_to_runs_and_not_what_they_did_themselves(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    async with aclosing(two.sharing.news()) as news:  # type: ignore[type-var]
        assert await anext(news) is None
        await add(two, "run_own")
        await add(one, "run_a", "run_b")
        await one.sharing.poll_now("run_a")
        await end(one, await get(one))
        await one.submit([RunRequest(Reference("run_b"), action=Action.FORGET)], 3.0, retry_failed=False)
        with anyio.fail_after(TEST_TIMEOUT):
            heard = [await anext(news) for _ in range(5)]
    assert heard == [
        RunNews(NewsKind.ADDED, "run_a"),
        RunNews(NewsKind.ADDED, "run_b"),
        RunNews(NewsKind.POLL_NOW, "run_a"),
        RunNews(NewsKind.GONE, "run_a"),
        RunNews(NewsKind.GONE, "run_b"),
    ]


async def test_news_of_many_runs_is_whole(one: PostgresQueue, two: PostgresQueue) -> None:
    run_ids = [f"run_{number:05}_{'x' * 40}" for number in range(1000)]
    async with aclosing(two.sharing.news()) as news:  # type: ignore[type-var]
        assert await anext(news) is None
        await add(one, *run_ids)
        with anyio.fail_after(TEST_TIMEOUT):
            heard = [await anext(news) for _ in run_ids]
    assert [each.run_id for each in heard if each] == run_ids


async def test_a_broken_connection_is_told_as_news_that_may_be_missing(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    server, name = database
    async with aclosing(two.sharing.news()) as news:  # type: ignore[type-var]
        assert await anext(news) is None
        server.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            " AND pid <> pg_backend_pid()"
        )
        with anyio.fail_after(TEST_TIMEOUT):
            assert await anext(news) is None
            await add(one, "run_a")
            assert await anext(news) == RunNews(NewsKind.ADDED, "run_a")


# Daemons, and their hooks


async def test_daemons_are_known_by_what_they_last_said_without_secrets(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    snapshot = Snapshot(7, "1.2", 5.0, 6.0, hints=("https://media.flora.ai/a?signature=planted",))
    assert await one.sharing.daemons() == []
    await one.sharing.beat(snapshot, polls=True)
    await two.sharing.beat(snapshot, polls=False)
    found = await two.sharing.daemons()
    assert [(each.name, each.version, each.polls) for each in found] == [
        ("host-one", "1.2", True),
        ("host-two", "1.2", False),
    ]
    assert "planted" not in str(found)
    server, name = database
    server.execute("UPDATE daemons SET seen_at = now() - interval '2 minutes' WHERE daemon = 'one'", name)
    assert [each.name for each in await two.sharing.daemons()] == ["host-two"]


async def test_a_daemon_reports_its_own_runs_and_adopts_those_of_one_that_is_gone(
    one: PostgresQueue, two: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    snapshot = Snapshot(7, "1.2", 5.0, 6.0)
    for queue in (one, two):
        await queue.outbox.expect(finished=True)
        await queue.sharing.beat(snapshot, polls=False)
    await add(one, "run_a")
    await end(one, await get(one))
    (number,) = await one.outbox.after(0)
    assert await two.outbox.after(0) == []
    assert await two.sharing.adopt_events() == []
    await two.outbox.expect(finished=False)
    assert await one.outbox.after(0) == [number]
    server, name = database
    server.execute("UPDATE daemons SET seen_at = now() - interval '2 minutes' WHERE daemon = 'one'", name)
    assert await two.sharing.adopt_events() == [number]
    assert await one.outbox.get(number) is None
    event = await two.outbox.get(number)
    assert event is not None
    assert event.sidecar == "runs/run_a.json"


async def test_events_of_runs_that_end_at_once_are_all_seen_in_the_order_of_their_numbers(
    one: PostgresQueue,
) -> None:
    await one.outbox.expect(finished=True)
    run_ids = [f"run_{number}" for number in range(30)]
    await add(one, *run_ids)
    seen: list[int] = []
    async with anyio.create_task_group() as group:
        for run_id in run_ids:
            group.start_soon(end, one, await get(one, run_id))
        while len(seen) < len(run_ids):
            seen += await one.outbox.after(seen[-1] if seen else 0)
    assert seen == sorted(set(seen))


async def test_job_files_that_are_done_with_are_each_daemons_own(
    one: PostgresQueue, two: PostgresQueue
) -> None:
    file = LeftFile("job.txt", 1, 2, "abc", refused=False)
    await one.submit([], 1.0, retry_failed=False, files=[file])
    assert await two.left_files() == {}
    await two.drop_left_files(["job.txt"])
    assert await one.left_files() == {"job.txt": file}


async def test_one_daemon_at_a_time_fills_a_new_queue(one: PostgresQueue, two: PostgresQueue) -> None:
    assert not await one.sharing.is_filled()
    assert await one.sharing.lead_filling()
    assert not await two.sharing.lead_filling()
    await one.sharing.note_filled()
    assert await two.sharing.is_filled()


# What is left behind


async def rescue(queue: PostgresQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have ready runs saved by one that looks for what was left behind often."""
    monkeypatch.setattr(engine, "_RESCUE_EVERY", 0.05)
    monkeypatch.setattr(engine, "_FETCH_EVERY", 0.05)
    over = anyio.Event()

    async def save(finished: FinishedRun) -> Released:
        released = await end(queue, finished.run)
        if not (await queue.counts()).states[RunState.WAITING]:
            over.set()
        return released

    await serve_until(queue, save, over)


async def test_the_job_of_a_worker_that_is_gone_is_taken_by_another_once_its_lease_is_over(
    one: PostgresQueue,
    two: PostgresQueue,
    database: tuple[databases.PostgresServer, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await make_ready(one, "run_a")
    await lease(one)
    assert jobs(database) == [("run_a", "doing")]
    server, name = database
    server.execute("UPDATE procrastinate_workers SET last_heartbeat = now() - interval '1 hour'", name)
    server.execute("UPDATE runs SET lease_until = now() - interval '1 millisecond'", name)
    await rescue(two, monkeypatch)
    assert (await get(one)).state is RunState.DONE


async def test_a_ready_run_without_a_job_is_given_one(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    await make_ready(one, "run_a", "run_b")
    server, name = database
    server.execute("DELETE FROM procrastinate_jobs WHERE args->>'run_id' = 'run_a'", name)
    server.execute("UPDATE procrastinate_jobs SET status = 'failed'", name)  # as by a task nobody knew
    await rescue(one, monkeypatch)
    assert (await get(one)).state is RunState.DONE


async def test_daemons_that_are_gone_for_a_month_are_forgotten(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, name = database
    values = ", ".join(f"('{days}', '', '', now() - interval '{days} days')" for days in (20, 40))
    server.execute(f"INSERT INTO daemons (daemon, name, version, seen_at) VALUES {values}", name)
    await make_ready(one, "run_a")
    server.execute("DELETE FROM procrastinate_jobs", name)
    await rescue(one, monkeypatch)
    left = server.execute("SELECT daemon FROM daemons ORDER BY daemon", name)
    assert left == [("20",), ("one",)]


async def test_a_worker_whose_row_was_pruned_enrols_anew(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_FETCH_EVERY", 0.05)
    server, name = database
    over = anyio.Event()

    async def save(finished: FinishedRun) -> Released:
        if finished.run.run_id == "run_a":
            server.execute("DELETE FROM procrastinate_workers", name)
            await make_ready(one, "run_b")
        released = await end(one, finished.run)
        if finished.run.run_id == "run_b":
            over.set()
        return released

    await make_ready(one, "run_a")
    await serve_until(one, save, over)


async def test_answers_that_only_a_newer_floradl_understands_are_left_for_it(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, name = database
    await make_ready(one, "run_new", "run_lost", "run_a")
    newer = """UPDATE runs SET answer = '{"newer": 1}' WHERE run_id IN ('run_new', 'run_lost')"""
    server.execute(newer, name)
    server.execute("DELETE FROM procrastinate_jobs WHERE args->>'run_id' = 'run_lost'", name)
    monkeypatch.setattr(engine, "_RESCUE_EVERY", 0.05)
    over = anyio.Event()

    async def save(finished: FinishedRun) -> Released:
        while not {("run_new", "todo"), ("run_lost", "todo")} <= set(jobs(database)):  # noqa: ASYNC110
            await anyio.sleep(0.02)
        over.set()
        return await end(one, finished.run)

    await serve_until(one, save, over)
    assert server.execute("SELECT owner FROM runs WHERE run_id = 'run_new'", name) == [(None,)]


async def test_jobs_that_only_a_newer_floradl_knows_are_left_for_it(
    one: PostgresQueue, database: tuple[databases.PostgresServer, str]
) -> None:
    server, name = database
    server.execute(
        "INSERT INTO procrastinate_jobs (queue_name, task_name, args)"
        " VALUES ('floradl.tomorrow', 'floradl.tomorrow', '{\"run_id\": \"run_z\"}')",
        name,
    )
    await make_ready(one, "run_a")
    over = anyio.Event()

    async def save(finished: FinishedRun) -> Released:
        released = await end(one, finished.run)
        over.set()
        return released

    await serve_until(one, save, over)
    assert ("run_z", "todo") in jobs(database)
