"""The exit codes, as README.md lists them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import click

from floradl.errors import (
    ConfigError,
    FloradlError,
    LockedError,
    PauseReason,
    QueueDamagedError,
    QueueUnreadableError,
    ServicePausedError,
    TransientError,
)

_NEAR = 0.75  # how like another an option must be to be taken for it, of 1


class Exit(IntEnum):
    """How a command ended. Where several hold, `worst` says which one counts."""

    OK = 0
    FOUND = 1  # a check found something
    USAGE = 2  # usage or configuration
    FAILED = 3  # some run or output failed for good, a hook failed, or a job file was rejected
    KEY_REFUSED = 4
    GAVE_UP = 5  # on trouble that may pass
    BUG = 70
    INTERRUPTED = 130


def worst(*codes: Exit) -> Exit:
    """Return the one that counts: 4, then 5, then 3."""
    order = (Exit.INTERRUPTED, Exit.KEY_REFUSED, Exit.GAVE_UP, Exit.FAILED)
    return next((code for code in order if code in codes), Exit.OK)


def outcome(error: BaseException) -> tuple[Exit, str | None]:
    """Return exit code and message for what ended a command; no message where none is needed."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    match error:
        case click.exceptions.Exit():
            return Exit(error.exit_code), None
        case click.ClickException():
            return Exit.USAGE, _without_far_names(error)
        case LockedError():
            return Exit.GAVE_UP, str(error)
        case ServicePausedError(reason=PauseReason.KEY_REFUSED):
            return Exit.KEY_REFUSED, str(error)
        case TransientError() | QueueDamagedError() | ServicePausedError() | QueueUnreadableError():
            return Exit.GAVE_UP, str(error)
        case FloradlError():
            return Exit.USAGE, str(error)
        case KeyboardInterrupt() | click.Abort():
            return Exit.INTERRUPTED, "interrupted"
        case BrokenPipeError():
            return Exit.OK, None
    return Exit.BUG, None


def _without_far_names(error: click.ClickException) -> str:
    """Return the message; click takes an option for another that is hardly like it (`--label`, `--help`)."""
    if not isinstance(error, click.NoSuchOption):
        return error.format_message()
    from floradl.yaml_reader import nearest  # noqa: PLC0415 - for who made a mistake

    group = error.ctx.command if error.ctx is not None else None
    if isinstance(group, click.Group):
        for name, command in group.commands.items():
            if any(error.option_name in parameter.opts for parameter in command.params):
                option = error.option_name
                return f"{option} belongs behind its command, as in 'floradl {name} {option} …'"
    near = nearest(error.option_name, error.possibilities or (), cutoff=_NEAR)
    return f"{error.message} Did you mean {near!r}?" if near else error.message


def bug_report(error: BaseException) -> str:
    """Return a bug's traceback, for the user to report."""
    import traceback  # noqa: PLC0415 - hardly ever needed

    from floradl.redaction import redact  # noqa: PLC0415 - as above

    trace = redact("".join(traceback.format_exception(error)))
    return f"{trace}\nfloradl: this is a bug; please report it with the lines above"


@contextmanager
def needing_simulator(what: str) -> Iterator[None]:
    """Import the simulator inside; `ConfigError` says how `what` gets its server library if it is missing."""
    try:
        yield
    except ImportError as error:
        if error.name != "aiohttp":
            raise
        raise ConfigError(
            f"{what} needs aiohttp, which is not installed: add the extra `simulator`, see docs/simulator.md"
        ) from error
