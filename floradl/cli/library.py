"""The commands that check and change the library's files: `verify`, `relayout`, `prune`, `move-library`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import click

from floradl.cli import settle
from floradl.commands.exits import Exit
from floradl.commands.options import common_options, configured, ending, library_dry_run_option

commands = click.Group()


@commands.command(
    epilog=ending("floradl verify --quick --since 7d", (0, 1, 2, 4, 5, 130), "docs/backup-and-move.md")
)
@click.argument("references", metavar="[REF...]", nargs=-1)
@click.option("--quick", is_flag=True, help="Look at sizes and times only.")
@click.option("--since", metavar="WHEN", help="Only runs finished since then (7d, 2026-11-01).")
@click.option("--repair", is_flag=True, help="Download again what is damaged; find files that were moved.")
@click.option("--missing", is_flag=True, help="With --repair: download what is gone, too.")
@click.option("--accept-missing", is_flag=True, help="Record what is gone as removed: you deleted it.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common_options
@click.pass_obj
def verify(
    given: dict[str, Any], /, references: tuple[str, ...], since: str | None, *, as_json: bool, **how: bool
) -> Exit:
    """Read the library's files again, and compare them with their sidecars."""
    if how["missing"] and not how["repair"]:
        raise click.UsageError("--missing says what --repair fetches: give both")
    if how["accept_missing"] and how["repair"]:
        raise click.UsageError("--repair brings files back, --accept-missing lets them go: give one of them")
    config = configured(given, "error")
    from floradl.commands.verify import command

    wanted = command.wanted(references, since, time.time(), quick=how["quick"])
    repair = None
    if how["repair"] or how["accept_missing"]:
        repair = command.Repair(how["missing"], how["accept_missing"])
    settle()
    streams = (sys.stdout, sys.stderr)
    return command.verify(config, os.environ, wanted, repair, streams, as_json=as_json)


@commands.command(epilog=ending("floradl relayout --dry-run", (0, 1, 2, 5, 130), "docs/library.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@library_dry_run_option
@common_options
@click.pass_obj
def relayout(given: dict[str, Any], references: tuple[str, ...], *, dry_run: bool) -> Exit:
    """Rename files to where today's template, labels and names put each; the daemon must not run."""
    config = configured(given, "error")
    from floradl.commands import relayout as command

    settle()
    streams = command.Streams(sys.stdout, sys.stderr)
    return command.relayout(config, references, streams, dry_run=dry_run)


@commands.command(
    epilog=ending("floradl prune --kind video --older-than 90d", (0, 1, 2, 5, 130), "docs/library.md")
)
@click.option(
    "--kind",
    "kinds",
    metavar="KIND",
    multiple=True,
    required=True,
    help="Which outputs (image, video, audio, document, text, other); may be repeated.",
)
@click.option(
    "--older-than", metavar="DURATION", required=True, help="Downloaded longer ago than this (90d)."
)
@click.option(
    "--keep-free", metavar="SIZE", help="Remove no more than it takes to have this much free (50GB)."
)
@library_dry_run_option
@common_options
@click.pass_obj
def prune(
    given: dict[str, Any], kinds: tuple[str, ...], older_than: str, keep_free: str | None, *, dry_run: bool
) -> Exit:
    """Remove old files, the oldest first; their sidecars stay, and only 'retry' brings them back."""
    config = configured(given, "error")
    from floradl.commands import prune as command

    rule = command.PruneRule.read(kinds, older_than, keep_free)
    settle()
    return command.prune(config, rule, sys.stdout, sys.stderr, dry_run=dry_run)


@commands.command(
    "move-library",
    epilog=ending("floradl move-library /mnt/media/flora", (0, 1, 2, 5, 130), "docs/backup-and-move.md"),
)
@click.argument("place", metavar="DIR")
@library_dry_run_option
@common_options
@click.pass_obj
def move_library(given: dict[str, Any], place: str, *, dry_run: bool) -> Exit:
    """Copy the library elsewhere, check every copy, and say what to set; the daemon must not run."""
    config = configured(given, "error")
    where = place if "://" in place else str(Path(place).expanduser().absolute())
    moved = configured(given, environ=os.environ | {"FLORADL_OUTPUT__DIR": where})
    from floradl.commands import move_library as command

    settle()
    streams = (sys.stdout, sys.stderr)
    return command.move_library(config, moved, os.environ, streams, dry_run=dry_run)
