"""Opens the queue in a database: settings are tried, tables made, and this daemon is given its name there."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import anyio
import msgspec
import psycopg
from msgspec import Struct

from floradl.errors import (
    ConfigError,
    PauseReason,
    QueueDamagedError,
    QueueUnavailableError,
    innermost,
)
from floradl.fs.folders import open_root, sync_folder
from floradl.portability import flush
from floradl.queue.folder import MEMBER, note_to_be_filled
from floradl.queue.migrations import LOST
from floradl.queue.postgres.connection import (
    CONNECTIONS,
    PATIENCE,
    Connection,
    Database,
    Server,
    connect,
    explained,
    is_away,
)
from floradl.queue.postgres.queue import PostgresQueue
from floradl.queue.postgres.schema import (
    FILLED,
    IDENTITY,
    MIGRATIONS,
    MOVED,
    fact,
    prepare,
    refuse_pooled_transactions,
    refuse_unusable,
    version_of,
)

_PATIENCE: Final = 600.0  # seconds; to bring a large database up to date takes a while


class Member(Struct, frozen=True):
    """Who a daemon is in the database: the same one for as long as its state folder is."""

    daemon: str
    database: str = ""


class DatabaseState(Struct, frozen=True):
    """What a database says of itself: which one it is, and whether it is filled from the library."""

    identity: str
    filled: bool


async def prepare_database(server: Server, *, migrate: bool = True, moved: bool = False) -> DatabaseState:
    """Try the settings, and make the tables or bring them up to date, where they are not.

    `moved`: a queue that was moved away is no fault.

    Raises `ConfigError` where a setting is wrong or the database is another version's, and
    `QueueUnavailableError` where it is away.
    """
    try:
        await refuse_pooled_transactions(server)
        async with await connect(server) as connection:
            with anyio.fail_after(_PATIENCE):
                if migrate or await version_of(connection, server) != len(MIGRATIONS):
                    await prepare(connection, server)
                if not moved:
                    await _refuse_moved(connection, server)
                identity = await fact(connection, IDENTITY) or ""
                return DatabaseState(identity, await fact(connection, FILLED) is not None)
    except (psycopg.Error, TimeoutError, OSError) as error:
        raise translated(server, error) from error


async def look(server: Server) -> bool:
    """Try the settings without changing anything; returns whether the tables are made. Raises as above."""
    try:
        await refuse_pooled_transactions(server)
        async with await connect(server) as connection:
            made = await version_of(connection, server) > 0
            if not made:
                await refuse_unusable(connection, server)
            await _refuse_moved(connection, server)
            return made
    except (psycopg.Error, TimeoutError, OSError) as error:
        raise translated(server, error) from error


async def _refuse_moved(connection: Connection, server: Server) -> None:
    there = await (await connection.execute("SELECT to_regclass('floradl_facts') IS NOT NULL")).fetchone()
    if there and there[0] and (place := await fact(connection, MOVED)) is not None:
        raise ConfigError(
            f"queue.engine: the queue in {server} was moved to {place}: let queue.engine name that, or move "
            "it back with 'floradl migrate'"
        )


def translated(server: Server, error: BaseException) -> ConfigError | QueueUnavailableError:
    """Return what kept one from using the database as an error of ours: a setting's, or one that may pass."""
    found = explained(server, error)
    if found.setting or not is_away(error):
        return ConfigError(f"queue.engine: {found}")
    return QueueUnavailableError(str(found), PauseReason.QUEUE_UNAVAILABLE)


def read_member(state_dir: Path) -> Member:
    """Return who the daemon of a state folder is; a new one, where it has none. Raises `OSError`."""
    try:
        return msgspec.json.decode((state_dir / MEMBER).read_bytes(), type=Member)
    except (FileNotFoundError, ValueError):
        return Member(secrets.token_hex(8))


def known_member(state_dir: Path) -> str | None:
    """Return who the daemon of a state folder is; None where it has not said so, or nobody may look."""
    try:
        return msgspec.json.decode((state_dir / MEMBER).read_bytes(), type=Member).daemon
    except (OSError, ValueError):
        return None


def write_member(state_dir: Path, member: Member) -> None:
    """Write down who the daemon is; durable. Raises `OSError`."""
    path = state_dir / MEMBER
    temporary = path.with_name(f".{MEMBER}.part")
    with open(
        temporary, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o644)
    ) as file:
        file.write(msgspec.json.encode(member))
        file.flush()
        flush(file.fileno())
    os.replace(temporary, path)  # noqa: PTH105 - the same in fewer words
    with open_root(state_dir) as folder:
        sync_folder(folder)


def join(state_dir: Path, state: DatabaseState) -> Member:
    """Return who the daemon of a state folder, held by the caller, is in a database. Blocking.

    Where it is another database than the last time, or a new one, a mark says that it is to be filled.
    Raises `OSError`.
    """
    member = read_member(state_dir)
    if member.database != state.identity or not state.filled:
        note_to_be_filled(state_dir)
    if member.database != state.identity:
        member = Member(member.daemon, state.identity)
        write_member(state_dir, member)
    return member


@asynccontextmanager
async def opened_queue(
    server: Server,
    daemon: str,
    name: str,
    *,
    connections: int = CONNECTIONS,
    retry_after: float = 5.0,
    patience: float = PATIENCE,
) -> AsyncIterator[PostgresQueue]:
    """Give the queue in a prepared database, for a daemon; its connections are closed at the end.

    Raises `QueueDamagedError` where the tables turn out to be gone: the next start makes them anew.
    """
    database = Database(server, most=connections, retry_after=retry_after, patience=patience)
    queue = PostgresQueue(database, daemon, name)
    try:
        yield queue
    except BaseExceptionGroup as error:
        if (damaged := error.subgroup(QueueDamagedError)) is None:
            raise
        raise QueueDamagedError(f"{innermost(damaged)}: they are made anew; {LOST}") from error
    finally:
        with anyio.CancelScope(shield=True):
            await queue.disconnect()


def name_of(state_dir: Path) -> str:
    """Return what a daemon is called by people: its machine, and its state folder there."""
    return f"{os.uname().nodename}:{state_dir}"
