"""Running a program, and what it took: time, processor, memory."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from benchmarks.plan import BenchmarkError

_SAMPLE_EVERY = 0.05
_TAIL, _LINES = 4000, 12


class Cost(Struct, frozen=True):
    """What a program took: seconds of the clock and of processors (user and system), bytes at its peak."""

    wall: float
    cpu: float
    memory: int


def measured(command: Sequence[str], environ: Mapping[str, str], log: Path, timeout: float = 1800.0) -> Cost:
    """Run a program to its end; what it says goes to `log`.

    Its children count too. Raises `BenchmarkError` with the end of the log where it fails, or does not end
    within `timeout` seconds.
    """
    with log.open("wb") as stream:
        begun = time.monotonic()
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0
        )
        memory = _Memory(process.pid)
        deadline = threading.Timer(timeout, _kill_group, (process.pid,))
        deadline.start()
        try:
            with memory:
                _, status, usage = os.wait4(process.pid, 0)
                wall = time.monotonic() - begun
        except BaseException:  # told to stop: nothing that was started stays behind
            _kill_group(process.pid)
            process.wait()
            raise
        finally:
            deadline.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise BenchmarkError(f"{command[0]} ended with {process.returncode}: {tail(log)}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, memory.peak)


@contextmanager
def running(
    command: Sequence[str], environ: Mapping[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program while the block lasts; then it gets SIGTERM, and ten seconds."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, process_group=0
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()


def tail(log: Path) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace")[-_TAIL:].splitlines()[-_LINES:])


def peak_memory(pid: int) -> int:
    """Return the most memory that a process has had, and those it started, in bytes; 0 once it is gone.

    `ru_maxrss` would count what the parent had at the fork.
    """
    return _memory(pid, "VmHWM:")


def resident_memory(pid: int) -> int:
    """Return the memory that a process has now, and those it started, in bytes; 0 once it is gone."""
    return _memory(pid, "VmRSS:")


def _memory(pid: int, name: str) -> int:
    own = 0
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(name):
                own = int(line.split()[1]) << 10
    return own + sum(_memory(child, name) for child in _children(pid))


def _children(pid: int) -> list[int]:
    with suppress(OSError):
        lists = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/children")]
        return [int(child) for text in lists for child in text.split()]
    return []


class _Memory:
    """Looks at a process again and again; its own record of its peak makes up for the gaps."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self.peak = 0

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *exc_info: object) -> None:
        self._end.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._end.wait(_SAMPLE_EVERY):
            self.peak = max(self.peak, peak_memory(self._pid))


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
