"""Starts floradl as a fork of a process that has imported it already: 20 ms of processor in place of 400.

To signals, files, descriptors and waits it is the process that `python -m floradl` makes. What is settled
when an interpreter starts (PYTHON*, LC_*, LD_*) is the same for all of them; where a test changes that, or
measures a process's own memory or start, it runs `studio.command` instead.

Each has a shepherd, a fork that waits for it and writes how it ended into a pipe: so only who started it, or
init, is ever its parent, as with `subprocess`.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO

_LENGTH = struct.Struct("!I")
_AT_START = ("PYTHON", "LC_", "LANG", "LD_", "OPENSSL", "MALLOC")


def _namespaces() -> list[str]:
    """Return the namespaces of this thread, as the kernel names them."""
    here = Path("/proc/thread-self/ns")
    return [str((here / name).readlink()) for name in ("net", "mnt", "user", "pid")]


_AT_IMPORT = _namespaces()


def is_possible(environ: Mapping[str, str]) -> bool:
    """Whether a process with this environment is what a fork of this one's would be."""
    if _namespaces() != _AT_IMPORT:
        return False
    mine = {name: value for name, value in os.environ.items() if name.startswith(_AT_START)}
    return mine == {name: value for name, value in environ.items() if name.startswith(_AT_START)}


class Forked(subprocess.Popen[str]):
    """One that runs, or has ended. Takes open files or `subprocess.DEVNULL`; None is this process's own."""

    def __init__(  # what is not needed of `Popen` is left out, and nothing of its own is begun
        self,
        arguments: tuple[str, ...],
        environ: Mapping[str, str],
        *,
        stdin: IO[str] | int | None = None,
        stdout: IO[str] | int | None = None,
        stderr: IO[str] | int | None = None,
    ) -> None:
        self._child_created = False  # so that the base class minds none
        self.args = ["floradl", *arguments]
        self.stdin = self.stdout = self.stderr = None
        self.returncode = None
        status, ended = os.pipe()
        null = os.open(os.devnull, os.O_RDWR)
        try:
            given = [null if file == subprocess.DEVNULL else file for file in (stdin, stdout, stderr)]
            fds = [
                own if file is None else file if isinstance(file, int) else file.fileno()
                for own, file in enumerate(given)
            ]
            self.pid = _server().start(
                {"arguments": arguments, "environ": dict(environ), "cwd": str(Path.cwd()), "umask": _umask()},
                [*fds, ended],
            )
        finally:
            os.close(ended)
            os.close(null)
        self._status = status

    def __del__(self, _maxsize: int = 0, _warn: object = None) -> None:
        if self._status >= 0:
            os.close(self._status)
            self._status = -1

    def poll(self) -> int | None:
        """Return how it ended, as `Popen` does; None while it runs."""
        if self.returncode is None and select.select([self._status], [], [], 0)[0]:
            told = os.read(self._status, 16)
            self.returncode = int(told) if told else -signal.SIGKILL  # its shepherd was killed with it
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises `subprocess.TimeoutExpired`."""
        if self.returncode is None and not select.select([self._status], [], [], timeout)[0]:
            assert timeout is not None
            raise subprocess.TimeoutExpired(self.args, timeout)
        code = self.poll()
        assert code is not None
        return code

    def send_signal(self, sig: int) -> None:
        """Signal it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, sig)


def run(
    arguments: tuple[str, ...], environ: Mapping[str, str], *, stdin: str, timeout: float
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, as `subprocess.run` with captured output does."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as out,
        tempfile.TemporaryFile("w+") as err,
    ):
        given.write(stdin)
        given.seek(0)
        process = Forked(arguments, environ, stdin=given, stdout=out, stderr=err)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(process.args, process.returncode, out.read(), err.read())


def _umask() -> int:
    """Return this process's umask; to ask the kernel itself is to set it."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    raise AssertionError("this kernel tells no umask")


# --- the process that forks -------------------------------------------------------------------------------


class _Server:
    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        script = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import forked; forked.serve()"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", script, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def start(self, order: Mapping[str, object], fds: list[int]) -> int:
        text = json.dumps(order).encode("utf-8", "surrogatepass")
        socket.send_fds(self._socket, [_LENGTH.pack(len(text))], fds)
        self._socket.sendall(text)
        pid: int = _LENGTH.unpack(_exactly(self._socket, _LENGTH.size))[0]
        return pid

    @property
    def is_up(self) -> bool:
        return self._process.poll() is None


_one: _Server | None = None


def _server() -> _Server:
    global _one  # noqa: PLW0603 - one for all tests of this process
    if _one is None or not _one.is_up:
        _one = _Server()
    return _one


def _exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = stream.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


def serve() -> None:
    """Start what is asked for over the socket that is named, until its other end is closed."""
    import floradl  # noqa: PLC0415 - this process's alone

    for module in pkgutil.walk_packages(floradl.__path__, "floradl."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    gc.collect()
    gc.freeze()
    asked = socket.socket(fileno=int(sys.argv[1]))
    while True:
        length, fds, _, _ = socket.recv_fds(asked, _LENGTH.size, 4)
        if not length:
            return
        order = json.loads(_exactly(asked, _LENGTH.unpack(length)[0]).decode("utf-8", "surrogatepass"))
        shepherd = os.fork()
        if shepherd == 0:
            pid = os.fork()
            if pid == 0:
                break
            asked.sendall(_LENGTH.pack(pid))
            for fd in (0, 1, 2, asked.fileno(), *fds[:3]):
                os.close(fd)
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            os.write(fds[3], str(code).encode())
            os._exit(0)
        for fd in fds:
            os.close(fd)
        _reap()
    for own, fd in enumerate(fds[:3]):
        os.dup2(fd, own)
    os.closerange(3, max(*fds, asked.fileno()) + 1)
    asked.detach()
    os.environ.clear()
    os.environ.update(order["environ"])
    os.chdir(order["cwd"])
    os.umask(order["umask"])
    time.tzset()
    sys.argv = ["floradl", *order["arguments"]]
    from floradl.cli import main  # noqa: PLC0415 - of the child alone

    main()


def _reap() -> None:
    """Let shepherds go that have ended."""
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
