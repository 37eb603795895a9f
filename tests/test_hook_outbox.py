"""What the journal keeps for hooks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from floradl.models import Action, Reference, RunRequest
from floradl.queue import migrations
from floradl.queue.hook_outbox import HookEvent, SentPause
from floradl.queue.sqlite import FILE_NAME, SqliteQueue


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteQueue]:
    store = SqliteQueue.open(tmp_path)
    store.add([RunRequest(Reference(f"run_{name}")) for name in "abc"], 1.0, again=True)
    yield store
    store.close()


def test_without_a_hook_nothing_is_kept(store: SqliteQueue) -> None:
    store.announcements.add("run_a", "a.json")
    store.announcements.expect(finished=True)
    assert store.announcements.after(0) == []


def test_what_is_expected_is_kept_in_order_until_it_is_dropped(store: SqliteQueue) -> None:
    store.announcements.expect(finished=True)
    for name in "abc":
        store.announcements.add(f"run_{name}", None)
    first, second, third = store.announcements.after(0)
    assert store.announcements.after(first) == [second, third]
    store.announcements.drop(third)
    assert store.announcements.load(third) is None
    store.announcements.add("run_c", "c.json")
    again = store.announcements.after(second)[0]
    assert again > third  # a number is never used twice
    assert store.announcements.load(again) == HookEvent(again, "run_c", "c.json", 0)


def test_tries_are_counted_over_a_restart(store: SqliteQueue, tmp_path: Path) -> None:
    store.announcements.expect(finished=True)
    store.announcements.add("run_a", "a.json")
    store.announcements.failed(1)
    store.announcements.failed(1)
    store.close()
    later = SqliteQueue.open(tmp_path)
    later.announcements.expect(finished=True)
    assert later.announcements.load(1) == HookEvent(1, "run_a", "a.json", 2)
    later.close()


def test_a_run_that_was_forgotten_meanwhile_is_not_announced(store: SqliteQueue) -> None:
    store.announcements.expect(finished=True)
    store.add([RunRequest(Reference("run_a"), action=Action.FORGET)], 2.0, again=True)
    store.announcements.add("run_a", "a.json")
    assert store.announcements.after(0) == []


def test_what_waits_goes_with_its_hook(store: SqliteQueue) -> None:
    store.announcements.expect(finished=True)
    store.announcements.add("run_a", "a.json")
    store.announcements.expect(finished=False)
    store.announcements.expect(finished=True)
    assert store.announcements.after(0) == []


def test_the_last_pause_of_each_reason_is_remembered(store: SqliteQueue) -> None:
    full = SentPause("disk_full", 5.0, 6.0)
    refused = SentPause("key_refused", 1.0, 2.0, over=True)
    for told in (SentPause("key_refused", 0.0, 0.0), full, refused):
        store.announcements.put_pause(told)
    assert sorted(store.announcements.told_pauses(), key=lambda told: told.reason) == [full, refused]


def test_a_journal_of_before_hooks_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        store = SqliteQueue.open(tmp_path)
        store.add([RunRequest(Reference("run_a"))], 1.0, again=True)
        with pytest.raises(sqlite3.OperationalError):
            store.announcements.after(0)
        store.close()
    store = SqliteQueue.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    assert store.announcements.after(0) == []
    store.close()
    assert (tmp_path / f"{FILE_NAME}.schema-1").exists()
