"""Row q: what a lease costs in a shared queue, with few and with very many runs that wait."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import anyio
import psycopg

from benchmarks.figures import Figure, Scale, number, ratio
from benchmarks.plan import Plan, tell
from floradl.errors import ErrorCode
from floradl.models import FinishedRun, QueuedRun, Reference, RunFailure, RunRequest
from floradl.queue.postgres import jobs, leases
from floradl.queue.postgres.connection import Connection, Database, Server
from floradl.queue.postgres.opening import opened_queue, prepare_database
from floradl.queue.sharing import Room

_FEW, _MANY = 1_000, 1_000_000
_LEASED = 1_000
_BAR = 1.3  # times as long, at most
_ROOM = Room(16, 16)


def shared_queue(plan: Plan, _rows: Sequence[str]) -> list[Figure]:
    """Take and renew leases in two databases of one server, in turn."""
    pairs: list[tuple[float, float]] = []
    renewed: list[float] = []
    counted: list[float] = []
    with _server(plan) as server:
        crowded, empty = server(), server()
        anyio.run(_fill, crowded, plan.size(_MANY, _FEW))
        anyio.run(_fill, empty, _FEW)
        for number_of_pair in range(plan.pairs):
            lot = range(number_of_pair * _LEASED, number_of_pair * _LEASED + plan.size(_LEASED, 50))
            many = anyio.run(_leased, crowded, lot)
            few = anyio.run(_leased, empty, lot)
            pairs.append((many[0], few[0]))
            renewed.append(many[1])
            counted.append(many[2])
            tell(f"q: {1 / many[0]:.0f} leases/s of {number(_MANY)}, {1 / few[0]:.0f}/s of {number(_FEW)}")
    return [
        ratio("q", "a lease taken", pairs, _BAR, Scale(" ms", 0.001)),
        Figure(row="q", what="a lease renewed", values=tuple(1000 * each for each in renewed), unit=" ms"),
        Figure(row="q", what="runs counted", values=tuple(1000 * each for each in counted), unit=" ms"),
    ]


async def _fill(server: Server, waiting: int) -> None:
    """Have so many runs wait, in a database that has come to rest after that."""
    await prepare_database(server)
    async with opened_queue(server, "daemon", "benchmark") as queue:
        for start in range(0, waiting, 50_000):
            wanted = range(start, min(start + 50_000, waiting))
            await queue.submit([_request(f"run_w{each}") for each in wanted], 1.0, retry_failed=False)
    database = Database(server)
    try:
        await database.rows("VACUUM ANALYZE")
        await database.rows("CHECKPOINT")
    finally:
        await database.disconnect()


async def _leased(server: Server, numbers: range) -> tuple[float, float, float]:
    """Return the seconds that a lease takes, and its renewal, and a count of all runs."""
    database = Database(server)
    async with opened_queue(server, "daemon", "benchmark") as queue:
        ready = [f"run_r{each}" for each in numbers]
        await queue.submit([_request(run_id) for run_id in ready], 2.0, retry_failed=False)
        failure = RunFailure(ErrorCode.GAVE_UP, "for a lease, any answer does")
        runs = [QueuedRun(run_id=run_id, queued_at=2.0) for run_id in ready]
        await queue.sharing.hand_over([FinishedRun(run, failure=failure) for run in runs])
        await queue.counts()
        begun = time.monotonic()
        await queue.counts()
        counted = time.monotonic() - begun
    try:
        return *await _take_all(database, len(numbers)), counted
    finally:
        await database.disconnect()


async def _take_all(database: Database, count: int) -> tuple[float, float]:
    worker = await database.call(lambda connection: jobs.manager_of(connection).register_worker())
    fences: dict[str, int] = {}

    async def take(connection: Connection) -> list[leases.Leased]:
        return await leases.take(connection, ("daemon", worker), _ROOM, ())

    begun = time.monotonic()
    while len(fences) < count:
        fences |= {leased.run_id: leased.fence for leased in await database.call(take)}
    taken = (time.monotonic() - begun) / count
    begun = time.monotonic()
    await database.call(lambda connection: leases.renew(connection, "daemon", fences))
    return taken, (time.monotonic() - begun) / count


def _request(run_id: str) -> RunRequest:
    return RunRequest(Reference(run_id))


@contextmanager
def _server(plan: Plan) -> Iterator[_Databases]:
    """Run a PostgreSQL for the block; what it gives makes a new database at each call."""
    with tempfile.TemporaryDirectory(prefix="floradl-benchmarks-", dir="/tmp") as name:
        folder = Path(name)
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        with closing(socket.create_server(("127.0.0.1", 0))) as listener:
            port = listener.getsockname()[1]
        data, options = folder / "data", f"-h 127.0.0.1 -p {port} -k {folder}"
        _run(plan.tools.path("initdb"), "-D", data, "-U", "floradl", "-A", "trust", "-E", "UTF8")
        control = plan.tools.path("pg_ctl")
        _run(control, "-D", data, "-l", folder / "log", "-w", "-o", options, "start")
        try:
            yield _Databases(port)
        finally:
            _run(control, "-D", data, "-m", "immediate", "-w", "stop")


class _Databases:
    def __init__(self, port: int) -> None:
        self._at = f"postgresql://floradl@127.0.0.1:{port}"
        self._count = 0

    def __call__(self) -> Server:
        self._count += 1
        name = f"benchmark_{self._count}"
        with psycopg.connect(f"{self._at}/postgres", autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return Server(f"{self._at}/{name}")


def _run(*command: object) -> None:
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    prefix = (
        ()
        if user is None
        else ("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups")
    )
    subprocess.run(
        [*prefix, *map(str, command)],
        check=True,
        cwd="/",
        stdout=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
