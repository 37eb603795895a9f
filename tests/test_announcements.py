"""What the journal keeps for hooks."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from floradl.models import Action, Order, Reference
from floradl.state import migrations
from floradl.state.announcements import Announcement, ToldPause
from floradl.state.store import FILE_NAME, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path)
    store.add([Order(Reference(f"run_{name}")) for name in "abc"], 1.0, again=True)
    yield store
    store.close()


def test_without_a_hook_nothing_is_kept(store: Store) -> None:
    store.announcements.add("run_a", "a.json")
    store.announcements.expect(finished=True)
    assert store.announcements.after(0) == []


def test_what_is_expected_is_kept_in_order_until_it_is_dropped(store: Store) -> None:
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
    assert store.announcements.load(again) == Announcement(again, "run_c", "c.json", 0)


def test_tries_are_counted_over_a_restart(store: Store, tmp_path: Path) -> None:
    store.announcements.expect(finished=True)
    store.announcements.add("run_a", "a.json")
    store.announcements.failed(1)
    store.announcements.failed(1)
    store.close()
    later = Store.open(tmp_path)
    later.announcements.expect(finished=True)
    assert later.announcements.load(1) == Announcement(1, "run_a", "a.json", 2)
    later.close()


def test_a_run_that_was_forgotten_meanwhile_is_not_announced(store: Store) -> None:
    store.announcements.expect(finished=True)
    store.add([Order(Reference("run_a"), action=Action.FORGET)], 2.0, again=True)
    store.announcements.add("run_a", "a.json")
    assert store.announcements.after(0) == []


def test_what_waits_goes_with_its_hook(store: Store) -> None:
    store.announcements.expect(finished=True)
    store.announcements.add("run_a", "a.json")
    store.announcements.expect(finished=False)
    store.announcements.expect(finished=True)
    assert store.announcements.after(0) == []


def test_the_last_pause_of_each_reason_is_remembered(store: Store) -> None:
    full = ToldPause("disk_full", 5.0, 6.0)
    refused = ToldPause("key_refused", 1.0, 2.0, over=True)
    for told in (ToldPause("key_refused", 0.0, 0.0), full, refused):
        store.announcements.put_pause(told)
    assert sorted(store.announcements.told_pauses(), key=lambda told: told.reason) == [full, refused]


def test_a_journal_of_before_hooks_is_brought_up_to_date(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr(migrations, "MIGRATIONS", migrations.MIGRATIONS[:1])
        store = Store.open(tmp_path)
        store.add([Order(Reference("run_a"))], 1.0, again=True)
        with pytest.raises(sqlite3.OperationalError):
            store.announcements.after(0)
        store.close()
    store = Store.open(tmp_path)
    assert store.open_ids() == ["run_a"]
    assert store.announcements.after(0) == []
    store.close()
    assert (tmp_path / f"{FILE_NAME}.schema-1").exists()
