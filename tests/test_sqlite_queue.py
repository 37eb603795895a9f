"""The queue's file: what is in it after kills, full disks, other versions, and for those who only look."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import pytest
import studio
from bystanders import open_to_all
from mounting import in_memory
from queues import make_queue, sqlite_queue, work_with, write_runs

from floradl.errors import ConfigError, ErrorCode, QueueDamagedError
from floradl.models import OutputKind, QueuedRun, Reference, RunFailure, RunRequest, RunState, SavedOutput
from floradl.queue import migrations
from floradl.queue.folder import FILE_NAME, note_to_be_filled
from floradl.queue.reader import read_queue
from floradl.queue.sqlite import SqliteQueue

OUTPUT = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path="images/o.png", bytes=3)


def order(run_id: str = "run_a", label: str | None = None) -> RunRequest:
    return RunRequest(Reference(run_id), label)


def add(state_dir: Path, *run_ids: str) -> None:
    orders = [order(run_id) for run_id in run_ids]
    work_with(state_dir, lambda queue: queue.submit(orders, 1.0, retry_failed=True))


def open_ids(state_dir: Path) -> list[str]:
    return work_with(state_dir, SqliteQueue.open_ids)


def change(state_dir: Path, statement: str) -> None:
    with closing(sqlite3.connect(state_dir / FILE_NAME)) as db, db:
        db.execute(statement)


# What a newer floradl wrote


def test_a_failure_that_only_a_newer_floradl_knows_is_read(tmp_path: Path) -> None:
    failure = RunFailure(ErrorCode.NETWORK, "no way")
    write_runs(tmp_path, QueuedRun(run_id="run_a", queued_at=1.0, state=RunState.FAILED, error=failure))
    change(tmp_path, """UPDATE runs SET error = '{"code":"of_tomorrow","message":"no way"}'""")
    run = work_with(tmp_path, lambda queue: queue.get("run_a"))
    assert run is not None
    assert run.error == RunFailure(ErrorCode.RUN_FAILED, "of_tomorrow: no way")


def test_a_saved_output_that_only_a_newer_floradl_knows_is_fetched_again(tmp_path: Path) -> None:
    for key in "op":
        work_with(tmp_path, lambda queue, key=key: queue.save_outputs("run_a", {key: OUTPUT}))  # type: ignore[misc]
    change(tmp_path, "UPDATE saved SET output = replace(output, 'image', 'hologram') WHERE output_key = 'p'")
    assert work_with(tmp_path, lambda queue: queue.saved_outputs("run_a")) == {"o": OUTPUT}


# Durability


def test_what_was_committed_survives_a_kill_and_nothing_else(tmp_path: Path) -> None:
    half = "queue._db.execute('BEGIN'); queue._db.execute(\"UPDATE runs SET run_id = 'run_half'\")"
    with writer(tmp_path, half) as process:
        process.send_signal(signal.SIGKILL)
    assert open_ids(tmp_path) == ["run_a"]


def test_each_commit_is_put_on_disk(tmp_path: Path) -> None:
    """NORMAL would lose the last commits in a power cut."""
    queue = SqliteQueue.open(tmp_path)
    assert queue._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert queue._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    queue.disconnect()


@pytest.mark.anyio
async def test_what_a_call_recorded_is_read_by_others_when_it_returns(tmp_path: Path) -> None:
    async with sqlite_queue(tmp_path) as queue:
        await queue.submit([order()], 1.0, retry_failed=True)
        assert seen(tmp_path) == ["run_a"]


@pytest.mark.anyio
async def test_a_file_that_is_taken_away_ends_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("floradl.queue.folder._LOOK_EVERY", 0.05)

    async def work() -> None:
        async with sqlite_queue(tmp_path):
            (tmp_path / FILE_NAME).unlink()
            await anyio.sleep(studio.TEST_TIMEOUT)

    with pytest.raises(ExceptionGroup) as error:
        await work()
    assert error.group_contains(QueueDamagedError, match="was removed")


# Full disks, and files that are no journal


@pytest.mark.anyio
async def test_a_full_disk_leaves_the_queue_as_it_was(tmp_path: Path) -> None:
    many = [order(f"run_{number}", label="x" * 200) for number in range(1000)]
    async with sqlite_queue(tmp_path, retry_after=0.02) as queue:
        await queue.submit([order()], 1.0, retry_failed=True)
        pages = queue._db.execute("PRAGMA page_count").fetchone()[0]
        queue._db.execute(f"PRAGMA max_page_count={pages}")
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: queue.submit([order("run_b"), *many], 2.0, retry_failed=True))
            await studio.until(lambda: queue.trouble)
            assert seen(tmp_path) == ["run_a"]
            queue._db.execute("PRAGMA max_page_count=1000000")
        assert queue.trouble is None
        assert len(await queue.open_ids()) == 1002


@pytest.mark.root
@pytest.mark.anyio
async def test_a_disk_that_is_full_in_earnest_leaves_the_queue_as_it_was(tmp_path: Path) -> None:
    many = [order(f"run_{n}", label="x" * 200) for n in range(5000)]
    with in_memory(tmp_path, "512k"):
        async with sqlite_queue(tmp_path, retry_after=0.02) as queue:
            await queue.submit([order()], 1.0, retry_failed=True)
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: queue.submit(many, 2.0, retry_failed=True))
                await studio.until(lambda: queue.trouble)
                group.cancel_scope.cancel()
            assert seen(tmp_path) == ["run_a"]


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"precious words, " * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteQueue.open(tmp_path)
    with pytest.raises(ConfigError, match="is damaged"), read_queue(tmp_path):
        pass
    assert (tmp_path / FILE_NAME).read_bytes() == b"precious words, " * 1000


# Schemas


def test_a_journal_of_the_first_schema_learns_of_deliveries_and_keeps_its_runs(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    migrations_then = migrations.MIGRATIONS[:1]
    for statement in migrations_then[0].split(";"):
        db.execute(statement)
    db.execute("PRAGMA user_version=1")
    db.execute("INSERT INTO runs (run_id, state, queued_at, changed_at) VALUES ('run_a', 'waiting', 1, 1)")
    db.close()
    assert open_ids(tmp_path) == ["run_a"]
    found = work_with(
        tmp_path,
        lambda queue: queue.note_delivery("whd_1", order(), 1.0, known_only=True, retry_failed=False),
    )
    assert found.new
    assert (tmp_path / f"{FILE_NAME}.schema-1").exists()


def test_a_journal_of_a_newer_floradl_is_refused_and_left_alone(tmp_path: Path) -> None:
    add(tmp_path, "run_a")
    change(tmp_path, f"PRAGMA user_version={len(migrations.MIGRATIONS) + 1}")
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match="newer floradl"):
        SqliteQueue.open(tmp_path)
    with pytest.raises(ConfigError, match="newer floradl"), read_queue(tmp_path):
        pass
    assert (tmp_path / FILE_NAME).read_bytes() == before
    assert os.listdir(tmp_path) == [FILE_NAME]


def grow(monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Be a floradl of tomorrow, whose schema goes one step further."""
    monkeypatch.setattr(migrations, "MIGRATIONS", (*migrations.MIGRATIONS, step))


