"""A terminal's window, as far as floradl draws on it."""

from __future__ import annotations

import re

COLUMNS, ROWS = 70, 18
TOKENS = re.compile(r"\x1b\[([?0-9;]*)([A-Za-z])|(\r)|(\n)|([^\x1b\r\n]+)")


class Screen:
    """As much of a terminal as the picture needs; anything else that it is told is a failure."""

    def __init__(self) -> None:
        self.lines: list[list[str]] = [[]]
        self.row = self.column = 0

    def feed(self, text: str) -> None:
        position = 0
        for token in TOKENS.finditer(text):
            assert token.start() == position, f"unknown control at {text[position : position + 20]!r}"
            position = token.end()
            parameter, control, home, newline, written = token.groups()
            match control:
                case "A":
                    top = max(0, len(self.lines) - ROWS)
                    assert self.row - int(parameter) >= top, "the cursor was sent above the window"
                    self.row -= int(parameter)
                case "K":
                    assert parameter == "2"
                    self.lines[self.row] = []
                case "m":
                    pass
                case "h" | "l":
                    assert parameter == "?25"
                case None if home:
                    self.column = 0
                case None if newline:
                    self._next_line()
                case None:
                    for char in written:
                        self._put(char)
                case _:
                    raise AssertionError(f"unknown control {token[0]!r}")
        assert position == len(text)

    def _put(self, char: str) -> None:
        if self.column == COLUMNS:
            self.column = 0
            self._next_line()
        line = self.lines[self.row]
        line += [" "] * (self.column + 1 - len(line))
        line[self.column] = char
        self.column += 1

    def _next_line(self) -> None:
        self.row += 1
        if self.row == len(self.lines):
            self.lines.append([])

    @property
    def text(self) -> list[str]:
        below = self.lines[self.row + 1 :]
        assert not any(below), f"left behind below the cursor: {below}"
        return ["".join(line).rstrip() for line in self.lines[: self.row + 1]]
