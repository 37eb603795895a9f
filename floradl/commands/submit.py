"""`add`, `retry` and `forget`: pass work to the daemon through the inbox, the only way in."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from contextlib import suppress

import click

from floradl.commands.exits import Exit
from floradl.commands.streams import tell
from floradl.config.settings import Config
from floradl.errors import ConfigError
from floradl.models import Action, Reference, RunRequest, RunState
from floradl.units import format_count

_AT_ONCE = 10_000  # runs a job file: far below the size that the inbox takes


def queue(config: Config, orders: Iterable[RunRequest]) -> Exit:
    """Write job files for `orders`, and report on stderr what happens with them."""
    from floradl.sources.job_file import drop_job, render_orders  # noqa: PLC0415 - `get` needs none of this

    wanted = list(orders)
    reader = _reader(config)
    for start in range(0, len(wanted), _AT_ONCE):
        drop_job(config.queue.watch_dir, render_orders(wanted[start : start + _AT_ONCE]), reader)
    tell(f"handed in {format_count(len(wanted), 'run')}{_who_takes_it(config)}")
    return Exit.OK


def failed_runs(config: Config) -> list[RunRequest]:
    """Return requests to retry all runs that failed, in whole or in part."""
    from floradl.commands.daemon_state import read_ended  # noqa: PLC0415 - it opens the queue

    failed = read_ended(config.state_dir, RunState.FAILED, RunState.PARTIAL)
    return [RunRequest(run.reference, run.label, Action.RETRY) for run in failed]


def parse_all(texts: Iterable[str]) -> list[Reference]:
    """Read references. Raises `ConfigError` that names the first bad one."""
    references = []
    for text in texts:
        try:
            references.append(Reference.parse(text))
        except ValueError as error:
            raise ConfigError(str(error)) from None
    return references


def read_orders(references: tuple[str, ...], action: Action) -> list[RunRequest]:
    """Return requests from the arguments, else from standard input. Raises `JobError` and the like."""
    from floradl.sources.job_file import parse_job  # noqa: PLC0415 - `get` needs none of this

    if references and references != ("-",):
        return [RunRequest(reference, None, action) for reference in parse_all(references)]
    if sys.stdin.isatty() and not references:
        raise click.UsageError("name at least one run, or pipe references to standard input")
    try:
        data = sys.stdin.buffer.read()
    except OSError as error:
        raise ConfigError(f"standard input cannot be read: {error.strerror}") from error
    if not data.strip():
        raise click.UsageError("standard input names no run")
    orders = parse_job(data, "standard input")
    return [RunRequest(order.reference, order.label, action) for order in orders]


def _reader(config: Config) -> int | None:
    """Return the user id of the daemon: its state is its own. None where that is unknown."""
    for place in (config.state_dir, config.queue.watch_dir):
        with suppress(OSError):
            return place.stat().st_uid
    return None


def _who_takes_it(config: Config) -> str:
    from floradl.queue import folder  # noqa: PLC0415 - `get` needs none of this

    try:
        alive = folder.holder(config.state_dir) is not None
    except OSError:
        return ""
    return "" if alive else "; no daemon is running: start one with 'floradl run', or once: 'floradl once'"
