from __future__ import annotations

import sys
import threading
import time

import msgspec
import pytest
from hypothesis import given, strategies as st

from floradl.display.board import Board, RunRow, TransferRow
from floradl.display.endings import Ending, Saved
from floradl.display.frames import Pen, draw_ending, draw_view
from floradl.errors import ErrorCode
from floradl.models import Failure, QueuedRun, State

RUN = QueuedRun(run_id="run_1", technique="campaign", state=State.RUNNING, queued_at=0.0)
WIDE = Pen(200, "utf-8", colour=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(progress: float, run: QueuedRun = RUN) -> QueuedRun:
    return msgspec.structs.replace(run, progress=progress)


def ended(state: State, message: str | None = None, run: QueuedRun = RUN) -> QueuedRun:
    error = None if message is None else Failure(ErrorCode.SAFETY_BLOCKED, message)
    return msgspec.structs.replace(run, state=state, error=error)


def downloading(number: int = 1) -> QueuedRun:
    return QueuedRun(run_id=f"run_{number}", technique="campaign", state=State.DOWNLOADING, queued_at=0.0)


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
                board.run(msgspec.structs.replace(run, state=State.RUNNING) if event == "run" else run, None)
                still_open.add(number)
            case "trouble":
                board.trouble(run, "trouble", 1.0)
                still_open.add(number)
            case "transfer" if number in still_open:
                board.transfer(run, output_id, size, None)
            case "transferred":
                board.transferred(run, output_id)
            case "finished":
                board.finished(ended(State.DONE, run=run), None)
                still_open.discard(number)
            case _:
                pass
    view = board.look(lines)
    shown = [row for row in view.rows if isinstance(row, RunRow)]
    assert len(view.rows) + bool(view.hidden) <= max(lines, 1)
    assert len(shown) + view.hidden == len(still_open) == sum(view.stages.values())
    assert view.tally.ended == len(board.endings)


def test_looking_costs_no_more_with_a_hundred_thousand_runs() -> None:
    board = Board()
    for number in range(100_000):
        board.run(msgspec.structs.replace(RUN, run_id=f"run_{number}"), 2.0)
    view = board.look(20)
    started = time.process_time()
    for _ in range(200):
        view = board.look(20)
    # Going through all of them would take some 10 ms each time.
    assert time.process_time() - started < 1.0
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
                board.finished(ended(State.DONE, run=run), None)
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


def drawn(board: Board, pen: Pen = WIDE, total: int | None = None) -> list[str]:
    return [line.plain for line in draw_view(pen, board.look(20), total)]


def test_a_transfer_shows_bytes_total_rate_and_time_left() -> None:
    clock = Clock()
    board = Board(clock)
    board.run(downloading(), None)
    board.transfer(downloading(), "output_1", 0, 20_000_000)
    clock.now += 2
    board.transfer(downloading(), "output_1", 8_000_000, 20_000_000)
    board.look(20)
    line = next(line for line in drawn(board) if "output_1" in line)
    assert line.split()[-5:] == ["8.0/20.0", "MB", "4.0", "MB/s", "0:03"]
    assert line.count("━") + line.count("╸") == 40


def test_the_sum_at_the_bottom_counts_runs_not_heard_of_yet() -> None:
    board = Board(Clock())
    board.run(at(48), 2.0)
    board.finished(ended(State.DONE, run=downloading(2)), None)
    board.finished(ended(State.FAILED, "refused", run=downloading(3)), None)
    assert drawn(board, total=10)[-1].split(" · ") == [
        "  1 of 10 done",
        "1 failed",
        "1 running",
        "7 waiting",
        "0:00",
    ]


def test_a_run_under_way_shows_what_flora_says_of_its_progress() -> None:
    board = Board()
    board.run(at(48), 2.0)
    assert drawn(board)[0].endswith(" 48 %")


def test_trouble_shows_when_the_next_try_is() -> None:
    clock = Clock()
    board = Board(clock)
    board.trouble(RUN, "cannot reach app.flora.ai", 5.0)
    clock.now += 2
    assert drawn(board)[0] == "! campaign/run_1  next try in 3 s: cannot reach app.flora.ai"
    clock.now += 4
    assert drawn(board)[0] == "! campaign/run_1  trying again: cannot reach app.flora.ai"


def test_a_reason_takes_the_room_that_order_would_leave_empty() -> None:
    board = Board(Clock())
    board.trouble(RUN, "cannot reach app.flora.ai", 5.0)
    board.run(at(0, msgspec.structs.replace(RUN, run_id="run_with_a_long_name", technique=None)), 2.0)
    assert drawn(board, Pen(70, "utf-8", colour=True))[0].startswith("! campaign/run_1        next try")
    assert drawn(board, Pen(60, "utf-8", colour=True))[0].endswith(
        "/run_1  next try in 5 s: cannot reach app.flora.ai"
    )


def test_runs_without_room_are_counted() -> None:
    board = Board()
    for number in range(56):
        board.run(downloading(number), None)
    assert drawn(board)[-2] == "  … and 37 more"


def test_a_finished_run_keeps_its_numbers_where_the_window_is_narrow() -> None:
    run = ended(
        State.DONE, run=msgspec.structs.replace(RUN, technique="art-directors-critique", label="x" * 50)
    )
    (line,) = draw_ending(Pen(44, "utf-8", colour=True), Ending(run, "a.json", 4.2), Saved(3, 3, 12_400_000))
    assert line.plain == "✓ art-direct…/run_1  3 files, 12.4 MB, 4.2 s"


def test_the_whole_reason_of_a_failure_is_told_in_a_narrow_window() -> None:
    reason = "the prompt was refused by the provider's filter: " + "画" * 30 + " is not allowed"
    lines = draw_ending(Pen(40, "utf-8", colour=True), Ending(ended(State.FAILED, reason), None, 1.0), None)
    told = "".join(line.plain.strip() for line in lines[1:]).replace(" ", "")
    assert told == f"safety_blocked:{reason}".replace(" ", "")


def test_without_colours_a_bar_still_tells_full_from_empty() -> None:
    assert WIDE.bar(0.5, 10, "cyan").plain == "━" * 10
    assert Pen(80, "utf-8", colour=False).bar(0.5, 10, "cyan").plain == "━" * 5 + " " * 5


def test_a_terminal_without_utf_8_gets_ascii() -> None:
    pen = Pen(80, "latin-1", colour=True)
    board = Board()
    board.run(downloading(), None)
    board.transfer(downloading(), "output_é", 5, 10)
    board.trouble(msgspec.structs.replace(RUN, run_id="run_2"), "refused " * 20, 3.0)
    for number in range(3, 40):
        board.run(at(30, msgspec.structs.replace(RUN, run_id=f"run_{number}")), 2.0)
    endings = [
        line.plain
        for state in (State.DONE, State.PARTIAL, State.FAILED)
        for line in draw_ending(pen, Ending(ended(state, "x" * 300), "a", 1.0), Saved(2, 1, 5))
    ]
    for line in [*drawn(board, pen), *endings]:
        assert line.replace("é", "").isascii()


TEXTS = st.text(max_size=60) | st.sampled_from(
    ["画" * 40, "e\u0301" * 30, "👩‍👩‍👧‍👦" * 5, "❤️" * 9, "\x1b[31m"]
)


@given(TEXTS, TEXTS, TEXTS, st.integers(20, 120), st.sampled_from(["utf-8", "ascii"]))
def test_no_line_is_wider_than_the_terminal_and_none_steers_it(
    run_id: str, label: str, message: str, width: int, encoding: str
) -> None:
    pen = Pen(width, encoding, colour=True)
    run = msgspec.structs.replace(RUN, run_id=run_id, label=label, technique=label or None)
    board = Board()
    board.trouble(run, message, 5.0)
    board.transfer(run, message, 5, 10)
    board.run(at(50, msgspec.structs.replace(run, run_id=run_id + "2")), 2.0)
    lines = draw_view(pen, board.look(20), 12)
    for state in (State.DONE, State.PARTIAL, State.FAILED):
        lines += draw_ending(pen, Ending(ended(state, message, run), "a.json", 1.0), Saved(2, 1, 5))
    for line in lines:
        assert line.cell_len <= width
        assert line.plain.isprintable()
        line.plain.encode(encoding)


def test_the_picture_holds_no_secret() -> None:
    message = "https://media.flora.ai/a.png?sig=topsecret does not answer"
    board = Board()
    board.trouble(RUN, message, 5.0)
    lines = drawn(board)
    lines += [line.plain for line in draw_ending(WIDE, Ending(ended(State.FAILED, message), None, 1.0), None)]
    assert len([line for line in lines if "https://media.flora.ai/a.png?…" in line]) == 2
    assert not any("topsecret" in line for line in lines)
