"""The daemon on a terminal, and `status --watch`: live pictures until Ctrl-C."""

from __future__ import annotations

import fcntl
import os
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from studio import TEST_TIMEOUT, Home, queue

from floradl.simulator import Simulator

_CONTROLS = re.compile(r"\x1b\[[?0-9;]*[A-Za-z]")


class Terminal:
    """What a process drew on its terminal."""

    def __init__(self, process: subprocess.Popen[bytes], master: int) -> None:
        self.process = process
        self._master = master
        self.text = ""

    def shows(self, words: str) -> None:
        """Wait until it drew these words."""
        deadline = time.monotonic() + TEST_TIMEOUT
        while words not in self.text:
            left = deadline - time.monotonic()
            assert select.select([self._master], [], [], max(0, left))[0], (
                f"{words!r} not in {self.text[-2000:]}"
            )
            self._read()

    def ended(self) -> int:
        """Send Ctrl-C; return the exit code."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(TEST_TIMEOUT)
        with suppress(OSError):
            while select.select([self._master], [], [], 0)[0]:
                self._read()
        return code

    def _read(self) -> None:
        self.text += _CONTROLS.sub("", os.read(self._master, 65536).decode("utf-8", "replace"))


@contextmanager
def terminal(home: Home, *arguments: str, **settings: str) -> Iterator[Terminal]:
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 250, 0, 0))
    kept = {name: value for name, value in home.environ.items() if name not in {"COLUMNS", "LINES"}}
    environ = {**kept, "TERM": "xterm-256color", "LANG": "C.UTF-8", **settings}
    process = subprocess.Popen(
        home.command(*arguments), stdin=subprocess.DEVNULL, stdout=slave, stderr=slave, env=environ
    )
    os.close(slave)
    try:
        yield Terminal(process, master)
    finally:
        process.kill()
        process.wait()
        os.close(master)


def test_a_daemon_on_a_terminal_shows_the_live_picture(home: Home, simulator: Simulator) -> None:
    with terminal(home, "run") as screen:
        screen.shows(f"waiting for jobs in {home.inbox}")
        queue(home, simulator, "run_a")
        screen.shows("✓ campaign/run_a")
        assert screen.ended() == 0
    assert "run_finished" not in screen.text


def test_a_daemon_on_a_terminal_shows_its_log_where_asked_to(home: Home, simulator: Simulator) -> None:
    with terminal(home, "run", "-v") as screen:
        screen.shows("started")
        queue(home, simulator, "run_a")
        screen.shows("run_finished")
        screen.shows("✓ campaign/run_a")


def test_a_daemon_whose_log_is_json_draws_no_picture(home: Home) -> None:
    with terminal(home, "run", FLORADL_LOG__FORMAT="json") as screen:
        screen.shows('"event":"started"')
        assert screen.ended() == 0
    assert "waiting for jobs" not in screen.text


def test_status_watch_draws_the_daemons_runs_until_ctrl_c(home: Home, simulator: Simulator) -> None:
    with home.daemon():
        queue(home, simulator, "run_a", duration=600)
        with terminal(home, "status", "--watch") as screen:
            screen.shows("daemon   running")
            screen.shows("campaign/run_a")
            queue(home, simulator, "run_b")
            screen.shows("1 done")
            assert screen.ended() == 0


def test_status_watch_works_without_a_daemon(home: Home) -> None:
    with terminal(home, "status", "--watch") as screen:
        screen.shows("daemon   not running")
        assert screen.ended() == 0


def test_status_watch_without_a_terminal_says_what_programs_read(home: Home) -> None:
    done = home.run("status", "--watch")
    assert done.returncode == 2
    assert "floradl events --follow" in done.stderr
