"""The commands that look into the library: `find`, `which`, `stats`, `costs`, `open`, `gallery`, `sheet`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from floradl.cli import serve, settle
from floradl.commands.exits import Exit
from floradl.commands.options import common_options, configured, ending, shown, start_of
from floradl.errors import ConfigError

commands = click.Group()


@commands.command(epilog=ending("floradl find lighthouse --kind image --paths", (0, 2, 5), "docs/find.md"))
@click.argument("words", metavar="[WORDS...]", nargs=-1)
@click.option(
    "--technique", "techniques", metavar="NAME", multiple=True, help="Its slug, id or name; * and ? match."
)
@click.option("--project", "projects", metavar="NAME", multiple=True, help="Its name or id.")
@click.option("--label", "labels", metavar="TEXT", multiple=True, help="The whole label; * and ? match.")
@click.option(
    "--kind", "kinds", metavar="KIND", multiple=True, help="Runs with a file of this kind, and these."
)
@click.option("--meta", metavar="KEY=VALUE", multiple=True, help="What was said of the run; * and ? match.")
@click.option("--since", metavar="WHEN", help="Completed since then (7d, 2026-11-01).")
@click.option("--failed", is_flag=True, help="Runs that failed, in part or whole.")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most so many runs; 0 for all.")
@click.option("--paths", is_flag=True, help="The full paths of the files alone.")
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each run, one a line.")
@common_options
@click.pass_obj
def find(
    given: dict[str, Any], /, words: tuple[str, ...], since: str | None, limit: int | None, **said: Any
) -> Exit:
    """Find runs, the newest first, by the words of label, technique, project, meta and texts.

    Each word is the beginning of one; capitals and accents do not matter.
    """
    show = shown(as_json=said.pop("as_json"), as_paths=said.pop("paths"), option="--paths")
    config = configured(given)
    from floradl.commands import find as command

    start = start_of(since)
    wanted = command.run_query(words, start, **said)
    return command.find(config, os.environ, wanted, show, limit, sys.stdout)


@commands.command(epilog=ending("floradl which ~/Desktop/hero.png", (0, 1, 2, 5), "docs/find.md"))
@click.argument(
    "files", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False)
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object for each file, one a line.")
@common_options
@click.pass_obj
def which(given: dict[str, Any], files: tuple[Path, ...], *, as_json: bool) -> Exit:
    """Tell which run made a file, wherever it lies now, by its bytes; exit 1 where none did."""
    config = configured(given)
    from floradl.commands import which as command

    return command.which(config, os.environ, files, sys.stdout, as_json=as_json)


@commands.command(epilog=ending("floradl stats --json", (0, 2, 5), "docs/find.md"))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common_options
@click.pass_obj
def stats(given: dict[str, Any], *, as_json: bool) -> Exit:
    """Show what the library holds by kind, technique and month, how it grew, and what failed."""
    config = configured(given)
    from floradl.commands import stats as command

    return command.stats(config, os.environ, sys.stdout, as_json=as_json)


@commands.command(epilog=ending("floradl costs --by month --csv", (0, 2, 5), "docs/find.md"))
@click.option(
    "--by",
    type=click.Choice(["technique", "project", "month", "label", "model"]),
    default="technique",
    show_default=True,
    help="What the runs are added up by.",
)
@click.option("--since", metavar="WHEN", help="Completed since then (30d, 2026-11-01).")
@click.option("--csv", "form", flag_value="csv", help="As CSV, for a spreadsheet.")
@click.option("--json", "form", flag_value="json", help="As JSON.")
@common_options
@click.pass_obj
def costs(given: dict[str, Any], by: str, since: str | None, form: str | None) -> Exit:
    """Add up what FLORA charged for the runs, in USD; "at least" where a cost is not known."""
    config = configured(given)
    from floradl.commands import costs as command

    start = start_of(since)
    return command.costs(config, os.environ, by, start, sys.stdout, form=form)


@commands.command("open", epilog=ending("floradl open --last", (0, 2), "docs/programs.md"))
@click.argument("reference", metavar="[REF]", required=False)
@click.option("--last", is_flag=True, help="The run that was downloaded last.")
@common_options
@click.pass_obj
def open_run(given: dict[str, Any], reference: str | None, *, last: bool) -> Exit:
    """Show a run's files with the desktop's opener; without one print their paths."""
    if (reference is None) is not last:
        raise click.UsageError("name one run, or give --last")
    from floradl.commands.submit import parse_all

    wanted = parse_all([reference])[0] if reference is not None else None
    config = configured(given)
    from floradl.commands import results
    from floradl.library_builder import build_library

    return results.open_run(build_library(config), wanted, os.environ, sys.stdout)


@commands.command(epilog=ending("floradl gallery --open", (0, 2, 130), "docs/gallery.md"))
@click.option("--listen", metavar="HOST:PORT", help="Where to serve it; web.listen, or 127.0.0.1:8788.")
@click.option("--open", "show", is_flag=True, help="Show it in the browser.")
@click.option("--until-eof", is_flag=True, hidden=True)
@common_options
@click.pass_obj
def gallery(given: dict[str, Any], listen: str | None, *, show: bool, until_eof: bool) -> Exit:
    """Show the library in a browser: pictures by day, searched and filtered, and the work as it happens."""
    config = configured(given, "info" if until_eof else "warning")
    from floradl.commands import gallery as command
    from floradl.net.addresses import Endpoint

    try:
        endpoint = Endpoint.parse(listen) if listen is not None else config.web.listen or command.USUAL
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from None
    return serve(command.gallery, config, os.environ, endpoint, command.GalleryMode(until_eof, show))


@commands.command(epilog=ending("floradl sheet --since 30d", (0, 2, 5, 130), "docs/gallery.md"))
@click.option(
    "--since", metavar="WHEN", default="7d", show_default=True, help="How far back (30d, 2026-11-01)."
)
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write it.",
)
@common_options
@click.pass_obj
def sheet(given: dict[str, Any], since: str, file: Path | None) -> Exit:
    """Write the gallery's tiles as one HTML file, to keep or to send."""
    config = configured(given, "error")
    from floradl.commands import sheet as command

    settle()
    return command.sheet(config, os.environ, since, file)
