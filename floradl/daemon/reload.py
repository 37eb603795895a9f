"""The configuration while the daemon runs: what can change without a restart does, the rest is logged."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from operator import attrgetter
from typing import Any, Final, Protocol

import anyio
from anyio import to_thread
from msgspec.structs import replace

from floradl.app import CHANGEABLE, App, hook_settings, safe_hook_settings
from floradl.config.credentials import read_api_key
from floradl.config.load import Source
from floradl.config.settings import Config, Key, settings
from floradl.daemon.hooks import HookRunner
from floradl.daemon.notify import Notifications, check_targets
from floradl.errors import ConfigError, ExposedError
from floradl.log import change_level, get_logger
from floradl.wakeups import next_tick

_KEY_FILE: Final[Key] = ("api", "key_file")
_LEVEL: Final[Key] = ("log", "level")
_NOTIFY: Final = frozenset({("notify", "urls_file"), ("notify", "on")})
_HOOKS: Final = frozenset({("hooks", "run_finished"), ("hooks", "paused"), ("hooks", "timeout")})
_LOOK_EVERY = 4.0  # seconds
_BASE_URL: Key = ("api", "base_url")
# A key is for the API that it was given with, and so is the trust in its host: until the restart that
# another API needs, the old one must get no other key, and must not become a stranger.
_GO_WITH_IT: frozenset[Key] = frozenset({_KEY_FILE, ("network", "trusted_private_hosts")})
_log = get_logger()


class Changing:
    """Applies a configuration (`Change`) to a daemon's app, hooks and notifications."""

    keys: Final = CHANGEABLE | _HOOKS | _NOTIFY | {_LEVEL}

    def __init__(self, app: App, hooks: HookRunner, environ: Mapping[str, str]) -> None:
        self._app = app
        self._hooks = hooks
        self._environ = environ
        self.notifications: Notifications | None = None

    def check(self, config: Config, changed: Collection[Key]) -> None:
        """See `Change.check`."""
        safe_hook_settings(config, self._environ)
        if _NOTIFY.intersection(changed):
            check_targets(config, self._environ)
        try:
            read_api_key(config, self._environ)
        except ConfigError as error:
            # Another trouble of a key that is where it was is reported by the pause that it causes.
            if _KEY_FILE in changed or isinstance(error, ExposedError):
                raise

    async def apply(self, config: Config, changed: Collection[Key]) -> None:
        """See `Change.apply`; what did not change is left alone."""
        if _LEVEL in changed:
            change_level(config.log.level)
        if CHANGEABLE.intersection(changed):
            self._app.change(config)
        if _HOOKS.intersection(changed):
            await self._hooks.change(hook_settings(config, self._environ))
        if self.notifications is not None:
            self.notifications.change(config)


class ReloadListener(Protocol):
    """Hears when the configuration is read again."""

    def reloading(self) -> None:
        """Record that reading begins."""

    def reloaded(self, trouble: str | None) -> None:
        """Record that reading has ended. `trouble` is why nothing was applied, None where all is well."""


class Change(Protocol):
    """Applies another configuration."""

    @property
    def keys(self) -> Collection[Key]:
        """The settings that can change; for all others `apply` gets the values of the start."""

    def check(self, config: Config, changed: Collection[Key]) -> None:
        """Raise `ConfigError` for values that would not work, before any is applied. Blocking."""

    async def apply(self, config: Config, changed: Collection[Key]) -> None:
        """Let `config` hold from now on."""


@asynccontextmanager
async def reloading(
    config: Config, source: Source, change: Change, listener: ReloadListener | None = None
) -> AsyncIterator[None]:
    """Meanwhile, apply changes of the file `config` is from: within seconds, and at once on SIGHUP."""
    terminal = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()
    reload = Reload(config, source, change, listener)
    with anyio.open_signal_receiver(signal.SIGHUP) as hangups:
        async with anyio.create_task_group() as group:
            group.start_soon(reload.watch)
            group.start_soon(_obey, hangups, reload, terminal)
            yield
            group.cancel_scope.cancel()


class Reload:
    """Reads the configuration again, and applies what can be."""

    def __init__(
        self, config: Config, source: Source, change: Change, listener: ReloadListener | None = None
    ) -> None:
        self._config = config
        self._source = source
        self._change = change
        self._listener = listener
        self._turn = anyio.Lock()

    async def watch(self) -> None:
        """Look at the file now and then, for ever."""
        while True:
            await next_tick(_LOOK_EVERY)
            if await to_thread.run_sync(self._source.changed):
                await self.again()

    async def again(self) -> None:
        """Read the configuration and apply it; where it is broken, nothing changes."""
        async with self._turn:
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
            read = await to_thread.run_sync(self._source.load)
            changed = applicable(self._config, read, self._change.keys)
            config = self._config
            for key in changed:
                config = _with(config, key, attrgetter(".".join(key))(read))
            await to_thread.run_sync(self._change.check, config, changed)
        except ConfigError as error:
            message = f"{error}; what held so far still holds"
            _log.error("config_broken", message=message)
            return message
        await self._change.apply(config, changed)
        self._config = config
        _log.info("config_reloaded", file=str(read.file), settings=_named(changed))
        if later := list(differing(config, read)):
            _log.warning("restart_needed", settings=_named(later))
        return None


def differing(one: Config, other: Config) -> Iterator[Key]:
    """Yield the settings in which two configurations differ."""
    for key in settings():
        value = attrgetter(".".join(key))
        if value(one) != value(other):
            yield key


def applicable(held: Config, read: Config, keys: Collection[Key]) -> list[Key]:
    """Return those of `keys` that differ between `read` and `held`, and are valid without other changes."""
    changed = list(differing(held, read))
    kept_back = _GO_WITH_IT if _BASE_URL in changed else frozenset()
    return [key for key in changed if key in keys and key not in kept_back]


def _with(section: Any, key: Key, value: Any) -> Any:
    first, *rest = key
    return replace(section, **{first: _with(getattr(section, first), tuple(rest), value) if rest else value})


def _named(keys: Collection[Key]) -> list[str]:
    return [".".join(key) for key in keys]


async def _obey(hangups: AsyncIterator[signal.Signals], reload: Reload, terminal: bool) -> None:  # noqa: FBT001
    async for _ in hangups:
        if terminal and not _has_terminal():
            # It was closed over a daemon that somebody had started in it: that ends what runs there.
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            await reload.again()


def _has_terminal() -> bool:
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
