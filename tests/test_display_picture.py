from __future__ import annotations

import msgspec
from hypothesis import given, strategies as st

from floradl.display.board import Board
from floradl.display.plain import RunLine
from floradl.display.terminal import Pen, draw_ending, draw_view
from floradl.errors import ErrorCode
from floradl.models import QueuedRun, RunFailure, RunState
from floradl.runs.events import RunSummary

RUN = QueuedRun(run_id="run_1", technique="campaign", state=RunState.RUNNING, queued_at=0.0)
WIDE = Pen(200, "utf-8", colour=True)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def at(progress: float, run: QueuedRun = RUN) -> QueuedRun:
    return msgspec.structs.replace(run, progress=progress)


def ended(state: RunState, message: str | None = None, run: QueuedRun = RUN) -> QueuedRun:
    error = None if message is None else RunFailure(ErrorCode.SAFETY_BLOCKED, message)
    return msgspec.structs.replace(run, state=state, error=error)


def downloading(number: int = 1) -> QueuedRun:
    return QueuedRun(run_id=f"run_{number}", technique="campaign", state=RunState.DOWNLOADING, queued_at=0.0)


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
    board.finished(ended(RunState.DONE, run=downloading(2)), None)
    board.finished(ended(RunState.FAILED, "refused", run=downloading(3)), None)
    assert drawn(board, total=10)[-1].split(" · ") == [
        "  1 of 10 done",
        "1 failed",
        "1 running",
        "7 waiting",
        "0:00",
    ]


def batch_of(*sizes: int | None, seconds: float = 10) -> Board:
    """Return a board where a run ended, and one for each size has 1 MB."""
    clock = Clock()
    board = Board(clock)
    for number in range(len(sizes) + 1):
        board.run(downloading(number), None)
        board.transfer(downloading(number), "output_1", 0, sizes[number - 1] if number else 1_000_000)
    board.look(20)
    clock.now += seconds
    for number, size in enumerate(sizes, 1):
        board.transfer(downloading(number), "output_1", 1_000_000, size)
    board.transfer(downloading(0), "output_1", 1_000_000, 1_000_000)
    board.transferred(downloading(0), "output_1")
    board.finished(ended(RunState.DONE, run=downloading(0)), RunSummary("a.json", 1, 1, 1_000_000))
    board.look(20)
    return board


def test_the_overall_time_left_is_never_shorter_than_the_longest_transfers() -> None:
    lines = drawn(batch_of(2_000_000, 21_000_000))
    times = [line.split()[-1] for line in lines if "output_1" in line]
    assert times == ["0:10", "3:20"]
    assert lines[-2].endswith(" 3:20 left")


def test_no_overall_time_left_is_told_while_a_size_is_unknown() -> None:
    assert not drawn(batch_of(2_000_000, None))[-2].endswith("left")


def test_no_overall_time_left_is_told_while_a_run_has_not_begun() -> None:
    board = batch_of(2_000_000, 21_000_000)
    board.run(at(48, downloading(7)), 2.0)
    assert not drawn(board)[-2].endswith("left")


def test_no_overall_time_left_is_told_while_runs_are_still_to_come() -> None:
    assert not drawn(batch_of(2_000_000, 21_000_000), total=9)[-2].endswith("left")


def test_an_overall_bar_shows_the_part_and_the_rate() -> None:
    clock = Clock()
    board = Board(clock)
    for number in range(4):
        board.run(downloading(number), None)
    for number in range(2):
        board.transfer(downloading(number), "output_1", 0, 10_000_000)
    board.look(20)
    clock.now += 10
    board.transferred(downloading(0), "output_1")
    board.finished(ended(RunState.DONE, run=downloading(0)), RunSummary("a.json", 1, 1, 10_000_000))
    board.transfer(downloading(1), "output_1", 5_000_000, 10_000_000)
    board.look(20)
    line = drawn(board)[-2]
    assert line.split()[-4:] == ["38", "%", "500.0", "kB/s"]
    assert line.count("━") + line.count("╸") == 40
    assert "kB/s" not in drawn(board)[-1]


def test_a_single_run_has_no_overall_bar() -> None:
    board = Board(Clock())
    board.run(downloading(), None)
    board.transfer(downloading(), "output_1", 5, 10)
    assert len(drawn(board)) == 3


def test_the_overall_bar_begins_anew_with_the_next_batch() -> None:
    clock = Clock()
    board = Board(clock)
    for _ in range(2):
        board.run(downloading(1), None)
        board.run(downloading(2), None)
        clock.now += 5
        board.finished(ended(RunState.DONE, run=downloading(1)), None)
        assert drawn(board)[-2].split()[-2:] == ["50", "%"]
        board.finished(ended(RunState.DONE, run=downloading(2)), None)
        clock.now += 100


def test_where_no_run_is_open_the_daemons_picture_says_what_it_waits_for() -> None:
    board = Board(Clock())
    assert [line.plain for line in draw_view(WIDE, board.look(20), None, "waiting for jobs")] == [
        "waiting for jobs"
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
        RunState.DONE, run=msgspec.structs.replace(RUN, technique="art-directors-critique", label="x" * 50)
    )
    (line,) = draw_ending(
        Pen(44, "utf-8", colour=True), RunLine(run, RunSummary("a.json", 3, 3, 12_400_000), 4.2)
    )
    assert line.plain == "✓ art-direct…/run_1  3 files, 12.4 MB, 4.2 s"


def test_the_whole_reason_of_a_failure_is_told_in_a_narrow_window() -> None:
    reason = "the prompt was refused by the provider's filter: " + "画" * 30 + " is not allowed"
    lines = draw_ending(Pen(40, "utf-8", colour=True), RunLine(ended(RunState.FAILED, reason), None, 1.0))
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
        for state in (RunState.DONE, RunState.PARTIAL, RunState.FAILED)
        for line in draw_ending(pen, RunLine(ended(state, "x" * 300), RunSummary("a", 2, 1, 5), 1.0))
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
    for state in (RunState.DONE, RunState.PARTIAL, RunState.FAILED):
        lines += draw_ending(pen, RunLine(ended(state, message, run), RunSummary("a.json", 2, 1, 5), 1.0))
    for line in lines:
        assert line.cell_len <= width
        assert line.plain.isprintable()
        line.plain.encode(encoding)


def test_the_picture_holds_no_secret() -> None:
    message = "https://media.flora.ai/a.png?sig=topsecret does not answer"
    board = Board()
    board.trouble(RUN, message, 5.0)
    lines = drawn(board)
    lines += [line.plain for line in draw_ending(WIDE, RunLine(ended(RunState.FAILED, message), None, 1.0))]
    assert len([line for line in lines if "https://media.flora.ai/a.png?…" in line]) == 2
    assert not any("topsecret" in line for line in lines)
