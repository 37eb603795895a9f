"""The database of a shared queue as users meet it: commands, wrong settings, moving there and back."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from pathlib import Path

import anyio
import databases
import msgspec
import psycopg
import pytest
from ports import free_port
from queues import postgres_queue, work_with, write_runs
from studio import TEST_TIMEOUT, Home, wait_until

from floradl.errors import ConfigError, ErrorCode
from floradl.models import LeftFile, OutputKind, QueuedRun, RunFailure, RunNames, RunState, SavedOutput
from floradl.queue.base import LateCost, RunQueue, SentPause
from floradl.queue.heartbeat import Snapshot
from floradl.queue.postgres import connection, schema
from floradl.queue.postgres.opening import prepare_database
from floradl.queue.postgres.reader import read_shared
from floradl.queue.postgres.refusal import connect_coded_sync
from floradl.queue.sharing import NewsKind, RunNews

OUTPUT = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path="images/o.png", bytes=3)
_ONE_RUN = "INSERT INTO runs (run_id, state, queued_at, changed_at) VALUES ('run_z', 'done', 1, 1)"
RUN = QueuedRun(
    run_id="run_a",
    technique="tech",
    label="ein Wort, 你好",
    state=RunState.PARTIAL,
    queued_at=1.5,
    detected_at=2.5,
    tries=4,
    progress=55.5,
    error=RunFailure(ErrorCode.NETWORK, "no way"),
    force=True,
    kinds=(OutputKind.IMAGE,),
    retry_kinds=(OutputKind.TEXT,),
    meta={"shot": "12"},
    names=RunNames(technique_id="tech_1"),
)


@pytest.fixture
def database() -> Iterator[tuple[databases.PostgresServer, str]]:
    with databases.prepared() as found:
        yield found


@pytest.fixture
def sharer(home: Home, database: tuple[databases.PostgresServer, str]) -> Home:
    """A home whose queue is in the database."""
    server, name = database
    point(home, server.url(name))
    return home


def point(home: Home, url: str, password: str = databases.PASSWORD) -> None:
    """Have the home's queue in the database at `url`."""
    file = home.path / "db-password"
    file.write_text(password + "\n")
    file.chmod(0o600)
    home.environ |= {"FLORADL_QUEUE__ENGINE": url, "FLORADL_QUEUE__PASSWORD_FILE": str(file)}


# Commands


def test_add_without_a_daemon_here_puts_runs_into_the_shared_queue(sharer: Home) -> None:
    done = sharer.run("add", "tech/run_a", "--label", "mine")
    assert (done.returncode, done.stderr) == (
        0,
        "put 1 run into the shared queue; no daemon shares it: start one with 'floradl run'\n",
    )
    status = sharer.status()
    assert (status["counts"]["waiting"], status["runs"][0]["run_id"]) == (1, "run_a")
    assert "put 1 run to be forgotten into the shared queue" in sharer.run("forget", "run_a").stderr
    told = sharer.run("status", "run_a")
    assert "forgotten" in told.stdout
    assert not list(sharer.inbox.glob("*.txt"))


def test_status_names_one_poller_and_says_who_was_not_seen_for_long(
    sharer: Home, database: tuple[databases.PostgresServer, str]
) -> None:
    server, name = database
    now = time.time()
    said = msgspec.json.encode(Snapshot(1, "1", now, now)).decode()
    for daemon, ago in (("killed", 8), ("long-killed", 40), ("next", 1)):
        server.execute(
            "INSERT INTO daemons (daemon, name, version, seen_at, polls, snapshot) VALUES"
            f" ('{daemon}', '{daemon}', '1', now() - interval '{ago} s', true, '{said}')",
            name,
        )
    told = sharer.run("status").stdout
    assert "  killed: no transfer under way (" in told
    assert "long-killed: not seen for 4" in told
    assert "next: polls, no transfer under way" in told


def test_migrate_makes_the_tables_and_may_be_repeated(home: Home) -> None:
    server = databases.shared()
    with server.database() as name:
        point(home, server.url(name))
        for _ in range(2):
            done = home.run("migrate")
            assert (done.returncode, "is up to date" in done.stderr) == (0, True), done.stderr
        assert server.execute("SELECT value FROM floradl_facts WHERE name = 'version'", name) == [
            (str(len(schema.MIGRATIONS)),)
        ]


