"""Ends floradl at a chosen call on its files, or lets such a call fail: a library that is preloaded does it.

The kernel's own calls are left alone; what is seen and stopped is what the process asks of them, in all its
threads together (`strace -e inject=…:when=N` counts for each thread apart).
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import preload
from msgspec import Struct
from studio import Home

from floradl.models import RunState
from floradl.queue.reader import read_queue

_MAIN = "import crashing; crashing.forking()"


class Failing(Struct, frozen=True):
    """Calls of this name on a path that contains `part` fail with `errno`: `count` from the `first` on.

    "write" is pwrite too, and "fsync" fdatasync. With `switch` they fail only while that file exists.
    """

    call: str
    part: str
    errno: int
    first: int = 1
    count: int = 1
    switch: Path | None = None


def interposed(
    home: Home, *, log: Path | None = None, kill_at: int = 0, failing: Failing | None = None
) -> dict[str, str]:
    """Return the settings under which a floradl with this home is watched.

    `log` gets a line for each call that changes a file of the home, "CALL PATH", before it is done; in place
    of call number `kill_at` the process is killed.
    """
    steering = {"INTERPOSE_ROOT": str(home.path), "LD_PRELOAD": str(preload.library("interpose"))}
    if log is not None:
        steering["INTERPOSE_LOG"] = str(log)
    if kill_at:
        steering["INTERPOSE_KILL"] = str(kill_at)
    if failing is not None:
        steering["INTERPOSE_FAIL"] = (
            f"{failing.call} {failing.part} {failing.errno} {failing.first} {failing.count}"
        )
        if failing.switch is not None:
            steering["INTERPOSE_WHILE"] = str(failing.switch)
    return steering


def calls(log: Path, home: Home) -> list[tuple[str, str]]:
    """Return the calls that `log` holds, as pairs of name and path below the home."""
    lines = (line.split(" ", 1) for line in log.read_text(errors="surrogateescape").splitlines())
    return [(call, path.removeprefix(f"{home.path}/")) for call, path in lines]


class Starter:
    """Starts floradl in 20 ms instead of 400, as a fork of a process that has imported it all already."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, home: Home, *arguments: str, **settings: str) -> int:
        """Run a command to its end; returns its exit code, or minus the signal that ended it."""
        environ = {**home.environ, **settings}
        environ.pop("COVERAGE_PROCESS_CONFIG", None)  # a process that is killed measures nothing
        order = {"arguments": arguments, "environ": environ, "log": str(home.path / "stderr.log")}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def starter() -> Iterator[Starter]:
    """Make a starter; it runs one command at a time."""
    environ = {
        **os.environ,
        "LD_PRELOAD": str(preload.library("interpose")),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    environ.pop("COVERAGE_PROCESS_CONFIG", None)
    with subprocess.Popen(
        [sys.executable, "-c", _MAIN],
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield Starter(process)
        assert process.stdin is not None
        process.stdin.close()


def forking() -> None:
    """Be what `Starter` talks to: a command comes in as a line, its exit code goes out as one."""
    import floradl.commands.get  # noqa: F401, PLC0415 - all that a command needs is loaded before the fork

    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _become(order["arguments"], order["environ"], order["log"])
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def _become(arguments: list[str], environ: Mapping[str, str], log: str) -> None:
    from floradl.cli import main  # noqa: PLC0415 - needed in the child alone

    os.environ.clear()
    os.environ.update(environ)
    ctypes.CDLL(None).interpose_arm()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    sys.argv = ["floradl", *arguments]
    try:
        main()
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 70)


def counts(home: Home) -> dict[RunState, int]:
    """Return how many runs stand in each state, those alone that there are."""
    with read_queue(home.state) as queue:
        assert queue is not None
        return {state: number for state, number in queue.counts().items() if number}


def leftovers(home: Home) -> list[str]:
    """Return the files that no floradl at rest leaves in its folders: part files, temporary ones, logs."""
    state = {f"state/{name}" for name in ("journal.sqlite3", "lock", "library-seen", "events.ndjson")}
    resting = {*state, "library/.floradl-library"}
    files = [path.relative_to(home.path) for path in sorted(home.path.rglob("*")) if path.is_file()]
    return [
        str(file)
        for file in files
        if str(file) not in resting
        and (file.parts[0] == "state" or file.name.startswith(".") or file.parts[:-1] == ("inbox",))
    ]
