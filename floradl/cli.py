"""The command line: arguments in, exit code out. It alone catches every exception.

Heavy imports wait for the command that needs them, so that `--help` is instant.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, TypeVarTuple

import click

from floradl import __version__
from floradl.commands.exits import Exit, outcome, told_of_bug
from floradl.commands.options import (
    common_options,
    configured,
    configured_from,
    dry_run_option,
    ending,
    kind_option,
    library_dry_run_option,
    result_options,
    run_options,
)
from floradl.commands.streams import Show, finish, is_of_stdout, occupy, tell
from floradl.errors import ConfigError
from floradl.slim_imports import slim

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=ending("floradl get campaign/run_abc123", (0, 1, 2, 3, 4, 5, 70, 130), "README.md"),
)
@click.version_option(__version__, message="%(prog)s %(version)s")
@common_options
def floradl() -> None:
    """Download the media that FLORA techniques generate into a library of files.

    A run is named by TECHNIQUE/RUN_ID, by RUN_ID alone, or by its API URL.
    New here? 'floradl demo' shows the whole job, without an account.
    """


@floradl.command(epilog=ending("floradl --home /srv/flora run", (0, 2, 5), "docs/service.md"))
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
        _serve(run.run, config, os.environ, source, display)
    return Exit.OK


@floradl.command(epilog=ending("floradl once --max-wait 30m", (0, 2, 3, 4, 5, 130), "README.md"))
@click.option("--max-wait", metavar="DURATION", help="Give up waiting for unfinished runs after this (30m).")
@result_options
@dry_run_option
@common_options
@click.pass_obj
def once(
    given: dict[str, Any], max_wait: str | None, *, as_json: bool, paths: str | None, dry_run: bool
) -> Exit:
    """Download everything queued, wait for runs that are not finished, then exit."""
    seconds = _seconds(max_wait, "--max-wait")
    show = _shown(as_json, paths)
    config = configured(given, "error")
    if dry_run:
        from floradl.commands.dry_run import preview_queue

        return _serve(preview_queue, config, os.environ)
    from floradl.commands import get

    return _serve(get.once, config, os.environ, seconds, show)


@floradl.command(epilog=ending("floradl get campaign/run_abc123", (0, 2, 3, 4, 5, 130), "README.md"))
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
    show = _shown(as_json, paths)
    config = configured(given, "error")
    if dry_run:
        from floradl.commands.dry_run import preview_runs

        return _serve(preview_runs, config, os.environ, wanted)
    from floradl.commands import get

    return _serve(get.get, config, os.environ, wanted, show)


@floradl.command(epilog=ending("floradl add campaign/run_abc123 run_def456", (0, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@run_options
@common_options
@click.pass_obj
def add(given: dict[str, Any], /, references: tuple[str, ...], **said: Any) -> Exit:
    """Queue runs for the daemon; without REF and -i they are read from standard input."""
    from floradl.commands import submit
    from floradl.models import Action

    wanted = submit.read_requests(references, Action.FETCH, submit.Given(**said))
    return submit.queue(configured(given), wanted, quiet=_quiet(given))


@floradl.command(epilog=ending("floradl retry --failed", (0, 2, 5), "README.md"))
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
        if not _quiet(given):
            submit.tell_unknown(config, named)
        requests += named
    if not requests:
        tell("no run failed")
        return Exit.OK
    return submit.queue(config, requests, quiet=_quiet(given))


@floradl.command(epilog=ending("floradl forget run_abc123", (0, 2, 5), "README.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@common_options
@click.pass_obj
def forget(given: dict[str, Any], references: tuple[str, ...]) -> Exit:
    """Drop runs from the queue; nothing brings the files of a forgotten run back."""
    from floradl.commands import submit
    from floradl.models import Action

    wanted = submit.read_requests(references, Action.FORGET, submit.Given())
    config = configured(given)
    if not _quiet(given):
        submit.tell_unknown(config, wanted)
    return submit.queue(config, wanted, quiet=_quiet(given))


@floradl.command(epilog=ending("floradl sync --since 30d", (0, 2, 4, 5, 130), "docs/sync.md"))
@click.option("--since", metavar="WHEN", help="How far back (30d, 2026-11-01); sync.since if not given.")
@dry_run_option
@common_options
@click.pass_obj
def sync(given: dict[str, Any], since: str | None, *, dry_run: bool) -> Exit:
    """Queue the runs of the account's history that are not known yet."""
    config = configured(given, "error")
    from floradl.commands import submit as command

    return _serve(partial(command.sync, dry_run=dry_run), config, os.environ, since)


