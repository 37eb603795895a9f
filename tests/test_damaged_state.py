"""A journal that is damaged, emptied or taken away: set aside under a name that is told, and filled anew."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest
from studio import PICTURE, TEST_TIMEOUT, Home, check_library, command, queue, served, wait_until

from floradl.queue.migrations import MIGRATIONS
from floradl.simulator import Simulator

DONE = ("run_a", "run_b")


def journal(home: Home) -> Path:
    return home.state / "journal.sqlite3"


def aside(home: Home) -> list[Path]:
    """Return what was set aside."""
    found = home.state.glob("journal.sqlite3.damaged-*")
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))


def add_runs(simulator: Simulator) -> None:
    for name in DONE:
        simulator.add_run(name, technique="campaign", outputs=PICTURE, duration=0.1)
    simulator.add_run("run_open", technique="campaign", duration=3600)


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Work off two runs, and let one go on for an hour, once for all tests: `worked` is a copy."""
    path = tmp_path_factory.mktemp("fetched")
    simulator = Simulator()
    add_runs(simulator)
    with served(simulator):
        home = Home(path, simulator)
        home.drop("campaign/run_a\ncampaign/run_b\ncampaign/run_open\n")
        with home.daemon() as process:
            for name in DONE:
                home.finished(f"campaign/{name}")
            process.send_signal(signal.SIGTERM)
            assert process.wait(TEST_TIMEOUT) == 0
        (path / "daemon.log").unlink()
    return path


def knows_all(home: Home) -> bool:
    with suppress(AssertionError):
        counts = home.status()["counts"]
        return bool(counts["done"] == 2 and counts["waiting"] + counts["running"] == 1)
    return False


def empty(path: Path) -> None:
    path.write_bytes(b"")


def hurt_head(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"not what SQLite writes here")


def hurt_pages(path: Path) -> None:
    """Write over every page but the first, which holds the schema."""
    with path.open("r+b") as file:
        for at in range(4096, path.stat().st_size, 4096):
            file.seek(at)
            file.write(b"\xa5" * 4096)


