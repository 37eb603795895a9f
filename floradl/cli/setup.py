"""The commands that set floradl up and try it out: `check` and `notify` to `demo` and `completion`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from floradl.cli import floradl, serve, settle
from floradl.commands.exits import Exit
from floradl.commands.options import common_options, configured, ending

commands = click.Group()


@commands.command(epilog=ending("floradl check", (0, 1, 2), "README.md"))
@click.option(
    "--template",
    is_flag=False,
    flag_value="",
    metavar="[TEMPLATE]",
    help="Show the paths that a template gives; output.template if none is given.",
)
@common_options
@click.pass_obj
def check(given: dict[str, Any], template: str | None) -> Exit:
    """Check configuration, key, folders, disk, clock and API; say how to fix what is wrong."""
    config = configured(given, "critical")
    if template is not None:
        from floradl.commands.check.template import check_template

        return check_template(config, template, sys.stdout)
    from floradl.commands.check import command

    return Exit(serve(command.check, config, os.environ, sys.stdout))


@commands.command(epilog=ending("floradl notify --test", (0, 1, 2), "docs/notify.md"))
@click.option("--test", is_flag=True, help="Send a message to each address now.")
@common_options
@click.pass_obj
def notify(given: dict[str, Any], *, test: bool) -> Exit:
    """Say where messages go that tell of pauses and failures, and whether one gets there."""
    config = configured(given, "error")
    from floradl.commands.notify import notify as command

    return command(config, os.environ, sys.stdout, test=test)


@commands.command(
    epilog=ending("floradl migrate --to postgresql://floradl@db/floradl", (0, 2, 5), "docs/scale-out.md")
)
@click.option(
    "--to", "engine", metavar="ENGINE", help="Move the queue there: sqlite, or a postgresql:// URL."
)
@common_options
@click.pass_obj
def migrate(given: dict[str, Any], engine: str | None) -> Exit:
    """Bring the queue up to date with this version, or move it to another engine."""
    config = configured(given, "error")
    from floradl.commands import migrate as command

    settle()
    return command.migrate(config, engine)


@commands.command(epilog=ending("floradl simulate --port 8700 --speed 10", (0, 2), "docs/simulator.md"))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, help="How fast time passes.")
@click.option("--rate-limit", type=click.FloatRange(0.1), help="API requests a second before it answers 429.")
@click.option("--scenario", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file of faults.")
@common_options
def simulate(port: int, speed: float, rate_limit: float | None, scenario: Path | None) -> Exit:
    """Serve a FLORA API on loopback to try things against; no account is needed."""
    from floradl.commands import demo as command

    return Exit(command.simulate(port=port, speed=speed, rate_limit=rate_limit, scenario=scenario))


@commands.command(epilog=ending("floradl demo", (0, 2, 5), "docs/simulator.md"))
@common_options
@click.pass_obj
def demo(given: dict[str, Any]) -> Exit:
    """Show the whole job against a simulated FLORA, in a new folder; takes some 15 seconds."""
    from floradl.commands import demo as command

    return command.demo(given.get("home"))


@commands.command(
    epilog=ending(
        "floradl completion bash > ~/.local/share/bash-completion/completions/floradl", (0, 2), "README.md"
    )
)
@click.argument(
    "shell", type=click.Choice(["bash", "zsh", "fish"]), metavar="{bash|zsh|fish}", required=False
)
@common_options
def completion(shell: str | None) -> Exit:
    """Print the script by which a shell completes commands and options."""
    if shell is None:
        raise click.UsageError("name a shell: bash, zsh or fish")
    from click.shell_completion import get_completion_class

    if (kind := get_completion_class(shell)) is not None:
        click.echo(kind(floradl, {}, "floradl", "_FLORADL_COMPLETE").source())
    return Exit.OK
