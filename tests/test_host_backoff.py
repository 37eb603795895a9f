"""When a daemon counts as stuck: work that nobody takes on, whichever part of it hangs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any, cast

import anyio
import pytest

from floradl.daemon.run import _quiet
from floradl.errors import PauseReason
from floradl.polling.circuit_breaker import Pause
from floradl.queue.base import QueueTrouble

_HOUR = 3600.0


class Parts:
    """The parts of a daemon, as far as their clocks go; each was last at work just now."""

    def __init__(self) -> None:
        now = time.monotonic()
        self.scheduler = SimpleNamespace(turned_at=now, idle=True, paused=None, rests_until=now - _HOUR)
        self.flora = SimpleNamespace(silent_until=now - 2 * _HOUR)
        self.saver = SimpleNamespace(quiet_hosts={"media.example": now - 2 * _HOUR})
        self.queue = SimpleNamespace(trouble=None)
        self.progress = SimpleNamespace(bytes_at=now)
        self.intake = SimpleNamespace(turned_at=now, served=anyio.Event())
        self.start = SimpleNamespace(turned_at=now, pause=None)
        self.intake.served.set()

    def quiet(self) -> float:
        parts: Any = self
        works = cast(
            "Any",
            SimpleNamespace(
                scheduler=parts.scheduler, queue=parts.queue, flora=parts.flora, saver=parts.saver
            ),
        )
        return _quiet(works, parts.progress, parts.intake, parts.start)


@pytest.fixture
def parts() -> Parts:
    return Parts()


def is_stuck(parts: Parts) -> bool:
    return parts.quiet() >= _HOUR


def test_an_hour_without_runs_is_no_fault(parts: Parts) -> None:
    parts.scheduler.turned_at -= _HOUR
    parts.progress.bytes_at -= _HOUR
    parts.start.turned_at -= _HOUR
    assert not is_stuck(parts)


def test_runs_that_nobody_looks_at_are_a_fault(parts: Parts) -> None:
    parts.scheduler.turned_at -= _HOUR
    parts.progress.bytes_at -= _HOUR
    parts.scheduler.idle = False
    assert is_stuck(parts)


def works_and_nothing_moves(parts: Parts) -> None:
    parts.scheduler.turned_at -= 2 * _HOUR
    parts.scheduler.rests_until -= _HOUR
    parts.progress.bytes_at -= 2 * _HOUR
    parts.scheduler.idle = False
    assert is_stuck(parts)


@pytest.mark.parametrize("ahead", [-60.0, 60.0, _HOUR])
def test_a_long_poll_interval_is_no_fault(parts: Parts, ahead: float) -> None:
    works_and_nothing_moves(parts)
    parts.scheduler.rests_until = time.monotonic() + ahead  # when the next look is due, or was
    assert not is_stuck(parts)


@pytest.mark.parametrize("ahead", [-60.0, 60.0, _HOUR])
def test_an_hour_of_silence_that_flora_asked_for_is_no_fault(parts: Parts, ahead: float) -> None:
    works_and_nothing_moves(parts)
    parts.flora.silent_until = time.monotonic() + ahead
    assert not is_stuck(parts)


@pytest.mark.parametrize("ahead", [-60.0, 60.0, _HOUR])
def test_an_hour_of_silence_that_a_media_host_asked_for_is_no_fault(parts: Parts, ahead: float) -> None:
    works_and_nothing_moves(parts)
    parts.saver.quiet_hosts["busy.example"] = time.monotonic() + ahead
    assert not is_stuck(parts)


def test_a_transfer_that_goes_on_for_an_hour_is_none(parts: Parts) -> None:
    parts.scheduler.turned_at -= _HOUR
    parts.scheduler.idle = False
    assert not is_stuck(parts)


def test_an_inbox_that_nobody_looks_at_is_a_fault_even_where_no_run_is_open(parts: Parts) -> None:
    parts.intake.turned_at -= _HOUR
    assert is_stuck(parts)


def test_an_inbox_that_hangs_is_told_though_runs_go_on(parts: Parts) -> None:
    parts.intake.turned_at -= _HOUR
    parts.scheduler.idle = False
    assert is_stuck(parts)


def test_a_start_that_fills_the_journal_for_an_hour_is_none_while_it_gets_on(parts: Parts) -> None:
    parts.intake.served = anyio.Event()
    parts.intake.turned_at -= _HOUR
    assert not is_stuck(parts)


def test_a_start_that_hangs_is_a_fault(parts: Parts) -> None:
    parts.intake.served = anyio.Event()
    parts.intake.turned_at -= _HOUR
    parts.start.turned_at -= _HOUR
    assert is_stuck(parts)


@pytest.mark.parametrize("recorded", [True, False])
def test_a_pause_is_none_however_long(parts: Parts, *, recorded: bool) -> None:
    parts.intake.turned_at -= _HOUR
    parts.scheduler.idle = False
    parts.scheduler.turned_at -= _HOUR
    if recorded:
        parts.scheduler.paused = Pause(PauseReason.KEY_REFUSED, "refused", time.time() - _HOUR)
    else:
        parts.queue.trouble = QueueTrouble("no room", time.time() - _HOUR)
    assert parts.quiet() == 0