def cut_short(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def replace_by_another_program_s(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE bookmarks (url TEXT)")


def hurt_index(path: Path) -> None:
    """Let the index say that there is no run, while the rows are there."""
    with closing(sqlite3.connect(path)) as db, db:
        page = db.execute("SELECT rootpage FROM sqlite_master WHERE name = 'runs_by_state'").fetchone()[0]
    with path.open("r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\x0a\x00\x00\x00\x00\x10\x00\x00")  # an index page without a cell


DAMAGES = [empty, hurt_head, hurt_pages, cut_short, replace_by_another_program_s, hurt_index]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_set_aside_with_its_name_told_and_filled_anew(
    worked: Home, simulator: Simulator, damage: Callable[[Path], None]
) -> None:
    damage(journal(worked))
    damaged = journal(worked).read_bytes()
    asked = len(simulator.asked("media"))
    with worked.daemon():
        wait_until(lambda: knows_all(worked))
        (event,) = worked.events("journal_damaged")
    (kept,) = aside(worked)
    assert kept.name in event["message"]
    assert "inbox/accepted/" in event["message"]  # what is known again, and what is not
    assert kept.read_bytes() == damaged
    assert len(simulator.asked("media")) == asked
    check_library(worked, simulator)


@pytest.mark.parametrize("damage", DAMAGES)
def test_check_and_status_tell_of_a_damaged_journal(worked: Home, damage: Callable[[Path], None]) -> None:
    damage(journal(worked))
    done = worked.run("check")
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if ": the journal is damaged" in line]
    assert line.startswith("FAIL  journal")
    assert "start it again" in line
    if damage is not hurt_index:  # `status` reads what it needs
        done = worked.run("status")
        assert done.returncode == 2
        assert "the journal is damaged" in done.stderr


def test_once_sets_a_damaged_journal_aside_and_does_its_work(worked: Home, simulator: Simulator) -> None:
    hurt_pages(journal(worked))
    queue(worked, simulator, "run_c")
    simulator.now = lambda: time.time() + 3600  # when the run that was open is over
    assert worked.run("once").returncode == 0
    assert worked.sidecar("campaign/run_c")
    assert worked.sidecar("campaign/run_open")
    assert len(aside(worked)) == 1


def test_a_newer_floradl_s_journal_stays_where_it_is(worked: Home) -> None:
    with closing(sqlite3.connect(journal(worked))) as db:
        db.execute("PRAGMA user_version=99")
    done = worked.run("run")
    assert done.returncode == 2
    assert "update floradl" in done.stderr
    assert aside(worked) == []


def killed(home: Home) -> None:
    """Let a daemon end that could not close its journal."""
    with home.daemon():
        pass


def test_a_log_that_is_gone_is_told_and_what_it_held_comes_back(worked: Home, simulator: Simulator) -> None:
    before = journal(worked).read_bytes()
    queue(worked, simulator, "run_c")
    with worked.daemon():
        worked.finished("campaign/run_c")
    journal(worked).write_bytes(before)  # as if nothing had been merged
    (worked.state / "journal.sqlite3-wal").unlink()
    with worked.daemon():
        wait_until(lambda: worked.status()["counts"]["done"] == 3)
    (event,) = worked.events("journal_damaged")
    assert "journal.sqlite3-wal, is gone" in event["message"]
    assert aside(worked) == []


def test_a_log_that_stands_after_a_kill_is_no_damage(worked: Home) -> None:
    for _ in range(2):
        killed(worked)
    assert worked.run("once", "--max-wait", "1s").returncode == 5
    killed(worked)
    assert worked.events("journal_damaged") == []


def test_another_journal_s_log_is_not_taken_for_its_own(worked: Home, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger"
    shutil.copytree(worked.state, stranger)
    killed(worked)
    for ending in ("-wal", "-shm"):
        (worked.state / f"journal.sqlite3{ending}").write_bytes(os.urandom(100_000))
    with worked.daemon():
        wait_until(lambda: knows_all(worked))


def remove_folder(home: Home) -> None:
    shutil.rmtree(home.state)


def remove_journal(home: Home) -> None:
    journal(home).unlink()


def remove_lock(home: Home) -> None:
    (home.state / "lock").unlink()


def remove_log(home: Home) -> None:
    (home.state / "journal.sqlite3-wal").unlink()


def remove_shared_memory(home: Home) -> None:
    (home.state / "journal.sqlite3-shm").unlink()


def rename_folder(home: Home) -> None:
    home.state.rename(home.path / "elsewhere")


def put_a_copy_in_its_place(home: Home) -> None:
    copy = home.path / "copy"
    shutil.copy(journal(home), copy)
    copy.rename(journal(home))


def empty_it(home: Home) -> None:
    os.truncate(journal(home), 0)


TAKEN = [
    remove_folder,
    remove_journal,
    remove_lock,
    remove_log,
    remove_shared_memory,
    rename_folder,
    put_a_copy_in_its_place,
    empty_it,
]


@pytest.mark.parametrize("take", TAKEN)
def test_a_daemon_whose_journal_is_taken_away_says_so_and_works_on_with_all_it_knew(
    worked: Home, simulator: Simulator, take: Callable[[Home], None]
) -> None:
    with worked.daemon() as process:
        take(worked)
        wait_until(lambda: worked.events("journal_damaged"))
        wait_until(lambda: len(worked.events("started")) == 2)
        wait_until(lambda: knows_all(worked))
        queue(worked, simulator, "run_c")
        worked.finished("campaign/run_c")
        assert worked.run("status", "--check").returncode == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(TEST_TIMEOUT) == 0
    assert worked.status()["counts"]["done"] == 3
    (event, *_) = worked.events("journal_damaged")
    assert "while floradl worked with it" in event["message"]
    check_library(worked, simulator)


def test_a_page_that_is_damaged_in_mid_run_is_met_and_the_journal_is_set_aside(
    worked: Home, simulator: Simulator
) -> None:
    with worked.daemon() as process:
        hurt_pages(journal(worked))
        queue(worked, simulator, "run_c")
        worked.finished("campaign/run_c")
        wait_until(lambda: worked.status()["counts"]["done"] == 3)
        assert process.poll() is None
        assert worked.events("bug") == []
    assert aside(worked)


def test_a_row_that_no_floradl_wrote_is_damage(worked: Home) -> None:
    with closing(sqlite3.connect(journal(worked))) as db, db:
        db.execute("UPDATE runs SET error = x'ff' WHERE run_id = 'run_open'")
    with worked.daemon():
        wait_until(lambda: aside(worked))
        wait_until(lambda: knows_all(worked))
    assert worked.events("bug") == []


def test_a_journal_that_is_damaged_again_and_again_ends_the_daemon_as_a_wrong_set_up_does(
    worked: Home,
) -> None:
    """So that the service manager leaves it down, and a disk that fails does not fill up."""

    def started(times: int) -> bool:
        return len(worked.events("started")) == times

    log = (worked.path / "daemon.log").open("a")
    with log, subprocess.Popen(command("run"), env=worked.environ, stderr=log) as process:
        for number in range(1, 4):
            wait_until(partial(started, number))
            empty_it(worked)
        assert process.wait(TEST_TIMEOUT) == 2
    assert "3 times since the start" in (worked.path / "daemon.log").read_text()


def test_a_state_folder_that_goes_with_the_library_is_not_made_below(worked: Home) -> None:
    """Its disk may be unmounted: what lies below is no place to begin anew."""
    with worked.daemon() as process:
        worked.library.rename(worked.path / "unplugged")
        shutil.rmtree(worked.state)
        assert process.wait(TEST_TIMEOUT) == 2
        assert not worked.state.exists()
    assert "mount the disk" in (worked.path / "daemon.log").read_text()


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_a_journal_of_an_older_floradl_is_brought_up_to_date_with_all_its_runs(
    home: Home, simulator: Simulator, version: int
) -> None:
    names = ["run_waiting", "run_half", "run_done"]
    for name in names:
        simulator.add_run(name, technique="campaign", outputs=PICTURE, duration=0)
    home.state.mkdir(parents=True)
    row = "INSERT INTO runs (run_id, technique, state, queued_at, changed_at) VALUES (?, 'campaign', ?, 1, 1)"
    with closing(sqlite3.connect(home.state / "journal.sqlite3")) as db, db:
        for statement in ";".join(MIGRATIONS[:version]).split(";"):
            db.execute(statement)
        db.execute(f"PRAGMA user_version={version}")
        db.executemany(row, zip(names, ("waiting", "downloading", "done"), strict=True))
    done = home.run("once")
    assert done.returncode == 0, done.stderr
    assert not list(home.state.glob("*.damaged-*"))
    assert home.status()["counts"]["done"] == 3
    assert home.sidecar("campaign/run_waiting")
    assert home.sidecar("campaign/run_half")
    assert home.run("check").stdout.count("damaged") == 0
