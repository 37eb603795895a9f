"""Connections to the server: a bounded number of them, and calls that outlast an outage.

The server's errors are translated here, once: into a sentence for people, and into what is to be done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any, Final, TypeAlias, TypeVar

import anyio
import psycopg
from msgspec import Struct
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from floradl.errors import ConfigError, PauseReason, QueueDamagedError, QueueUnavailableError
from floradl.log import get_logger
from floradl.queue.base import QueueTrouble
from floradl.queue.postgres.refusal import connect_coded
from floradl.wakeups import Signal

_T = TypeVar("_T")
Row: TypeAlias = tuple[Any, ...]
Connection: TypeAlias = psycopg.AsyncConnection[Row]

CONNECTIONS: Final = 6
"""How many connections a daemon has at most, beside the one that hears of news."""

PATIENCE: Final = 60.0
"""Seconds after which a call that hangs (a cut network says nothing) is given up, and tried again."""

_CONNECT_TIMEOUT: Final = 10  # seconds
_FIRST_RETRY: Final = 0.25
# Whoever is stopped in the middle of a transaction must not hold a run's row until it is continued. All else
# is limited by `patience` alone, and is written for READ COMMITTED, whatever the server sets for others.
_SESSION: Final = (
    "SELECT set_config('idle_in_transaction_session_timeout', '15s', false),"
    " set_config('synchronous_commit', CASE current_setting('synchronous_commit')"
    " WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false),"
    " set_config('statement_timeout', '0', false), set_config('lock_timeout', '0', false),"
    " set_config('default_transaction_isolation', 'read committed', false)"
)
_AT_ONCE: Final = ("40001", "40P01")  # a conflict of two transactions: one of them has to do it again
_AWAY: Final = ("08", "53", "57", "58", "25006", "25P03", "55P03")  # codes, or classes of them, that may pass
_NO_RIGHT: Final = "42501"
_SILENT: Final = ("", "08")  # no code, or that of a connection's failure, whichever
_GONE: Final = ("42P01", "3F000", "42703", "42883")  # no such table, schema, column, function
_log = get_logger()
logging.getLogger("psycopg").setLevel(logging.ERROR)  # it warns of what becomes an error of ours anyway


class Server(Struct, frozen=True):
    """Where the queue's database is: a `postgresql://` URL without a password, and what reads the password.

    `password` returns None where libpq's own means (PGPASSFILE, ~/.pgpass) are to find it, and raises
    `ConfigError`.
    """

    url: str
    password: Callable[[], str | None] = lambda: None

    def conninfo(self) -> str:
        """Return what libpq needs, the password included. Raises `ConfigError`."""
        given: dict[str, Any] = {
            "connect_timeout": _CONNECT_TIMEOUT,
            "application_name": "floradl",
            "keepalives_idle": 10,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "tcp_user_timeout": 20_000,
        }
        if (password := self.password()) is not None:
            given["password"] = password
        try:
            return make_conninfo(self.url, **(given | conninfo_to_dict(self.url)))
        except psycopg.Error as error:
            raise ConfigError(f"queue.engine: {self} is malformed: {_one_line(error)}") from error

    def __str__(self) -> str:
        return self.url.partition("?")[0]


class Unreachable(Struct, frozen=True):
    """Why the database cannot be used: what was found, how to fix it, and whether it is a setting's fault."""

    message: str
    remedy: str
    setting: bool = False

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


_REFUSED: Final = (
    "the server refused the user or its password",
    "correct the user in queue.engine, and the password in queue.password_file or PGPASSFILE",
    True,
)
_NO_DATABASE: Final = ("there is no such database", "make it (createdb), or correct queue.engine", True)
_NO_ROOM: Final = (
    "the server has no connection left",
    "raise its max_connections, or close what holds them",
    False,
)
_NOT_YET: Final = ("the server starts or stops", "wait", False)
_CODES: Final = {
    "28P01": _REFUSED,
    "28000": (
        "the server knows no such user, or takes no connection of it from this machine",
        "make the user (createuser), add a line for it to the server's pg_hba.conf, or correct queue.engine",
        True,
    ),
    "3D000": _NO_DATABASE,
    "53300": _NO_ROOM,
    "57P03": _NOT_YET,
}
"""What a server's refusal means, by its code: its words are of its own language."""

