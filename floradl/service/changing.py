"""Lets another configuration hold in a daemon that runs: each owner of something is told its part."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

from floradl.assembly import CHANGEABLE, Works
from floradl.config.credentials import read_api_key
from floradl.config.settings import Config, Key
from floradl.errors import ConfigError, ExposedError
from floradl.log import change_level
from floradl.service.hooking import Hooks, hook_orders, safe_orders

_KEY_FILE: Final[Key] = ("api", "key_file")
_LEVEL: Final[Key] = ("log", "level")
_HOOKS: Final[frozenset[Key]] = frozenset(
    {("hooks", "run_finished"), ("hooks", "paused"), ("hooks", "timeout")}
)


class Changing:
    """A `reload.Change` for a daemon's works and hooks."""

    keys: Final = CHANGEABLE | _HOOKS | {_LEVEL}

    def __init__(self, works: Works, hooks: Hooks, environ: Mapping[str, str]) -> None:
        self._works = works
        self._hooks = hooks
        self._environ = environ

    def check(self, config: Config, changed: Collection[Key]) -> None:
        """Find what would not work, before anything of it holds. Raises `ConfigError`. Blocking."""
        safe_orders(config, self._environ)
        try:
            read_api_key(config, self._environ)
        except ConfigError as error:
            # Another trouble of a key that is where it was is told by the pause that comes of it.
            if _KEY_FILE in changed or isinstance(error, ExposedError):
                raise

    async def apply(self, config: Config, changed: Collection[Key]) -> None:
        """Let `config` hold; what did not change is left in peace."""
        if _LEVEL in changed:
            change_level(config.log.level)
        if CHANGEABLE.intersection(changed):
            self._works.change(config)
        if _HOOKS.intersection(changed):
            await self._hooks.change(hook_orders(config, self._environ))