@floradl.command(epilog=ending("floradl status --json", (0, 1, 2), "README.md"))
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


@floradl.command(
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
    _after_imports()
    streams = (sys.stdout, sys.stderr)
    return command.verify(config, os.environ, wanted, repair, streams, as_json=as_json)


@floradl.command(epilog=ending("floradl relayout --dry-run", (0, 1, 2, 5, 130), "docs/library.md"))
@click.argument("references", metavar="[REF...]", nargs=-1)
@library_dry_run_option
@common_options
@click.pass_obj
def relayout(given: dict[str, Any], references: tuple[str, ...], *, dry_run: bool) -> Exit:
    """Rename files to where today's template, labels and names put each; the daemon must not run."""
    config = configured(given, "error")
    from floradl.commands import relayout as command

    _after_imports()
    streams = command.Streams(sys.stdout, sys.stderr)
    return command.relayout(config, references, streams, dry_run=dry_run)


@floradl.command(
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
    _after_imports()
    return command.prune(config, rule, sys.stdout, sys.stderr, dry_run=dry_run)


@floradl.command(
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

    _after_imports()
    streams = (sys.stdout, sys.stderr)
    return command.move_library(config, moved, os.environ, streams, dry_run=dry_run)


@floradl.command(epilog=ending("floradl check", (0, 1, 2), "README.md"))
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

    return Exit(_serve(command.check, config, os.environ, sys.stdout))


@floradl.command(epilog=ending("floradl gallery --open", (0, 2, 130), "docs/gallery.md"))
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
    return _serve(command.gallery, config, os.environ, endpoint, command.Manner(until_eof, show))


@floradl.command(epilog=ending("floradl notify --test", (0, 1, 2), "docs/notify.md"))
@click.option("--test", is_flag=True, help="Send a message to each address now.")
@common_options
@click.pass_obj
def notify(given: dict[str, Any], *, test: bool) -> Exit:
    """Say where messages go that tell of pauses and failures, and whether one gets there."""
    config = configured(given, "error")
    from floradl.commands.notify import notify as command

    return command(config, os.environ, sys.stdout, test=test)


@floradl.command(epilog=ending("floradl sheet --since 30d", (0, 2, 5, 130), "docs/gallery.md"))
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

    _after_imports()
    return command.sheet(config, os.environ, since, file)


@floradl.command(
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

    _after_imports()
    return command.migrate(config, engine)


@floradl.command(epilog=ending("floradl simulate --port 8700 --speed 10", (0, 2), "docs/simulator.md"))
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default="a free one")
@click.option("--speed", type=click.FloatRange(0.01, 1000), default=1.0, help="How fast time passes.")
@click.option("--rate-limit", type=click.FloatRange(0.1), help="API requests a second before it answers 429.")
@click.option("--scenario", type=click.Path(path_type=Path, dir_okay=False), help="A YAML file of faults.")
@common_options
def simulate(port: int, speed: float, rate_limit: float | None, scenario: Path | None) -> Exit:
    """Serve a FLORA API on loopback to try things against; no account is needed."""
    from floradl.commands import demo as command

    return Exit(command.simulate(port=port, speed=speed, rate_limit=rate_limit, scenario=scenario))


@floradl.command(epilog=ending("floradl demo", (0, 2, 5), "docs/simulator.md"))
@common_options
@click.pass_obj
def demo(given: dict[str, Any]) -> Exit:
    """Show the whole job against a simulated FLORA, in a new folder; takes some 15 seconds."""
    from floradl.commands import demo as command

    return command.demo(given.get("home"))


@floradl.command(
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


def _serve(work: Callable[[*_Arguments], Awaitable[_Result]], *arguments: *_Arguments) -> _Result:
    """Run a coroutine function; call it after its imports."""
    import anyio

    _after_imports()
    return anyio.run(work, *arguments)


def _after_imports() -> None:
    """Set up memory and garbage collection for the work."""
    from floradl.slim_imports import complete, return_what_is_freed

    complete()
    return_what_is_freed()
    gc.freeze()  # collections skip modules and classes, which stay
    gc.set_threshold(10_000, 20, 20)  # of what is made for a file hardly anything is a cycle
    gc.enable()


def _shown(as_json: bool, paths: str | None) -> Show:  # noqa: FBT001 - as click gives it
    if as_json and paths is not None:
        raise click.UsageError("--json and --print both write to standard output: give one of them")
    return Show.JSON if as_json else Show.PATHS if paths is not None else Show.NOTHING


def _quiet(given: Mapping[str, Any]) -> bool:
    return bool(given.get("quiet", 0))


def _seconds(text: str | None, option: str) -> float:
    from floradl.units import parse_duration

    if text is None:
        return float("inf")
    try:
        return parse_duration(text)
    except ValueError as error:
        raise ConfigError(f"{option}: {text!r} {error}") from None


def main() -> NoReturn:
    """Run the command line, and exit."""
    gc.disable()  # imports leave nothing to collect
    slim()
    occupy()
    ended: list[Exit] = []
    atexit.register(_leave, ended)  # first, to be called last
    ended.append(_run())
    sys.exit(ended[0])


def _run() -> Exit:
    try:
        code = floradl.main(prog_name="floradl", standalone_mode=False) or Exit.OK
    except BaseException as error:  # noqa: BLE001 - the one place that catches everything
        if isinstance(error, SystemExit):  # in this mode click exits only for a closed pipe
            error = BrokenPipeError()
        code, message = outcome(error)
        if message is not None and type(error).__name__ == "NoArgsIsHelpError":  # not in click 8.1
            tell(message)  # the help, which begins with the usage
            message = None
        elif isinstance(error, click.UsageError) and error.ctx is not None:
            tell(error.ctx.get_usage())
        if message is not None:
            from floradl.redaction import redact

            tell(f"floradl: {redact(message)}")
        if code is Exit.BUG and is_of_stdout(error):
            code = Exit.GAVE_UP
            tell(f"floradl: standard output cannot be written: {error.strerror}")
        elif code is Exit.BUG:
            tell(told_of_bug(error))
    return finish(Exit(code))


def _leave(ended: list[Exit]) -> None:
    """End the process at once: the system frees its memory faster than Python does."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if ended:
        os._exit(ended[0])


@floradl.command(epilog=ending("floradl events --follow --since 1h", (0, 2, 130), "docs/programs.md"))
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
    from floradl.commands.options import moment

    start = None if since is None else moment(since, time.time())
    return command.events(config, sys.stdout, follow=follow, since=start)


@floradl.command(
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
    seconds = _seconds(timeout, "--timeout")
    config = configured(given)
    from floradl.commands.watch import wait

    return wait(config, wanted, seconds, quiet=_quiet(given))


@floradl.command("open", epilog=ending("floradl open --last", (0, 2), "docs/programs.md"))
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
    from floradl.app import build_library
    from floradl.commands import results

    return results.open_run(build_library(config), wanted, os.environ, sys.stdout)


@floradl.command(epilog=ending("floradl find lighthouse --kind image --paths", (0, 2, 5), "docs/find.md"))
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
    as_json, paths = said.pop("as_json"), said.pop("paths")
    if as_json and paths:
        raise click.UsageError("--json and --paths both write to standard output: give one of them")
    show = Show.JSON if as_json else Show.PATHS if paths else Show.NOTHING
    config = configured(given)
    from floradl.commands import find as command
    from floradl.commands.options import moment

    start = None if since is None else moment(since, time.time())
    wanted = command.run_filter(words, start, **said)
    return command.find(config, os.environ, wanted, show, limit, sys.stdout)


@floradl.command(epilog=ending("floradl which ~/Desktop/hero.png", (0, 1, 2, 5), "docs/find.md"))
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


@floradl.command(epilog=ending("floradl stats --json", (0, 2, 5), "docs/find.md"))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@common_options
@click.pass_obj
def stats(given: dict[str, Any], *, as_json: bool) -> Exit:
    """Show what the library holds by kind, technique and month, how it grew, and what failed."""
    config = configured(given)
    from floradl.commands import stats as command

    return command.stats(config, os.environ, sys.stdout, as_json=as_json)


@floradl.command(epilog=ending("floradl costs --by month --csv", (0, 2, 5), "docs/find.md"))
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
    from floradl.commands.options import moment

    start = None if since is None else moment(since, time.time())
    return command.costs(config, os.environ, by, start, sys.stdout, form=form)
