from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import msgspec
import pytest
from screen import COLUMNS, ROWS, Screen
from studio import TEST_TIMEOUT

DEADLINE = 2 * TEST_TIMEOUT
HIDE, SHOW = b"\x1b[?25l", b"\x1b[?25h"

START = """
import sys, time, threading
from msgspec.structs import replace
from floradl.display import open_display
from floradl.errors import ErrorCode
from floradl.models import RunFailure, QueuedRun, RunState
from floradl.runs.events import RunSummary

def a_run(number, state=RunState.RUNNING, **more):
    return QueuedRun(run_id=f"run_{number}", technique="campaign", state=state, queued_at=0.0, **more)

def pictures(count=3):
    time.sleep(0.11 * count)
"""


class Seen(msgspec.Struct):
    """What a program showed: all that it wrote, how the window looks at the end, stdout, the exit status."""

    raw: bytes
    lines: list[str]
    stdout: bytes
    status: int


@contextmanager
def started(code: str, **environ: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """Start a program whose stderr is a terminal; yields it and the terminal's other end."""
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"}
    }
    process = subprocess.Popen(
        [sys.executable, "-c", START + code],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=slave,
        env={**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **environ},
    )
    os.close(slave)
    try:
        yield process, master
    finally:
        process.kill()
        process.communicate()
        with suppress(OSError):
            os.close(master)


def read_until(master: int, end: bytes | None, raw: bytes = b"") -> bytes:
    """Read what the terminal gets until `end` is in it, or (None) until nobody has it open any more."""
    deadline = time.monotonic() + DEADLINE
    while end is None or end not in raw:
        assert select.select([master], [], [], deadline - time.monotonic())[0], (
            f"nothing after {raw[-300:]!r}"
        )
        try:
            data = os.read(master, 65536)
        except OSError as error:
            assert error.errno == errno.EIO  # noqa: PT017  # how Linux tells that the other end is closed
            data = b""
        if not data:
            assert end is None, f"ended without {end!r}: {raw[-1000:]!r}"
            return raw
        raw += data
    return raw


def shown(code: str, **environ: str) -> Seen:
    """Run a program to its end and return what is to be seen."""
    with started(code, **environ) as (process, master):
        raw = read_until(master, None)
        stdout, _ = process.communicate(timeout=DEADLINE)
        return seen(raw, stdout, process.returncode)


def seen(raw: bytes, stdout: bytes = b"", status: int = 0) -> Seen:
    screen = Screen()
    screen.feed(raw.decode())
    return Seen(raw, screen.text, stdout, status)


def test_finished_runs_and_the_sum_are_all_that_stays() -> None:
    end = shown("""
with open_display(sys.stderr) as progress:
    for number in range(30):
        progress.run(a_run(number, RunState.DOWNLOADING), None)
        progress.transfer(a_run(number), "output_1", 5, 10)
    pictures()
    for number in range(30):
        progress.transferred(a_run(number), "output_1")
        progress.finished(a_run(number, RunState.DONE), RunSummary("runs/x.json", 1, 1, 5))
        time.sleep(0.01)
""")
    assert end.status == 0
    assert [line.split("  ")[0] for line in end.lines[:30]] == [f"✓ campaign/run_{n}" for n in range(30)]
    assert re.fullmatch(r"30 done: \d.* s", end.lines[30])
    assert end.lines[31:] == [""]


def test_bars_are_seen_meanwhile_within_the_window() -> None:
    with started("""
with open_display(sys.stderr, total=100) as progress:
    for number in range(50):
        progress.run(a_run(number, RunState.DOWNLOADING), None)
        progress.transfer(a_run(number), "output_1", 5_000_000, 10_000_000)
    time.sleep(60)
""") as (_, master):
        raw = read_until(master, b"more")
        raw = read_until(master, b"waiting", raw)
    lines = seen(raw).lines
    assert lines[0].endswith("campaign/run_0")
    assert lines[1].startswith("    output_1  ━━━━")
    assert "5.0/10.0 MB" in lines[1]
    assert lines[-3] == "  … and 46 more"
    assert lines[-2].endswith("━   25 %")
    assert lines[-1].startswith("  50 downloading · 50 waiting")
    assert len(lines) == ROWS * 2 // 3 - 1  # a run and its bar need two


