"""The command line: arguments in, exit code out. It alone catches every exception.

A module of this room declares a group of commands, and is imported where one of them is asked for; each
command imports what it needs, so that `--help` and short commands are instant.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from typing import Final, NoReturn, TypeVar, TypeVarTuple

import click

from floradl import __version__
from floradl.commands.exits import Exit, bug_report, outcome
from floradl.commands.options import common_options, ending
from floradl.commands.streams import finish, is_of_stdout, occupy, tell
from floradl.slim_imports import complete, return_what_is_freed, slim

_Arguments = TypeVarTuple("_Arguments")
_Result = TypeVar("_Result")

_COMMANDS: Final = {
    "downloads": ("run", "once", "get"),
    "queue": ("add", "retry", "forget", "sync", "status", "wait", "events"),
    "library": ("verify", "relayout", "prune", "move-library"),
    "search": ("find", "which", "stats", "costs", "open", "gallery", "sheet"),
    "setup": ("check", "notify", "migrate", "simulate", "demo", "completion"),
}
_MODULES: Final = {name: module for module, names in _COMMANDS.items() for name in names}
"""The module of this room that declares a command, by the command's name."""


class _Commands(Mapping[str, click.Command]):
    """The commands by name; the declaration of one is imported where it is asked for."""

    def __getitem__(self, name: str) -> click.Command:
        commands: click.Group = import_module(f"{__name__}.{_MODULES[name]}").commands
        return commands.commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


@click.group(
    commands=_Commands(),  # click only reads it
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


def serve(work: Callable[[*_Arguments], Awaitable[_Result]], *arguments: *_Arguments) -> _Result:
    """Run a coroutine function; call it after its imports."""
    import anyio

    settle()
    return anyio.run(work, *arguments)


def settle() -> None:
    """Set up memory and garbage collection for the work; call it after its imports."""
    complete()
    return_what_is_freed()
    gc.freeze()  # collections skip modules and classes, which stay
    gc.set_threshold(10_000, 20, 20)  # of what is made for a file hardly anything is a cycle
    gc.enable()


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
            tell(bug_report(error))
    return finish(Exit(code))


def _leave(ended: list[Exit]) -> None:
    """End the process at once: the system frees its memory faster than Python does."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    if ended:
        os._exit(ended[0])
