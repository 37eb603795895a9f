"""One command, run in bounded time; it and all that it started are gone afterwards.

It leads a process group of its own (setpgid(2)). The group is killed before its leader is reaped, so that its
number cannot be anybody else's by then.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from floradl.hooks.programs import exposed, program_of

_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_LAST = 4.0  # seconds to end by itself once there is hurry
_TAIL = 4096  # bytes
_LINES = 10
_PIPE = 64 << 10  # bytes, pipe(7)
_DRAINS = 16  # reads of what is left in the pipe, which may hold a megabyte
_A_BREATH = 0.01  # seconds between reads of one who writes without end
_threads = CapacityLimiter(32)  # own ones: a hook must not take those that the downloads use


class NotStartedError(Exception):
    """The command could not be started; the message says why."""


class Ended(Struct, frozen=True):
    """How a command ended. `code` is its exit status, negative for a signal; `output` the last lines.

    `in_time` is False where it had to be ended; `seconds` is how long it ran.
    """

    code: int
    in_time: bool
    output: str
    seconds: float

    @property
    def trouble(self) -> str | None:
        """Say what went wrong, None where nothing did."""
        if not self.in_time:
            return f"it was ended after {self.seconds:.0f} s (hooks.timeout)"
        if self.code < 0:
            return f"it was ended by signal {-self.code} ({signal.strsignal(-self.code)})"
        return f"it ended with exit code {self.code}" if self.code else None


class Command(Struct, frozen=True):
    """What to run. `words` are a program and its arguments; `timeout` is in seconds."""

    words: Sequence[str]
    environ: Mapping[str, str]
    cwd: str
    timeout: float


def missing(words: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Say why a command cannot be started, None where it can as far as one sees."""
    program = words[0]
    if program_of(words, environ) is not None:
        return None
    if "/" not in program:
        return f"no program {program!a} is in PATH: write its whole path, or install it"
    if os.path.isdir(program):  # noqa: PTH112 - a text it is
        return f"{program!a} is a folder, not a program: write the program's path"
    if os.path.lexists(program):
        return f"{program!a} cannot be executed: chmod +x it, and let the service's user reach it"
    return f"there is no {program!a}: mend the path, or put the program there"


async def run(command: Command, stdin: int, hurry: anyio.Event) -> Ended:
    """Run it to its end with the file `stdin` (a descriptor) as its input.

    It has no terminal, and its output and errors come back. Once `hurry` is set it has a few seconds left;
    who is cancelled kills it at once. Raises `NotStartedError`.
    """
    started = time.monotonic()
    process = await to_thread.run_sync(partial(_start, command, stdin), limiter=_threads)
    exited = anyio.Event()
    tail = bytearray()
    assert process.stdout is not None  # noqa: S101 - for the type checker: it was asked for
    try:
        async with anyio.create_task_group() as group:
            group.start_soon(_watch, process.pid, exited)
            group.start_soon(_read, process.stdout.fileno(), tail)
            try:
                in_time = await _wait(command.timeout, exited, hurry)
                if not in_time:
                    _signal(process.pid, signal.SIGTERM)
                    with anyio.move_on_after(_GRACE):
                        await exited.wait()
            finally:
                _signal(process.pid, signal.SIGKILL)  # what it started ends with it
            await exited.wait()
            group.cancel_scope.cancel()
        _drain(process.stdout.fileno(), tail)
    finally:
        process.stdout.close()
        code = process.wait()
    return Ended(code, in_time, _last_lines(tail), time.monotonic() - started)


def _start(command: Command, stdin: int) -> subprocess.Popen[bytes]:
    # Looked at each time: it may have come, or changed hands, since the configuration was read.
    if (why := exposed(command.words, command.environ, command.cwd)) is not None:
        raise NotStartedError(why)
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
            command.words,
            executable=program_of(command.words, command.environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=command.cwd,
            env=command.environ,
            start_new_session=True,
            bufsize=0,
        )
    except (OSError, ValueError) as error:
        why = missing(command.words, command.environ)
        if why is None:
            why = f"{command.words[0]!a} could not be started: {error}"
            if getattr(error, "strerror", "") == os.strerror(8):  # ENOEXEC
                why += " (does its first line begin with #!?)"
        raise NotStartedError(why) from error
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)
    return process


async def _watch(pid: int, exited: anyio.Event) -> None:
    """Wait until the leader is dead; it is not reaped here."""
    await to_thread.run_sync(os.waitid, os.P_PID, pid, os.WEXITED | os.WNOWAIT, limiter=_threads)
    exited.set()


async def _wait(seconds: float, exited: anyio.Event, hurry: anyio.Event) -> bool:
    """Wait until it ends; False where its time is over."""
    async with anyio.create_task_group() as group:

        async def shorten() -> None:
            await hurry.wait()
            scope.deadline = min(scope.deadline, anyio.current_time() + _LAST)

        with anyio.move_on_after(seconds) as scope:
            group.start_soon(shorten)
            await exited.wait()
        group.cancel_scope.cancel()
    return exited.is_set()


async def _read(fd: int, tail: bytearray) -> None:
    while True:
        await anyio.wait_readable(fd)
        data = _some(fd)
        if not data:
            return
        _keep(tail, data)
        if len(data) == _PIPE:
            await anyio.sleep(_A_BREATH)


def _drain(fd: int, tail: bytearray) -> None:
    for _ in range(_DRAINS):  # one that got away may write on
        data = _some(fd)
        if not data:
            return
        _keep(tail, data)


def _some(fd: int) -> bytes:
    with suppress(BlockingIOError):
        return os.read(fd, _PIPE)
    return b""


def _keep(tail: bytearray, data: bytes) -> None:
    tail += data
    del tail[:-_TAIL]


def _last_lines(tail: bytearray) -> str:
    lines = tail.decode("utf-8", "replace").splitlines()
    return "\n".join(lines[-_LINES:]).strip()


def _signal(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # all of it became another user's
        os.killpg(pid, number)
