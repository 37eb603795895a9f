"""`floradl migrate`: brings the queue up to date, or moves it to the other engine."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from functools import partial

import anyio
from msgspec.structs import replace

from floradl import __version__
from floradl.commands.exits import Exit
from floradl.commands.streams import tell
from floradl.config.locations import EngineUrl
from floradl.config.settings import SQLITE, Config
from floradl.daemon.database import shared_server
from floradl.errors import ConfigError
from floradl.queue import folder
from floradl.queue.recovery import open_queue
from floradl.units import format_count


def migrate(config: Config, to: str | None) -> Exit:
    """Bring the queue up to date; with `to`, an engine as `queue.engine` has it, move it there.

    Raises `ConfigError`, `LockedError` where a daemon is at work, `QueueUnavailableError`.
    """
    try:
        if to is None:
            return _update(config)
        try:
            engine: str = EngineUrl().read(to)
        except ValueError as error:
            raise ConfigError(f"--to: {error}") from None
        return _move(config, engine)
    except OSError as error:
        raise ConfigError(f"the state folder {config.state_dir} cannot be used: {error}") from error


def _update(config: Config) -> Exit:
    if (server := shared_server(config)) is not None:
        from floradl.queue.postgres.opening import prepare_database  # noqa: PLC0415 - an extra

        anyio.run(prepare_database, server)
        tell(f"the queue in {server} is up to date")
        return Exit.OK
    folder.make(config.state_dir)
    with _held(config):
        open_queue(config.state_dir).disconnect()
    tell(f"the queue in {config.state_dir} is up to date")
    return Exit.OK


def _move(config: Config, engine: str) -> Exit:
    if engine != SQLITE:
        return _to_database(replace(config, queue=replace(config.queue, engine=engine)))
    if (server := shared_server(config)) is None:
        raise ConfigError(
            "queue.engine is sqlite already: let it name the database until the queue is moved out of it"
        )
    from floradl.queue.postgres import move, opening  # noqa: PLC0415 - an extra

    anyio.run(opening.prepare_database, server)
    folder.make(config.state_dir)
    with _held(config):
        count = move.move_to_file(server, config.state_dir, opening.known_member(config.state_dir))
    tell(
        f"moved {format_count(count, 'run')} to {config.state_dir}: set queue.engine to sqlite, and start "
        f"floradl; {server} stays as it was, and no daemon takes it up any more"
    )
    return Exit.OK


def _to_database(config: Config) -> Exit:
    server = shared_server(config)
    assert server is not None  # noqa: S101 - for the type checker
    from floradl.queue.postgres import move, opening  # noqa: PLC0415 - an extra

    anyio.run(partial(opening.prepare_database, moved=True), server)
    folder.make(config.state_dir)
    with _held(config):
        member = opening.read_member(config.state_dir)
        count = move.move_to_database(config.state_dir, server, member)
    tell(
        f"moved {format_count(count, 'run')} to {server}: set queue.engine to it, and start floradl; the old "
        f"journal stays in {config.state_dir} under another name"
    )
    return Exit.OK


def _held(config: Config) -> AbstractContextManager[None]:
    return folder.hold(config.state_dir, "migrate", __version__, time.time())