def test_an_older_journal_is_brought_up_to_date_and_a_copy_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with writer(tmp_path) as process:  # killed, so that what was added stands in the log alone
        process.send_signal(signal.SIGKILL)
    before = len(migrations.MIGRATIONS)
    grow(monkeypatch, "ALTER TABLE runs ADD COLUMN mood TEXT")
    with pytest.raises(ConfigError, match="older floradl"), read_queue(tmp_path):
        pass
    assert open_ids(tmp_path) == ["run_a"]
    with closing(sqlite3.connect(tmp_path / FILE_NAME)) as db:
        assert db.execute("SELECT mood FROM runs").fetchall() == [(None,)]
    assert sorted(os.listdir(tmp_path)) == [FILE_NAME, f"{FILE_NAME}.schema-{before}"]
    copy = sqlite3.connect(tmp_path / f"{FILE_NAME}.schema-{before}")
    assert copy.execute("SELECT run_id FROM runs").fetchall() == [("run_a",)]
    assert copy.execute("PRAGMA user_version").fetchone() == (before,)
    copy.close()


def test_a_migration_that_fails_leaves_the_older_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, "run_a")
    with monkeypatch.context() as tomorrow:
        grow(tomorrow, "ALTER TABLE runs ADD COLUMN mood TEXT; ALTER TABLE nothing ADD COLUMN mood TEXT")
        with pytest.raises(sqlite3.OperationalError):
            SqliteQueue.open(tmp_path)
    assert seen(tmp_path) == ["run_a"]


def test_a_journal_of_before_hooks_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        make_queue(tmp_path)
        change(
            tmp_path,
            "INSERT INTO runs (run_id, state, queued_at, changed_at) VALUES ('run_a', 'waiting', 1, 1)",
        )
    assert open_ids(tmp_path) == ["run_a"]
    assert work_with(tmp_path, lambda queue: queue.outbox.after(0)) == []
    assert (tmp_path / f"{FILE_NAME}.schema-1").exists()


# Looking


