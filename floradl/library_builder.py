"""The library that the configuration describes. Builds nothing else, for commands that only read it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from floradl.config.settings import Config
from floradl.library.base import LibraryStore
from floradl.library.folder import FolderLibrary
from floradl.library.path_plan import PathPlan
from floradl.library.scan import Owners
from floradl.library.selection import Selection

if TYPE_CHECKING:
    from floradl.library.object_access import StoreAccess


def build_library(config: Config, environ: Mapping[str, str] = os.environ) -> LibraryStore:
    """Return the configured library; nothing in it is read or written yet.

    `environ` may have the credentials of a bucket. Raises `ConfigError` where this machine cannot use it.
    """
    place = config.output.dir
    if isinstance(place, Path):
        return folder_library(config, place)
    from floradl.library.object_store import open_object_library  # noqa: PLC0415 - where it is wanted

    library = open_object_library(place, build_paths(config), bucket_access(config, environ))
    library.companions = config.output.xmp
    return library


def bucket_access(config: Config, environ: Mapping[str, str] = os.environ) -> StoreAccess:
    """Return the address and credentials of the library's bucket."""
    from floradl.library.object_access import StoreAccess  # noqa: PLC0415 - as above

    output = config.output
    return StoreAccess(output.endpoint, output.region, output.instance_credentials, environ)


def folder_library(config: Config, root: Path) -> FolderLibrary:
    """Return the library of the configuration as it would be in the folder `root`."""
    library = FolderLibrary(root, build_paths(config), Owners(_daemon_user(config.state_dir)))
    library.keep_free = config.download.min_free_space
    library.companions = config.output.xmp
    return library


def build_paths(config: Config) -> PathPlan:
    """Return how the library's files are named."""
    output = config.output
    return PathPlan.parse(output.template, output.folders.by_kind(), output.max_name_bytes)


def build_selection(config: Config) -> Selection:
    """Return which outputs are wanted."""
    output = config.output
    return Selection(output.kinds, output.rules, config.download.max_file_size)


def _daemon_user(state_dir: Path) -> tuple[int, ...]:
    """Return the user id of the daemon, who owns the state folder and so the library; empty if unknown."""
    try:
        return (state_dir.stat().st_uid,)
    except OSError:
        return ()
