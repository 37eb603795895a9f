"""The journal keeps what job files asked for, by the contract's rules, whatever happens around it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import pytest
from bystanders import open_to_all
from hypothesis import given, strategies as st

from floradl.errors import ConfigError, ErrorCode
from floradl.models import (
    Action,
    OutputKind,
    QueuedRun,
    Reference,
    RunFailure,
    RunRequest,
    RunState,
    SavedOutput,
)
from floradl.queue import migrations
from floradl.queue.sqlite import DELIVERIES_KEPT, FILE_NAME, SqliteQueue

OPEN = (RunState.WAITING, RunState.RUNNING, RunState.DOWNLOADING)
OUTPUT = SavedOutput(output_id="o", type="imageUrl", kind=OutputKind.IMAGE, path="images/o.png", bytes=3)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteQueue]:
    store = SqliteQueue.open(tmp_path)
    yield store
    store.close()


def order(run_id: str = "run_a", action: Action = Action.FETCH, **named: str) -> RunRequest:
    return RunRequest(Reference(run_id, named.get("technique")), named.get("label"), action)


def bring_to(store: SqliteQueue, state: RunState) -> None:
    """Have `run_a` in `state`, with something saved of it."""
    store.add([order()], 1.0, again=True)
    if state is RunState.FORGOTTEN:
        store.add([order(action=Action.FORGET)], 2.0, again=True)
    else:
        failure = RunFailure(ErrorCode.NETWORK, "no way") if state is RunState.FAILED else None
        store.put(
            QueuedRun(
                run_id="run_a", state=state, queued_at=1.0, tries=3, waited=9.0, progress=40.0, error=failure
            ),
            2.0,
        )
    store.save_output("run_a", "o", OUTPUT)


def load(store: SqliteQueue, run_id: str = "run_a") -> QueuedRun:
    run = store.load(run_id)
    assert run is not None
    return run


# What job files do


def test_a_run_that_is_new_waits(store: SqliteQueue) -> None:
    assert store.add([order(technique="tech", label="mine")], 5.0, again=True) == ["run_a"]
    assert load(store) == QueuedRun(run_id="run_a", technique="tech", label="mine", queued_at=5.0)


@pytest.mark.parametrize("state", [*OPEN, RunState.DONE, RunState.FORGOTTEN])
def test_what_is_dropped_again_stays_as_it_is(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    before = load(store)
    assert store.add([order(technique="late", label="late")], 9.0, again=True) == []
    assert load(store) == before
    assert store.saved("run_a") == {"o": OUTPUT}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
def test_what_failed_is_tried_again_when_it_is_dropped_again(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    assert store.add([order()], 9.0, again=True) == ["run_a"]
    assert load(store) == QueuedRun(run_id="run_a", queued_at=9.0)
    assert store.saved("run_a") == {}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
def test_what_failed_is_not_tried_again_because_its_line_still_stands_in_the_queue_file(
    store: SqliteQueue, state: RunState
) -> None:
    bring_to(store, state)
    before = load(store)
    assert store.add([order()], 9.0, again=False) == []
    assert load(store) == before


@pytest.mark.parametrize("state", [RunState.DONE, RunState.FORGOTTEN])
def test_retry_fetches_a_done_or_forgotten_run_anew(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    assert store.add([order(action=Action.RETRY)], 9.0, again=True) == ["run_a"]
    assert load(store) == QueuedRun(run_id="run_a", queued_at=9.0, fresh=True)
    assert store.saved("run_a") == {}


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.PARTIAL])
def test_retry_keeps_what_a_failed_run_has_in_the_library(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    assert store.add([order(action=Action.RETRY)], 9.0, again=False) == ["run_a"]
    assert load(store) == QueuedRun(run_id="run_a", queued_at=9.0)


@pytest.mark.parametrize("state", OPEN)
def test_retry_leaves_a_run_under_way_as_it_is(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    before = load(store)
    assert store.add([order(action=Action.RETRY)], 9.0, again=True) == []
    assert load(store) == before


def test_retry_of_a_run_that_is_not_known_fetches_it_anew(store: SqliteQueue) -> None:
    assert store.add([order(action=Action.RETRY)], 9.0, again=True) == ["run_a"]
    assert load(store).fresh


@pytest.mark.parametrize("state", RunState)
def test_forget_drops_a_run_wherever_it_stands(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, state)
    assert store.add([order(action=Action.FORGET)], 9.0, again=True) == []
    assert load(store).state is RunState.FORGOTTEN
    assert load(store).error is None
    assert store.saved("run_a") == {}
    assert store.open_ids() == []


def test_a_run_can_be_forgotten_before_it_is_known(store: SqliteQueue) -> None:
    store.add([order(action=Action.FORGET)], 1.0, again=True)
    assert store.add([order()], 2.0, again=True) == []
    assert load(store).state is RunState.FORGOTTEN


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.DONE, RunState.FAILED])
def test_forget_wins_over_a_step_under_way(store: SqliteQueue, state: RunState) -> None:
    bring_to(store, RunState.DOWNLOADING)
    under_way = load(store)
    store.add([order(action=Action.FORGET)], 9.0, again=True)
    store.put(msgspec.structs.replace(under_way, state=state), 10.0)
    assert load(store).state is RunState.FORGOTTEN


def test_the_technique_and_label_first_named_stay(store: SqliteQueue) -> None:
    store.add([order(technique="tech", label="mine")], 1.0, again=True)
    store.put(
        QueuedRun(run_id="run_a", technique="other", label="x", state=RunState.FAILED, queued_at=2.0), 2.0
    )
    for action in Action:
        store.add([order(action=action, technique="third", label="y")], 3.0, again=True)
        assert (load(store).technique, load(store).label) == ("tech", "mine")


def test_a_run_id_is_case_sensitive(store: SqliteQueue) -> None:
    assert store.add([order("run_a"), order("run_A")], 1.0, again=True) == ["run_a", "run_A"]


def test_a_run_named_twice_in_one_job_is_one(store: SqliteQueue) -> None:
    assert store.add([order(), order()], 1.0, again=True) == ["run_a"]


@given(
    st.lists(
        st.one_of(
            st.tuples(st.sampled_from(Action), st.booleans()),
            st.sampled_from(
                [RunState.RUNNING, RunState.DOWNLOADING, RunState.DONE, RunState.PARTIAL, RunState.FAILED]
            ),
        ),
        max_size=12,
    )
)
def test_what_is_forgotten_comes_back_by_retry_alone(steps: list[tuple[Action, bool] | RunState]) -> None:
    store = SqliteQueue.in_memory()
    forgotten = False
    for number, step in enumerate(steps):
        if isinstance(step, RunState):
            if store.load("run_a") is not None:
                store.put(QueuedRun(run_id="run_a", state=step, queued_at=1.0), number)
        else:
            touched = store.add([order(action=step[0])], number, again=step[1])
            forgotten = step[0] is Action.FORGET or (forgotten and step[0] is not Action.RETRY)
            # What is to be worked on is said, so that it is taken up at once.
            assert not touched or load(store).state is RunState.WAITING
        run = store.load("run_a")
        assert (run is not None and run.state is RunState.FORGOTTEN) == forgotten
    store.close()


# Rows


def test_a_run_is_read_back_as_it_was_put(store: SqliteQueue) -> None:
    run = QueuedRun(
        run_id="run_ü",
        technique="tech",
        label="ein Wort, 你好",
        state=RunState.DOWNLOADING,
        queued_at=1.5,
        detected_at=2.5,
        waited=3.5,
        tries=4,
        progress=55.5,
        error=RunFailure(ErrorCode.NETWORK, "no way"),
        fresh=True,
    )
    store.put(run, 1.0)
    assert load(store, "run_ü") == run


def test_a_failure_that_only_a_newer_floradl_knows_is_read(store: SqliteQueue) -> None:
    bring_to(store, RunState.FAILED)
    store._db.execute("""UPDATE runs SET error = '{"code":"of_tomorrow","message":"no way"}'""")
    assert load(store).error == RunFailure(ErrorCode.RUN_FAILED, "of_tomorrow: no way")


def test_a_saved_output_that_only_a_newer_floradl_knows_is_fetched_again(store: SqliteQueue) -> None:
    store.save_output("run_a", "o", OUTPUT)
    store.save_output("run_a", "p", OUTPUT)
    store._db.execute("UPDATE saved SET output = replace(output, 'image', 'hologram') WHERE output_key = 'p'")
    assert store.saved("run_a") == {"o": OUTPUT}


def test_outputs_are_remembered_by_run_and_key(store: SqliteQueue) -> None:
    newer = msgspec.structs.replace(OUTPUT, bytes=4)
    store.save_output("run_a", "o", OUTPUT)
    store.save_output("run_a", "o\x002", OUTPUT)
    store.save_output("run_b", "o", OUTPUT)
    store.save_output("run_a", "o", newer)
    assert store.saved("run_a") == {"o": newer, "o\x002": OUTPUT}
    store.drop_saved("run_a")
    assert (store.saved("run_a"), store.saved("run_b")) == ({}, {"o": OUTPUT})


def put_all(store: SqliteQueue) -> None:
    for number, state in enumerate(RunState):
        run_id = f"run_{state}"
        store.put(QueuedRun(run_id=run_id, state=state, queued_at=number), number)


def test_runs_under_way_come_before_those_that_wait(store: SqliteQueue) -> None:
    put_all(store)
    assert store.open_ids() == ["run_running", "run_downloading", "run_waiting"]
    assert [run.run_id for run in store.unfinished(2)] == ["run_downloading", "run_running"]


def test_runs_are_counted_by_state(store: SqliteQueue) -> None:
    put_all(store)
    assert store.counts() == dict.fromkeys(RunState, 1)


def test_the_last_that_finished_come_first(store: SqliteQueue) -> None:
    put_all(store)
    assert [run.run_id for run in store.finished((RunState.DONE, RunState.FAILED), 10)] == [
        "run_failed",
        "run_done",
    ]
    assert [run.run_id for run in store.finished((RunState.DONE, RunState.FAILED), 1)] == ["run_failed"]


def test_all_runs_are_read_page_by_page(store: SqliteQueue) -> None:
    put_all(store)
    first = store.page("", 4)
    rest = store.page(first[-1].run_id, 4)
    assert sorted(run.run_id for run in [*first, *rest]) == sorted(f"run_{state}" for state in RunState)


# Durability


def test_a_journal_survives_a_restart(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path)
    store.add([order()], 1.0, again=True)
    store.close()
    store = SqliteQueue.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    store.close()


def test_what_was_committed_survives_a_kill_and_nothing_else(tmp_path: Path) -> None:
    with writer(tmp_path, "half = store.transaction(); half.__enter__(); add('run_half')") as process:
        process.send_signal(signal.SIGKILL)
    store = SqliteQueue.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    store.close()


def test_each_commit_is_put_on_disk(store: SqliteQueue) -> None:
    """NORMAL would lose the last commits in a power cut."""
    assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_transaction_that_fails_leaves_nothing(store: SqliteQueue) -> None:
    with suppress(KeyError), store.transaction():
        store.add([order()], 1.0, again=True)
        raise KeyError
    assert store.load("run_a") is None
    assert not store.in_transaction


def test_a_savepoint_that_fails_leaves_the_rest(store: SqliteQueue) -> None:
    with store.transaction():
        store.add([order("run_a")], 1.0, again=True)
        with suppress(KeyError), store.savepoint():
            store.add([order("run_b")], 1.0, again=True)
            raise KeyError
        store.add([order("run_c")], 1.0, again=True)
    assert store.open_ids() == ["run_a", "run_c"]


# Full disks, and files that are no journal


def fill(store: SqliteQueue) -> None:
    """Allow the journal no page more than it has."""
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count={pages}")


def test_a_full_disk_leaves_the_journal_as_it_was(store: SqliteQueue) -> None:
    store.add([order()], 1.0, again=True)
    fill(store)
    many = [order(f"run_{number}", label="x" * 200) for number in range(1000)]
    with pytest.raises(sqlite3.OperationalError, match="full"), store.transaction():
        store.add([order("run_b"), *many], 2.0, again=True)
    assert not store.in_transaction
    assert store.open_ids() == ["run_a"]
    store._db.execute("PRAGMA max_page_count=1000000")
    with store.transaction():
        store.add([order("run_b")], 3.0, again=True)
    assert store.open_ids() == ["run_a", "run_b"]


@pytest.mark.root
def test_a_disk_that_is_full_in_earnest_leaves_the_journal_as_it_was(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "floradl", tmp_path], check=True)
    try:
        store = SqliteQueue.open(tmp_path)
        store.add([order()], 1.0, again=True)
        with pytest.raises(sqlite3.OperationalError), store.transaction():
            store.add([order(f"run_{n}", label="x" * 200) for n in range(5000)], 2.0, again=True)
        assert store.open_ids() == ["run_a"]
        store.close()
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_file_that_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / FILE_NAME).write_bytes(b"precious words, " * 1000)
    with pytest.raises(sqlite3.DatabaseError):
        SqliteQueue.open(tmp_path)
    with pytest.raises(sqlite3.DatabaseError), SqliteQueue.reading(tmp_path):
        pass
    assert (tmp_path / FILE_NAME).read_bytes() == b"precious words, " * 1000


# Webhooks


def test_a_delivery_is_new_once_and_after_a_restart_too(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path)
    assert store.note_delivery("whd_1", 1.0)
    assert not store.note_delivery("whd_1", 2.0)
    store.close()
    store = SqliteQueue.open(tmp_path)
    assert not store.note_delivery("whd_1", 3.0)
    assert store.note_delivery("whd_2", 3.0)
    store.close()


def test_deliveries_are_forgotten_when_nobody_may_repeat_them_any_more() -> None:
    store = SqliteQueue.in_memory()
    store.note_delivery("whd_1", 1.0)
    assert not store.note_delivery("whd_1", DELIVERIES_KEPT)
    assert store.note_delivery("whd_2", DELIVERIES_KEPT + 2.0)
    assert store._db.execute("SELECT id FROM deliveries").fetchall() == [("whd_2",)]


def test_the_oldest_open_run_is_the_one_that_waits_the_longest() -> None:
    store = SqliteQueue.in_memory()
    assert store.oldest_open() is None
    store.add([order("run_a")], 5.0, again=True)
    store.add([order("run_b")], 6.0, again=True)
    assert store.oldest_open() == 5.0
    done = store.load("run_a")
    assert done is not None
    store.put(msgspec.structs.replace(done, state=RunState.DONE), 7.0)
    assert store.oldest_open() == 6.0


# Schemas


def test_a_journal_of_the_first_schema_learns_of_deliveries_and_keeps_its_runs(tmp_path: Path) -> None:
    db = sqlite3.connect(tmp_path / FILE_NAME, isolation_level=None)
    migrations_then = migrations.MIGRATIONS[:1]
    for statement in migrations_then[0].split(";"):
        db.execute(statement)
    db.execute("PRAGMA user_version=1")
    db.execute("INSERT INTO runs (run_id, state, queued_at, changed_at) VALUES ('run_a', 'waiting', 1, 1)")
    db.close()
    store = SqliteQueue.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    assert store.note_delivery("whd_1", 1.0)
    store.close()
    assert (tmp_path / f"{FILE_NAME}.schema-1").exists()


def test_a_journal_of_a_newer_floradl_is_refused_and_left_alone(tmp_path: Path) -> None:
    store = SqliteQueue.open(tmp_path)
    store.add([order()], 1.0, again=True)
    store._db.execute(f"PRAGMA user_version={len(migrations.MIGRATIONS) + 1}")
    store.close()
    before = (tmp_path / FILE_NAME).read_bytes()
    with pytest.raises(ConfigError, match="newer floradl"):
        SqliteQueue.open(tmp_path)
    with pytest.raises(ConfigError, match="newer floradl"), SqliteQueue.reading(tmp_path):
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
    with pytest.raises(ConfigError, match="older floradl"), SqliteQueue.reading(tmp_path):
        pass
    store = SqliteQueue.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    assert store._db.execute("SELECT mood FROM runs").fetchall() == [(None,)]
    store.close()
    assert sorted(os.listdir(tmp_path)) == [FILE_NAME, f"{FILE_NAME}.schema-{before}"]
    copy = sqlite3.connect(tmp_path / f"{FILE_NAME}.schema-{before}")
    assert copy.execute("SELECT run_id FROM runs").fetchall() == [("run_a",)]
    assert copy.execute("PRAGMA user_version").fetchone() == (before,)
    copy.close()


def test_a_migration_that_fails_leaves_the_older_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteQueue.open(tmp_path)
    store.add([order()], 1.0, again=True)
    store.close()
    with monkeypatch.context() as tomorrow:
        grow(tomorrow, "ALTER TABLE runs ADD COLUMN mood TEXT; ALTER TABLE nothing ADD COLUMN mood TEXT")
        with pytest.raises(sqlite3.OperationalError):
            SqliteQueue.open(tmp_path)
    store = SqliteQueue.open(tmp_path)
    assert [run.run_id for run in store.page("", 10)] == ["run_a"]
    store.close()


# Looking


@contextmanager
def writer(state_dir: Path, then: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """Have a process that keeps the journal open, with `run_a` in it; it ends cleanly unless it is killed."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom floradl.models import RunRequest, Reference\n"
        "from floradl.queue.sqlite import SqliteQueue\nstore = SqliteQueue.open(Path(sys.argv[1]))\n"
        "add = lambda run_id: store.add([RunRequest(Reference(run_id))], 1.0, again=True)\n"
        f"add('run_a')\n{then}\nprint('ready', flush=True)\nsys.stdin.read()\nstore.close()\n"
    )
    command = [sys.executable, "-c", code, str(state_dir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield process


def seen(state_dir: Path) -> list[str] | None:
    with SqliteQueue.reading(state_dir) as store:
        return None if store is None else store.open_ids()


def test_there_is_nothing_to_see_before_the_first_start(tmp_path: Path) -> None:
    assert seen(tmp_path) is None
    assert seen(tmp_path / "none") is None
    assert os.listdir(tmp_path) == []


def test_a_journal_that_was_only_begun_is_none_yet(tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / FILE_NAME).close()
    (tmp_path / FILE_NAME).touch()
    assert seen(tmp_path) is None


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
    with writer(tmp_path), SqliteQueue.reading(tmp_path) as store:
        assert store is not None
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            store.add([order("run_b")], 1.0, again=True)


def test_one_who_reads_does_not_hold_the_writer_up(tmp_path: Path, store: SqliteQueue) -> None:
    store.add([order()], 1.0, again=True)
    with SqliteQueue.reading(tmp_path) as other:
        assert other is not None
        assert other.open_ids() == ["run_a"]
        store._db.execute("PRAGMA busy_timeout=0")  # who would have to wait for a lock fails instead
        with store.transaction():
            store.add([order("run_b")], 1.0, again=True)
        assert other.open_ids() == ["run_a", "run_b"]


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
            with pytest.raises(PermissionError):
                seen(folder)
        finally:
            os.seteuid(0)
            folder.chmod(0o755)


def test_a_run_that_ended_is_taken_up_again_where_flora_lists_more(store: SqliteQueue) -> None:
    states = {"run_done": RunState.DONE, "run_failed": RunState.FAILED, "run_gone": RunState.FORGOTTEN}
    for run_id, state in {**states, "run_open": RunState.DOWNLOADING}.items():
        store.put(QueuedRun(run_id=run_id, queued_at=1.0, state=state, fresh=True), 1.0)
    assert store.reopen([*states, "run_open", "run_nobody"], 2.0) == ["run_done", "run_failed"]
    found = store.load("run_done")
    assert found is not None
    assert (found.state, found.fresh) == (RunState.RUNNING, False)
    assert store.load("run_open").state is RunState.DOWNLOADING  # type: ignore[union-attr]
    assert store.load("run_gone").state is RunState.FORGOTTEN  # type: ignore[union-attr]