# These words are those of libpq and PgBouncer, which speak English alone, and give no code or one for all.
_WORDS: Final = (
    (("password authentication failed", "no password supplied", "authentication failed"), _REFUSED),
    (("no such database",), _NO_DATABASE),
    (("too many connections", "no more connections"), _NO_ROOM),
    (("shutting down",), _NOT_YET),
    (
        ("resolve host", "translate host", "Name or service not known", "No address associated"),
        (
            "its host's name is unknown",
            "correct the host in queue.engine, or this machine's name service",
            True,
        ),
    ),
    (
        ("certificate", "SSL"),
        ("the encryption cannot be agreed on", "correct sslmode in queue.engine", True),
    ),
)


def explained(server: Server, error: BaseException) -> Unreachable:
    """Return a sentence for whatever kept one from using the database; no secret is in it."""
    text = _one_line(error)
    if _code(error) == _NO_RIGHT:
        return Unreachable(
            f"{server}: the queue's user lacks a right ({text})",
            "let it own the tables (REASSIGN OWNED), or GRANT ALL on them to it",
            setting=True,
        )
    found = _CODES.get(_code(error))
    if found is None and _code(error)[:2] in _SILENT:
        found = next((meant for words, meant in _WORDS if any(word in text for word in words)), None)
    if found is not None:
        message, remedy, setting = found
        return Unreachable(f"{server}: {message} ({text})", remedy, setting)
    remedy = "see that the server runs, and that queue.engine names its host and port"
    return Unreachable(f"{server}: the queue's database is away ({text})", remedy)


def _one_line(error: BaseException) -> str:
    """Return what an error says, in one line of bounded length."""
    if isinstance(error, TimeoutError):
        return "it does not answer"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:300] or type(error).__name__


def _code(error: BaseException) -> str:
    return (error.sqlstate or "") if isinstance(error, psycopg.Error) else ""


def is_away(error: BaseException) -> bool:
    """Whether an error may pass by itself: the database, or the way to it, is away for now."""
    if isinstance(error, (TimeoutError, OSError)):
        return True
    if isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError)) and not _code(error):
        return True
    return _code(error).startswith(_AWAY)


async def connect(server: Server) -> Connection:
    """Make one connection, as all of ours are set. Raises `psycopg.Error`, `TimeoutError`, `ConfigError`."""
    with anyio.fail_after(2 * _CONNECT_TIMEOUT):
        connection = await connect_coded(server.conninfo())
        try:
            await connection.execute(_SESSION)
        except BaseException:
            await connection.close()
            raise
    return connection


