"""A PostgreSQL server for tests: Debian's, started once a session as its own user, with a database a test."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, Final, Self

import anyio
import psycopg
import pytest
from ports import free_port

from floradl.models import Reference, RunRequest
from floradl.queue.postgres.connection import Server
from floradl.queue.postgres.opening import prepare_database
from floradl.queue.postgres.schema import TABLES

USER: Final = "floradl"
PASSWORD: Final = "planted-password"
_NUMBERS = itertools.count(1)
_SETTINGS: Final = {
    "fsync": "off",
    "synchronous_commit": "on",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "64MB",
    "autovacuum": "off",
    "logging_collector": "off",
    "log_min_messages": "fatal",
}


def programs() -> Path | None:
    """Return the folder of the newest server's programs; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    return found[-1].parent if found else None


def as_user(name: str) -> tuple[str, ...]:
    """Return what runs a command as another user, where this is root."""
    if os.geteuid() != 0:
        return ()
    user = pwd.getpwnam(name)
    return ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")


class PostgresServer:
    """A server of one's own in `folder`, at a port of loopback."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self._folder = folder
        self._bin = programs()
        self.port = free_port()
        self.settings = _SETTINGS | settings

    @property
    def data(self) -> Path:
        return self._folder / "data"

    def make(self) -> None:
        assert self._bin is not None
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres", "postgres")
        secret = self._folder / "superuser"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            self._bin / "initdb", "-D", self.data, "-U", USER, "-A", "scram-sha-256", "--pwfile", secret,
            "-E", "UTF8", "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip

    def start(self) -> None:
        assert self._bin is not None
        given = [f"-c {name}={value}" for name, value in self.settings.items()]
        options = f"-h 127.0.0.1 -p {self.port} -k {self._folder} {' '.join(given)}"
        self._run(
            self._bin / "pg_ctl",
            "-D",
            self.data,
            "-l",
            self._folder / "log",
            "-w",
            "-t",
            "60",
            "-o",
            options,
            "start",
        )

    def stop(self, mode: str = "immediate") -> None:
        assert self._bin is not None
        self._run(self._bin / "pg_ctl", "-D", self.data, "-m", mode, "-w", "stop")

    def is_up(self) -> bool:
        return _listens(self.port)

    def restart(self) -> None:
        self.stop("fast")
        self.start()

    def _run(self, *command: Any) -> None:
        with (self._folder / "out").open("a") as out:
            done = subprocess.run(
                [*as_user("postgres"), *map(str, command)],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=120,
                check=False,
            )
        assert done.returncode == 0, (self._folder / "out").read_text()

    def url(self, database: str = "postgres", port: int | None = None) -> str:
        return f"postgresql://{USER}@127.0.0.1:{port or self.port}/{database}"

    def server(self, database: str = "postgres", port: int | None = None) -> Server:
        return Server(self.url(database, port), lambda: PASSWORD)

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        with psycopg.connect(self.server(database).conninfo(), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """Make a database for the block, and drop it at its end."""
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        try:
            yield name
        finally:
            with suppress(psycopg.Error):
                self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


def missing() -> str | None:
    """Say why no server can be started here; None where one can."""
    if programs() is None:
        return "no PostgreSQL server is installed (Debian's package postgresql)"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "there is no user postgres to run a server as"
        if shutil.which("setpriv") is None:
            return "there is no setpriv to run a server as another user"
    return None


@contextmanager
def running(**settings: str) -> Iterator[PostgresServer]:
    """Run a server of one's own for the block; skips the test where that cannot be."""
    if (why := missing()) is not None:
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="floradl-pg-"))
    folder.chmod(0o755)
    server = PostgresServer(folder, **settings)
    try:
        server.make()
        server.start()
        yield server
    finally:
        with suppress(AssertionError):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


_open: list[Any] = []


@cache
def shared() -> PostgresServer:
    """Return the session's server, started at the first call; `stop_shared` ends it."""
    context = running()
    server = context.__enter__()
    _open.append(context)
    return server


def stop_shared() -> None:
    """End the session's server, where one was started."""
    while _open:
        _open.pop().__exit__(None, None, None)


@cache
def template() -> str:
    """Return a database of the session's server whose tables are made, to copy."""
    server = shared()
    name = f"prepared_{os.getpid()}"
    server.execute(f'CREATE DATABASE "{name}" TEMPLATE template0')
    with ThreadPoolExecutor(1) as threads:  # who asks may be in an event loop
        threads.submit(lambda: anyio.run(prepare_database, server.server(name))).result()
    return name


_spare: list[str] = []


@contextmanager
def prepared() -> Iterator[tuple[PostgresServer, str]]:
    """Give a database with empty tables for the block: the server, and its name.

    One that a test is done with is emptied for the next: to make one takes longer than most tests.
    """
    server = shared()
    if _spare:
        name = _spare.pop()
    else:
        name = f"test_{os.getpid()}_{next(_NUMBERS)}"
        server.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template()}"')
    yield server, name
    rows = ", ".join((*TABLES, "procrastinate_jobs", "procrastinate_workers"))
    facts = "DELETE FROM floradl_facts WHERE name IN ('filled', 'moved')"
    server.execute(f"TRUNCATE {rows} RESTART IDENTITY CASCADE; {facts}", name)
    _spare.append(name)


@contextmanager
def pooler(server: PostgresServer, mode: str) -> Iterator[int]:
    """Run PgBouncer before a server for the block, in a pool mode; gives its port."""
    if (program := shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")) is None:
        pytest.skip("pgbouncer is not installed (Debian's package pgbouncer)")
    folder = Path(tempfile.mkdtemp(prefix="floradl-pgbouncer-"))
    port = free_port()
    (folder / "users").write_text(f'"{USER}" "{PASSWORD}"\n')
    (folder / "pgbouncer.ini").write_text(
        f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\npool_mode = {mode}\nauth_type = scram-sha-256\n"
        f"auth_file = {folder / 'users'}\nmax_client_conn = 100\ndefault_pool_size = 20\n"
        f"logfile = {folder / 'log'}\n"
    )
    if os.geteuid() == 0:
        for path in (folder, *folder.iterdir()):
            shutil.chown(path, "postgres", "postgres")
    command = [*as_user("postgres"), program, "-q", str(folder / "pgbouncer.ini")]
    process = subprocess.Popen(command, cwd="/", stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or _listens(port))
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Relay:
    """A way to a server over loopback that can be cut: then nothing passes, and nobody is told."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self.was_cut = False
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self._open.set()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.was_cut = True
        self._open.clear()

    def mend(self) -> None:
        self._open.set()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                onward = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [client, onward]
                for source, sink in ((client, onward), (onward, client)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def pass_on(self, data: bytes, sink: socket.socket) -> None:
        """Send what came, once the way is open."""
        self._open.wait()
        sink.sendall(data)

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536):
                self.pass_on(data, sink)
            sink.shutdown(socket.SHUT_RDWR)


def order(run_id: str) -> RunRequest:
    """Return a request for a run."""
    return RunRequest(Reference(run_id))


def wait_for(look: Callable[[], Any], seconds: float = 120.0) -> Any:
    """Return what `look` gives, once it is true."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.02)
    return found


def stopped(pid: int) -> None:
    """Stop a process, and wait until it stands."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
