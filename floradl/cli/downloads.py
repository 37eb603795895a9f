"""The commands that download: `run`, `once` and `get`."""

from __future__ import annotations

import os
import sys
from contextlib import nullcontext
from typing import Any

import click

from floradl.cli import serve
from floradl.commands.exits import Exit
from floradl.commands.options import (
    common_options,
    configured,
    configured_from,
    dry_run_option,
    ending,
    result_options,
    run_options,
    seconds,
    shown,
)

commands = click.Group()


@commands.command(epilog=ending("floradl --home /srv/flora run", (0, 2, 5), "docs/service.md"))
@common_options
@click.pass_obj
def run(given: dict[str, Any]) -> Exit:
    """Run the daemon: watch, poll and download until stopped.

    On a terminal it shows what goes on, and of its log what is wrong; -v shows all of that.
    """
    config, source = configured_from(given, "info")
    from floradl.daemon import run
    from floradl.display import open_daemon_display
    from floradl.log import change_level

    idle = f"waiting for jobs in {config.queue.watch_dir}; Ctrl-C stops"
    with open_daemon_display(sys.stderr, idle) if config.log.format == "auto" else nullcontext() as display:
        if display is not None and config.log.level == "info":
            change_level("warning")
        serve(run.run, config, os.environ, source, display)
    return Exit.OK


@commands.command(epilog=ending("floradl once --max-wait 30m", (0, 2, 3, 4, 5, 130), "README.md"))
@click.option("--max-wait", metavar="DURATION", help="Give up waiting for unfinished runs after this (30m).")
@result_options
@dry_run_option
@common_options
@click.pass_obj
def once(
    given: dict[str, Any], max_wait: str | None, *, as_json: bool, paths: str | None, dry_run: bool
) -> Exit:
    """Download everything queued, wait for runs that are not finished, then exit."""
    limit = seconds(max_wait, "--max-wait")
    show = shown(as_json=as_json, as_paths=paths is not None, option="--print")
    config = configured(given, "error")
    if dry_run:
        from floradl.commands.dry_run import preview_queue

        return serve(preview_queue, config, os.environ)
    from floradl.commands import get

    return serve(get.once, config, os.environ, limit, show)


@commands.command(epilog=ending("floradl get campaign/run_abc123", (0, 2, 3, 4, 5, 130), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@run_options
@result_options
@dry_run_option
@common_options
@click.pass_obj
def get(
    given: dict[str, Any],
    /,
    references: tuple[str, ...],
    *,
    as_json: bool,
    paths: str | None,
    dry_run: bool,
    **said: Any,
) -> Exit:
    """Download runs now, with progress bars; needs no daemon, and does no harm beside one."""
    from floradl.commands.submit import Given, read_requests
    from floradl.models import Action

    if not references and not said["inputs"]:
        raise click.UsageError("name at least one run, or a file of runs with -i ('-' is standard input)")
    wanted = read_requests(references, Action.FETCH, Given(**said))
    show = shown(as_json=as_json, as_paths=paths is not None, option="--print")
    config = configured(given, "error")
    if dry_run:
        from floradl.commands.dry_run import preview_runs

        return serve(preview_runs, config, os.environ, wanted)
    from floradl.commands import get

    return serve(get.get, config, os.environ, wanted, show)