class Database:
    """Calls on the database, each in a transaction, over at most `most` connections.

    While it is away calls wait, `trouble` says why, and they go on by themselves, `retry_after` seconds
    later at most.
    """

    def __init__(
        self,
        server: Server,
        *,
        most: int = CONNECTIONS,
        retry_after: float = 5.0,
        patience: float = PATIENCE,
    ) -> None:
        self.server = server
        self._patience = patience
        self._retry_after = retry_after
        self._free: list[Connection] = []
        self._room = anyio.Semaphore(most)
        self._back = Signal()
        self._closed = False
        self._damaged: str | None = None
        self.ended = anyio.Event()
        """Set once it is closed, or damaged."""
        self.trouble: QueueTrouble | None = None

    async def call(
        self, work: Callable[[Connection], Awaitable[_T]], *, patience: float = 0.0, single: bool = False
    ) -> _T:
        """Run `work` in a transaction; it is durable when this returns, and run again after an outage.

        One that hangs is given up after `patience` seconds, or the usual ones where these are more.
        So it must not use anything up. `single`: it is one statement, and a transaction by itself, which
        spares two round trips. Raises what `work` raises, and `QueueUnavailableError` for what
        waiting does not mend.
        """
        delay = 0.0
        while True:
            await self._check_open()
            try:
                with anyio.fail_after(max(patience, self._patience)):
                    async with (
                        self._connection() as connection,
                        nullcontext() if single else connection.transaction(),
                    ):
                        result = await work(connection)
            except (psycopg.Error, TimeoutError, OSError) as error:
                if _code(error) not in _AT_ONCE:
                    await self.outlast(error, delay)
                    delay = min(max(2 * delay, _FIRST_RETRY), self._retry_after)
            else:
                self.note_back()
                return result

    async def once(self, work: Callable[[Connection], Awaitable[_T]], *, patience: float = PATIENCE) -> _T:
        """As `call`, but raises `psycopg.Error`, `TimeoutError` and `OSError` instead of waiting."""
        await self._check_open()
        with anyio.fail_after(patience):
            async with self._connection() as connection, connection.transaction():
                result = await work(connection)
        self.note_back()
        return result

    async def rows(self, query: str, values: tuple[Any, ...] = ()) -> list[Row]:
        """Run one statement, as `call` does, and return its rows."""

        async def work(connection: Connection) -> list[Row]:
            cursor = await connection.execute(query, values)
            return await cursor.fetchall() if cursor.description else []

        return await self.call(work, single=True)

    async def outlast(self, error: BaseException, delay: float) -> None:
        """Wait `delay` seconds where an error may pass; at 0 it is tried again at once, on a new connection.

        Raises `QueueUnavailableError` for one that does not pass. Where the tables are gone it never returns:
        `serve` of the queue ends then.
        """
        await self._drop_free()
        if _code(error).startswith(_GONE):
            self._damaged = f"{self.server}: the queue's tables are gone ({_one_line(error)})"
            self.ended.set()
            await anyio.sleep_forever()
        found = explained(self.server, error)
        if not is_away(error) and not found.setting:
            raise QueueUnavailableError(
                f"{self.server}: {_one_line(error)}", PauseReason.QUEUE_UNAVAILABLE
            ) from error
        if delay > 0 or found.setting or isinstance(error, TimeoutError):
            self._note_away(found)
        with anyio.move_on_after(delay):
            await self._back.wait()

    def _note_away(self, found: Unreachable) -> None:
        if self.trouble is None:
            reason = PauseReason.QUEUE_UNAVAILABLE
            _log.error("paused", reason=reason, message=str(found))
            self.trouble = QueueTrouble(str(found), time.time(), reason)

    def note_failure(self, error: BaseException) -> None:
        """Record that a call of `once` failed: the database may be away."""
        found = explained(self.server, error)
        if found.setting or is_away(error):
            self._note_away(found)

    def note_back(self) -> None:
        """Record that the database answers."""
        if self.trouble is not None:
            _log.info("resumed", reason=self.trouble.reason)
            self.trouble = None
            self._back.set()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        async with self._room:
            connection = self._free.pop() if self._free else await connect(self.server)
            try:
                yield connection
            finally:
                if connection.closed or connection.info.transaction_status is not TransactionStatus.IDLE:
                    await connection.close()  # whoever was cancelled left it in the middle of something
                elif self._closed:
                    await connection.close()
                else:
                    self._free.append(connection)

    async def _drop_free(self) -> None:
        """Close the connections that wait: they are as dead as the one that failed."""
        free, self._free = self._free, []
        for connection in free:
            await connection.close()

    async def _check_open(self) -> None:
        if self._damaged is not None:
            await anyio.sleep_forever()
        if self._closed:
            raise anyio.ClosedResourceError

    def close(self) -> None:
        """Take no more calls. Safe to repeat."""
        self._closed = True
        self.ended.set()
        self._back.set()

    async def disconnect(self) -> None:
        """Close all connections that are not at work. Safe to repeat."""
        self.close()
        await self._drop_free()

    def check(self) -> None:
        """Raise `QueueDamagedError` where the tables turned out to be gone."""
        if self._damaged is not None:
            raise QueueDamagedError(self._damaged)
