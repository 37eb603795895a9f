"""The line that shows how far a command is that goes through the library."""

from __future__ import annotations

from io import StringIO

from floradl.commands.progress import CountLine


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_line_appears_only_for_what_takes_longer_than_its_patience() -> None:
    now, screen = 0.0, _Terminal()
    line = CountLine(screen, shown=True, patience=0.5, monotonic=lambda: now)
    line.show("reading", 1, 4, "sidecar")
    line.clear()
    assert screen.getvalue() == ""
    now = 0.6
    line.show("reading", 2, 4, "sidecar")
    assert "reading  2 of 4 sidecars" in screen.getvalue()


def test_a_progress_line_is_wiped_and_can_be_drawn_again_at_once() -> None:
    screen = _Terminal()
    line = CountLine(screen, shown=True, monotonic=lambda: 0.0)
    line.show("removing", 1)
    line.clear()
    line.show("removing", 2)
    assert screen.getvalue() == "\r\x1b[Kremoving  1 file\r\x1b[K\r\x1b[Kremoving  2 files"