def test_ten_that_start_at_once_make_the_tables_once() -> None:
    server = databases.shared()
    with server.database() as name:

        async def main() -> None:
            async with anyio.create_task_group() as group:
                for _ in range(10):
                    group.start_soon(prepare_database, server.server(name))

        anyio.run(main)
        (identity,) = server.execute("SELECT value FROM floradl_facts WHERE name = 'identity'", name)
        assert len(identity[0]) == 32
        assert server.execute("SELECT count(*) FROM runs", name) == [(0,)]


def test_tables_of_the_first_version_are_brought_up_to_date_and_their_runs_counted(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with one_database() as (server, name):
        with monkeypatch.context() as before:
            before.setattr(schema, "MIGRATIONS", schema.MIGRATIONS[:1])
            before.setattr(schema, "TABLES", [each for each in schema.TABLES if each != "state_counts"])
            anyio.run(prepare_database, server.server(name))
        server.execute(_ONE_RUN, name)
        point(home, server.url(name))
        assert home.run("migrate").returncode == 0
        assert server.execute("SELECT state, runs FROM state_counts", name) == [("done", 1)]
        assert json.loads(home.run("status", "--json").stdout)["counts"]["done"] == 1


# Wrong settings


@contextmanager
def one_database(*statements: str) -> Iterator[tuple[databases.PostgresServer, str]]:
    server = databases.shared()
    with server.database() as name:
        for statement in statements:
            server.execute(statement, name)
        yield server, name


def refused(home: Home, url: str, password: str = databases.PASSWORD) -> str:
    """Return what is said of a wrong setting, by all that meet it in the same words."""
    point(home, url, password)
    started = home.run("once")
    assert started.returncode == 2, started.stderr
    assert password not in started.stderr
    checked = home.run("check")
    (line,) = [line for line in checked.stdout.splitlines() if line.startswith("FAIL  queue")]
    assert started.stderr.strip().removeprefix("floradl: queue.engine: ").split(": ")[-1] in line
    assert password not in checked.stdout
    return started.stderr


def test_a_wrong_password_is_told_with_what_to_do(home: Home) -> None:
    said = refused(home, databases.shared().url(), "planted-and-wrong")
    assert "refused the user or its password" in said
    assert "correct the user in queue.engine, and the password in queue.password_file" in said


def test_a_database_that_does_not_exist_is_told_with_what_to_do(home: Home) -> None:
    assert "there is no such database" in refused(home, databases.shared().url("nowhere"))


@pytest.mark.parametrize(
    ("role", "database", "password", "code", "said"),
    [
        ("reader", "postgres", "wrong", "28P01", "refused the user or its password"),
        ("reader", "nowhere", "right", "3D000", "there is no such database"),
        ("locked", "postgres", "right", "28000", "knows no such user, or takes no connection of it"),
        ("crowd", "postgres", "right", "53300", "the server has no connection left"),
    ],
)
def test_what_a_server_refuses_is_known_by_its_code_and_not_by_its_words(
    monkeypatch: pytest.MonkeyPatch, role: str, database: str, password: str, code: str, said: str
) -> None:
    monkeypatch.setattr(connection, "_WORDS", ())
    server = databases.shared()
    how = {"locked": "NOLOGIN", "crowd": "LOGIN CONNECTION LIMIT 0"}.get(role, "LOGIN")
    server.execute(f"DROP ROLE IF EXISTS {role}; CREATE ROLE {role} {how} PASSWORD 'right'")
    url = server.url(database).replace(f"{databases.USER}@", f"{role}@")
    refusing = connection.Server(url, lambda: password)
    with pytest.raises(psycopg.OperationalError) as there:
        anyio.run(connection.connect, refusing)
    with pytest.raises(psycopg.OperationalError) as here:
        connect_coded_sync(refusing.conninfo())
    assert [there.value.sqlstate, here.value.sqlstate] == [code, code]
    assert said in str(connection.explained(refusing, there.value))


def test_nothing_is_read_out_of_a_connection_that_no_server_refused(closed_port: int) -> None:
    nobody = connection.Server(f"postgresql://floradl@127.0.0.1:{closed_port}/db")
    with pytest.raises(psycopg.OperationalError) as caught:
        connect_coded_sync(nobody.conninfo())
    assert caught.value.sqlstate is None
    assert "the queue's database is away" in str(connection.explained(nobody, caught.value))


@contextmanager
def german_server() -> Iterator[databases.PostgresServer]:
    """Run a server whose messages are German, whatever locales this machine has."""
    if not Path("/usr/share/i18n/locales/de_DE").exists() or shutil.which("localedef") is None:
        pytest.skip("no German locale can be made here (Debian's package locales)")
    with tempfile.TemporaryDirectory(prefix="floradl-locale-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", folder / "de_DE.UTF-8"], check=True)
        (folder / "C.UTF-8").symlink_to("/usr/lib/locale/C.utf8")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LOCPATH", name)
            context = databases.running(lc_messages="de_DE.UTF-8")
            server = context.__enter__()
        try:
            yield server
        finally:
            context.__exit__(None, None, None)


