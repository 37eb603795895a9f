"""The database that the configuration names for the queue, if it names one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

import anyio

from floradl.config.credentials import read_queue_password
from floradl.config.settings import SQLITE, Config
from floradl.errors import ConfigError, PauseReason, QueueUnavailableError
from floradl.models import RunRequest
from floradl.queue.reader import QueueReader, share

if TYPE_CHECKING:
    from floradl.queue.postgres.connection import Server

_PATIENCE: Final = 60.0  # seconds
MISSING: Final = (
    "queue.engine: the queue on PostgreSQL needs psycopg and procrastinate, which are not installed: add the "
    "extra `postgres`, see docs/scale-out.md"
)


def shared_server(config: Config) -> Server | None:
    """Return where the shared queue is; None where this machine has its own. Raises `ConfigError`.

    The password is read anew for each connection: it may be changed while a daemon runs.
    """
    if config.queue.engine == SQLITE:
        return None
    if not installed():
        raise ConfigError(MISSING)
    try:
        from floradl.queue.postgres.connection import Server  # noqa: PLC0415 - an extra
    except ImportError as error:  # psycopg without its C library, say
        raise ConfigError(f"{MISSING} ({str(error).splitlines()[0]})") from error

    return Server(config.queue.engine, partial(_password, config))


def read_there(config: Config) -> None:
    """Have this process read the queue from the configured database, if there is one; opens nothing yet."""
    if config.queue.engine == SQLITE:
        return

    def opens() -> AbstractContextManager[QueueReader | None]:
        server = shared_server(config)
        assert server is not None  # noqa: S101 - for the type checker
        from floradl.queue.postgres.opening import known_member  # noqa: PLC0415 - an extra
        from floradl.queue.postgres.reader import read_shared  # noqa: PLC0415 - as above

        return read_shared(server, known_member(config.state_dir))

    share(config.state_dir, opens)


async def submit_there(config: Config, requests: Sequence[RunRequest]) -> int:
    """Put runs into the shared queue; return how many daemons share it.

    Raises `ConfigError`, and `QueueUnavailableError` where the database is away.
    """
    server = shared_server(config)
    assert server is not None  # noqa: S101 - for the type checker
    from floradl.queue.postgres.opening import opened_queue, prepare_database  # noqa: PLC0415 - an extra

    await prepare_database(server, migrate=False)
    with anyio.move_on_after(_PATIENCE):
        async with opened_queue(server, "", "") as queue:
            await queue.submit(requests, time.time(), retry_failed=True)
            return len(await queue.sharing.daemons())
    message = f"{server}: the queue's database does not answer: try again"
    raise QueueUnavailableError(message, PauseReason.QUEUE_UNAVAILABLE)


def installed() -> bool:
    """Whether the extra `postgres` seems to be installed; nothing of it is imported."""
    return all(find_spec(name) is not None for name in ("psycopg", "procrastinate"))


def _password(config: Config) -> str | None:
    found = read_queue_password(config)
    return None if found is None else found.reveal()
