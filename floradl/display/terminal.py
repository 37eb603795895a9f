"""The picture that moves: one thread looks at the board and draws; all that the terminal gets comes from it.

So neither a slow terminal holds up the work, nor does a line of the log tear the picture.
"""

from __future__ import annotations

import io
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from floradl.display.board import Board
from floradl.display.frames import Pen, draw_ending, draw_view
from floradl.display.results import summary
from floradl.runs.events import RunEvents

_EVERY = 0.1  # seconds from look to look
_SHARE = 25  # drawing takes one part of so many: a tall window or a slow line costs pictures, not the work
_AT_ONCE = 500  # ended runs printed at one look


@contextmanager
def on_terminal(stream: TextIO, total: int | None) -> Iterator[RunEvents]:
    """Show on the terminal `stream` what the `RunEvents` gets; the arguments are those of `open_display`."""
    board = Board()
    above: deque[str] = deque()
    picture = _Picture(stream, board, above, total)
    streams = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Above(old, above) if _same(old, stream) else old for old in streams)
    picture.start()
    try:
        yield board
    finally:
        for standing in (sys.stdout, sys.stderr):
            if isinstance(standing, _Above):
                standing.end_line()
        sys.stdout, sys.stderr = streams
        picture.finish()


class _Picture(threading.Thread):
    """Draws, from `start` to `finish`."""

    def __init__(self, stream: TextIO, board: Board, above: deque[str], total: int | None) -> None:
        super().__init__(name="display", daemon=True)
        self._console = Console(
            file=stream,
            force_terminal=True,
            force_interactive=True,
            markup=False,
            emoji=False,
            highlight=False,
        )
        self._stream = stream
        self._board = board
        self._above = above
        self._total = total
        self._done = threading.Event()

    def run(self) -> None:
        """Draw until asked to finish, or until nobody can see it any more."""
        try:
            self._draw()
        except OSError:
            return  # the terminal is gone: the work goes on in silence
        except ValueError:
            if not self._stream.closed:
                raise

    def finish(self) -> None:
        """Draw what is left to tell, and leave the terminal as it was."""
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
                self._look(live)
                pause = min(1.0, max(_EVERY, _SHARE * (time.monotonic() - before)))
            while self._board.endings or self._above:
                self._look(live)
            live.update("")
        view = self._board.look(0)
        left = max(sum(view.stages.values()), (self._total or 0) - view.tally.ended)
        if view.tally.ended + left > 1:
            console.print(Text(summary(view.tally, left, view.elapsed)), overflow="fold")

    def _look(self, live: Live) -> None:
        console, board = self._console, self._board
        pen = Pen(console.width, console.encoding, console.color_system is not None and not console.no_color)
        lines = [Text.from_ansi(line) for line in self._drain()]
        for _ in range(min(_AT_ONCE, len(board.endings))):
            lines += draw_ending(pen, board.endings.popleft())
        room = max(2, console.height * 2 // 3)  # finished runs stay in sight above
        live.update(Group(*draw_view(pen, board.look(room - 1), self._total)))
        if lines:
            console.print(*lines, sep="\n", overflow="fold")  # draws the picture below it too
        else:
            live.refresh()

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
        """That of the stream."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """Take `text`; whole lines are shown, the rest waits for its end."""
        with self._lock:
            *lines, self._begun = (self._begun + text).split("\n")
            self._lines.extend(lines)
        return len(text)

    def end_line(self) -> None:
        """Show what waits for the end of its line."""
        if self._begun:
            self.write("\n")

    def isatty(self) -> bool:
        """Return that it is a terminal."""
        return True

    def writable(self) -> bool:
        """Return that it is for writing."""
        return True

    def fileno(self) -> int:
        """Return the stream's."""
        return self._stream.fileno()


def _same(stream: TextIO | None, terminal: TextIO) -> bool:
    """Whether what is written to `stream` appears on that terminal."""
    if stream is None:
        return False
    try:
        return stream.isatty() and os.path.sameopenfile(stream.fileno(), terminal.fileno())
    except (OSError, ValueError):
        return False
