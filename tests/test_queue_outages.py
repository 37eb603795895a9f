"""A shared queue while its database is away, and daemons that die, stop or are cut off."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path

import anyio
import databases
import psycopg
import pytest
from anyio import to_thread
from databases import PostgresServer, Relay, order, wait_for
from queues import postgres_queue
from test_queue_sharing import end, get, make_ready

from floradl.errors import PauseReason, QueueDamagedError
from floradl.models import FinishedRun, QueuedRun, RunState
from floradl.queue.postgres import leases, news, sharing
from floradl.queue.postgres.connection import Connection, Server, connect
from floradl.queue.postgres.opening import opened_queue, prepare_database
from floradl.queue.postgres.queue import PostgresQueue
from floradl.queue.sharing import Released, Room

pytestmark = pytest.mark.anyio
ROOM = Room(4, 4)
MEMBER = Path(__file__).with_name("queue_member.py")
FREE = "answer IS NOT NULL AND (lease_until IS NULL OR lease_until < now())"


@pytest.fixture(scope="module")
def own() -> Iterator[PostgresServer]:
    """A server that a test may stop, with the tables in its database."""
    with databases.running() as server:
        anyio.run(prepare_database, server.server())
        yield server


async def until_troubled(queue: PostgresQueue, *, troubled: bool = True) -> None:
    with anyio.fail_after(60):
        while (queue.trouble is not None) is not troubled:  # noqa: ASYNC110 - no event tells of it
            await anyio.sleep(0.01)


async def test_calls_wait_while_the_database_is_away_and_go_on_by_themselves(own: PostgresServer) -> None:
    async with postgres_queue(own.server(), "away") as queue:
        await queue.submit([order("run_before")], 1.0, retry_failed=False)
        await to_thread.run_sync(own.stop)
        try:
            async with anyio.create_task_group() as group:

                async def submit() -> None:
                    assert await queue.submit([order("run_after")], 2.0, retry_failed=False) == ["run_after"]

                group.start_soon(submit)
                await until_troubled(queue)
                assert queue.trouble is not None
                assert queue.trouble.reason is PauseReason.QUEUE_UNAVAILABLE
                assert str(own.server()) in queue.trouble.message
                assert databases.PASSWORD not in queue.trouble.message
                assert not await queue.sharing.elect()
                await to_thread.run_sync(own.start)
        finally:
            if not own.is_up():
                await to_thread.run_sync(own.start)
        await until_troubled(queue, troubled=False)
        assert {"run_before", "run_after"} <= set(await queue.open_ids())


async def test_nothing_is_lost_or_doubled_while_the_database_is_restarted_under_load(
    own: PostgresServer,
) -> None:
    async with postgres_queue(own.server(), "load") as queue:
        await queue.outbox.expect(finished=True)
        begun = len(await queue.outbox.after(0))
        async with aclosing(queue.sharing.news()) as heard:  # type: ignore[type-var]
            assert await anext(heard) is None

            async def work(number: int) -> None:
                for turn in range(15):
                    run_id = f"load_{number}_{turn}"
                    await queue.submit([order(run_id)], 1.0, retry_failed=False)
                    await end(queue, await get(queue, run_id))

            async with anyio.create_task_group() as group:
                for number in range(8):
                    group.start_soon(work, number)
                await anyio.sleep(0.05)
                await to_thread.run_sync(own.restart)
            with anyio.fail_after(60):
                while await anext(heard) is not None:
                    pass
        assert len(await queue.outbox.after(0)) - begun == 8 * 15
        assert [run_id for run_id in await queue.open_ids() if run_id.startswith("load_")] == []


async def test_a_call_whose_connection_dies_before_its_commit_is_done_again_once(
    own: PostgresServer,
) -> None:
    tries = 0
    async with postgres_queue(own.server(), "killed") as queue:

        async def work(connection: Connection) -> None:
            nonlocal tries
            tries += 1
            await connection.execute("INSERT INTO durations (technique, seconds) VALUES ('killed', 1)")
            if tries == 1:
                own.execute(f"SELECT pg_terminate_backend({connection.info.backend_pid})")

        await queue._db.call(work)
        assert (await queue.durations())["killed"] == [1.0]
        assert tries == 2


async def test_calls_wait_where_the_server_has_no_connection_left(own: PostgresServer) -> None:
    own.execute(f"CREATE ROLE few LOGIN PASSWORD '{databases.PASSWORD}' CONNECTION LIMIT 1")
    own.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO few")
    server = Server(own.url().replace("floradl@", "few@"), lambda: databases.PASSWORD)
    async with opened_queue(server, "few", "host-few") as queue:
        taken = await psycopg.AsyncConnection.connect(server.conninfo())
        async with anyio.create_task_group() as group:
            group.start_soon(queue.counts)
            await until_troubled(queue)
            assert queue.trouble is not None
            assert "raise its max_connections" in queue.trouble.message
            await taken.close()
        assert queue.trouble is None


async def test_limits_that_a_server_sets_for_all_do_not_break_what_takes_its_time(
    own: PostgresServer,
) -> None:
    own.execute("CREATE DATABASE hurried")
    await prepare_database(own.server("hurried"))
    hurry = "ALTER DATABASE hurried SET "
    own.execute(f"{hurry} statement_timeout = '20ms'; {hurry} lock_timeout = '20ms'")
    own.execute(f"{hurry} default_transaction_isolation = 'serializable'")
    async with postgres_queue(own.server("hurried"), "slow") as queue:
        orders = [order(f"run_{number}") for number in range(5000)]
        with anyio.fail_after(60):
            assert len(await queue.submit(orders, 1.0, retry_failed=False)) == 5000
        assert queue.trouble is None
    async with await connect(own.server("hurried")) as connection:
        found = await (await connection.execute("SHOW default_transaction_isolation")).fetchone()
        assert found == ("read committed",)


async def test_calls_wait_where_a_right_was_revoked_and_say_what_to_do(own: PostgresServer) -> None:
    own.execute(f"CREATE ROLE poor LOGIN PASSWORD '{databases.PASSWORD}'")
    own.execute("CREATE DATABASE poor OWNER poor")
    server = Server(own.url("poor").replace("floradl@", "poor@"), lambda: databases.PASSWORD)
    await prepare_database(server)
    async with opened_queue(server, "poor", "host-poor") as queue:
        own.execute("ALTER TABLE outbox OWNER TO floradl; ALTER TABLE runs OWNER TO floradl", "poor")
        async with anyio.create_task_group() as group:
            group.start_soon(queue.counts)
            await until_troubled(queue)
            assert queue.trouble is not None
            assert "permission denied for table runs" in queue.trouble.message
            assert "GRANT" in queue.trouble.message
            own.execute("GRANT ALL ON runs TO poor", "poor")
        assert queue.trouble is None


async def test_a_call_over_a_cut_network_is_given_up_and_done_over_another_connection(
    own: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_BEAT", 0.2)
    monkeypatch.setattr(news, "_PATIENCE", 0.3)
    with Relay(own.port) as way:
        async with postgres_queue(own.server(port=way.port), "cut", patience=0.3) as queue:
            await queue.submit([order("run_cut")], 1.0, retry_failed=False)
            way.cut()
            await until_troubled(queue)
            async with anyio.create_task_group() as group:
                group.start_soon(end, queue, QueuedRun(run_id="run_cut", queued_at=1.0))
                await anyio.sleep(0.5)
                way.mend()
            assert (await get(queue, "run_cut")).state is RunState.DONE


class CutAtListen(Relay):
    """A way that is cut when the first `LISTEN` comes along."""

    def pass_on(self, data: bytes, sink: socket.socket) -> None:
        if b"LISTEN" in data and not self.was_cut:
            self.cut()
        super().pass_on(data, sink)


async def test_a_network_that_is_cut_while_a_daemon_asks_for_news_is_noticed(
    own: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news, "_PATIENCE", 0.3)
    with CutAtListen(own.port) as way:
        async with postgres_queue(own.server(port=way.port), "silent", patience=0.3) as queue:
            await until_troubled(queue)
            way.mend()
            await until_troubled(queue, troubled=False)


async def test_work_ends_with_its_lease_where_the_network_is_cut(
    own: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name, value in (
        (leases, "RUN_LEASE", 1.0),
        (sharing, "RUN_LEASE", 1.0),
        (sharing, "_RENEW_EVERY", 0.3),
        (sharing, "_LOOK_EVERY", 0.05),
        (sharing, "_QUICK", 0.2),
        (sharing, "_LAST", 0.1),
    ):
        monkeypatch.setattr(module, name, value)
    cancelled = anyio.Event()
    with Relay(own.port) as way:
        async with postgres_queue(own.server(port=way.port), "cut-off", patience=0.3) as queue:

            async def save(_: FinishedRun) -> Released:
                way.cut()
                try:
                    await anyio.sleep_forever()
                finally:
                    cancelled.set()
                raise AssertionError

            await make_ready(queue, "run_cut_off")
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(queue.sharing.serve_ready, save, lambda: ROOM)
                    await cancelled.wait()
                    group.cancel_scope.cancel()
            way.mend()
            await end(queue, await get(queue, "run_cut_off"))


async def test_tables_that_are_gone_end_the_queue_so_that_the_next_start_makes_them_anew(
    own: PostgresServer,
) -> None:
    own.execute("CREATE DATABASE lost")
    await prepare_database(own.server("lost"))
    with pytest.raises(QueueDamagedError, match="the queue's tables are gone"):
        await lose_tables(own)


async def lose_tables(server: PostgresServer) -> None:
    async with postgres_queue(server.server("lost"), "lost") as queue:
        server.execute("DROP TABLE floradl_facts, runs", "lost")
        await queue.open_ids()


# Daemons in processes of their own


@contextmanager
def member(database: tuple[PostgresServer, str], name: str, lease: float) -> Iterator[subprocess.Popen[str]]:
    server, database_name = database
    process = subprocess.Popen(
        [
            sys.executable,
            str(MEMBER),
            server.url(database_name),
            name,
            str(lease),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            stream.close()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_run_whose_daemon_is_killed_or_stopped_is_finished_once_by_another(how: signal.Signals) -> None:
    with databases.prepared() as database:
        server, name = database

        async def prepare() -> None:
            async with postgres_queue(server.server(name), "poller") as queue:
                await make_ready(queue, "run_a")

        with member(database, "first", 1.0) as first:
            anyio.run(prepare)
            assert line(first) == "begun run_a"
            if how is signal.SIGSTOP:
                databases.stopped(first.pid)
            else:
                first.kill()
            with member(database, "second", 1.0) as second:
                assert line(second) == "begun run_a"
                if how is signal.SIGSTOP:
                    # It goes on beside the other one, and ends its work before it learns of that.
                    go_on(first)
                    os.kill(first.pid, signal.SIGCONT)
                    assert line(first) == "lost run_a"
                go_on(second)
                assert line(second) == "done run_a"
                wait_for(lambda: not server.execute("SELECT 1 FROM procrastinate_jobs", name))
        assert server.execute("SELECT state, fence FROM runs", name) == [("done", 2)]
        assert server.execute("SELECT run_id, sidecar FROM outbox", name) == [("run_a", "runs/second.json")]


# A million runs that wait


async def test_taking_a_ready_run_reads_no_more_rows_where_a_million_wait() -> None:
    with databases.prepared() as (server, name):
        server.execute(
            "INSERT INTO runs (run_id, state, queued_at, changed_at) SELECT 'run_' || n, 'waiting', n, n"
            " FROM generate_series(1, 20000) AS n; ANALYZE runs",
            name,
        )
        async with postgres_queue(server.server(name)) as queue:
            await make_ready(queue, "run_7", "run_8")
            for statement in (
                "UPDATE runs SET fence = fence + 1 WHERE run_id = 'run_7' AND answer IS NOT NULL",
                f"SELECT count(*) FROM runs WHERE {FREE}",
                "SELECT min(queued_at) FROM runs WHERE state IN ('waiting', 'running', 'downloading')",
            ):
                plan = "\n".join(row[0] for row in server.execute(f"EXPLAIN {statement}", name))
                assert "Index" in plan
                assert "Seq Scan" not in plan
