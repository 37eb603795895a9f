"""The options that every command takes, and the configuration that they lead to."""

from __future__ import annotations

import datetime as dt
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from floradl.commands.exits import Exit
from floradl.commands.streams import Show
from floradl.errors import ConfigError
from floradl.units import parse_duration

if TYPE_CHECKING:
    from floradl.config.load import Source
    from floradl.config.settings import Config


def moment(text: str, now: float) -> float:
    """Return unix seconds for `7d` before `now`, a date or an RFC 3339 time; local without a zone."""
    with suppress(ValueError):
        return now - parse_duration(text)
    try:
        return dt.datetime.fromisoformat(text.strip()).timestamp()
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"--since: {text[:60]!a} is neither a duration such as 7d or 24h, nor a date such as 2026-11-01"
        ) from None


def start_of(since: str | None) -> float | None:
    """Return the moment (unix seconds) that `--since` names; None where it is not given."""
    return None if since is None else moment(since, time.time())


def seconds(text: str | None, option: str) -> float:
    """Return the duration that `option` names; infinity where it is not given. Raises `ConfigError`."""
    if text is None:
        return math.inf
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} {error}") from None


def shown(*, as_json: bool, as_paths: bool, option: str) -> Show:
    """Return what to print of each run, for `--json` and the `option` for paths. Raises `UsageError`."""
    if as_json and as_paths:
        raise click.UsageError(f"--json and {option} both write to standard output: give one of them")
    return Show.JSON if as_json else Show.PATHS if as_paths else Show.NOTHING


_MEANINGS = {
    Exit.OK: "all good",
    Exit.FOUND: "found something wrong",
    Exit.USAGE: "usage or configuration",
    Exit.FAILED: "a run, an output, a hook or a job file failed",
    Exit.KEY_REFUSED: "the key is missing or was refused",
    Exit.GAVE_UP: "gave up on trouble that may pass",
    Exit.BUG: "a bug",
    Exit.INTERRUPTED: "interrupted",
}


def meanings() -> Mapping[int, str]:
    """Return what each exit code means."""
    return {int(code): meaning for code, meaning in _MEANINGS.items()}


def ending(example: str, codes: Iterable[int], page: str) -> str:
    """Return the end of a command's help: an example, its exit codes, and the page that says more."""
    listed = "\n".join(f"  {code:>3}  {_MEANINGS[Exit(code)]}" for code in codes)
    return f"\b\nExample:\n  {example}\n\n\b\nExit codes:\n{listed}\n\nMore: {page}"


_Command = TypeVar("_Command", bound=Callable[..., Any])
_LEVELS = ("critical", "error", "warning", "info", "debug")


def common_options(command: _Command) -> _Command:
    """Add the options that stand before or after the command."""
    option = partial(click.option, expose_value=False, callback=_note)
    folder, file = click.Path(path_type=Path, file_okay=False), click.Path(path_type=Path, dir_okay=False)
    home_help = "The folder that inbox, library and state default to."
    command = option("-q", "--quiet", count=True, help="Say less.")(command)
    command = option("-v", "--verbose", count=True, help="Say more.")(command)
    command = option("--home", type=folder, metavar="DIR", help=home_help)(command)
    return option("-c", "--config", type=file, metavar="FILE", help="The configuration file.")(command)


def run_options(command: _Command) -> _Command:
    """Add the options that bring runs in from a file, and say something of each."""
    option = partial(click.option, multiple=True)
    of_meta = "What you know of the runs, for the sidecar and the file names; may be repeated."
    command = kind_option(command)
    command = option("--meta", metavar="KEY=VALUE", help=of_meta)(command)
    command = click.option("--label", metavar="TEXT", help="A label for the runs.")(command)
    of_input = "Read runs from this file: references, a table, JSON; '-' is standard input."
    return option("-i", "--input", "inputs", metavar="FILE", help=of_input)(command)


def kind_option(command: _Command) -> _Command:
    """Add the option that says which outputs are wanted."""
    kinds = "Only outputs of this kind (image, video, audio, document, text, other); may be repeated."
    return click.option("--kind", "kinds", metavar="KIND", multiple=True, help=kinds)(command)


dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and write nothing; asks FLORA all the same."
)


library_dry_run_option = click.option(
    "--dry-run", is_flag=True, help="Show what would be done, and change nothing."
)


def result_options(command: _Command) -> _Command:
    """Add what `get` and `once` write to standard output of each run."""
    command = click.option(
        "--print",
        "paths",
        type=click.Choice(["path"]),
        help="Print the full path of each file as its run ends.",
    )(command)
    help_text = "Print each run as it ends: its sidecar and 'files', as one line of JSON."
    return click.option("--json", "as_json", is_flag=True, help=help_text)(command)


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    given: dict[str, Any] = context.ensure_object(dict)
    name = parameter.name or ""
    if isinstance(value, int):
        given[name] = given.get(name, 0) + value
    elif value is not None:
        given[name] = value


def is_quiet(given: Mapping[str, Any]) -> bool:
    """Whether `-q` is given."""
    return bool(given.get("quiet", 0))


def configured(
    given: dict[str, Any], level: str | None = None, environ: Mapping[str, str] | None = None
) -> Config:
    """Load the configuration; with a `level`, start logging, which -v and -q shift."""
    return configured_from(given, level, environ)[0]


def configured_from(
    given: dict[str, Any], level: str | None = None, environ: Mapping[str, str] | None = None
) -> tuple[Config, Source]:
    """As `configured`; also return where it can be loaded from again. `environ` is this process's if None."""
    from floradl.config.load import Options, Source
    from floradl.config.settings import SQLITE

    shift = given.get("verbose", 0) - given.get("quiet", 0)
    shifted = _LEVELS[min(max(_LEVELS.index(level or "info") + shift, 0), len(_LEVELS) - 1)]
    options = Options(given.get("config"), given.get("home"), shifted if shift else None)
    source = Source(options, os.environ if environ is None else environ)
    config = source.load()
    if config.queue.engine != SQLITE:
        from floradl.daemon.database import read_there

        read_there(config)
    if level is not None:
        from floradl.log import catch_strays, configure

        catch_strays()
        configure(config.log.level if level == "info" or shift else level, config.log.format)
    return config, source
