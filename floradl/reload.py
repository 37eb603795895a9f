"""The configuration while the daemon runs: what can change without a restart does, of the rest it is told."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Protocol

import anyio
import structlog
from anyio import to_thread
from msgspec.structs import replace

from floradl.config.settings import Config, Key, settings
from floradl.config.source import Source
from floradl.errors import ConfigError
from floradl.net.throttle import Throttle
from floradl.ticks import next_tick

_LOOK_EVERY = 2.0  # seconds
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Listener(Protocol):
    """Who wants to know that the configuration is read again."""

    def reloading(self) -> None:
        """Hear that it begins."""
        ...

    def reloaded(self, trouble: str | None) -> None:
        """Hear that it is over. `trouble` is why nothing was applied, None where all is well."""
        ...


@asynccontextmanager
async def reloading(
    config: Config, source: Source, throttle: Throttle, listener: Listener | None = None
) -> AsyncIterator[None]:
    """Meanwhile, apply changes of the configuration file: within seconds, and at once on SIGHUP.

    `config` is what everything was built by. SIGHUP is understood from the moment this is entered.
    """
    terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
    reload = Reload(config, source, throttle, listener)
    with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
        async with anyio.create_task_group() as group:
            group.start_soon(reload.watch)
            group.start_soon(_obey, hangups, reload, terminal)
            yield
            group.cancel_scope.cancel()


class Reload:
    """Reads the configuration again, and applies what can be."""

    def __init__(
        self, config: Config, source: Source, throttle: Throttle, listener: Listener | None = None
    ) -> None:
        self._config = config
        self._source = source
        self._throttle = throttle
        self._listener = listener

    async def watch(self) -> None:
        """Look at the file now and then, for ever."""
        while True:
            await next_tick(_LOOK_EVERY)
            if await to_thread.run_sync(self._source.changed):
                await self.again()

    async def again(self) -> None:
        """Read it, and apply it; where it is broken all stays as it is."""
        if self._listener is not None:
            self._listener.reloading()
        trouble: str | None = "the configuration was not read to its end"
        try:
            trouble = await self._apply()
        finally:
            if self._listener is not None:
                self._listener.reloaded(trouble)

    async def _apply(self) -> str | None:
        try:
            config = await to_thread.run_sync(self._source.load)
        except ConfigError as error:
            message = f"{error}; what held so far still holds"
            _log.error("config_broken", message=message)
            return message
        rate_limit = config.download.rate_limit
        self._throttle.change(rate_limit)
        self._config = replace(self._config, download=replace(self._config.download, rate_limit=rate_limit))
        _log.info("config_reloaded", file=str(config.file), rate_limit=self._throttle.rate())
        if later := list(differing(self._config, config)):
            _log.warning("restart_needed", settings=[".".join(key) for key in later])
        return None


def differing(one: Config, other: Config) -> Iterator[Key]:
    """Give the settings in which two configurations differ."""
    for key in settings():
        here: object = one
        there: object = other
        for name in key:
            here, there = getattr(here, name), getattr(there, name)
        if here != there:
            yield key


async def _obey(hangups: AsyncIterator[signal.Signals], reload: Reload, terminal: bool) -> None:  # noqa: FBT001
    async for _ in hangups:
        if terminal and not _has_terminal():
            # It was closed over a daemon that somebody had started in it: that ends what runs there.
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            await reload.again()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal; one that hung up is none any more."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
