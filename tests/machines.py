"""Several machines in one: each is a home with its own state and inbox; queue and library are shared."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Self

import databases
import studio
from databases import PostgresServer
from studio import TEST_TIMEOUT, Home, wait_until

from floradl.simulator import OutputSpec, Simulator

PICTURE = (OutputSpec("a", "imageUrl", size=3000),)
SHORT_LEASES = Path(__file__).parent / "short_leases.py"


class Machines:
    """Machines that share the database `name` of a server, and a library."""

    def __init__(self, folder: Path, simulator: Simulator, server: PostgresServer, name: str) -> None:
        self.folder = folder
        self.simulator = simulator
        self.server = server
        self.name = name
        self.library = folder / "library"
        self.processes: dict[str, subprocess.Popen[str]] = {}
        self._stack = ExitStack()
        self._homes: dict[str, Home] = {}
        (folder / "password").write_text(databases.PASSWORD)
        (folder / "password").chmod(0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def home(
        self, name: str, *, port: int | None = None, short_leases: bool = False, **settings: str
    ) -> Home:
        """Return the home of a machine, made at the first call; `port` is another way to the database."""
        if name not in self._homes:
            shared = {
                "FLORADL_QUEUE__ENGINE": self.server.url(self.name, port),
                "FLORADL_QUEUE__PASSWORD_FILE": str(self.folder / "password"),
                "FLORADL_OUTPUT__DIR": str(self.library),
            }
            self._homes[name] = home = Home(self.folder / name, self.simulator, **(shared | settings))
            home.path.mkdir()
            home.library = self.library
            if short_leases:
                home.command = lambda *arguments: [sys.executable, str(SHORT_LEASES), *arguments]
        return self._homes[name]

    def start(
        self, name: str, *, port: int | None = None, short_leases: bool = False, **settings: str
    ) -> Home:
        """Start a machine's daemon; it is killed at the end."""
        home = self.home(name, port=port, short_leases=short_leases, **settings)
        self.processes[name] = self._stack.enter_context(home.daemon())
        return home

    def poller(self, *, but: Sequence[str] = ()) -> str:
        """Wait until a machine polls; return its name."""

        def elected() -> str | None:
            for name in self.processes.keys() - set(but):
                home = self._homes[name]
                if len(home.events("elected")) > len(home.events("election_lost")):
                    return name
            return None

        name: str = wait_until(elected)
        return name

    def add_runs(self, *run_ids: str, outputs: Sequence[OutputSpec] = PICTURE, duration: float = 0.1) -> None:
        """Let FLORA have runs that take so many seconds."""
        for run_id in run_ids:
            self.simulator.add_run(run_id, technique="campaign", outputs=outputs, duration=duration)

    def all_done(self, run_ids: Sequence[str], seconds: float = TEST_TIMEOUT) -> None:
        """Wait until the queue has all of these runs as done."""
        query = f"SELECT count(*) FROM runs WHERE state = 'done' AND run_id = ANY('{{{','.join(run_ids)}}}')"
        wait_until(lambda: self.server.execute(query, self.name) == [(len(run_ids),)], seconds)

    def announced(self) -> Counter[str]:
        """Count how often each run's end was announced, by the event logs of all machines."""
        lines = [
            line
            for home in self._homes.values()
            if (home.state / "events.ndjson").exists()
            for line in (home.state / "events.ndjson").read_text().splitlines()
            if '"event":"run_finished"' in line
        ]
        return Counter(re.findall(r'"run_id":"([^"]+)"', "\n".join(lines)))

    def check_library(self) -> None:
        """Hold the library against what FLORA has; who lost a run may have left the part of a file."""
        for part in self.library.rglob(".*.part"):
            part.unlink()
        studio.check_library(next(iter(self._homes.values())), self.simulator)

    def check_announced(self, run_ids: Sequence[str], *, lost: bool = False) -> None:
        """Check that each run was announced once; of a daemon that was killed some lines may be `lost`."""
        if not lost:
            wait_until(lambda: self.announced().total() >= len(run_ids))
        found = self.announced()
        assert found <= Counter(run_ids)
        assert lost or found == Counter(run_ids)

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a machine's daemon a signal."""
        os.kill(self.processes[name].pid, number)

    def stop_in_its_tracks(self, name: str) -> None:
        """Stop a machine's daemon as SIGSTOP does, with the processes that download for it."""
        databases.stopped(self.processes[name].pid)


@contextmanager
def machines(folder: Path, simulator: Simulator) -> Iterator[Machines]:
    """Give machines a database of their own; skips the test where there is no server."""
    with databases.prepared() as (server, name), Machines(folder, simulator, server, name) as found:
        yield found


class Way:
    """A way to a port of loopback that can be cut: then bytes go nowhere, and nobody hears of it."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Let nothing through from now on."""
        self._open.clear()

    def mend(self) -> None:
        """Let all through again, also what waited."""
        self._open.set()

    def close(self) -> None:
        """End it, and all connections through it."""
        self._open.set()
        for each in (self._listener, *self._sockets):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
            except OSError:
                return
            self._sockets += (here, there)
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                self._open.wait()
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)