@contextmanager
def writer(state_dir: Path, then: str = "pass") -> Iterator[subprocess.Popen[bytes]]:
    """Have a process that keeps the journal open, with `run_a` in it; it ends cleanly unless it is killed."""
    code = (
        "import sys\nfrom pathlib import Path\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from queues import work_with\nfrom test_sqlite_queue import order\n"
        "async def main(queue):\n    await queue.submit([order()], 1.0, retry_failed=True)\n"
        f"    {then}\n    print('ready', flush=True)\n    sys.stdin.read()\n"
        "work_with(Path(sys.argv[1]), main)\n"
    )
    command = [sys.executable, "-c", code, str(state_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def seen(state_dir: Path) -> list[str] | None:
    with read_queue(state_dir) as queue:
        return None if queue is None else [run.run_id for run in queue.unfinished(10)]


def test_there_is_nothing_to_see_before_the_first_start(tmp_path: Path) -> None:
    assert seen(tmp_path) is None
    assert seen(tmp_path / "none") is None
    assert os.listdir(tmp_path) == []


def test_a_journal_that_was_only_begun_is_none_yet(tmp_path: Path) -> None:
    note_to_be_filled(tmp_path)
    sqlite3.connect(tmp_path / FILE_NAME).close()
    (tmp_path / FILE_NAME).touch()
    assert seen(tmp_path) is None


def test_a_journal_that_was_emptied_is_damaged(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).touch()
    with pytest.raises(ConfigError, match="it holds nothing"):
        seen(tmp_path)


def test_a_journal_is_read_beside_its_writer(tmp_path: Path) -> None:
    with writer(tmp_path):
        assert seen(tmp_path) == ["run_a"]
        store = sqlite3.connect(tmp_path / FILE_NAME)  # the log is read too, not the file alone
        assert store.execute("SELECT count(*) FROM runs").fetchone() == (1,)
        store.close()


def test_reading_leaves_no_files_behind_once_the_writer_has_gone(tmp_path: Path) -> None:
    with writer(tmp_path):
        assert seen(tmp_path) == ["run_a"]
    assert seen(tmp_path) == ["run_a"]
    assert os.listdir(tmp_path) == [FILE_NAME]


def test_a_journal_is_read_after_its_writer_was_killed(tmp_path: Path) -> None:
    with writer(tmp_path) as process:
        process.send_signal(signal.SIGKILL)
    files = sorted(os.listdir(tmp_path))
    assert seen(tmp_path) == ["run_a"]
    assert sorted(os.listdir(tmp_path)) == files


def test_one_who_reads_changes_nothing(tmp_path: Path) -> None:
    with writer(tmp_path), read_queue(tmp_path) as queue:
        assert queue is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            queue._db.execute("DELETE FROM runs")


@pytest.mark.anyio
async def test_one_who_reads_does_not_hold_the_writer_up(tmp_path: Path) -> None:
    async with sqlite_queue(tmp_path) as queue:
        await queue.submit([order()], 1.0, retry_failed=True)
        with read_queue(tmp_path) as other:
            assert other is not None
            assert [run.run_id for run in other.unfinished(10)] == ["run_a"]
            queue._db.execute(
                "PRAGMA busy_timeout=0"
            )  # who would have to wait for a lock is held up for long
            with studio.logged() as logs:
                await queue.submit([order("run_b")], 1.0, retry_failed=True)
            assert logs == []  # a commit that met a lock would be tried again, and say so
            assert [run.run_id for run in other.unfinished(10)] == ["run_a", "run_b"]


@pytest.mark.root
@pytest.mark.parametrize("ending", ["at work", "stopped", "killed"])
def test_another_user_reads_if_he_may(ending: str) -> None:
    with open_to_all() as folder, writer(folder) as process:
        if ending == "killed":
            process.send_signal(signal.SIGKILL)
            process.wait()
        elif ending == "stopped":
            assert process.stdin is not None
            process.stdin.close()
            process.wait()
        os.seteuid(65534)
        try:
            assert seen(folder) == ["run_a"]
        finally:
            os.seteuid(0)


@pytest.mark.root
@pytest.mark.parametrize("closed", ["", FILE_NAME])
def test_another_user_who_may_not_read_is_told_so(closed: str) -> None:
    with open_to_all() as folder, writer(folder):
        (folder / closed).chmod(0o700)
        os.seteuid(65534)
        try:
            with pytest.raises(ConfigError, match="this user may not read"):
                seen(folder)
        finally:
            os.seteuid(0)
            folder.chmod(0o755)


def write_all(state_dir: Path) -> None:
    states = enumerate(RunState)
    write_runs(
        state_dir, *(QueuedRun(run_id=f"run_{state}", state=state, queued_at=nth) for nth, state in states)
    )


def test_a_reader_reads_runs_by_how_far_they_are(tmp_path: Path) -> None:
    write_all(tmp_path)
    with read_queue(tmp_path) as queue:
        assert queue is not None
        assert [run.run_id for run in queue.unfinished(2)] == ["run_downloading", "run_running"]
        assert queue.counts() == dict.fromkeys(RunState, 1)


def test_a_reader_reads_the_last_that_ended_first(tmp_path: Path) -> None:
    write_all(tmp_path)
    states = (RunState.DONE, RunState.FAILED)
    with read_queue(tmp_path) as queue:
        assert queue is not None
        assert [run.run_id for run in queue.ended(states, 10)] == ["run_failed", "run_done"]
        assert [run.run_id for run in queue.ended(states, 1)] == ["run_failed"]


def test_a_reader_reads_all_runs_page_by_page(tmp_path: Path) -> None:
    write_all(tmp_path)
    with read_queue(tmp_path) as queue:
        assert queue is not None
        first = queue.page("", 4)
        rest = queue.page(first[-1].run_id, 4)
    assert sorted(run.run_id for run in [*first, *rest]) == sorted(f"run_{state}" for state in RunState)
