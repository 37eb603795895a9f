"""Keeps apart, by the state folder's lock, commands that change the library and others that work with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from floradl import __version__
from floradl.commands.daemon_state import read_sharers
from floradl.config.settings import Config
from floradl.errors import ConfigError, LockedError
from floradl.fs.permissions import refusal
from floradl.queue import folder

_MAY_WORK_BESIDE: Final = frozenset({"run", "once"})


@contextmanager
def alone(config: Config, command: str) -> Iterator[None]:
    """Hold the state folder's lock. Raises `LockedError` while another has it, and `ConfigError`."""
    with ExitStack() as stack:
        try:
            folder.make(config.state_dir)
            stack.enter_context(folder.hold(config.state_dir, command, __version__, time.time()))
        except OSError as error:
            why = refusal(config.state_dir) if isinstance(error, PermissionError) else error
            raise ConfigError(f"the state folder {config.state_dir} cannot be used: {why}") from error
        with changing(config):
            yield


@contextmanager
def changing(config: Config) -> Iterator[None]:
    """After the block, have `find` read the whole library again, where no folder's time shows a change."""
    try:
        yield
    finally:
        if not isinstance(config.output.dir, Path):
            from floradl.index.freshness import forget_look  # noqa: PLC0415 - of a library in a store alone
            from floradl.index.tables import FILE_NAME  # noqa: PLC0415 - as above

            forget_look(config.state_dir / FILE_NAME)


@contextmanager
def without_sharers(config: Config, command: str) -> Iterator[None]:
    """As `alone`, and while no other machine's daemon shares the queue. Raises as `alone`.

    Daemons with another queue are not seen.
    """
    with alone(config, command):
        if sharers := read_sharers(config.state_dir):
            from floradl.queue.postgres.opening import name_of  # noqa: PLC0415 - psycopg, an extra

            ours = name_of(config.state_dir)  # it has ended: the lock is held
            others = [sharer.name for sharer in sharers if sharer.name != ours]
            if others:
                raise LockedError(
                    f"{', '.join(others)} already works with the queue that this machine shares: stop all "
                    f"daemons first. One that ended counts for a minute; then start {command} again"
                )
        yield


@contextmanager
def beside_daemon(config: Config, command: str) -> Iterator[None]:
    """Hold the lock, unless a daemon or `once` has it: `command` may run beside these. Raises as `alone`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(config, command))
        except LockedError:
            holder = folder.holder(config.state_dir)
            if holder is not None and holder.command not in _MAY_WORK_BESIDE:
                raise
            stack.enter_context(changing(config))
        yield
