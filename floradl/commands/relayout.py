"""`floradl relayout`: renames files to where today's template, labels and names put each. No network."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TextIO

from msgspec import Struct

from floradl.commands.alone import without_sharers
from floradl.commands.daemon_state import open_run_ids
from floradl.commands.exits import Exit
from floradl.commands.progress import CountLine
from floradl.commands.streams import say, tell
from floradl.commands.submit import parse_all
from floradl.config.settings import Config
from floradl.errors import ServicePausedError
from floradl.library.relayout import Relayout, RelayoutPlan, changes, plan_relayout
from floradl.library_builder import build_library, build_paths
from floradl.units import format_count


class Streams(Struct, frozen=True):
    """Where results go, and progress."""

    out: TextIO
    err: TextIO


def relayout(config: Config, references: Iterable[str], streams: Streams, *, dry_run: bool) -> Exit:
    """Rename the files of some runs, or of all; with `dry_run` say which.

    The state folder's lock is held meanwhile: a daemon that is about to write a sidecar would name a file
    where it was a moment ago. Raises `LockedError`, also beside daemons that share the queue, and
    `ConfigError`.
    """
    named = parse_all(references)
    wanted = frozenset(reference.run_id for reference in named) if named else None
    line = CountLine(streams.err, shown=not config.log.quiet)
    try:
        if dry_run:
            plan = _planned(config, wanted, line)
            for before, after in changes(plan):
                say(streams.out, f"{before} -> {after}")
            return _told(plan, streams, f"would be renamed, {_sidecars(len(plan.sidecars))} moved")
        with without_sharers(config, "relayout"):
            plan = _planned(config, wanted, line)
            work = Relayout(
                build_library(config),
                plan,
                lambda done, total: line.show("renaming", done, total),
                keep_times=config.output.mtime == "completed",
            )
            try:
                work.run()
            finally:
                line.clear()
            plan.problems = work.problems
            count = format_count(work.renamed, "file")
            return _told(plan, streams, f"renamed, {_sidecars(work.sidecars_moved)} moved", count)
    except ServicePausedError as error:
        line.clear()
        tell(f"floradl: {error}")
        return Exit.GAVE_UP


def _planned(config: Config, wanted: frozenset[str] | None, line: CountLine) -> RelayoutPlan:
    try:
        return plan_relayout(
            build_library(config),
            build_paths(config),
            wanted,
            open_run_ids(config.state_dir),
            lambda count: line.show("reading sidecars", count, noun="run"),
        )
    finally:
        line.clear()


def _sidecars(count: int) -> str:
    return format_count(count, "sidecar")


def _told(plan: RelayoutPlan, streams: Streams, what: str, count: str | None = None) -> Exit:
    for problem in plan.problems:
        say(streams.out, f"left        {problem.path}: {problem.message}")
    moves = sum(1 for _ in changes(plan))
    text = f"{count or format_count(moves, 'file')} of {plan.files:,} {what}"
    if plan.passed_over:
        text += f"; {format_count(plan.passed_over, 'run')} passed over"
    if plan.missing:
        text += f"; {format_count(plan.missing, 'file')} missing ('floradl verify' says which)"
    if plan.problems:
        text += f"; {format_count(len(plan.problems), 'problem')}"
    say(streams.out, text)
    return Exit.FOUND if plan.problems or plan.missing else Exit.OK