@pytest.mark.slow
def test_a_server_that_speaks_german_is_understood(home: Home) -> None:
    with german_server() as server:
        said = refused(home, server.url(), "planted-and-wrong")
        assert "Passwort-Authentifizierung" in said  # it does speak German
        assert "refused the user or its password" in said
        assert "there is no such database" in refused(home, server.url("nirgends"))
        server.execute("ALTER DATABASE postgres CONNECTION LIMIT 0; CREATE ROLE gast LOGIN PASSWORD 'x'")
        point(home, server.url().replace(f"{databases.USER}@", "gast@"), "x")
        full = home.run("check").stdout
        assert "the server has no connection left" in full
        assert "raise its max_connections" in full
        assert home.run("once").returncode == 5


def test_an_unknown_host_is_told_with_what_to_do(home: Home) -> None:
    assert "its host's name is unknown" in refused(home, "postgresql://floradl@db.invalid/floradl")


def test_of_several_hosts_the_one_that_can_be_written_to_is_used(sharer: Home) -> None:
    url = sharer.environ["FLORADL_QUEUE__ENGINE"].replace("@", f"@127.0.0.1:{free_port()},")
    done = sharer.run("once", FLORADL_QUEUE__ENGINE=f"{url}?target_session_attrs=read-write")
    assert (done.returncode, "nothing to do" in done.stderr) == (0, True)
    wrong = sharer.run("once", FLORADL_QUEUE__ENGINE=f"{url}?nonsense=planted-secret")
    assert (wrong.returncode, "is malformed: invalid URI query" in wrong.stderr) == (2, True)
    assert "planted-secret" not in wrong.stderr


def test_a_database_of_a_newer_floradl_is_refused(home: Home) -> None:
    with databases.prepared() as (server, name):
        server.execute("UPDATE floradl_facts SET value = '99' WHERE name = 'version'", name)
        try:
            assert "is of a newer floradl (its schema is 99" in refused(home, server.url(name))
            assert "newer floradl" in home.run("status").stderr
        finally:
            server.execute(
                f"UPDATE floradl_facts SET value = '{len(schema.MIGRATIONS)}' WHERE name = 'version'", name
            )


def test_tables_of_another_program_are_left_alone(home: Home) -> None:
    with one_database("CREATE TABLE runs (id int)") as (server, name):
        assert "holds tables of another program (runs)" in refused(home, server.url(name))


def test_a_search_path_that_leads_away_from_the_tables_is_told_and_makes_no_second_queue(home: Home) -> None:
    with one_database() as (server, name):
        anyio.run(prepare_database, server.server(name))
        server.execute(f"CREATE SCHEMA other; ALTER DATABASE {name} SET search_path = other", name)
        assert "the queue's tables are in the schema public" in refused(home, server.url(name))
        assert server.execute("SELECT 1 FROM pg_tables WHERE schemaname = 'other'", name) == []


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("mysql://floradl@h/db", "is no engine of the queue: write sqlite, or postgresql://"),
        ("postgresql://floradl:planted-secret@h/db", "holds a password: put that into queue.password_file"),
        ("postgresql://h/db", "names no user or no database"),
    ],
)
def test_an_engine_that_cannot_be_is_refused(home: Home, engine: str, said: str) -> None:
    done = home.run("check", FLORADL_QUEUE__ENGINE=engine)
    assert done.returncode == 2
    assert said in done.stderr
    assert "planted-secret" not in done.stderr


