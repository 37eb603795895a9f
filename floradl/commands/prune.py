"""`floradl prune`: removes files of some kinds that are older than so long; their sidecars say so."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TextIO

from msgspec import Struct

from floradl.clock import rfc3339
from floradl.commands.alone import beside_daemon
from floradl.commands.daemon_state import is_open, open_run_ids
from floradl.commands.exits import Exit
from floradl.commands.library_index import opened_index
from floradl.commands.progress import CountLine
from floradl.commands.streams import say, tell
from floradl.config.settings import Config
from floradl.errors import ConfigError, FloradlError, ServicePausedError
from floradl.library.base import LibraryStore
from floradl.library.retention import Expired, Pruned, Pruner, expired_files, files_of
from floradl.library.sidecar import Sidecar
from floradl.library_builder import build_library
from floradl.models import OutputKind, Reference, RemovalReason
from floradl.units import format_count, format_size, parse_duration, parse_size


class PruneRule(Struct, frozen=True):
    """What is removed: files of `kinds` older than `older_than` seconds, oldest first.

    With `keep_free` only until its disk has so many bytes free.
    """

    kinds: tuple[OutputKind, ...]
    older_than: float
    keep_free: int | None = None

    @classmethod
    def read(cls, kinds: Iterable[str], older_than: str, keep_free: str | None) -> PruneRule:
        """Read the options. Raises `ConfigError`."""
        known = {kind.value: kind for kind in OutputKind}
        found = [known.get(kind.strip().lower()) or _no_kind(kind, known) for kind in kinds]
        try:
            age = parse_duration(older_than)
        except ValueError as error:
            raise ConfigError(f"--older-than: {older_than[:60]!a} {error}") from None
        try:
            room = None if keep_free is None else parse_size(keep_free)
        except ValueError as error:
            raise ConfigError(f"--keep-free: {(keep_free or '')[:60]!a} {error}") from None
        return cls(tuple(dict.fromkeys(found)), age, room)


def _no_kind(kind: str, known: Iterable[str]) -> OutputKind:
    raise ConfigError(f"--kind: {kind[:60]!a} is not a kind: write one of {', '.join(known)}")


def prune(config: Config, rule: PruneRule, out: TextIO, err: TextIO, *, dry_run: bool) -> Exit:
    """Remove what `rule` says, or only say so; what is not as its sidecar says stays, and is `FOUND`.

    It gets along with a daemon: runs that are open are left alone. Raises `LockedError`, `ConfigError`.
    """
    line = CountLine(err, shown=not config.log.quiet)
    library = build_library(config)
    try:
        if dry_run:
            files = _due(config, library, rule)
            shown = list(_until_enough(library, rule, files))
            for each in shown:
                say(out, f"would remove  {each.path} ({format_size(each.size)}, {_day(each)})")
            size = format_size(sum(each.size for each in shown))
            say(out, f"{format_count(len(shown), 'file')} would be removed, {size}")
            return Exit.OK
        with beside_daemon(config, "prune"):
            files = _due(config, library, rule)
            done = _remove(config, library, rule, files, line)
    except ServicePausedError as error:
        line.clear()
        tell(f"floradl: {error}")
        return Exit.GAVE_UP
    for path, message in done.left:
        say(out, f"left        {path}: {message}")
    left = f"; {format_count(len(done.left), 'file')} left" if done.left else ""
    say(out, f"{format_count(done.files, 'file')} removed, {format_size(done.bytes)}{left}")
    return Exit.FOUND if done.left else Exit.OK


def _due(config: Config, library: LibraryStore, rule: PruneRule) -> Sequence[Expired]:
    keep = dict.fromkeys(rule.kinds, rule.older_than)
    return expired_files(library, keep, time.time(), open_run_ids(config.state_dir)).files


def _remove(
    config: Config, library: LibraryStore, rule: PruneRule, files: Sequence[Expired], line: CountLine
) -> Pruned:
    pruner = Pruner(
        library,
        RemovalReason.PRUNED,
        time.time,
        lambda done: line.show("removing", done.files, len(files)),
        partial(is_open, config.state_dir),
        keep_times=config.output.mtime == "completed",
    )
    try:
        if rule.keep_free is None:
            return pruner.prune(files)
        return pruner.prune(files, _is_enough(library, rule.keep_free), at_once=1)
    finally:
        line.clear()


def _is_enough(
    library: LibraryStore, wanted: int, freed: Callable[[], int] = lambda: 0
) -> Callable[[], bool]:
    def judge() -> bool:
        free = library.free_space()
        return free is None or free + freed() >= wanted

    return judge


def _until_enough(library: LibraryStore, rule: PruneRule, files: Iterable[Expired]) -> Iterable[Expired]:
    freed = 0
    enough = _is_enough(library, rule.keep_free or 0, lambda: freed)
    for each in files:
        if rule.keep_free is not None and enough():
            return
        freed += each.size
        yield each


def _named_by_others(config: Config, sidecar: Sidecar) -> set[str]:
    """Return the paths of a run's files that other runs name too."""
    with opened_index(config, os.environ) as index:
        return {
            origin.path
            for output in sidecar.outputs
            if output.path is not None and output.sha256 is not None
            for origin in index.finder.origins(output.sha256)
            if origin.path == output.path and origin.run.run_id != sidecar.run_id
        }


def _day(file: Expired) -> str:
    return (rfc3339(file.saved_at) or "").partition("T")[0]


def prune_run(config: Config, run_id: str) -> Pruned:
    """Remove all files of one run. Raises `FloradlError` where it is open, or a file is not as it was."""
    library = build_library(config)
    with beside_daemon(config, "prune"):
        sidecar = library.find_sidecar(Reference.of(run_id))
        if sidecar is None or run_id in open_run_ids(config.state_dir):
            raise FloradlError(f"{run_id} is not done: there is nothing to remove yet")
        keep_times = config.output.mtime == "completed"
        pruner = Pruner(
            library,
            RemovalReason.PRUNED,
            time.time,
            is_open=partial(is_open, config.state_dir),
            keep_times=keep_times,
        )
        done = pruner.prune(files_of(sidecar, _named_by_others(config, sidecar)))
    if done.left:
        path, message = done.left[0]
        raise FloradlError(f"{path}: {message}")
    return done
