"""Where the configuration comes from, so that it can be read again while something runs by it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from floradl.config.file import NAME
from floradl.config.load import SYSTEM_FILE, Options, config_file, load_config
from floradl.config.settings import Config
from floradl.errors import ConfigError

_Stamp: TypeAlias = tuple[object, ...]


class Source:
    """The file, variables and options that one invocation has; it remembers what the file was when read."""

    def __init__(
        self, options: Options, environ: Mapping[str, str], *, system_file: Path = SYSTEM_FILE
    ) -> None:
        self._options = options
        self._environ = environ
        self._system_file = system_file
        self._loaded: _Stamp | None = None
        self._seen: _Stamp | None = None

    def load(self) -> Config:
        """Read all of it. Raises `ConfigError` as `load_config` does."""
        self._loaded = self._seen = self._stamp()
        return load_config(self._options, self._environ, system_file=self._system_file)

    def changed(self) -> bool:
        """Whether the file is not the one that `load` read, nor still being written.

        That is, whether it is as it was when this was last asked. Cheap; only the file's entry is looked at.
        """
        before, self._seen = self._seen, self._stamp()
        return self._loaded != self._seen == before

    def _stamp(self) -> _Stamp:
        """Return what is another where the file is, or may be read where it could not be."""
        try:
            file = config_file(self._options, self._environ, self._system_file)
            if file is None:
                return ()
            stat = file.stat()
        except (ConfigError, OSError) as error:
            return (str(error),)
        return (file, stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


def passed_over(config: Config) -> str | None:
    """Say so where a file in the home is not read because another is named; None where there is none."""
    here = config.home / NAME
    if config.file != here and os.path.lexists(here):
        return f"{here} is not read: {config.file or 'another'} was found first, or is named"
    return None