@pytest.mark.parametrize("name", ["procrastinate", "psycopg.pq"])
def test_a_missing_extra_or_library_of_c_is_told_in_one_sentence(
    home: Home, tmp_path: Path, name: str
) -> None:
    hidden = f"import sys; sys.modules['{name}'] = None; import floradl.__main__ as m; m.main()"
    done = subprocess.run(
        [sys.executable, "-c", hidden, "once"],
        env=home.environ | {"FLORADL_QUEUE__ENGINE": "postgresql://floradl@h/db"},
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "add the extra `postgres`, see docs/scale-out.md" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_database_that_is_away_is_waited_for_and_told_by_status(home: Home) -> None:
    point(home, f"postgresql://floradl@127.0.0.1:{free_port()}/floradl")
    assert [home.run(command).returncode for command in ("once", "status")] == [5, 5]
    log = home.path / "daemon.log"
    with log.open("a") as stream:
        process = subprocess.Popen(home.command("run"), env=home.environ, stderr=stream)
        try:
            wait_until(lambda: home.events("paused"))
            (event, *_) = home.events("paused")
            assert event["reason"] == "queue_unavailable"
            status = json.loads(home.run("status", "--json").stdout)
            assert status["paused"]["reason"] == "queue_unavailable"
        finally:
            process.terminate()
            assert process.wait(20) == 0


# A pooler


@pytest.mark.parametrize("mode", ["session", "transaction", "statement"])
def test_a_pooler_serves_in_session_mode_and_is_refused_in_any_other(mode: str) -> None:
    with databases.prepared() as (server, name), databases.pooler(server, mode) as port:
        pooled = server.server(name, port)

        async def main() -> None:
            await prepare_database(pooled)
            async with (
                postgres_queue(pooled) as queue,
                postgres_queue(server.server(name), "two") as other,
                aclosing(queue.sharing.news()) as news,  # type: ignore[type-var]
            ):
                assert await anext(news) is None
                await other.submit([databases.order("run_a")], 1.0, retry_failed=False)
                with anyio.fail_after(TEST_TIMEOUT):
                    assert await anext(news) == RunNews(NewsKind.ADDED, "run_a")

        if mode == "session":
            anyio.run(main)
        else:
            with pytest.raises(ConfigError, match="gives each transaction another connection"):
                anyio.run(prepare_database, pooled)


# There and back


def test_whoever_looks_sees_the_files_of_runs_that_go_on(
    database: tuple[databases.PostgresServer, str],
) -> None:
    server, name = database

    async def main() -> None:
        async with postgres_queue(server.server(name)) as queue:
            await queue.save_outputs("run_b", {"o\x002": OUTPUT})

    anyio.run(main)
    with read_shared(server.server(name), None) as reader:
        assert reader is not None
        assert reader.saved_files() == {"images/o.png": ("run_b", "o\x002")}


async def fill(queue: RunQueue) -> None:
    await queue.recover([(RUN, 7.0), (QueuedRun(run_id="run_b", queued_at=3.0), 8.0)])
    await queue.save_outputs("run_b", {"o\x002": OUTPUT})
    await queue.outbox.expect(finished=True)
    await queue.finish(QueuedRun(run_id="run_c", queued_at=1.0, state=RunState.DONE), 2.0, "c.json")
    await queue.outbox.put_pause(SentPause("disk_full", 5.0, 6.0))
    await queue.note_incomplete(["run_a"])
    await queue.put_late_costs([LateCost("run_c", 9.0, 1, 5.0)])
    await queue.set_sync_mark("generations", "ws", 4.0)
    await queue.put_technique_names({"t": RunNames(technique_id="tech_1")})
    await queue.note_delivery("whd_1", databases.order("run_d"), 1e9, known_only=False, retry_failed=True)
    await queue.submit([], 5.0, retry_failed=False, files=[LeftFile("job.txt", 1, 2, "abc", refused=True)])
    running = QueuedRun(run_id="run_d", technique="t", queued_at=1.0, state=RunState.RUNNING)
    detected = msgspec.structs.replace(running, detected_at=2.0)
    await queue.update_all([(detected, 4.5)], 3.0)


async def content(queue: RunQueue) -> list[object]:
    """Return all that a queue knows."""
    (number,) = await queue.outbox.after(0)
    return [
        [await queue.get(f"run_{name}") for name in "abcd"],
        await queue.open_ids(),
        await queue.saved_outputs("run_b"),
        await queue.outbox.get(number),
        await queue.outbox.pauses(),
        await queue.incomplete_ids(5),
        await queue.late_costs(1e9, 5),
        await queue.sync_mark("generations", "ws"),
        await queue.technique_names(),
        await queue.durations(),
        await queue.left_files(),
        (
            await queue.note_delivery(
                "whd_1", databases.order("run_z"), 1e9, known_only=True, retry_failed=True
            )
        ).new,
    ]


def test_a_queue_moves_to_the_database_and_back_and_nothing_is_lost(
    sharer: Home, database: tuple[databases.PostgresServer, str]
) -> None:
    sharer.state.mkdir(parents=True)
    work_with(sharer.state, fill)
    before = work_with(sharer.state, content)
    server, name = database
    moved = sharer.run(
        "migrate",
        "--to",
        server.url(name),
    )
    assert moved.returncode == 0, moved.stderr
    assert "moved 4 runs to postgresql://" in moved.stderr
    assert not (sharer.state / "journal.sqlite3").exists()
    member = json.loads((sharer.state / "member.json").read_bytes())["daemon"]

    async def look() -> list[object]:
        async with postgres_queue(server.server(name), member) as queue:
            return await content(queue)

    assert anyio.run(look) == before
    point(sharer, "sqlite")
    for command, code in (("once", 2), ("status", 2), ("check", 1)):
        left = sharer.run(command)
        assert left.returncode == code
        assert "was moved to postgresql://***@" in left.stdout + left.stderr
    assert not (sharer.state / "journal.sqlite3").exists()
    point(sharer, server.url(name))
    back = sharer.run("migrate", "--to", "sqlite")
    assert back.returncode == 0, back.stderr
    assert work_with(sharer.state, content) == before
    assert "was moved to" in sharer.run("once").stderr
    again = sharer.run("migrate", "--to", server.url(name))
    assert again.returncode == 0, again.stderr
    assert anyio.run(look) == before
    counted = server.execute("SELECT state, count(*) FROM runs GROUP BY state ORDER BY state", name)
    kept = "SELECT state, sum(runs)::bigint FROM state_counts GROUP BY state ORDER BY state"
    assert server.execute(kept, name) == counted


def test_a_queue_is_not_moved_over_another_nor_while_a_daemon_works_with_it(
    sharer: Home, database: tuple[databases.PostgresServer, str]
) -> None:
    server, name = database
    sharer.state.mkdir()
    write_runs(sharer.state, RUN)
    server.execute(_ONE_RUN, name)
    refused = sharer.run("migrate", "--to", server.url(name))
    assert (refused.returncode, "holds a queue already, of 1 run" in refused.stderr) == (2, True)
    assert (sharer.state / "journal.sqlite3").exists()
    server.execute("DELETE FROM runs", name)
    server.execute(
        "INSERT INTO daemons (daemon, name, version, seen_at, snapshot)"
        " VALUES ('x', 'host-x', '', now(), '{}')",
        name,
    )
    refused = sharer.run("migrate", "--to", server.url(name))
    assert (refused.returncode, "host-x already works with" in refused.stderr) == (5, True)
    with closing(sqlite3.connect(sharer.state / "journal.sqlite3")) as file:
        assert file.execute("SELECT count(*) FROM runs").fetchone() == (1,)
