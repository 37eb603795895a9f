"""One command, run in bounded time; it and all that it started are gone afterwards.

It leads a process group of its own (setpgid(2)). The group is killed before its leader is reaped, so that its
number cannot be anybody else's by then. `HookSettings` has the commands of all events.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import anyio
from anyio import CapacityLimiter, to_thread
from msgspec import Struct

from floradl.fs.permissions import exposure
from floradl.portability import wait_until_exited
from floradl.redaction import redact

RUN_FINISHED = "run_finished"
PAUSED = "paused"
# A list of what is good: names alone do not show which variables are secret.
_PASSED: Final = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR"),
        *("XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY"),
        *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"),
        *("http_proxy", "https_proxy", "all_proxy", "no_proxy"),
    }
)
_INTERPRETERS = re.compile(
    r"(?:ba|da|a|k|z|fi)?sh|env|busybox|(?:python|pypy|perl|ruby|node|nodejs|php|lua|tclsh|java|deno|bun|Rscript)"
    r"[\d.]*|nice|ionice|nohup|setsid|timeout|flock|chrt|stdbuf"
)
_AT_MOST = 5.7  # seconds once there is hurry: a stop takes 7 s at most, and the queue comes last
_GRACE = 1.0  # seconds between SIGTERM and SIGKILL
_LAST = 4.0  # seconds to end by itself once there is hurry
_TAIL = 4096  # bytes
_LINES = 10
_PIPE = 64 << 10  # bytes, pipe(7)
_DRAINS = 16  # reads of what is left in the pipe, which may hold a megabyte
_A_BREATH = 0.01  # seconds between reads of one who writes without end
_threads = CapacityLimiter(32)  # own ones: a hook must not take those that the downloads use


def environment_of(event: str, environ: Mapping[str, str]) -> dict[str, str]:
    """Return a hook's environment: what is harmless in `environ`, and the event in FLORADL_EVENT."""
    passed = {
        name: value
        for name, value in environ.items()
        if (name in _PASSED or name.startswith("LC_")) and redact(value) == value
    }
    return {"PATH": os.defpath, **passed, "FLORADL_EVENT": event}


def program_of(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the absolute path of a command's program, None where there is none that can be executed."""
    import shutil  # noqa: PLC0415 - with all kinds of archives, and for hooks alone

    found = shutil.which(argv[0], path=environ.get("PATH", os.defpath))
    return None if found is None else os.path.abspath(found)  # noqa: PTH100 - a link's name may matter


def exposed(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> str | None:
    """Return what of a command others could write or replace, and how to fix it; None for nothing."""
    for file in _files(argv, environ, cwd):
        try:
            found = exposure(file)
        except OSError:
            continue
        if found is not None:
            return f"{str(file)!a} is not run: {found}"
    return None


def _files(argv: Sequence[str], environ: Mapping[str, str], cwd: str) -> Iterator[Path]:
    if (program := program_of(argv, environ)) is None:
        # One that others may put there would be theirs.
        if "/" in argv[0]:
            yield Path(argv[0])
        return
    yield Path(program)
    if not _INTERPRETERS.fullmatch(os.path.basename(program)):  # noqa: PTH119
        return
    for word in argv[1:]:
        script = Path(cwd, word)
        try:
            is_file = script.is_file()
        except (OSError, ValueError):  # a script's text, too long for a name
            continue
        if is_file:
            yield script
            return


async def to_its_end(work: Callable[[anyio.Event], Awaitable[None]]) -> None:
    """Do `work`; where this is cancelled it gets some seconds more, and its event is set."""
    hurry = anyio.Event()
    shield = anyio.CancelScope(shield=True)

    async def shielded() -> None:
        with shield:
            await work(hurry)
        group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(shielded)
        try:
            await anyio.sleep_forever()
        finally:
            hurry.set()
            shield.deadline = anyio.current_time() + _AT_MOST


class NotStartedError(Exception):
    """The command could not be started; the message has the reason."""


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
        """What went wrong, None where nothing did."""
        if not self.in_time:
            return f"it was ended after {self.seconds:.0f} s (hooks.timeout)"
        if self.code < 0:
            return f"it was ended by signal {-self.code} ({signal.strsignal(-self.code)})"
        return f"it ended with exit code {self.code}" if self.code else None

    @property
    def facts(self) -> dict[str, object]:
        """What a line of the log holds of it."""
        return {"duration": round(self.seconds, 3)} | ({"output": self.output} if self.output else {})


class Command(Struct, frozen=True):
    """What to run. `argv` are a program and its arguments; `timeout` is in seconds."""

    argv: Sequence[str]
    environ: Mapping[str, str]
    cwd: str
    timeout: float


def missing(argv: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return why a command cannot be started, None where it can as far as one sees."""
    program = argv[0]
    if program_of(argv, environ) is not None:
        return None
    if "/" not in program:
        return f"no program {program!a} is in PATH: write its whole path, or install it"
    if os.path.isdir(program):  # noqa: PTH112 - a text it is
        return f"{program!a} is a folder, not a program: write the program's path"
    if os.path.lexists(program):
        return f"{program!a} cannot be executed: chmod +x it, and let the service's user reach it"
    return f"there is no {program!a}: correct the path, or put the program there"


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
    if (why := exposed(command.argv, command.environ, command.cwd)) is not None:
        raise NotStartedError(why)
    try:
        process = subprocess.Popen(  # noqa: S603 - the user's own command, and no shell
            command.argv,
            executable=program_of(command.argv, command.environ),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=command.cwd,
            env=command.environ,
            start_new_session=True,
            bufsize=0,
        )
    except (OSError, ValueError) as error:
        if (why := missing(command.argv, command.environ)) is None:
            why = f"{command.argv[0]!a} could not be started: {error}"
            if getattr(error, "strerror", "") == os.strerror(8):  # ENOEXEC
                why += " (does its first line begin with #!?)"
        raise NotStartedError(why) from error
    if process.stdout is not None:
        os.set_blocking(process.stdout.fileno(), False)
    return process


async def _watch(pid: int, exited: anyio.Event) -> None:
    await to_thread.run_sync(wait_until_exited, pid, limiter=_threads)
    exited.set()


async def _wait(seconds: float, exited: anyio.Event, hurry: anyio.Event) -> bool:
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


class HookSettings(Struct, frozen=True):
    """The commands by event, `timeout` in seconds, and what a hook's environment is chosen from."""

    commands: Mapping[str, tuple[str, ...]]
    timeout: float
    environ: Mapping[str, str]

    def command(self, event: str, argument: str, cwd: str) -> Command | None:
        """Return what to run for an event, with its last argument; None where there is no hook."""
        argv = self.commands.get(event)
        if not argv:
            return None
        return Command((*argv, argument), environment_of(event, self.environ), cwd, self.timeout)

    def missing(self) -> dict[str, str]:
        """Return, for each event whose command cannot be started as far as one sees, why."""
        return self._faults(missing)

    def exposed(self) -> dict[str, str]:
        """Return, for each event whose program or script others could write or replace, how to fix that."""
        return self._faults(partial(exposed, cwd="/"))

    def _faults(self, find: Callable[[Sequence[str], Mapping[str, str]], str | None]) -> dict[str, str]:
        commands = {event: argv for event, argv in self.commands.items() if argv}
        found = {event: find(argv, environment_of(event, self.environ)) for event, argv in commands.items()}
        return {event: why for event, why in found.items() if why is not None}
