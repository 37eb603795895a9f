"""The database that the configuration names for the queue, if it names one."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from floradl.config.credentials import read_queue_password
from floradl.config.settings import SQLITE, Config
from floradl.errors import ConfigError

if TYPE_CHECKING:
    from floradl.queue.postgres.connection import Server

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
    from floradl.queue.postgres.connection import Server  # noqa: PLC0415 - an extra

    return Server(config.queue.engine, partial(_password, config))


def installed() -> bool:
    """Whether the extra `postgres` is there, as far as one sees without importing it."""
    return all(find_spec(name) is not None for name in ("psycopg", "procrastinate"))


def _password(config: Config) -> str | None:
    found = read_queue_password(config)
    return None if found is None else found.reveal()
