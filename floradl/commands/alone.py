"""Keeps apart, by the state folder's lock, commands that change the library and others that work with it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from floradl import __version__
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
        yield


@contextmanager
def beside_daemon(config: Config, command: str) -> Iterator[None]:
    """Hold the lock, unless a daemon or `once` has it: with those `command` gets along. Raises as `alone`."""
    with ExitStack() as stack:
        try:
            stack.enter_context(alone(config, command))
        except LockedError:
            holder = folder.holder(config.state_dir)
            if holder is not None and holder.command not in _MAY_WORK_BESIDE:
                raise
        yield
