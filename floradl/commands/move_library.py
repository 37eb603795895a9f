"""`floradl move-library DIR`: copies the library, checks every copy, and marks the old one as moved."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from floradl.commands.alone import without_sharers
from floradl.commands.exits import Exit
from floradl.commands.progress import CountLine
from floradl.commands.streams import say, tell
from floradl.config.settings import Config
from floradl.daemon.startup import first_start
from floradl.errors import ConfigError, ServicePausedError
from floradl.library.base import LibraryStore
from floradl.library.transfer import Copied, Copier
from floradl.library_builder import build_library
from floradl.units import format_count, format_size

_NOTE: Final = "move-library.json"
"""The file in the state folder that says which move is under way."""

_SHOWN: Final = 50  # failures
_VARIABLE: Final = "FLORADL_OUTPUT__DIR"


def move_library(
    config: Config,
    moved: Config,
    environ: Mapping[str, str],
    streams: tuple[TextIO, TextIO],
    *,
    dry_run: bool,
) -> Exit:
    """Copy the library of `config` to where that of `moved` is; with `dry_run` say what would be copied.

    The state folder's lock is held meanwhile. Raises `LockedError`, `ConfigError`.
    """
    out, err = streams
    source, target = build_library(config), build_library(moved)
    if _encloses(source, target) or _encloses(target, source):
        raise ConfigError(
            f"{target.location()} and {source.location()} lie in each other: choose another place"
        )
    line = CountLine(err, shown=not config.log.quiet)
    try:
        source.require()
        if dry_run:
            return _told(source, target, out)
        with without_sharers(config, "move-library"):
            _begin(config.state_dir, source, target)
            total = sum(1 for _ in source.listing())
            try:
                copier = Copier(source, target, lambda done: line.show("copying", done.files, total))
                done = copier.copy()
            finally:
                line.clear()
            if done.failures:
                return _failed(done, source, out)
            first_start(config.state_dir, target)
            source.retire(target.location())
            (config.state_dir / _NOTE).unlink(missing_ok=True)
    except ServicePausedError as error:
        line.clear()
        tell(f"floradl: {error}")
        return Exit.GAVE_UP
    for text in _next_steps(config, source, target, environ, done):
        say(out, text)
    return Exit.OK


def _encloses(one: LibraryStore, other: LibraryStore) -> bool:
    return f"{other.location().rstrip('/')}/".startswith(f"{one.location().rstrip('/')}/")


def _told(source: LibraryStore, target: LibraryStore, out: TextIO) -> Exit:
    files = size = 0
    for file in source.listing():
        files, size = files + 1, size + file.size
    where = f"{source.location()} -> {target.location()}"
    say(out, f"{format_count(files, 'file')} would be copied, {format_size(size)}: {where}")
    free = target.free_space() if Path(target.location()).is_dir() else None
    if free is not None and free < size:
        say(out, f"there is not room enough: {format_size(free)} free")
    return Exit.OK


def _begin(state_dir: Path, source: LibraryStore, target: LibraryStore) -> None:
    """Make the new library, and note what it is a copy of. Raises `ConfigError` where it has other files."""
    note = state_dir / _NOTE
    move = {"from": source.location(), "to": target.location()}
    before: object = None
    with suppress(OSError, ValueError):
        before = json.loads(note.read_bytes())
    if before != move:
        target.create()
        other = next(iter(target.listing()), None)
        if other is not None:
            raise ConfigError(
                f"{target.location()} has files already, such as {other.path}: name a new, empty place"
            )
        note.write_text(json.dumps(move))
    target.create()


def _failed(done: Copied, source: LibraryStore, out: TextIO) -> Exit:
    for failure in done.failures[:_SHOWN]:
        say(out, f"failed      {failure.path}: {failure.message}")
    more = len(done.failures) - _SHOWN
    if more > 0:
        say(out, f"            and {more:,} more")
    say(
        out,
        f"{format_count(done.files, 'file')} copied and checked, {format_count(len(done.failures), 'file')} "
        f"failed: {source.location()} stays the library. 'floradl verify --repair --missing' brings back "
        "what is damaged or gone, 'floradl verify --accept-missing' records what you deleted; then start "
        "again",
    )
    return Exit.FOUND


def _next_steps(
    config: Config, source: LibraryStore, target: LibraryStore, environ: Mapping[str, str], done: Copied
) -> list[str]:
    new, old = target.location(), source.location()
    counted = f"{format_count(done.files, 'file')}, {format_size(done.bytes)}, each checked by its SHA-256"
    if environ.get(_VARIABLE):
        what, line = "Where that variable is set, set", f"{_VARIABLE}={shlex.quote(new)}"
    else:
        what, line = "In the configuration, set", f"output: {{dir: {json.dumps(new, ensure_ascii=False)}}}"
        what += f" ({config.file or config.home / 'config.yaml'})"
    if isinstance(config.output.dir, Path):
        back = f"mv {shlex.quote(f'{old}/.floradl-library-moved')} {shlex.quote(f'{old}/.floradl-library')}"
        rest = f"Once all is well: rm -r {shlex.quote(old)}  (to go back instead: {back})"
    else:
        rest = (
            f"Once all is well, remove what is below {old}; to go back instead, store an empty object with "
            "the name .floradl-library there."
        )
    return [
        f"The library is in {new} now: {counted}.",
        f"{what}:",
        f"  {line}",
        f"and start floradl. Until then it pauses: {old} does not count as a library any more.",
        *(
            ["Hidden files and links were not copied: look whether any of yours are in the old folder."]
            if isinstance(config.output.dir, Path)
            else []
        ),
        rest,
    ]
