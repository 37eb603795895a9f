"""The picture that moves: one thread looks at the board and draws; all that the terminal gets comes from it.

So neither does a slow terminal hold up the work, nor a line of the log tear the picture.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Self, TextIO

from msgspec import Struct
from msgspec.structs import replace
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from floradl.display.board import Board, BoardView, RunRow, TransferRow, TransferStage
from floradl.display.plain import RunLine, format_part, format_rate, format_seconds, gains, shown, summary
from floradl.models import QueuedRun, RunState
from floradl.runs.events import RunEvents
from floradl.units import format_clock

_SHORTEST_BAR, _LONGEST_BAR = 8, 40
_MOST_LINES = 6  # of one failure's reason
_EVERY = 0.1  # seconds from look to look
_SHARE = 25  # drawing takes one part of so many: a tall window or a slow line costs pictures, not the work
_TOLD_AFTER = 2.0  # seconds from which on the time left of all runs is told
_LONGEST_TOLD = 360_000.0  # seconds; what takes longer has stalled
_IDLE_EVERY = 1.0  # seconds from look to look, where no run is open
_AT_ONCE = 500  # ended runs printed at one look


class Signs(Struct, frozen=True):
    """The characters to draw with."""

    done: str = "✓"
    partial: str = "◐"
    failed: str = "✗"
    trouble: str = "!"
    spinner: str = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
    full: str = "━"
    half: str = "╸"
    track: str = "━"
    dot: str = "·"
    ellipsis: str = "…"


_ASCII = Signs("+", "%", "x", "!", "|/-\\", "#", "#", "-", "|", "...")


class Pen(Struct, frozen=True):
    """How to draw for one terminal: its width in cells, its encoding, and whether it has colours."""

    width: int
    encoding: str
    colour: bool

    @classmethod
    def of(cls, console: Console) -> Self:
        """Return the pen for a console as it is now."""
        colour = console.color_system is not None and not console.no_color
        return cls(console.width, console.encoding, colour)

    @property
    def signs(self) -> Signs:
        """The signs that the encoding can write."""
        return Signs() if self.encoding.lower().startswith("utf") else _ASCII

    def text(self, text: str, style: str = "") -> Text:
        """Return a text from outside, fit to be seen."""
        return Text(shown(text, self.encoding), style)

    def cut(self, text: Text, width: int | None = None) -> Text:
        """Return `text` cut to `width` cells, by default the terminal's."""
        width = self.width if width is None else width
        if text.cell_len > width:
            ellipsis = self.signs.ellipsis
            text.truncate(max(0, width - cell_len(ellipsis)))
            text.append(ellipsis, "dim")
        return text

    def name(self, run: QueuedRun, width: int) -> Text:
        """Return a run's reference within `width`, technique cut first, and its label where there is room."""
        run_id = self.text(run.run_id)
        text = Text()
        if run.technique:
            technique = self.text(run.technique, "dim")
            text.append_text(self.cut(technique, max(8, width - run_id.cell_len - 1))).append("/", "dim")
        text.append_text(run_id)
        if run.label:
            label = self.text(f" {run.label}", "italic")
            if text.cell_len + label.cell_len <= width:
                text.append_text(label)
        return self.cut(text, width)

    def bar(self, part: float, width: int, style: str) -> Text:
        """Return a bar of `width` cells, filled to `part` (0 to 1)."""
        signs = self.signs
        halves = int(min(max(part, 0.0), 1.0) * width * 2)
        bar = Text().append(signs.full * (halves // 2) + signs.half * (halves % 2), style)
        # Without colours a full bar and its track would look the same.
        track = signs.track if self.colour or signs.track != signs.full else " "
        return bar.append(track * (width - len(bar)), "dim")


def draw_ending(pen: Pen, ending: RunLine) -> list[Text]:
    """Return the lines that stay for a finished run: one, or more where a failure has a long reason."""
    run = ending.run
    sign, style = {
        RunState.PARTIAL: (pen.signs.partial, "yellow"),
        RunState.FAILED: (pen.signs.failed, "red"),
    }.get(run.state, (pen.signs.done, "green"))
    text = pen.text("" if run.state is RunState.FAILED else gains(ending), "dim")
    room = pen.width - 2 - (text.cell_len + 2 if text else 0)
    line = Text().append(f"{sign} ", style).append_text(pen.name(run, max(room, len(run.run_id) + 10)))
    if text:
        line.append("  ").append_text(text)
    if run.error is None:
        return [pen.cut(line)]
    because = Text().append(f"{run.error.code}: ", style).append_text(pen.text(run.error.message))
    if line.cell_len + 2 + because.cell_len <= pen.width:
        return [line.append("  ").append_text(because)]
    return [pen.cut(line), *_folded(pen, because)]


def _folded(pen: Pen, text: Text) -> Iterator[Text]:
    width = max(8, pen.width - 4)
    rest = text
    for last in [False] * (_MOST_LINES - 1) + [True]:
        if rest.cell_len <= width or last:
            yield Text("    ").append_text(pen.cut(rest, width))
            return
        end = rest.plain.rfind(" ", width // 2, width + 1)
        line, rest = rest.divide([end if end > 0 else _fitting(rest.plain, width)])
        yield Text("    ").append_text(line)
        if rest.plain.startswith(" "):
            rest = rest[1:]


def _fitting(text: str, width: int) -> int:
    for count in range(min(width, len(text)), 1, -1):
        if cell_len(text[:count]) <= width:
            return count
    return 1


def draw_view(pen: Pen, view: BoardView, total: int | None, idle: str | None = None) -> list[Text]:
    """Return the lines that move: runs under way, their transfers, how far all is, and the sum of it all.

    `total` is how many runs there will be, if that is known; `idle` is said where no run is open.
    """
    spin = pen.signs.spinner[int(view.elapsed * 10) % len(pen.signs.spinner)]
    runs = [row for row in view.rows if isinstance(row, RunRow)]
    outputs = [row for row in view.rows if isinstance(row, TransferRow)]
    names = {row.run.run_id: pen.name(row.run, pen.width // 2) for row in runs}
    column = max((name.cell_len for name in names.values()), default=0)
    of_outputs = max((cell_len(_output(pen, row).plain) for row in outputs), default=0)
    lines = []
    for row in view.rows:
        if isinstance(row, RunRow):
            name = names[row.run.run_id]
            name.pad_right(column - name.cell_len)
            lines.append(pen.cut(_run(pen, row, name, spin)))
        else:
            lines.append(pen.cut(_transfer(pen, row, of_outputs)))
    if view.hidden:
        lines.append(Text(f"  {pen.signs.ellipsis} and {view.hidden:,} more", "dim"))
    overall = _overall(pen, view, total)
    if overall is not None:
        lines.append(pen.cut(overall))
        view = replace(view, rate=None)  # said there
    lines.append(pen.cut(_sum(pen, view, total, idle or f"{spin} asking FLORA")))
    return lines


def _overall(pen: Pen, view: BoardView, total: int | None) -> Text | None:
    """Return a bar for all runs together, with rate and time left; None for a single one, or too early."""
    batch, open_runs = view.batch, sum(view.stages.values())
    if batch is None or not open_runs:
        return None
    runs = max(total or 0, batch.ended + open_runs)
    part = (batch.ended + batch.partial) / runs
    if runs < 2 or part <= 0:
        return None
    texts = [f"{100 * part:3.0f} %"]
    if view.rate is not None:
        texts.append(format_rate(view.rate))
    begun = runs == batch.ended + open_runs and batch.seconds >= _TOLD_AFTER
    if begun and batch.left is not None and batch.left < _LONGEST_TOLD:
        texts.append(f"{format_clock(batch.left)} left")
    room = pen.width - 2 - sum(len(text) + 2 for text in texts)
    line = Text("  ")
    if room >= _SHORTEST_BAR:
        line.append_text(pen.bar(part, min(room, _LONGEST_BAR), "green"))
    for text, style in zip(texts, ("", "cyan", "dim"), strict=False):
        line.append(f"  {text}", style)
    return line


def _run(pen: Pen, row: RunRow, name: Text, spin: str) -> Text:
    if row.stage is TransferStage.TROUBLED:
        when = f"next try in {format_seconds(round(row.next_in))}" if row.next_in else "trying again"
        text = Text().append(f"  {when}: ", "yellow").append_text(pen.text(row.message or ""))
        if 2 + name.cell_len + text.cell_len > pen.width:
            name.rstrip()  # the reason needs the room more than the column its order
        return Text().append(f"{pen.signs.trouble} ", "yellow").append_text(name).append_text(text)
    line = Text().append(f"{spin} ", "cyan").append_text(name).append("  ")
    if row.stage is TransferStage.RUNNING and row.run.progress > 0:
        line.append_text(pen.bar(row.run.progress / 100, 12, "magenta"))
        return line.append(f" {row.run.progress:3.0f} %")
    return line if row.moving else line.append(row.stage.value, "dim")  # its bars show that


def _output(pen: Pen, row: TransferRow) -> Text:
    return pen.cut(pen.text(row.output_id), min(24, pen.width // 4))


def _transfer(pen: Pen, row: TransferRow, column: int) -> Text:
    line = Text("    ").append_text(_output(pen, row))
    line.pad_right(4 + column - line.cell_len)
    numbers = [
        f"{format_part(row.received, row.total):>14}",
        f"{format_rate(row.rate):>10}",
        f"{_left(row):>7}",
    ]
    while len(numbers) > 1 and line.cell_len + sum(len(number) + 2 for number in numbers) > pen.width - 10:
        numbers.pop()
    room = pen.width - line.cell_len - sum(len(number) + 2 for number in numbers) - 2
    if room >= _SHORTEST_BAR:
        part = row.received / row.total if row.total else 0.0
        line.append("  ").append_text(pen.bar(part, min(room, _LONGEST_BAR), "cyan"))
    for number, style in zip(numbers, ("", "cyan", "dim"), strict=False):
        line.append(f"  {number}", style)
    return line


def _sum(pen: Pen, view: BoardView, total: int | None, idle: str) -> Text:
    tally, stages = view.tally, view.stages
    open_runs = sum(stages.values())
    if not tally.ended and not open_runs:
        return pen.text(idle, "dim")
    unseen = 0 if total is None else max(0, total - tally.ended - open_runs)
    done = f"of {total:,} done" if total and total > 1 else "done"
    numbers = [
        (tally.done, done, "green"),
        (tally.partial, "partial", "yellow"),
        (tally.failed, "failed", "red"),
    ]
    numbers += [
        (stages[stage] + (unseen if stage is TransferStage.WAITING else 0), stage.value, "")
        for stage in TransferStage
    ]
    parts = [(f"{number:,} {word}", style) for number, word, style in numbers if number]
    if view.rate is not None:
        parts.append((format_rate(view.rate), "cyan"))
    line = Text(" ")
    for part, style in [*parts, (format_clock(view.elapsed), "dim")]:
        if line.cell_len > 1:
            if line.cell_len + 3 + len(part) > pen.width:
                break
            line.append(f" {pen.signs.dot}", "dim")
        line.append(" ").append(part, style)
    return line


def _left(row: TransferRow) -> str:
    if row.total is None or not row.rate or row.rate < 1:
        return ""
    seconds = max(0, row.total - row.received) / row.rate
    return format_clock(seconds) if seconds < _LONGEST_TOLD else ""


@contextmanager
def redrawn(stream: TextIO) -> Iterator[Callable[[Callable[[int], Sequence[str | BoardView]]], None]]:
    """Give what draws a whole picture on the terminal `stream`, in place of the one before.

    It takes what returns, for a number of lines, texts and views from top to bottom. The last picture stays.
    """
    console = _console(stream)
    live = Live(console=console, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)

    def draw(picture: Callable[[int], Sequence[str | BoardView]]) -> None:
        pen, room = Pen.of(console), max(4, console.height - 1)
        lines: list[Text] = []
        for part in picture(room):
            lines += draw_view(pen, part, None) if isinstance(part, BoardView) else [pen.cut(pen.text(part))]
        live.update(Group(*lines[:room]), refresh=True)

    with live:
        console.show_cursor(True)  # it would stay hidden after a kill
        yield draw


def _console(stream: TextIO) -> Console:
    return Console(
        file=stream,
        force_terminal=True,
        force_interactive=True,
        markup=False,
        emoji=False,
        highlight=False,
    )


@contextmanager
def on_terminal(stream: TextIO, total: int | None, idle: str | None = None) -> Iterator[RunEvents]:
    """Show on the terminal `stream` what the `RunEvents` gets; the arguments are those of `open_display`."""
    board = Board()
    above: deque[str] = deque()
    picture = _Picture(stream, board, above, total, idle)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Above(old, above) if _same(old, stream) else old for old in streams)
    picture.start()
    try:
        yield board
    finally:
        for each in (sys.stdout, sys.stderr):
            if isinstance(each, _Above):
                each.end_line()
        sys.stdout, sys.stderr = streams
        picture.finish()


class _Picture(threading.Thread):
    """Draws, from `start` to `finish`."""

    def __init__(
        self, stream: TextIO, board: Board, above: deque[str], total: int | None, idle: str | None
    ) -> None:
        super().__init__(name="display", daemon=True)
        self._console = _console(stream)
        self._stream = stream
        self._board = board
        self._above = above
        self._total = total
        self._idle = idle
        self._done = threading.Event()

    def run(self) -> None:
        try:
            self._draw()
        except OSError:
            return  # the terminal is gone: the work goes on in silence
        except ValueError:
            if not self._stream.closed:
                raise

    def finish(self) -> None:
        self._done.set()
        self.join()
        for line in self._drain():  # where it was cut short
            with suppress(OSError, ValueError):
                self._stream.write(line + "\n")

    def _draw(self) -> None:
        console = self._console
        live = Live(
            console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        with live:
            # A hidden cursor would stay hidden after a kill; and it would be gone after Ctrl-Z.
            console.show_cursor(True)
            pause = _EVERY
            while not self._done.wait(pause):
                before = time.monotonic()
                busy = self._look(live)
                pause = min(1.0, max(_EVERY, _SHARE * (time.monotonic() - before)))
                if self._idle is not None and not busy:
                    pause = _IDLE_EVERY
            while self._board.endings or self._above:
                self._look(live)
            live.update("")
        view = self._board.look(0)
        left = max(sum(view.stages.values()), (self._total or 0) - view.tally.ended)
        if view.tally.ended + left > 1:
            console.print(Text(summary(view.tally, left, view.elapsed)), overflow="fold")

    def _look(self, live: Live) -> bool:
        """Draw; return whether a run is open."""
        console, board = self._console, self._board
        pen = Pen.of(console)
        lines = [Text.from_ansi(line) for line in self._drain()]
        for _ in range(min(_AT_ONCE, len(board.endings))):
            lines += draw_ending(pen, board.endings.popleft())
        room = max(2, console.height * 2 // 3)  # finished runs stay in sight above
        view = board.look(max(1, room - 2))
        live.update(Group(*draw_view(pen, view, self._total, self._idle)))
        if lines:
            console.print(*lines, sep="\n", overflow="fold")  # draws the picture below it too
        else:
            live.refresh()
        return any(view.stages.values())

    def _drain(self) -> Iterator[str]:
        while self._above:
            line = self._above.popleft()
            yield line.encode(self._console.encoding, "backslashreplace").decode(self._console.encoding)


class _Above(io.TextIOBase):
    """Stands in for a stream that is the same terminal: its lines go above the picture."""

    def __init__(self, stream: TextIO, lines: deque[str]) -> None:
        self._stream = stream
        self._lines = lines
        self._lock = threading.Lock()
        self._begun = ""

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            self._lines.extend(lines)
        return len(text)

    def end_line(self) -> None:
        if self._begun:
            self.write("\n")

    def isatty(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()


def _same(stream: TextIO | None, terminal: TextIO) -> bool:
    if stream is None:
        return False
    try:
        return stream.isatty() and os.path.sameopenfile(stream.fileno(), terminal.fileno())
    except (OSError, ValueError):
        return False
