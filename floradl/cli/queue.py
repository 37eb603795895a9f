"""The commands beside a daemon, which fill its queue and tell what is in it: `add` to `events`."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import Any

import click

from floradl.cli import serve
from floradl.commands.exits import Exit
from floradl.commands.options import (
    common_options,
    configured,
    dry_run_option,
    ending,
    is_quiet,
    kind_option,
    run_options,
    seconds,
    start_of,
)
from floradl.commands.streams import tell

commands = click.Group()


@commands.command(epilog=ending("floradl add campaign/run_abc123 run_def456", (0, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@run_options
@common_options
@click.pass_obj
def add(given: dict[str, Any], /, references: tuple[str, ...], **said: Any) -> Exit:
    """Queue runs for the daemon; without REF and -i they are read from standard input."""
    from floradl.commands import submit
    from floradl.models import Action

    wanted = submit.read_requests(references, Action.FETCH, submit.Given(**said))
    return submit.queue(configured(given), wanted, quiet=is_quiet(given))


@commands.command(epilog=ending("floradl retry --failed", (0, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@click.option("--failed", is_flag=True, help="All runs that failed, in whole or in part.")
@kind_option
@common_options
@click.pass_obj
def retry(
    given: dict[str, Any], references: tuple[str, ...], kinds: tuple[str, ...], *, failed: bool
) -> Exit:
    """Queue runs again; one that is done is downloaded anew."""
    from floradl.commands import submit
    from floradl.models import Action

    config, said = configured(given), submit.Given(kinds=kinds)
    requests = said.applied(submit.failed_runs(config)) if failed else []
    if references or not failed:
        named = submit.read_requests(references, Action.RETRY, said)
        if not is_quiet(given):
            submit.warn_of_unknown(config, named)
        requests += named
    if not requests:
        tell("no run failed")
        return Exit.OK
    return submit.queue(config, requests, quiet=is_quiet(given))


@commands.command(epilog=ending("floradl forget run_abc123", (0, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@common_options
@click.pass_obj
def forget(given: dict[str, Any], references: tuple[str, ...]) -> Exit:
    """Drop runs from the queue; nothing brings the files of a forgotten run back."""
    from floradl.commands import submit
    from floradl.models import Action

    wanted = submit.read_requests(references, Action.FORGET, submit.Given())
    config = configured(given)
    if not is_quiet(given):
        submit.warn_of_unknown(config, wanted)
    return submit.queue(config, wanted, quiet=is_quiet(given))


@commands.command(epilog=ending("floradl sync --since 30d", (0, 2, 4, 5, 130), "docs/sync.md"))
@click.option("--since", metavar="WHEN", help="How far back (30d, 2026-11-01); sync.since if not given.")
@dry_run_option
@common_options
@click.pass_obj
def sync(given: dict[str, Any], since: str | None, *, dry_run: bool) -> Exit:
    """Queue the runs of the account's history that are not known yet."""
    config = configured(given, "error")
    from floradl.commands import submit as command

    return serve(partial(command.sync, dry_run=dry_run), config, os.environ, since)


@commands.command(epilog=ending("floradl status --json", (0, 1, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--all", "everything", is_flag=True, help="All runs, as lines of JSON.")
@click.option("--check", is_flag=True, help="Exit 1 unless a daemon is alive and makes progress.")
@click.option("--watch", is_flag=True, help="A live picture on the terminal, until Ctrl-C (which is exit 0).")
@common_options
@click.pass_obj
def status(given: dict[str, Any], /, references: tuple[str, ...], **how: bool) -> Exit:
    """Show what is waiting, running, paused, done and failed, and why; of single runs all that is known."""
    if references and (how["everything"] or how["check"]):
        raise click.UsageError("REF shows single runs: leave --all and --check out")
    if how["watch"] and (references or sum(how.values()) > 1):
        raise click.UsageError("--watch stands alone; programs read 'floradl status --json'")
    config = configured(given)
    if how["watch"]:
        from floradl.commands.watch import watch

        return watch(config, sys.stdout)
    from floradl.commands import status as command

    as_json, everything, check = how["as_json"], how["everything"], how["check"]
    if references:
        from floradl.commands.submit import parse_all

        return command.status_of(config, parse_all(references), sys.stdout, as_json=as_json)
    return command.status(config, as_json=as_json, everything=everything, check=check, stream=sys.stdout)


@commands.command(
    epilog=ending("floradl wait campaign/run_abc123 --timeout 20m", (0, 2, 3, 4, 5, 130), "docs/programs.md")
)
@click.argument("references", metavar="REF...", nargs=-1, required=True)
@click.option("--timeout", metavar="DURATION", help="Give up after this (20m).")
@common_options
@click.pass_obj
def wait(given: dict[str, Any], references: tuple[str, ...], timeout: str | None) -> Exit:
    """Wait beside a daemon until runs have ended; the exit code says how."""
    from floradl.commands.submit import parse_all

    wanted = parse_all(references)
    limit = seconds(timeout, "--timeout")
    config = configured(given)
    from floradl.commands.watch import wait

    return wait(config, wanted, limit, quiet=is_quiet(given))


@commands.command(epilog=ending("floradl events --follow --since 1h", (0, 2, 130), "docs/programs.md"))
@click.option("--follow", "-f", is_flag=True, help="Go on with those that come, until stopped.")
@click.option(
    "--since", metavar="WHEN", help="Only those since then (10m, 2026-11-01); all that are kept if not."
)
@common_options
@click.pass_obj
def events(given: dict[str, Any], since: str | None, *, follow: bool) -> Exit:
    """Print what happened: one JSON object a line."""
    config = configured(given)
    from floradl.commands import events as command

    start = start_of(since)
    return command.events(config, sys.stdout, follow=follow, since=start)