def test_what_is_written_to_the_terminal_meanwhile_stays_whole_above() -> None:
    end = shown("""
with open_display(sys.stderr) as progress:
    progress.run(a_run(1, RunState.DOWNLOADING), None)
    def log(name):
        for number in range(200):
            sys.stderr.write(f"{name} line {number} \\x1b[33mof the log\\x1b[0m\\n")
            time.sleep(0.001)
    threads = [threading.Thread(target=log, args=(name,)) for name in "ab"]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    sys.stderr.write("no end of line")
print("after", file=sys.stderr)
""")
    lines = [line for line in end.lines if " of the log" in line]
    for name in "ab":
        assert [line for line in lines if line[0] == name] == [
            f"{name} line {number} of the log" for number in range(200)
        ]
    assert end.lines[-3:] == ["no end of line", "after", ""]
    assert not any("downloading" in line for line in end.lines)


def test_output_on_a_pipe_stays_on_the_pipe() -> None:
    end = shown("""
with open_display(sys.stderr) as progress:
    pictures(2)
    print("result")
""")
    assert end.stdout == b"result\n"
    assert b"result" not in end.raw


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_cursor_is_there_after_any_end(number: signal.Signals) -> None:
    with started("""
with open_display(sys.stderr, total=3) as progress:
    progress.run(a_run(1), 2.0)
    print("under way", flush=True)
    time.sleep(60)
""") as (process, master):
        raw = read_until(master, b"campaign")
        raw = read_until(master, b"waiting", raw)
        process.send_signal(number)
        raw = read_until(master, None, raw)
    assert raw.rfind(SHOW) > raw.rfind(HIDE)
    if number is signal.SIGINT:
        text = "\n".join(seen(raw).lines)
        assert re.search(r"^3 not finished: ", text, re.MULTILINE)
        assert text.endswith("KeyboardInterrupt\n")
        assert "waiting" not in text


def test_an_error_is_told_below_an_orderly_window() -> None:
    end = shown("""
with open_display(sys.stderr) as progress:
    progress.run(a_run(1), 2.0)
    pictures()
    raise RuntimeError("a bug")
""")
    assert end.status == 1
    assert end.lines[0].startswith("Traceback")
    assert end.lines[-2:] == ["RuntimeError: a bug", ""]


def test_a_terminal_that_goes_away_does_not_stop_the_work() -> None:
    with started("""
with open_display(sys.stderr) as progress:
    progress.run(a_run(1, RunState.DOWNLOADING), None)
    print("ready", flush=True)
    for received in range(100):
        progress.transfer(a_run(1), "output_1", received, 100)
        time.sleep(0.01)
    progress.finished(a_run(1, RunState.DONE), None)
print("work done", flush=True)
""") as (process, master):
        read_until(master, b"campaign")
        os.close(master)
        stdout, _ = process.communicate(timeout=DEADLINE)
    assert stdout == b"ready\nwork done\n"


def test_no_color_is_honoured() -> None:
    code = """
with open_display(sys.stderr) as progress:
    progress.transfer(a_run(1), "output_1", 5, 10)
    progress.run(a_run(1, RunState.DOWNLOADING), None)
    pictures()
    progress.finished(a_run(2, RunState.FAILED, error=RunFailure(ErrorCode.EXPIRED, "it expired")), None)
"""
    coloured, plain = shown(code), shown(code, NO_COLOR="1")
    colour = re.compile(rb"\x1b\[[0-9;]*\b(3[0-7]|9[0-7]|38;[0-9;]+)m")
    assert colour.search(coloured.raw)
    assert not colour.search(plain.raw)
    timeless = [[re.sub(r"\d+\.\d s", "", line) for line in each.lines] for each in (coloured, plain)]
    assert timeless[0] == timeless[1]


def test_quiet_shows_no_picture() -> None:
    end = shown("""
with open_display(sys.stderr, quiet=True) as progress:
    progress.run(a_run(1), 2.0)
    pictures()
    progress.finished(a_run(1, RunState.FAILED, error=RunFailure(ErrorCode.EXPIRED, "it expired")), None)
""")
    assert re.fullmatch(rb"campaign/run_1: failed, \d+\.\d s: expired: it expired\r\n", end.raw)


def test_each_of_very_many_runs_has_its_line() -> None:
    end = shown("""
with open_display(sys.stderr) as progress:
    for number in range(20_000):
        progress.run(a_run(number), 2.0)
    for number in range(20_000):
        progress.finished(a_run(number, RunState.DONE), None)
""")
    assert sum(line.endswith("already there") for line in end.lines) == 20_000
