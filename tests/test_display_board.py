from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, strategies as st

from floradl.display.board import Board, RunRow, TransferRow
from floradl.models import QueuedRun, RunState

RUN = QueuedRun(run_id="run_1", technique="campaign", state=RunState.RUNNING, queued_at=0.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(progress: float, run: QueuedRun = RUN) -> QueuedRun:
    return msgspec.structs.replace(run, progress=progress)


def ended(run: QueuedRun) -> QueuedRun:
    return msgspec.structs.replace(run, state=RunState.DONE)


def downloading(number: int = 1) -> QueuedRun:
    return QueuedRun(run_id=f"run_{number}", technique="campaign", state=RunState.DOWNLOADING, queued_at=0.0)


def test_a_rate_follows_what_arrives() -> None:
    clock = Clock()
    board = Board(clock)
    board.run(downloading(), None)
    board.transfer(downloading(), "output_1", 0, 10**9)
    view = board.look(10)
    for second in range(1, 21):
        clock.now += 1
        board.transfer(downloading(), "output_1", 5_000_000 * second, 10**9)
        view = board.look(10)
    assert view.rate == pytest.approx(5_000_000, rel=0.01)
    row = view.rows[1]
    assert isinstance(row, TransferRow)
    assert row.rate == pytest.approx(5_000_000, rel=0.01)
    for _ in range(30):
        clock.now += 1
        view = board.look(10)
    assert view.rate is not None
    assert view.rate < 5_000


def test_bytes_that_were_there_before_are_no_rate() -> None:
    clock = Clock()
    board = Board(clock)
    board.transfer(downloading(), "output_1", 900_000_000, 10**9)
    clock.now += 1
    rate = board.look(10).rate
    assert rate is not None
    assert rate <= 256 * 1024


def test_a_transfer_that_starts_over_has_no_negative_rate() -> None:
    clock = Clock()
    board = Board(clock)
    for received in (5_000_000, 9_000_000, 1000, 2000):
        clock.now += 1
        board.transfer(downloading(), "output_1", received, None)
        rate = board.look(10).rate
        assert rate is not None
        assert rate >= 0


def test_the_bytes_of_a_transfer_that_ended_between_two_looks_count() -> None:
    clock = Clock()
    board = Board(clock)
    board.transfer(downloading(2), "output_1", 0, None)
    board.transfer(downloading(1), "output_1", 100_000, 200_000)
    board.transfer(downloading(1), "output_1", 200_000, 200_000)
    board.transferred(downloading(1), "output_1")
    clock.now += 1
    assert board.look(10).rate == pytest.approx(200_000)


def test_runs_with_transfers_come_first_then_trouble_then_running_ones() -> None:
    board = Board()
    board.run(at(10, downloading(1)), 2.0)
    board.run(at(10, msgspec.structs.replace(RUN, run_id="run_2")), 2.0)
    board.trouble(msgspec.structs.replace(RUN, run_id="run_3"), "cannot reach it", 5.0)
    board.run(downloading(4), None)
    board.transfer(downloading(4), "output_1", 1, 2)
    seen = [row.run.run_id for row in board.look(20).rows if isinstance(row, RunRow)]
    assert seen == ["run_4", "run_1", "run_3", "run_2"]


def test_a_run_with_more_transfers_than_lines_is_cut() -> None:
    board = Board()
    board.run(downloading(), None)
    for number in range(50):
        board.transfer(downloading(), f"output_{number}", 1, 2)
    view = board.look(5)
    assert len(view.rows) == 5
    assert view.hidden == 0


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["run", "downloading", "trouble", "transfer", "transferred", "finished"]),
        st.integers(0, 6),
        st.sampled_from("abc"),
        st.integers(0, 10**9),
    ),
    max_size=60,
)


@given(EVENTS, st.integers(0, 12))
def test_no_more_is_seen_than_there_is_room_for_and_nothing_is_miscounted(
    events: list[tuple[str, int, str, int]], lines: int
) -> None:
    board, still_open = Board(), set[int]()
    for event, number, output_id, size in events:
        run = downloading(number)
        match event:
            case "run" | "downloading":
                board.run(
                    msgspec.structs.replace(run, state=RunState.RUNNING) if event == "run" else run, None
                )
                still_open.add(number)
            case "trouble":
                board.trouble(run, "trouble", 1.0)
                still_open.add(number)
            case "transfer" if number in still_open:
                board.transfer(run, output_id, size, None)
            case "transferred":
                board.transferred(run, output_id)
            case "finished":
                board.finished(ended(run), None)
                still_open.discard(number)
            case _:
                pass
    view = board.look(lines)
    shown = [row for row in view.rows if isinstance(row, RunRow)]
    assert len(view.rows) + bool(view.hidden) <= max(lines, 1)
    assert len(shown) + view.hidden == len(still_open) == sum(view.stages.values())
    assert view.tally.ended == len(board.endings)


def test_looking_goes_through_no_more_runs_than_it_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    gone_through: list[object] = []
    in_order = Board._in_order

    def counted(board: Board, active: Iterable[str]) -> Iterator[Any]:
        for entry in in_order(board, active):
            gone_through.append(entry)
            yield entry

    monkeypatch.setattr(Board, "_in_order", counted)
    board = Board()
    for number in range(100_000):
        board.run(msgspec.structs.replace(RUN, run_id=f"run_{number}"), 2.0)
    view = board.look(20)
    assert len(gone_through) <= 2 * 21  # twice, once it is known that a line must say how many are hidden
    assert view.hidden == 100_000 - 19


def test_looking_and_hearing_at_once_do_not_disturb_each_other() -> None:
    board = Board()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            while not stop.is_set():
                run = downloading(number)
                board.run(run, None)
                for output in range(50):
                    board.transfer(run, f"output_{output}", 1, 20)
                for output in range(50):
                    board.transferred(run, f"output_{output}")
                board.finished(ended(run), None)
        except BaseException as error:  # noqa: BLE001  # of a thread, to be told by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # so that threads meet everywhere
    try:
        for thread in threads:
            thread.start()
        for _ in range(1000):
            board.look(30)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        sys.setswitchinterval(usual)
    assert not failures
    assert board.look(30).tally.done == len(board.endings)
